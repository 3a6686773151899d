"""A checkpoint becomes an ONNX file, and the file is run against the torch module before it is let out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nestforge.compile.onnxfile import serialize
from nestforge.engines import get_engine
from nestforge.engines.base import Images, Logits, Settings
from nestforge.engines.machine import count_available_cores
from nestforge.errors import ModelError
from nestforge.files import StrPath, atomic_write, hash_file
from nestforge.networks.checkpoint import fetch_checkpoint, read_checkpoint
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

TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class ParityCheck:
    """One comparison; `relative_difference` is max |onnx - torch| / max |torch| of the worst image."""

    batch: int
    size: int
    relative_difference: float


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was exported, and how near it is to the torch module."""

    model: str
    path: Path
    source: str
    size: int
    classes: int
    params: int
    macs: int
    kernel_macs: int
    vendor_gflops: float
    sha256: str
    max_relative_difference: float
    checks: tuple[ParityCheck, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ResolvedWeights:
    """A state dict and where it came from; `path` is None for seeded weights."""

    weights: Weights
    source: str
    path: Path | None


def resolve_weights(
    variant: Variant, *, weights: Path | None, seed: int | None, progress: Progress = no_progress
) -> ResolvedWeights:
    """Take a local checkpoint, seeded weights, or (with neither) the authors' download.

    Raises:
        ModelError: both given, or as `read_checkpoint` and `fetch_checkpoint`.
    """
    if weights is not None and seed is not None:
        raise ModelError("give --weights or --seed, not both")
    if seed is not None:
        if seed < 0:
            raise ModelError(f"seed {seed} is negative; give 0 or more")
        return ResolvedWeights(weights=make_seeded_weights(variant, seed), source=f"seed {seed}", path=None)
    path = weights if weights is not None else fetch_checkpoint(variant, progress=progress)
    return ResolvedWeights(weights=read_checkpoint(path, variant), source=str(path), path=path)


def export(
    model: str,
    *,
    weights: StrPath | None = None,
    size: int | None = None,
    output: StrPath | None = None,
    seed: int | None = None,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export a variant to ONNX with dynamic batch, height and width, and prove it equal to the torch module.

    `size` is the square input that is counted and checked (default: the variant's own). `output` defaults to
    ``MODEL.onnx``. Needs the extra ``torch``.

    Raises:
        ModelError: unknown variant, unusable checkpoint, torch missing, or a difference above 1e-4 relative;
            no file is left then.
    """
    from nestforge.networks.graph import build_graph

    begin = time.perf_counter()
    variant = get_variant(model)
    size = variant.image_size if size is None else size
    if not 32 <= size <= 4096:
        raise ModelError(f"size {size} is outside 32 to 4096 pixels")
    resolved = resolve_weights(
        variant, weights=None if weights is None else Path(weights), seed=seed, progress=progress
    )
    path = Path(f"{model}.onnx" if output is None else output)
    with atomic_write(path) as partial:
        partial.write_bytes(serialize(build_graph(variant, resolved.weights)))
        checks = check_parity(partial, variant, resolved.weights, size=size, progress=progress)
        worst = max(check.relative_difference for check in checks)
        if worst == float("inf"):
            raise ModelError("the network's outputs are not finite on the probe images; check the checkpoint")
        if worst > TOLERANCE:
            raise ModelError(
                f"the exported file differs from torch by {worst:.2e} (limit {TOLERANCE:.0e}); nothing was written"
            )
    macs = count_macs(variant, image_size=size)
    classes = len(resolved.weights["fc.bias"])
    return ExportResult(
        model=model,
        path=path,
        source=resolved.source,
        size=size,
        classes=classes,
        params=count_parameters(variant, num_classes=classes),
        macs=macs,
        kernel_macs=count_kernel_macs(variant, image_size=size),
        vendor_gflops=round(convert_macs_to_vendor_gflops(macs), 3),
        sha256=hash_file(path),
        max_relative_difference=worst,
        checks=checks,
        seconds=time.perf_counter() - begin,
    )


def check_parity(
    path: Path,
    variant: Variant,
    weights: Mapping[str, npt.NDArray[np.float32]],
    *,
    size: int,
    progress: Progress = no_progress,
) -> tuple[ParityCheck, ...]:
    """Run an ONNX file and the torch module on random and extreme images, two batch sizes, two image sizes.

    Raises:
        ModelError: torch is not installed.
    """
    try:
        from nestforge.engines.torch import TorchSession
    except ImportError as error:
        raise ModelError("export compares with torch: run \"pip install 'nestforge[torch]'\"") from error
    engine = get_engine("onnxruntime")
    checks = []
    sides = (size, max(32, size * 3 // 4 + 1))
    with progress("comparing with torch", 2 * len(sides)) as advance:
        for side in sides:
            images_nchw = make_probe_images(side)
            for batch in (1, len(images_nchw)):
                settings = Settings(batch=batch, height=side, width=side, threads=count_available_cores())
                reference = TorchSession(variant, weights, settings).run(images_nchw[:batch])
                exported = engine.open(path, settings).run(images_nchw[:batch])
                difference = compute_relative_difference(exported, reference)
                checks.append(ParityCheck(batch=batch, size=side, relative_difference=difference))
                advance(1)
    return tuple(checks)


def compute_relative_difference(found: Logits, expected: Logits) -> float:
    """Return max |found - expected| / max |expected| of the worst image; infinite where a value is not finite."""
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    difference, size = np.abs(found - expected).max(1), np.abs(expected).max(1)
    return float((difference / np.where(size > 0, size, 1)).max())


def make_probe_images(side: int) -> Images:
    """Return (5, 3, side, side): noise; black, white and a checkerboard as normalised; noise beyond any image's range.

    The last reaches twice as far as real images do. Much stronger noise drives the attention of a deep network into
    ties, where float32 itself, torch's too, is no longer a reference.
    """
    rng = np.random.default_rng(side)
    noise = rng.standard_normal((2, 3, side, side), np.float32)
    board = np.indices((3, side, side)).sum(0) % 2 * np.float32(4.8) - np.float32(2.1)
    flat = np.ones((3, side, side), np.float32)
    return np.stack([noise[0], -2.12 * flat, 2.64 * flat, board, 4 * noise[1]]).astype(np.float32)
