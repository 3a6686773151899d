"""A built model against its float32 source on the same images, and whether it is good enough to be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from nestforge.artifact.manifest import Parity
from nestforge.compile.images import BuildImages
from nestforge.engines.base import Session
from nestforge.errors import ModelError
from nestforge.progress import Progress, advance_over

IMAGES = 64
LEAST_AGREEMENT = 0.9
SOUND_AGREEMENT = 0.97  # which sound int8 builds reach
SIGNIFICANCE = 0.05
LEAST_SPREAD = 0.02  # of the inputs of a channel within an image, in units of the largest input, or of 1
LEAST_IMAGES = 8  # before it means anything that all of them have the same class

_REMEDY = (
    "calibrate on more images, like those it will classify (calibration.data and count), try another quantize.mode or "
    "percentile, or keep layers in float (quantize.max_drop; 'nestforge sensitivity' ranks them)"
)
_ALLOW = "allow_poor_parity: true (--allow-poor-parity) keeps it"


@dataclass(frozen=True)
class Poor:
    """What is wrong with an agreement; `is_useless` where it is no better than chance."""

    text: str
    is_useless: bool


def measure_parity(
    source: Session,
    built: Session,
    images: BuildImages,
    progress: Progress,
    *,
    allow_poor: bool = False,
    trained: bool = True,
) -> Parity:
    """Compare the outputs of two sessions on the first `IMAGES` images; what looks wrong is said in `problems`.

    Of weights that were not `trained` it is not wrong that all images have one class.

    Raises:
        ModelError: outputs are not finite, or, without `allow_poor`, both agree no more often than by chance.
    """
    expected, found, spreads, largest = [], [], [], 0.0
    with progress("comparing with the source", min(len(images), IMAGES)) as advance:
        for images_nchw in advance_over(images.load(IMAGES), advance):
            expected.append(source.run(images_nchw).astype(np.float64))
            found.append(built.run(images_nchw).astype(np.float64))
            spreads.append(float(images_nchw.std((2, 3)).mean()))
            largest = max(largest, float(np.abs(images_nchw).max()))
    a, b = np.concatenate(expected), np.concatenate(found)
    if not np.isfinite(b).all():
        raise ModelError("the built model's outputs are not finite; check the model and its preprocessing")
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    before, after = a.argmax(1), b.argmax(1)
    poor = judge_agreement(int((before == after).sum()), len(a), classes=a.shape[1])
    if poor is not None and poor.is_useless and not allow_poor:
        raise ModelError(f"{poor.text}, no more than by chance: {_REMEDY}; {_ALLOW}")
    problems: list[str] = []
    if images.are_calibration:
        problems += [f"{poor.text}: {_REMEDY}"] if poor is not None else []
        problems += find_constant_inputs(max(spreads), largest)
        problems += find_one_prediction(before, after, folders=images.classes) if trained else []
    return Parity(
        cosine=float((a * b).sum() / norms) if norms else float(np.array_equal(a, b)),
        max_abs=float(np.abs(a - b).max()),
        top1_agreement=float((before == after).mean()),
        images=len(a),
        data="calibration" if images.are_calibration else "random",
        problems=tuple(problems),
    )


def judge_agreement(agreeing: int, images: int, *, classes: int) -> Poor | None:
    """Judge how many of `images` have the same first class before and after; None where it is as it should be.

    It is poor below `LEAST_AGREEMENT`, and where so few agree by chance in less than `SIGNIFICANCE` of builds that
    agree on `SOUND_AGREEMENT` of all images (a one-sided exact binomial test). It is useless where none agree, and
    where as many would agree by chance: guesses among `classes` do not agree less often at that significance, and the
    agreement is below `LEAST_AGREEMENT` beyond chance.
    """
    rate = agreeing / images
    if agreeing == images:
        return None
    unlikely = float(stats.binom.cdf(agreeing, images, SOUND_AGREEMENT))
    if rate >= LEAST_AGREEMENT and unlikely >= SIGNIFICANCE:
        return None
    text = f"poor parity: the built model and its float source agree on {agreeing} of {images} images ({rate:.0%})"
    is_guessing = stats.binom.sf(agreeing - 1, images, 1 / classes) >= SIGNIFICANCE
    is_far_below = stats.binom.cdf(agreeing, images, LEAST_AGREEMENT) < SIGNIFICANCE
    if agreeing == 0 or (is_guessing and is_far_below):
        return Poor(text, is_useless=True)
    if rate >= LEAST_AGREEMENT:
        text += f", as a sound one would in {unlikely:.1%} of cases"
    return Poor(text, is_useless=False)


def find_constant_inputs(spread: float, largest: float) -> list[str]:
    """Say where the inputs are nearly constant; `spread` is the largest standard deviation within channel and image."""
    if spread >= LEAST_SPREAD * max(largest, 1):
        return []
    return [
        f"the model's inputs are nearly constant on the calibration images (they vary by {spread:.2g} around values up "
        f"to {largest:.3g}): check mean and std, and that the images are not blank"
    ]


def find_one_prediction(before: npt.NDArray[np.int64], after: npt.NDArray[np.int64], *, folders: int) -> Sequence[str]:
    """Say where images of several class folders all have one class, in the source or only in the built model."""
    if folders < 2 or len(before) < LEAST_IMAGES:
        return ()
    if len(set(before.tolist())) == 1:
        return (
            f"the model gives class {before[0]} for each of {len(before)} calibration images, of {folders} class "
            "folders: check mean, std, channels and the weights",
        )
    if len(set(after.tolist())) == 1:
        return (
            f"the built model gives class {after[0]} for each of {len(after)} calibration images, its source does not",
        )
    return ()
