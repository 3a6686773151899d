"""A checkpoint becomes an ONNX file, and the file is compared with the torch module before it is put in place."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from nestforge.compile.onnxfile import serialize
from nestforge.compile.parity import ImageSize, ParityCheck, Reference, check_parity
from nestforge.data.preprocess import Preprocess
from nestforge.errors import ModelError
from nestforge.files import StrPath, atomic_write, hash_file
from nestforge.networks.checkpoint import fetch_checkpoint, find_weights
from nestforge.networks.layers import (
    Weights,
    convert_macs_to_vendor_gflops,
    count_kernel_macs,
    count_macs,
    count_parameters,
    make_seeded_weights,
)
from nestforge.networks.zoo import Variant, get_variant
from nestforge.progress import Progress, no_progress

TIMM_PREFIX = "timm:"


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was exported, and how near it is to the torch module; `notes` say what needs attention."""

    model: str
    path: Path
    source: str
    size: int | ImageSize  # in pixels; one number for a square
    classes: int
    params: int
    macs: int | None  # as published tables count them, and `vendor_gflops`: of our variants only
    kernel_macs: int
    vendor_gflops: float | None
    sha256: str
    max_relative_difference: float  # of the file, to torch in float64; see `ParityCheck`
    max_torch_float32_difference: float  # of torch's own float32
    checks: tuple[ParityCheck, ...]
    notes: tuple[str, ...]
    seconds: float
    preprocess: Preprocess | None = None  # of a timm model, as timm has it
    exporter: str | None = None  # of torch's, the one that wrote a timm model's file
    build_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ResolvedWeights:
    """A state dict and where it came from; `path` is None for seeded weights, `notes` say what was chosen in a file."""

    weights: Weights
    source: str
    path: Path | None
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        return len(self.weights["fc.bias"])


def resolve_weights(
    variant: Variant, *, weights: Path | None, seed: int | None, progress: Progress = no_progress
) -> ResolvedWeights:
    """Take a local checkpoint, seeded weights, or (with neither) the authors' download.

    Raises:
        ModelError: both given, or as `find_weights` and `fetch_checkpoint`.
    """
    _check_weights_and_seed(weights, seed)
    if seed is not None:
        return ResolvedWeights(weights=make_seeded_weights(variant, seed), source=f"seed {seed}", path=None)
    path = weights if weights is not None else fetch_checkpoint(variant, progress=progress)
    found = find_weights(path, variant)
    source = f"{path} ({found.place})" if found.place else str(path)
    return ResolvedWeights(weights=found.weights, source=source, path=path, notes=found.notes)


def _check_weights_and_seed(weights: StrPath | None, seed: int | None) -> None:
    if weights is not None and seed is not None:
        raise ModelError("give --weights or --seed, not both")
    if seed is not None and not 0 <= seed < 1 << 63:
        raise ModelError(f"seed {seed} is {'negative' if seed < 0 else 'too large'}; give 0 to {(1 << 63) - 1}")


def export(
    model: str,
    *,
    weights: StrPath | None = None,
    size: int | None = None,
    output: StrPath | None = None,
    seed: int | None = None,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export a variant, or any classifier of timm as ``timm:NAME``, to ONNX and prove it equal to the torch module.

    A variant's file has dynamic batch, height and width; `size` is the square input that is counted and checked
    (default: the variant's own). Needs the extra ``torch``. A timm model's file has a dynamic batch and a fixed
    `size`, and a build file beside it states the preprocessing of its pretrained configuration. Needs the extra
    ``timm``. `output` defaults to ``MODEL.onnx``.

    Raises:
        ModelError: unknown model, unusable checkpoint, torch or timm missing, or the file differs from torch in
            float64 by more than torch's own float32 explains; no file is left then.
        ConfigError: the build file of a timm model exists and describes something else.
    """
    from nestforge.networks.graph import build_graph

    begin = time.perf_counter()
    if size is not None and not 32 <= size <= 4096:
        raise ModelError(f"size {size} is outside 32 to 4096 pixels")
    if model.startswith(TIMM_PREFIX):
        return _export_timm(
            model.removeprefix(TIMM_PREFIX), weights=weights, seed=seed, size=size, output=output, progress=progress
        )
    variant = get_variant(model)
    size = variant.image_size if size is None else size
    resolved = resolve_weights(
        variant, weights=None if weights is None else Path(weights), seed=seed, progress=progress
    )
    path = Path(f"{model}.onnx" if output is None else output)
    with atomic_write(path) as partial:
        partial.write_bytes(serialize(build_graph(variant, resolved.weights)))
        sides = (size, max(32, size * 3 // 4 + 1))
        report = check_parity(
            partial,
            _make_reference(variant, resolved.weights),
            sizes=[(side, side) for side in sides],
            progress=progress,
        )
    macs = count_macs(variant, image_size=size, num_classes=resolved.classes)
    return ExportResult(
        model=model,
        path=path,
        source=resolved.source,
        size=size,
        classes=resolved.classes,
        params=count_parameters(variant, num_classes=resolved.classes),
        macs=macs,
        kernel_macs=count_kernel_macs(variant, image_size=size, num_classes=resolved.classes),
        vendor_gflops=round(convert_macs_to_vendor_gflops(macs), 3),
        sha256=hash_file(path),
        max_relative_difference=max(check.relative_difference for check in report.checks),
        max_torch_float32_difference=max(check.torch_float32_difference for check in report.checks),
        checks=report.checks,
        notes=resolved.notes + report.notes,
        seconds=time.perf_counter() - begin,
    )


def _export_timm(
    name: str,
    *,
    weights: StrPath | None,
    seed: int | None,
    size: int | None,
    output: StrPath | None,
    progress: Progress,
) -> ExportResult:
    _check_weights_and_seed(weights, seed)
    try:
        from nestforge.compile.timm_export import export_timm
    except ImportError as error:
        raise ModelError("timm: models need timm: run \"pip install 'nestforge[timm]'\"") from error
    return export_timm(
        name,
        weights=None if weights is None else Path(weights),
        seed=seed,
        size=size,
        output=None if output is None else Path(output),
        progress=progress,
    )


def _make_reference(variant: Variant, weights: Weights) -> Reference:
    try:
        from nestforge.engines.torch import TorchReference, load_module
    except ImportError as error:
        raise ModelError("export compares with torch: run \"pip install 'nestforge[torch]'\"") from error
    return TorchReference(lambda: load_module(variant, weights))
