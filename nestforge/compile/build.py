"""The one driver: a build file becomes an artifact."""

from __future__ import annotations

import dataclasses
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir

from nestforge.compile.artifact import (
    LABELS_FILE,
    MODEL_FILE,
    FileRecord,
    Manifest,
    Parity,
    QuantizationRecord,
    record_file,
    write_manifest,
)
from nestforge.compile.calibrate import observe_activations
from nestforge.compile.export import resolve_weights
from nestforge.compile.onnxfile import (
    ImageClassifier,
    append_softmax,
    count_graph_macs,
    inspect_classifier,
    read_onnx,
    serialize,
)
from nestforge.compile.passes.fold_batch_norm import fold_batch_norm
from nestforge.compile.quantize import find_activations, find_convolutions, quantize_graph
from nestforge.config import BuildConfig, read_config
from nestforge.data.imagefolder import choose_balanced, format_label, list_images, read_imagenet_labels, read_labels
from nestforge.data.loader import Unreadable, load_batches
from nestforge.data.preprocess import Preprocess, make_reference_preprocess
from nestforge.engines import get_engine
from nestforge.engines.base import Engine, Images, Kernel, Session, Settings
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.errors import ConfigError, DataError, ModelError
from nestforge.files import StrPath, check_output_folder, write_folder_aside
from nestforge.networks.graph import build_graph
from nestforge.networks.zoo import get_variant
from nestforge.progress import Progress, silent

