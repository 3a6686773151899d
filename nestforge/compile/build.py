"""The one driver: a build file becomes an artifact."""

from __future__ import annotations

import dataclasses
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from nestforge.artifact.manifest import (
    LABELS_FILE,
    MODEL_FILE,
    AccuracyControlRecord,
    Explanation,
    FileRecord,
    Manifest,
    Parity,
    record_file,
    write_manifest,
)
from nestforge.compile.agreement import measure_parity
from nestforge.compile.labels import IMAGENET, read_build_labels
from nestforge.compile.onnxfile import serialize
from nestforge.compile.plan import Prepared, prepare
from nestforge.compile.source import Source, load_source
from nestforge.compile.warnings import describe_layers, find_warnings
from nestforge.config import BuildConfig
from nestforge.data.labels import format_label, number_labels
from nestforge.engines import get_engine
from nestforge.engines.base import Engine, Kernel
from nestforge.engines.machine import read_machine
from nestforge.errors import ConfigError
from nestforge.files import atomic_write_folder, check_output_folder
from nestforge.progress import Progress, no_progress


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build made; `files` maps names to sizes in bytes."""

    artifact: Path
    dtype: str
    engine: str
    files: dict[str, int]
    parity: Parity
    passes: dict[str, int]
    kernels: dict[str, dict[str, int]]
    weighted_types: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float
    peak_rss_bytes: int
    accuracy_control: AccuracyControlRecord | None = None
    explanation: Explanation | None = None  # of `explain_build`, where it was asked for


AccuracyControl = Callable[[Prepared], AccuracyControlRecord]  # decides which layers stay in float


def build_artifact(
    config: BuildConfig,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
    control: AccuracyControl | None = None,
) -> BuildResult:
    """Build the artifact that `config` describes.

    `control` is asked which layers to keep in float once the ranges are known; `nestforge.build` gives the one that
    satisfies `quantize.max_drop`.

    Raises:
        ConfigError: `quantize.max_drop` without `control`.
        NestForgeError: anything wrong with config, model, data, engine or output; nothing is left behind.
    """
    begin = time.perf_counter()
    if config.quantize.max_drop is not None and config.dtype == "int8" and control is None:
        raise ConfigError("quantize.max_drop needs nestforge.build, which searches the layers to keep in float")
    output = Path(config.output)
    check_output_folder(output, overwrite=overwrite)
    engine = get_engine(config.engine)
    if not engine.supports(config.execution_dtype):
        wanted = config.execution_dtype
        key = "dtype" if wanted == config.dtype else "quantize.float_dtype"
        raise ConfigError(f"{config.engine} has no {wanted} on this CPU; choose another {key} or engine")
    with progress("reading the model", None):
        source = load_source(config, progress)
    labels = read_build_labels(config, source.classifier.num_classes)

    with atomic_write_folder(output, overwrite=overwrite) as folder:
        prepared = prepare(config, source, progress, labels=labels or number_labels(source.classifier.num_classes))
        quantization, controlled = None, None
        layers = describe_layers(source.model)
        chosen: Collection[str] = ()
        if prepared.plan is not None:
            controlled = control(prepared) if control is not None else None
            kept_in_float = controlled.kept_in_float if controlled else ()
            chosen = prepared.plan.skip.union(kept_in_float)
            quantization = prepared.plan.apply(source.model, kept_in_float=kept_in_float)
        (folder / MODEL_FILE).write_bytes(serialize(source.model))
        if labels:
            (folder / LABELS_FILE).write_text("".join(f"{format_label(label)}\n" for label in labels), encoding="utf-8")
        with progress("compiling the built model", None):
            settings = dataclasses.replace(prepared.settings, dtype=config.execution_dtype)
            built = engine.open(folder / MODEL_FILE, settings)
        original = engine.open(prepared.original, prepared.settings)
        parity = measure_parity(
            original,
            built,
            prepared.images,
            progress,
            allow_poor=config.allow_poor_parity,
            trained=config.model.seed is None,
        )
        kernels = built.list_kernels()
        warnings = parity.problems + find_warnings(quantization, kernels, layers, chosen=chosen)
        manifest = Manifest(
            format=1,
            name=source.name,
            config=_complete(config, source),
            preprocess=source.preprocess,
            preprocess_sha256=source.preprocess.sha256,
            classes=source.classifier.num_classes,
            height=source.height,
            width=source.width,
            fixed_batch=source.classifier.fixed_batch,
            interface=source.classifier.interface,
            scores=source.scores,
            kernel_macs=prepared.kernel_macs,
            inputs=source.inputs | _record_labels(config) | prepared.images.inputs,
            outputs={path.name: record_file(path) for path in sorted(folder.iterdir())},
            versions=_list_versions(engine),
            cpu_flags=read_machine().flags,
            parity=parity,
            passes=prepared.passes,
            quantization=quantization,
            accuracy_control=controlled,
            kernels=_count_kernels(kernels),
            weighted_types=tuple(sorted({kernel.layer_type for kernel in kernels if kernel.is_weighted})),
            warnings=warnings,
        )
        write_manifest(manifest, folder)
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    return BuildResult(
        artifact=output,
        dtype=config.dtype,
        engine=config.engine,
        files=files,
        parity=parity,
        passes=prepared.passes,
        kernels=manifest.kernels,
        weighted_types=manifest.weighted_types,
        warnings=warnings,
        seconds=time.perf_counter() - begin,
        peak_rss_bytes=read_peak_rss_bytes(),
        accuracy_control=controlled,
    )


def _complete(config: BuildConfig, source: Source) -> BuildConfig:
    """Return the build with the mean and std that the model's own input asked for, so that it can be built again."""
    return config if config.preprocess is None else config.model_copy(update={"preprocess": source.preprocess})


def _record_labels(config: BuildConfig) -> dict[str, FileRecord]:
    return {config.labels: record_file(Path(config.labels))} if config.labels not in (None, IMAGENET) else {}


def _count_kernels(kernels: Iterable[Kernel]) -> dict[str, dict[str, int]]:
    counts = Counter((kernel.layer_type, kernel.precision) for kernel in kernels)
    table: dict[str, dict[str, int]] = {}
    for (layer_type, precision), count in sorted(counts.items()):
        table.setdefault(layer_type, {})[precision] = count
    return table


def _list_versions(engine: Engine) -> dict[str, str]:
    packages = ("nestforge", "numpy", "onnx", "onnx-ir", "pillow")
    return {"python": platform.python_version(), engine.name: engine.version} | {
        package: version(package) for package in packages
    }


def read_peak_rss_bytes() -> int:
    """Return the most memory this process has had resident so far (Linux and macOS)."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
