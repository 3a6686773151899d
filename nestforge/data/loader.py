"""Images from disk to batches: decoding in threads, order kept, memory bounded however long the list."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nestforge.data.preprocess import ImageFile, ImageHWC, Preprocess, normalize_images, read_image
from nestforge.errors import DataError

Element = TypeVar("Element", bound=np.generic)
File = TypeVar("File", bound=ImageFile)
Outcome = TypeVar("Outcome")


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
    """Yield the images in order as batches of up to `batch`, and at once an `Unreadable` for each that cannot be used.

    At most `workers` images are being decoded while two batches' worth of decoded ones wait.
    """

    def finish(images: Sequence[ImageHWC]) -> npt.NDArray[np.float32]:
        return normalize_images(np.stack(images), preprocess)

    return batch_in_order(paths, lambda path: read_image(path, preprocess), finish, batch=batch, workers=workers)


def batch_in_order(
    paths: Sequence[File],
    read: Callable[[File], npt.NDArray[Element]],
    finish: Callable[[Sequence[npt.NDArray[Element]]], npt.NDArray[np.float32]],
    *,
    batch: int,
    workers: int,
) -> Iterator[Batch | Unreadable]:
    """Batch any arrays as `load_batches` does: `read` runs in threads, `finish` makes (B, 3, H, W) of up to B."""

    def flush() -> Batch:
        done = Batch(indices=tuple(index for index, _ in ready), images_nchw=finish([image for _, image in ready]))
        ready.clear()
        return done

    ready: list[tuple[int, npt.NDArray[Element]]] = []
    for index, outcome in map_in_order(paths, read, ahead=workers + 2 * batch, workers=workers):
        if isinstance(outcome, DataError):
            yield Unreadable(index=index, path=Path(str(paths[index])), reason=str(outcome))
            continue
        if ready and outcome.shape != ready[0][1].shape:
            yield flush()
        ready.append((index, outcome))
        if len(ready) == batch:
            yield flush()
    if ready:
        yield flush()


def map_in_order(
    paths: Sequence[File], function: Callable[[File], Outcome], *, ahead: int, workers: int
) -> Iterator[tuple[int, Outcome | DataError]]:
    """Yield (index, result of `function` or its DataError) in order; threads run at most `ahead` paths ahead."""

    def call(path: File) -> Outcome | DataError:
        try:
            return function(path)
        except DataError as error:
            return error

    waiting: deque[tuple[int, Future[Outcome | DataError]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for index, path in enumerate(paths):
                waiting.append((index, pool.submit(call, path)))
                if len(waiting) >= ahead:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