PARITY_IMAGES = 64
CALIBRATION_BATCH = 1
_WEIGHTED_TYPES = ("Convolution", "FullyConnected", "MatMul")
_INT8_PRECISIONS = ("u8", "i8")


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build made; `files` maps names to sizes in bytes."""

    artifact: Path
    dtype: str
    engine: str
    files: dict[str, int]
    parity: Parity
    kernels: dict[str, dict[str, int]]
    warnings: tuple[str, ...]
    seconds: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class _Source:
    """The float32 graph to build from, and the file it came from."""

    model: ir.Model
    name: str
    inputs: dict[str, FileRecord]
    preprocess: Preprocess


def build(
    config: StrPath | BuildConfig,
    *,
    overrides: Iterable[str] = (),
    overwrite: bool = False,
    progress: Progress = silent,
) -> BuildResult:
    """Build the artifact that a YAML file or a `BuildConfig` describes.

    `overrides` are ``key.path=value`` strings applied to a file. The same config, inputs and CPU give the same
    model file, byte for byte.

    Raises:
        NestForgeError: anything wrong with config, model, data, engine or output; nothing is left behind.
    """
    begin = time.perf_counter()
    resolved = config if isinstance(config, BuildConfig) else read_config(Path(config), overrides)
    output = Path(resolved.output)
    check_output_folder(output, overwrite=overwrite)
    engine = get_engine(resolved.engine)
    if not engine.supports(resolved.dtype):
        raise ConfigError(f"{resolved.engine} has no {resolved.dtype} on this CPU; choose another dtype or engine")
    with progress("reading the model", None):
        source = _load_source(resolved, progress)
    if resolved.append_softmax:
        append_softmax(source.model)
    classifier = inspect_classifier(source.model)
    height, width = _check_geometry(source.preprocess, classifier)
    labels = _read_label_lines(resolved, classifier.num_classes)
    images = _Images(resolved, source.preprocess, (height, width), batch=classifier.fixed_batch or CALIBRATION_BATCH)
    settings = Settings(batch=images.batch, height=height, width=width, threads=count_available_cores())

    with write_folder_aside(output, overwrite=overwrite) as folder:
        original = serialize(source.model)
        kernel_macs = count_graph_macs(source.model, height, width)
        fold_batch_norm(source.model)
        quantization = None
        if resolved.dtype == "int8":
            quantization = _quantize(source.model, resolved, images, engine, settings, progress)
        (folder / MODEL_FILE).write_bytes(serialize(source.model))
        if labels:
            (folder / LABELS_FILE).write_text("".join(f"{line}\n" for line in labels), encoding="utf-8")
        with progress("compiling the built model", None):
            built = engine.open(folder / MODEL_FILE, _replace_dtype(settings, resolved))
        parity = _measure_parity(engine.open(original, settings), built, images, progress)
        kernels = built.list_kernels()
        warnings = _find_warnings(quantization, kernels)
        manifest = Manifest(
            format=1,
            name=source.name,
            config=resolved,
            preprocess=source.preprocess,
            preprocess_sha256=source.preprocess.sha256,
            classes=classifier.num_classes,
            height=height,
            width=width,
            fixed_batch=classifier.fixed_batch,
            gives_probabilities=classifier.gives_probabilities,
            kernel_macs=kernel_macs,
            inputs=source.inputs | _record_labels(resolved) | images.inputs,
            outputs={path.name: record_file(path) for path in sorted(folder.iterdir())},
            versions=_list_versions(engine),
            cpu_flags=read_machine().flags,
            parity=parity,
            quantization=quantization,
            kernels=_count_kernels(kernels),
            warnings=warnings,
        )
        write_manifest(manifest, folder)
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    return BuildResult(
        artifact=output,
        dtype=resolved.dtype,
        engine=resolved.engine,
        files=files,
        parity=parity,
        kernels=manifest.kernels,
        warnings=warnings,
        seconds=time.perf_counter() - begin,
        peak_rss_bytes=read_peak_rss_bytes(),
    )


class _Images:
    """The images of a build: the calibration subset, or seeded noise where there is none."""

    def __init__(self, config: BuildConfig, preprocess: Preprocess, hw: tuple[int, int], *, batch: int) -> None:
        self.batch = batch
        self._preprocess = preprocess
        self._hw = hw
        self._paths: tuple[Path, ...] = ()
        self.inputs: dict[str, FileRecord] = {}
        section = config.calibration
        if section is not None:
            dataset = list_images(Path(section.data), suffix=section.suffix)
            self._paths = choose_balanced(dataset, section.count, section.seed)
            for path in self._paths:
                if path.is_file():
                    self.inputs[f"{section.data}:{path.relative_to(dataset.root)}"] = record_file(path)

    @property
    def are_calibration(self) -> bool:
        return bool(self._paths)

    def load(self, limit: int | None = None) -> Iterator[Images]:
        """Yield batches of normalised images; unreadable calibration images are an error."""
        if not self._paths:
            rng = np.random.default_rng(0)
            for _ in range(4):
                yield rng.standard_normal((self.batch, 3, *self._hw), np.float32)
            return
        for item in load_batches(
            self._paths[:limit], self._preprocess, batch=self.batch, workers=count_available_cores()
        ):
            if isinstance(item, Unreadable):
                raise DataError(f"calibration image {item.reason}; remove it and build again")
            yield item.images_nchw

    def __len__(self) -> int:
        return len(self._paths) or 4 * self.batch


def _load_source(config: BuildConfig, progress: Progress) -> _Source:
    section = config.model
    if section.onnx is not None:
        path = Path(section.onnx)
        assert config.preprocess is not None  # BuildConfig checks it
        return _Source(read_onnx(path), path.stem, {section.onnx: record_file(path)}, config.preprocess)
    variant = get_variant(str(section.name))
    weights = resolve_weights(
        variant, weights=Path(section.weights) if section.weights else None, seed=section.seed, progress=progress
    )
    inputs = {str(weights.path): record_file(weights.path)} if weights.path else {}
    preprocess = config.preprocess or make_reference_preprocess(variant.image_size)
    return _Source(build_graph(variant, weights.weights), variant.name, inputs, preprocess)


def _check_geometry(preprocess: Preprocess, classifier: ImageClassifier) -> tuple[int, int]:
    assert preprocess.output_hw is not None  # BuildConfig checks it
    height, width = preprocess.output_hw
    fixed = (classifier.fixed_height or height, classifier.fixed_width or width)
    if fixed != (height, width):
        raise ConfigError(f"preprocessing gives {height}x{width} pixels but the model takes {fixed[0]}x{fixed[1]}")
    return height, width


def _read_label_lines(config: BuildConfig, num_classes: int) -> list[str]:
    if config.labels is None:
        return []
    labels = read_imagenet_labels() if config.labels == "imagenet" else read_labels(Path(config.labels))
    if len(labels) != num_classes:
        raise DataError(f"labels {config.labels!r} has {len(labels)} lines but the model has {num_classes} classes")
    return [format_label(label) for label in labels]


def _record_labels(config: BuildConfig) -> dict[str, FileRecord]:
    return {config.labels: record_file(Path(config.labels))} if config.labels not in (None, "imagenet") else {}


def _quantize(
    model: ir.Model, config: BuildConfig, images: _Images, engine: Engine, settings: Settings, progress: Progress
) -> QuantizationRecord:
    section = config.quantize
    skip = find_convolutions(model, section.skip_convolutions)
    names = list(find_activations(model, skip=skip))
    with progress("calibrating", len(images)) as advance:
        batches = _advance_over(images.load(), advance)
        histograms = observe_activations(model, names, batches, engine=engine, settings=settings)
    ranges = {name: histograms[name].find_range(section.mode, section.percentile) for name in names}
    avoid = section.saturation == "avoid" or (section.saturation == "auto" and not read_machine().has_int8_dot_product)
    summary = quantize_graph(model, ranges, per_channel=section.per_channel, avoid_saturation=avoid, skip=skip)
    if not summary.weighted_layers:
        raise ModelError("the model has no convolution or matrix product with constant weights to quantize")
    return QuantizationRecord(
        activations=summary.activations,
        weighted_layers=summary.weighted_layers,
        float_weighted_layers=summary.float_weighted_layers,
        saturation_avoided=avoid,
    )


def _measure_parity(source: Session, built: Session, images: _Images, progress: Progress) -> Parity:
    expected, found = [], []
    with progress("comparing with the source", min(len(images), PARITY_IMAGES)) as advance:
        for images_nchw in _advance_over(images.load(PARITY_IMAGES), advance):
            expected.append(source.run(images_nchw).astype(np.float64))
            found.append(built.run(images_nchw).astype(np.float64))
    a, b = np.concatenate(expected), np.concatenate(found)
    if not np.isfinite(b).all():
        raise ModelError("the built model's outputs are not finite; check the model and its preprocessing")
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return Parity(
        cosine=float((a * b).sum() / norms) if norms else float(np.array_equal(a, b)),
        max_abs=float(np.abs(a - b).max()),
        top1_agreement=float((a.argmax(1) == b.argmax(1)).mean()),
        images=len(a),
        data="calibration" if images.are_calibration else "random",
    )


def _advance_over(batches: Iterator[Images], advance: Callable[[int], None]) -> Iterator[Images]:
    for images_nchw in batches:
        yield images_nchw
        advance(len(images_nchw))


def _replace_dtype(settings: Settings, config: BuildConfig) -> Settings:
    return dataclasses.replace(settings, dtype=config.dtype)


def _count_kernels(kernels: Iterable[Kernel]) -> dict[str, dict[str, int]]:
    counts = Counter((kernel.layer_type, kernel.precision) for kernel in kernels)
    table: dict[str, dict[str, int]] = {}
    for (layer_type, precision), count in sorted(counts.items()):
        table.setdefault(layer_type, {})[precision] = count
    return table


def _find_warnings(quantization: QuantizationRecord | None, kernels: Iterable[Kernel]) -> tuple[str, ...]:
    """Name what an int8 build executes in float although it has weights, and sums that this CPU will overflow."""
    if quantization is None:
        return ()
    unsafe = not quantization.saturation_avoided and not read_machine().has_int8_dot_product
    overflow = (
        ("this CPU overflows 16-bit sums of full-range weights: set quantize.saturation to auto",) if unsafe else ()
    )
    return overflow + tuple(
        f"{kernel.layer_type.lower()} {kernel.name} runs in {kernel.precision}, not in int8"
        for kernel in kernels
        if kernel.layer_type in _WEIGHTED_TYPES and kernel.precision not in _INT8_PRECISIONS
    )


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
