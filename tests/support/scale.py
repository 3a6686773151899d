"""What is compared of evaluations of the same images from different sources."""

from __future__ import annotations

from nestforge.measure.evaluate import Evaluation


def get_counts(result: Evaluation) -> tuple[int, int, int, int]:
    return result.images, result.unreadable, result.top1.correct, result.top5.correct
