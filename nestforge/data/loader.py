"""Images from disk to batches: decoding in threads, order kept, memory bounded however long the list."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nestforge.data.preprocess import ImageFile, Preprocess, load_image
from nestforge.errors import DataError

File = TypeVar("File", bound=ImageFile)
Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
LoadImage = Callable[[File], npt.NDArray[np.float32]]  # a file to (3, H, W), always of the same size


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images ready for the network; `indices[i]` is the place in the list of paths of image i."""

    indices: tuple[int, ...]
    images_nchw: npt.NDArray[np.float32]  # (B, 3, H, W)


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An image that could not be used, and why."""

    index: int
    path: Path
    reason: str


def load_batches(
    paths: Sequence[ImageFile], preprocess: Preprocess, *, batch: int, workers: int
) -> Iterator[Batch | Unreadable]:
    """Yield the images in order as batches of up to `batch`, and an `Unreadable` for each that cannot be used.

    A thread loads a batch; at most `workers` batches are being loaded while as many wait.
    """

    def load(indices: range) -> tuple[Batch | None, list[Unreadable]]:
        return load_batch(paths, indices, lambda path: load_image(path, preprocess))

    for loaded, unreadable in map_in_order(split_indices(len(paths), batch), load, ahead=2 * workers, workers=workers):
        yield from unreadable
        if loaded is not None:
            yield loaded


def split_indices(count: int, size: int) -> list[range]:
    """Cut 0 to `count` - 1 into runs of `size`; the last may be shorter."""
    return [range(begin, min(begin + size, count)) for begin in range(0, count, size)]


def load_batch(
    paths: Sequence[File], indices: Sequence[int], load: LoadImage[File]
) -> tuple[Batch | None, list[Unreadable]]:
    """Load the images at `indices` as one batch, None if none can be used; those that cannot are listed."""
    good: list[int] = []
    images: list[npt.NDArray[np.float32]] = []
    unreadable = []
    for index in indices:
        try:
            images.append(load(paths[index]))
            good.append(index)
        except DataError as error:
            unreadable.append(Unreadable(index=index, path=Path(str(paths[index])), reason=str(error)))
    return Batch(indices=tuple(good), images_nchw=np.stack(images)) if images else None, unreadable


def map_in_order(
    items: Iterable[Item], function: Callable[[Item], Outcome], *, ahead: int, workers: int
) -> Iterator[Outcome]:
    """Yield the results of `function` in order; threads run at most `ahead` items ahead of the reader."""
    waiting: deque[Future[Outcome]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="pipeline") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
