"""What a build's rewritings bought, measured on this machine, and where the built model spends its time."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from nestforge.compile.artifact import (
    Explanation,
    KernelTime,
    RewriteGain,
    open_artifact,
    update_manifest,
)
from nestforge.compile.build import build
from nestforge.compile.passes import PASSES
from nestforge.config import BuildConfig
from nestforge.engines.base import Kernel, Session
from nestforge.files import StrPath
from nestforge.measure.benchmark import Run
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.progress import Progress, silent

ROUNDS = 15
PROFILED_RUNS = 10


def explain_build(artifact: StrPath, *, seconds: float = 10.0, progress: Progress = silent) -> Explanation:
    """Measure each optional rewriting of an artifact against the same build without it, and time its kernels.

    For each rewriting the model is built again from the artifact's own build file, with it switched the other way;
    both run in turns for `seconds`, one image at a time. The result is written into the artifact's manifest.

    Raises:
        NestForgeError: the artifact, or what it was built from, cannot be read.
    """
    opened = open_artifact(artifact)
    config, applied = opened.manifest.config, opened.manifest.rewrites
    batch = opened.choose_batch(1)
    gains = []
    with tempfile.TemporaryDirectory() as folder:
        for step in PASSES:
            if step.name not in type(config.rewrites).model_fields:
                continue
            other = Path(folder) / step.name
            changed = config.rewrites.model_copy(update={step.name: step.name not in applied})
            result = build(_replace(config, rewrites=changed, output=str(other)), progress=progress)
            if (step.name in result.rewrites) == (step.name in applied):
                continue  # the graph has no place for it
            ours, theirs = (Run(one.open_session(batch=batch)) for one in (opened, open_artifact(other)))
            with progress(f"measuring {step.name}", 2 * ROUNDS) as advance:
                for turn in range(ROUNDS):
                    for run in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
                        run.spend(seconds / ROUNDS / 2, record=turn > 0)
                        advance(1)
            ratio, low, high = compute_ratio_interval(ours.throughputs, theirs.throughputs)
            gains.append(
                RewriteGain(
                    name=step.name,
                    applied=step.name in applied,
                    places=applied.get(step.name) or result.rewrites[step.name],
                    latency_ms=float(np.median(ours.latencies_ms)),
                    other_latency_ms=float(np.median(theirs.latencies_ms)),
                    ratio=ratio,
                    low=low,
                    high=high,
                )
            )
    with progress("timing kernels", None):
        profiled = opened.open_session(batch=batch, profile=True)
        kernels = time_kernels(profiled)
    explanation = Explanation(rewrites=tuple(gains), kernels=kernels)
    update_manifest(opened, explanation=explanation)
    return explanation


def time_kernels(session: Session) -> tuple[KernelTime, ...]:
    """Return time an image by layer type and precision, the longest first; the session was opened with `profile`."""
    settings = session.settings
    images = np.random.default_rng(0).standard_normal((settings.batch, 3, settings.height, settings.width), np.float32)
    times_ms: defaultdict[Kernel, list[float]] = defaultdict(list)
    session.run(images)  # the first run is slower
    for _ in range(PROFILED_RUNS):
        session.run(images)
        for kernel in session.list_kernels():
            if kernel.time_ms is not None:
                times_ms[dataclasses.replace(kernel, time_ms=None)].append(kernel.time_ms / settings.batch)
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for kernel, values in times_ms.items():
        groups[kernel.layer_type, kernel.precision].append(float(np.median(values)))
    rows = [
        KernelTime(layer_type=layer_type, precision=precision, count=len(values), time_ms=sum(values))
        for (layer_type, precision), values in groups.items()
    ]
    return tuple(sorted((row for row in rows if row.time_ms), key=lambda row: -row.time_ms))


def _replace(config: BuildConfig, **changes: object) -> BuildConfig:
    return BuildConfig.model_validate(config.model_copy(update=changes).model_dump())
