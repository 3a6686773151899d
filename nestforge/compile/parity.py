"""An exported file is judged against torch in float64; how far torch's own float32 is off says what may be asked.

An engine adds in another order than torch does, so a correct file differs from float64 by about as much as torch's
float32 does. For most checkpoints that is a few 1e-7 of the largest logit. A network whose attention runs into ties,
or whose batch norms amplify the difference of nearly equal numbers, can be off by tenths in any engine. On which
images that shows depends on the order of the sums, so a file that is beyond the tolerance is judged only after torch
has run float32 in several orders, and on an unstable checkpoint by most of the images instead of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nestforge.engines import get_engine
from nestforge.engines.base import Images, Settings
from nestforge.engines.machine import count_available_cores
from nestforge.errors import ModelError
from nestforge.progress import Progress, advance_by_one, no_progress

TOLERANCE = 1e-4  # of the largest logit of an image; always allowed
FLOAT32_FACTOR = 4  # a file may be off by this many times what torch's float32 is off
PROBES = ("noise", "black", "white", "checkerboard", "strong noise")

AnyLogits = npt.NDArray[np.floating]  # (B, classes)
ImageSize = tuple[int, int]  # height, width


class Reference(Protocol):
    """A torch module to compare with; every method maps (B, 3, H, W) float32 to logits (B, classes)."""

    def run_float64(self, images_nchw: Images) -> npt.NDArray[np.float64]: ...

    def run_float32(self, images_nchw: Images) -> npt.NDArray[np.float32]: ...

    def run_float32_in_other_orders(self, images_nchw: Images) -> Sequence[npt.NDArray[np.float32]]:
        """Return the logits of more float32 runs, each of which adds in another order."""
        ...


@dataclass(frozen=True, kw_only=True)
class ParityCheck:
    """One run of the file. Differences are max |x - torch in float64| / max |torch in float64| of the worst image."""

    batch: int
    size: int | ImageSize  # in pixels; one number for a square
    relative_difference: float  # of the file
    torch_float32_difference: float  # of torch itself in float32, on the same images


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """All runs of a file that was accepted; `notes` say where torch itself is unstable."""

    checks: tuple[ParityCheck, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ProbeDifference:
    """How far the file, and torch's own float32, are off torch in float64 on one image; see `ParityCheck`."""

    probe: str
    size: int | ImageSize
    file: float
    torch_float32: float

    @property
    def allowed(self) -> float:
        return max(TOLERANCE, FLOAT32_FACTOR * self.torch_float32)

    def __str__(self) -> str:
        return f"{self.probe} at {format_size(self.size)}"


def check_parity(
    path: Path, reference: Reference, *, sizes: Sequence[ImageSize], progress: Progress = no_progress
) -> ParityReport:
    """Compare an ONNX file with torch on random and extreme images of each size, alone and in a batch.

    Raises:
        ModelError: outputs are not finite, or as `judge`.
    """
    images = [make_probe_images(*size) for size in sizes]
    with progress("comparing with torch", 3 * len(sizes)) as advance:
        # all of float32 before all of float64, because the reference holds its module in one of them at a time
        float32 = list(advance_by_one(map(reference.run_float32, images), advance))
        expected = list(advance_by_one(map(reference.run_float64, images), advance))
        _check_finite(expected, float32)
        own = [compute_relative_differences(*pair) for pair in zip(float32, expected, strict=True)]
        runs = [
            (
                compute_relative_differences(_run_file(path, batch[:1]), truth[:1]),
                compute_relative_differences(_run_file(path, batch), truth),
            )
            for batch, truth in advance_by_one(zip(images, expected, strict=True), advance)
        ]
        if max(found.max() for pair in runs for found in pair) > TOLERANCE:
            for batch, truth, most in zip(images, expected, own, strict=True):
                for logits in reference.run_float32_in_other_orders(batch):
                    np.maximum(most, compute_relative_differences(logits, truth), out=most)
    checks, probes = [], []
    for (height, width), most, (alone, together) in zip(sizes, own, runs, strict=True):
        size = height if height == width else (height, width)
        checks += [
            ParityCheck(
                batch=len(found),
                size=size,
                relative_difference=float(found.max()),
                torch_float32_difference=float(most[: len(found)].max()),
            )
            for found in (alone, together)
        ]
        together[:1] = np.maximum(together[:1], alone)
        probes += [
            ProbeDifference(probe=name, size=size, file=float(file), torch_float32=float(torch_float32))
            for name, file, torch_float32 in zip(PROBES, together, most, strict=True)
        ]
    judge(probes)
    notes = describe_instability(probes) + describe_constant_logits(np.concatenate(expected))
    return ParityReport(checks=tuple(checks), notes=notes)


