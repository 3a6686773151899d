"""The speedup of each graph pass, measured on this machine, and where the built model spends its time."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from nestforge.artifact.artifact import open_artifact, update_manifest
from nestforge.artifact.manifest import Explanation, KernelTime, PassSpeedup
from nestforge.compile.build import build_artifact
from nestforge.compile.passes import PASSES
from nestforge.compile.plan import choose_disabled_passes
from nestforge.config import BuildConfig
from nestforge.engines.base import Parallelism, Session
from nestforge.errors import ConfigError
from nestforge.files import StrPath
from nestforge.measure.interleave import Run, run_interleaved
from nestforge.measure.kernels import measure_kernels
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.progress import Progress, no_progress


def explain_build(artifact: StrPath, *, seconds: float = 5.0, progress: Progress = no_progress) -> Explanation:
    """Measure each optional graph pass of an artifact against the same build with it switched, and time the kernels.

    For each pass the model is built again from the artifact's own build file, with the pass switched the other way;
    both run interleaved for `seconds` each, one image at a time. The result is written into the artifact's manifest.

    Raises:
        ConfigError: the artifact was built with `quantize.max_drop`; the other build would keep other layers in float.
        NestForgeError: the artifact, or what it was built from, cannot be read.
    """
    opened = open_artifact(artifact)
    check_explainable(opened.manifest.config)
    config, applied = opened.manifest.config, opened.manifest.passes
    disabled_passes = choose_disabled_passes(config)
    parallelism = Parallelism.make(batch=opened.choose_batch(1))
    gains = []
    with tempfile.TemporaryDirectory() as folder:
        for step in PASSES:
            if step.name not in type(config.passes).model_fields:
                continue
            if step.name not in applied and step.name not in disabled_passes:
                continue  # the graph has no place for it
            other = Path(folder) / step.name
            changed = config.passes.model_copy(update={step.name: step.name not in applied})
            result = build_artifact(_replace(config, passes=changed, output=str(other)), progress=progress)
            if (step.name in result.passes) == (step.name in applied):
                continue  # the graph has no place for it
            ours, theirs = (Run(one.open_session(parallelism)) for one in (opened, open_artifact(other)))
            run_interleaved([ours, theirs], seconds=seconds, description=f"measuring {step.name}", progress=progress)
            ratio, low, high = compute_ratio_interval(ours.throughputs, theirs.throughputs)
            gains.append(
                PassSpeedup(
                    name=step.name,
                    applied=step.name in applied,
                    matches=applied.get(step.name) or result.passes[step.name],
                    latency_ms=float(np.median(ours.latencies_ms)),
                    other_latency_ms=float(np.median(theirs.latencies_ms)),
                    ratio=ratio,
                    low=low,
                    high=high,
                )
            )
    with progress("timing kernels", None):
        profiled = opened.open_session(parallelism, profile=True)
        kernels = time_kernels(profiled)
    explanation = Explanation(passes=tuple(gains), kernels=kernels)
    update_manifest(opened, explanation=explanation)
    return explanation


def check_explainable(config: BuildConfig) -> None:
    """Refuse what `explain_build` cannot compare.

    Raises:
        ConfigError: the build file has `quantize.max_drop`.
    """
    if config.quantize.max_drop is not None:
        raise ConfigError("graph passes are explained for builds without accuracy control; leave out quantize.max_drop")


def time_kernels(session: Session) -> tuple[KernelTime, ...]:
    """Return the time per image by layer type and precision, longest first; the session is opened with `profile`."""
    settings = session.settings
    images = np.random.default_rng(0).standard_normal((settings.batch, 3, settings.height, settings.width), np.float32)
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for kernel in measure_kernels(session, images):
        groups[kernel.layer_type, kernel.precision].append((kernel.time_ms or 0.0) / settings.batch)
    rows = [
        KernelTime(layer_type=layer_type, precision=precision, count=len(values), time_ms=sum(values))
        for (layer_type, precision), values in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.time_ms))


def _replace(config: BuildConfig, **changes: object) -> BuildConfig:
    return BuildConfig.model_validate(config.model_copy(update=changes).model_dump())
