"""The top-5 predictions of many images as arrays, for counting and comparing."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nestforge.inference.topk import find_hits
from nestforge.scale.rows import Row

TOP = 5


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """Predictions of N readable images, sorted by `positions` (N, 2): part of the source, and position in it.

    `truth` is (N,); `classes` and `probabilities` are (N, 5), -1 and 0 beyond the network's classes. `images` says
    where each image lies, or is empty where that was not kept.
    """

    positions: npt.NDArray[np.int64]
    truth: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    images: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.truth)

    def find_hits(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return which images have the true class first, and which among the first five, (N,) each."""
        return find_hits(self.classes, self.truth)


class PredictionTableBuilder:
    """Collects rows into a table; `keep_images` remembers where each image lies."""

    def __init__(self, *, keep_images: bool) -> None:
        self._keep_images = keep_images
        self._integers = array("q")  # part, position, truth and TOP classes of each row
        self._probabilities = array("d")
        self._images: list[str] = []

    def add(self, row: Row, image: str) -> None:
        """Add a row that has a prediction and a true class; `image` says where it lies."""
        assert row.truth is not None
        self._integers.extend((row.part, row.position, row.truth, *row.classes, *[-1] * (TOP - len(row.classes))))
        self._probabilities.extend((*row.probabilities, *[0.0] * (TOP - len(row.probabilities))))
        if self._keep_images:
            self._images.append(image)

    def finish(self) -> PredictionTable:
        """Return all rows, sorted."""
        integers = np.array(self._integers, np.int64).reshape(-1, 3 + TOP)
        order = np.lexsort((integers[:, 1], integers[:, 0]))
        integers = integers[order]
        return PredictionTable(
            positions=integers[:, :2],
            truth=integers[:, 2],
            classes=integers[:, 3:],
            probabilities=np.array(self._probabilities, np.float64).reshape(-1, TOP)[order],
            images=tuple(self._images[index] for index in order) if self._keep_images else (),
        )
