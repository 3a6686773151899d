"""Load images in batches: threads decode, the order is kept, and memory does not grow with the list."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nestforge.data.images import AnyImage, ImageFile
from nestforge.data.preprocess import Preprocess, load_image
from nestforge.errors import DataError

File = TypeVar("File", bound=AnyImage)
Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
LoadImage = Callable[[File], npt.NDArray[np.float32]]  # returns (3, H, W), the same size for every file


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images ready for the network; `indices[i]` is the position of image i in the list or stream."""

    indices: tuple[int, ...]
    images_nchw: npt.NDArray[np.float32]  # (B, 3, H, W)


@dataclass(frozen=True, kw_only=True)
class UnreadableImage:
    """An image that could not be used and is not counted, and the reason."""

    image: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Unreadable(UnreadableImage):
    """An image of a list or stream that could not be used; `index` is its position there."""

    index: int


def load_batches(
    paths: Sequence[ImageFile], preprocess: Preprocess, *, batch: int, workers: int
) -> Iterator[Batch | Unreadable]:
    """Yield the images in order as batches of up to `batch`, and an `Unreadable` for each that cannot be used.

    Each batch is loaded by one thread. At most `workers` batches are being loaded while as many wait to be read.
    """

    def load(files: list[tuple[int, ImageFile]]) -> tuple[Batch | None, list[Unreadable]]:
        return load_batch(files, lambda path: load_image(path, preprocess))

    for loaded, unreadable in map_in_order(split_batches(paths, batch), load, ahead=2 * workers, workers=workers):
        yield from unreadable
        if loaded is not None:
            yield loaded


def split_batches(items: Iterable[Item], size: int) -> Iterator[list[tuple[int, Item]]]:
    """Yield the items, each with its position, as lists of `size`; the last may be shorter."""
    numbered = enumerate(items)
    while batch := list(islice(numbered, size)):
        yield batch


def load_batch(files: Sequence[tuple[int, File]], load: LoadImage[File]) -> tuple[Batch | None, list[Unreadable]]:
    """Load files with their positions as one batch (None if no file can be used), and list those that cannot be."""
    good: list[int] = []
    images: list[npt.NDArray[np.float32]] = []
    unreadable = []
    for index, file in files:
        try:
            images.append(load(file))
            good.append(index)
        except DataError as error:
            unreadable.append(Unreadable(index=index, image=str(file), reason=str(error)))
    return Batch(indices=tuple(good), images_nchw=np.stack(images)) if images else None, unreadable


def map_in_order(
    items: Iterable[Item], function: Callable[[Item], Outcome], *, ahead: int, workers: int
) -> Generator[Outcome, None, None]:
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