def judge(probes: Sequence[ProbeDifference]) -> None:
    """Refuse a file that is further off than float32 explains.

    No image may be off by more than `TOLERANCE` or `FLOAT32_FACTOR` times the most that torch's float32 is off on any
    image, whichever is larger; and of each size, most images must be within what torch's float32 is off on themselves.

    Raises:
        ModelError: it is.
    """
    worst = max(probes, key=lambda probe: probe.file)
    limit = max(probe.allowed for probe in probes)
    if worst.file == float("inf"):
        raise ModelError(f"the exported file's outputs are not finite on {worst}, torch's are; nothing was written")
    if worst.file > limit:
        raise ModelError(
            f"the exported file differs from torch in float64 by {worst.file:.2e} on {worst}, torch's own float32 by "
            f"at most {max(probe.torch_float32 for probe in probes):.1e} (limit {limit:.1e}); nothing was written"
        )
    for size in dict.fromkeys(probe.size for probe in probes):
        same = [probe for probe in probes if probe.size == size]
        beyond = [probe for probe in same if probe.file > probe.allowed]
        if 2 * len(beyond) > len(same):
            first = max(beyond, key=lambda probe: probe.file / probe.allowed)
            raise ModelError(
                f"the exported file differs from torch in float64 by more than float32 explains on {len(beyond)} of "
                f"{len(same)} images, such as {first.file:.2e} on {first} where torch's own float32 differs by "
                f"{first.torch_float32:.1e}; nothing was written"
            )


def describe_instability(probes: Sequence[ProbeDifference]) -> tuple[str, ...]:
    """Return a line that names the images on which torch's own float32 is not to be trusted, or nothing."""
    unstable = [probe for probe in probes if probe.torch_float32 > TOLERANCE]
    if not unstable:
        return ()
    worst = max(unstable, key=lambda probe: probe.torch_float32)
    return (
        f"torch itself is unstable on {len(unstable)} of {len(probes)} probe images: its float32 is up to "
        f"{worst.torch_float32:.1e} off its float64 ({', '.join(map(str, unstable))}); "
        "no engine computes this checkpoint exactly in float32 there",
    )


def describe_constant_logits(expected: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """Return a line where the logits (B, classes) do not depend on the image, or nothing."""
    if np.ptp(expected, axis=0).max() > 1e-9 * np.abs(expected).max():
        return ()
    return ("torch gives the same logits for every probe image, so the comparison proves little: are these trained?",)


def format_size(size: int | ImageSize) -> str:
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height}x{width}"


def compute_relative_differences(found: AnyLogits, expected: AnyLogits) -> npt.NDArray[np.float64]:
    """Return max |found - expected| / max |expected| of each image, (B,); infinite where a value is not finite."""
    finite: npt.NDArray[np.bool] = np.all(np.isfinite(found) & np.isfinite(expected), axis=1)
    a = np.where(finite[:, None], found, 0).astype(np.float64)
    b = np.where(finite[:, None], expected, 0).astype(np.float64)
    difference, size = np.abs(a - b).max(1), np.abs(b).max(1)
    return np.where(finite, difference / np.where(size > 0, size, 1), np.inf)


def make_probe_images(height: int, width: int | None = None) -> Images:
    """Return (5, 3, H, W), a square for one number: noise; black, white and a checkerboard as normalised; strong noise.

    The last reaches twice as far as real images do. The order is that of `PROBES`.
    """
    width = height if width is None else width
    rng = np.random.default_rng(height)
    noise = rng.standard_normal((2, 3, height, width), np.float32)
    board = np.indices((3, height, width)).sum(0) % 2 * np.float32(4.8) - np.float32(2.1)
    flat = np.ones((3, height, width), np.float32)
    return np.stack([noise[0], -2.12 * flat, 2.64 * flat, board, 4 * noise[1]]).astype(np.float32)


def _run_file(path: Path, images_nchw: Images) -> npt.NDArray[np.float32]:
    batch, _, height, width = images_nchw.shape
    settings = Settings(batch=batch, height=height, width=width, threads=count_available_cores())
    return get_engine("onnxruntime").open(path, settings).run(images_nchw)


def _check_finite(float64: Sequence[AnyLogits], float32: Sequence[AnyLogits]) -> None:
    for dtype, outputs in (("float64", float64), ("float32", float32)):
        if not all(np.isfinite(logits).all() for logits in outputs):
            raise ModelError(
                f"the network's outputs are not finite on the probe images, in torch itself ({dtype}); "
                "check the checkpoint"
            )
