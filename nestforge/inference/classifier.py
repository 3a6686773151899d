"""A classifier: an artifact opened once, and called on images in any form."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union, overload

import numpy as np
import numpy.typing as npt

from nestforge.artifact.artifact import Artifact, open_artifact
from nestforge.checks import check_range
from nestforge.data.images import AnyImage, EncodedImage, PixelImage
from nestforge.data.labels import Label
from nestforge.data.loader import Unreadable
from nestforge.data.preprocess import load_image
from nestforge.engines.base import Images, Logits, Parallelism, Session
from nestforge.errors import DataError, NestForgeError
from nestforge.files import StrPath
from nestforge.inference.pipeline import choose_parallelism, run_in_order
from nestforge.inference.scores import probabilities_from_scores
from nestforge.inference.topk import TopK, select_top_k

if TYPE_CHECKING:
    from PIL import Image

# A path, an encoded image file's bytes, a PIL image, or pixels (H, W, 3) uint8 RGB.
ImageLike = Union[StrPath, bytes, "Image.Image", npt.NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class TopClass:
    """One predicted class; `probability` is a fraction of 1."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable classes of one image, or an `error` that says why there are none."""

    image: str
    top: tuple[TopClass, ...]
    error: str | None = None


class Classifier:
    """An artifact opened once; calling it from several threads at the same time is safe.

    >>> with nestforge.load("artifacts/resnest50-int8") as classify:
    ...     print(classify("cat.jpg").top[0].label)

    Attributes:
        artifact: the opened artifact, with its manifest and labels.
        parallelism: batch, streams and threads of its session.
    """

    def __init__(self, artifact: Artifact, parallelism: Parallelism) -> None:
        """Compile the model for `parallelism`.

        Raises:
            EngineError: the engine is missing or refuses the model.
        """
        self.artifact = artifact
        self.parallelism = parallelism
        self._gate = _Gate(artifact.open_session(parallelism), str(artifact.folder))

    @overload
    def __call__(self, images: ImageLike, *, top: int = 5) -> Prediction: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, images: Sequence[ImageLike], *, top: int = 5) -> list[Prediction]: ...

    def __call__(self, images: ImageLike | Sequence[ImageLike], *, top: int = 5) -> Prediction | list[Prediction]:
        """Classify one image, or a list of images in their order.

        An image is a path, the bytes of an image file, a PIL image, or pixels (H, W, 3) uint8 RGB. In a list, an image
        that cannot be read has an `error` and no classes.

        Raises:
            DataError: a single image cannot be read, or `images` is something else.
            EngineError: the engine failed twice.
            NestForgeError: the classifier is closed.
        """
        with self._gate.hold():
            if isinstance(images, Sequence) and not isinstance(images, str | bytes | bytearray | memoryview):
                return self._predict([_wrap_image(image, index) for index, image in enumerate(images)], top)
            [prediction] = self._predict([_wrap_image(images, 0)], top)
        if prediction.error is not None:
            raise DataError(prediction.error)
        return prediction

    def _predict(self, files: list[AnyImage], top: int) -> list[Prediction]:
        found: dict[int, Prediction] = {}
        for item in self.classify(files, top=top):
            image = str(files[item.index])
            if isinstance(item, Unreadable):
                found[item.index] = Prediction(image=image, top=(), error=item.reason)
            else:
                found[item.index] = name_classes(image, item, self.artifact.labels)
        return [found[index] for index in range(len(files))]

    def classify(self, files: Iterable[AnyImage], *, top: int = 5) -> Generator[TopK | Unreadable, None, None]:
        """Yield a `TopK` or an `Unreadable` for every image file of a stream of any length, in bounded memory.

        Predictions come in order; an `Unreadable` may come before predictions of earlier images.

        Raises:
            ConfigError: `top` below 1.
            EngineError: the engine failed twice.
            NestForgeError: the classifier is closed, or was closed before the end of the stream.
        """
        check_range("top", top, 1, 1 << 30)
        manifest = self.artifact.manifest
        outputs = run_in_order(
            self._gate, files, lambda file: load_image(file, manifest.preprocess), classes=manifest.classes
        )
        with closing(outputs):  # before anything else: an engine must not be closed while a request runs
            for item in outputs:
                if isinstance(item, Unreadable):
                    yield item
                    continue
                probabilities = probabilities_from_scores(item.logits, manifest.scores)
                yield from select_top_k(item.logits, probabilities, top, indices=item.indices)

    def close(self) -> None:
        """Wait for calls that run, and release the model; later calls are refused. Closing again does nothing.

        A stream of `classify` that has not ended is refused its next images.
        """
        self._gate.close()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Gate:
    """A session that can be closed while threads use it: who is inside finishes, who comes later is refused."""

    def __init__(self, session: Session, name: str) -> None:
        self.settings = session.settings
        self._session: Session | None = session
        self._name = name
        self._holders = self._requests = 0
        self._closing = False
        self._changed = threading.Condition()

    def run(self, images_nchw: Images) -> Logits:
        """Run a request, as `Session.run` does."""
        with self._changed:
            session = self._session
            if session is None:
                raise self._make_error()
            self._requests += 1
        try:
            return session.run(images_nchw)
        finally:
            with self._changed:
                self._requests -= 1
                self._changed.notify_all()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the session open for several requests."""
        with self._changed:
            if self._closing:
                raise self._make_error()
            self._holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._holders -= 1
                self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._holders)
            self._session = None
            self._changed.wait_for(lambda: not self._requests)

    def _make_error(self) -> NestForgeError:
        return NestForgeError(f"the classifier of {self._name} is closed; load it again")


def name_classes(image: str, found: TopK, labels: Sequence[Label]) -> Prediction:
    """Return the classes found in `image` with the names of the labels."""
    rows = zip(found.classes, found.probabilities, strict=True)
    top = tuple(TopClass(index=index, label=labels[index].name, probability=value) for index, value in rows)
    return Prediction(image=image, top=top)


def load(
    artifact: StrPath,
    *,
    batch: int | None = None,
    streams: int | None = None,
    threads: int | None = None,
    verify: bool = True,
) -> Classifier:
    """Open an artifact once, to classify images one at a time or in lists; see `Classifier`.

    By default one image runs on all available cores. For calls from several threads at the same time, give as many
    `streams`; for long lists, a `batch`. `verify` as in `open_artifact`.

    Raises:
        ArtifactError: as `open_artifact`.
        ConfigError: a number outside 1 to 4096.
        EngineError: the engine is missing or refuses the model.
    """
    opened = open_artifact(artifact, verify=verify)
    if batch is streams is threads is None:
        return Classifier(opened, choose_parallelism(opened, 1))
    chosen = Parallelism.make(
        batch=opened.choose_batch(1) if batch is None else batch, streams=streams or 1, threads=threads
    )
    return Classifier(opened, chosen)


def _wrap_image(image: object, index: int) -> AnyImage:
    """Return an image in any form as something that is loaded; `index` names what has no name."""
    if isinstance(image, str | Path):
        return Path(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return EncodedImage(f"image {index}", bytes(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise DataError(f"image {index}: pixels are {image.shape} {image.dtype}; give (H, W, 3) uint8 RGB")
        return PixelImage(f"image {index}", image)
    from PIL import Image

    if isinstance(image, Image.Image):
        return PixelImage(f"image {index}", image)
    raise DataError(
        f"image {index}: {type(image).__name__} is not an image; give a path, the bytes of an image file, a PIL image "
        "or a uint8 array (H, W, 3)"
    )
