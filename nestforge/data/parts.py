"""The parts of a source: what one worker reads by itself, sample by sample."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nestforge.data.imagefolder import SUFFIXES
from nestforge.data.images import EncodedImage, ImageFile
from nestforge.data.storage import EXTRA, describe_error, is_remote, open_file
from nestforge.errors import DataError, NestForgeError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

MAX_IMAGE_BYTES = 256 << 20
MAX_LABEL_BYTES = 1 << 10
ROWS_READ_AHEAD = 64
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "bytes")
LABEL_COLUMNS = ("label", "labels", "cls", "class", "wnid")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image: `key` names it in its source; `label` is what the source says of it, an index or a class's name."""

    key: str
    label: str | int | None
    image: ImageFile


class Part(Protocol):
    """A piece of a source, small enough to be sent; always the same samples in the same order."""

    def read(self) -> Iterator[Sample]:
        """Yield the samples.

        Raises:
            DataError: what holds the samples is damaged, so that some would be lost.
        """
        ...


@dataclass(frozen=True)
class MissingImage:
    """A sample without an image that could be used, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        raise DataError(self.reason)


@dataclass(frozen=True)
class RemoteImage:
    """An image file at a URL, fetched where and when it is decoded."""

    url: str

    def __str__(self) -> str:
        return self.url

    def read_bytes(self) -> bytes:
        with open_file(self.url) as file:
            data: bytes = file.read(MAX_IMAGE_BYTES + 1)
        if len(data) > MAX_IMAGE_BYTES:
            raise DataError(_describe_too_large())
        return data


@dataclass(frozen=True, kw_only=True)
class FolderPart:
    """Some files of a folder: (class folder, key, absolute path or URL) of each."""

    files: tuple[tuple[str, str, str], ...]

    def read(self) -> Iterator[Sample]:
        for folder, key, url in self.files:
            yield Sample(key=key, label=folder or None, image=RemoteImage(url) if is_remote(url) else Path(url))


@dataclass(frozen=True, kw_only=True)
class TarPart:
    """One tar shard in WebDataset's layout: files that follow each other and share a name up to its first dot.

    ``KEY.jpg`` (or another image suffix) is the image, ``KEY.cls`` the class as an index or a name. Without it the
    class is the folder in KEY, if there is one.
    """

    url: str

    def read(self) -> Iterator[Sample]:
        count = 0
        try:
            with open_file(self.url) as file:
                watched: Any = _WatchedFile(file)
                with tarfile.open(fileobj=watched, mode="r|") as tar:
                    for sample in self._group(tar):
                        count += 1
                        yield sample
                if watched.ran_out and count:
                    raise EOFError("it ends without an end mark")
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise DataError(
                f"shard {self.url} is damaged after {count} samples ({error}); fetch it again or leave it out"
            ) from error
        if not count:
            raise DataError(f"shard {self.url} has no samples; its files should be called KEY.jpg and KEY.cls")

    def _group(self, tar: tarfile.TarFile) -> Iterator[Sample]:
        key: str | None = None
        files: dict[str, bytes | str] = {}
        for member in tar:
            if not member.isfile() or posixpath.basename(member.name).startswith("."):
                continue
            folder, name = posixpath.split(member.name)
            stem, _, suffix = name.partition(".")
            found = posixpath.join(folder, stem).removeprefix("./")
            if key is not None and found != key:
                yield self._make_sample(key, files)
                files = {}
            key = found
            suffix = suffix.lower()
            limit = MAX_LABEL_BYTES if suffix == "cls" else MAX_IMAGE_BYTES if f".{suffix}" in SUFFIXES else None
            if limit is not None and suffix not in files:
                content = tar.extractfile(member) if member.size <= limit else None
                files[suffix] = content.read() if content else _describe_too_large()
        if key is not None:
            yield self._make_sample(key, files)

    def _make_sample(self, key: str, files: dict[str, bytes | str]) -> Sample:
        name = f"{posixpath.basename(self.url)}/{key}"
        label: str | int | None = posixpath.basename(posixpath.dirname(key)) or None
        if isinstance(written := files.pop("cls", None), bytes):
            label = parse_label_value(written.decode("utf-8", "replace").strip())
        if not files:
            return Sample(
                key=name, label=label, image=MissingImage(name, "the sample has no file called KEY.jpg or the like")
            )
        suffix, data = next(iter(files.items()))
        name = f"{name}.{suffix}"
        image = EncodedImage(name, data) if isinstance(data, bytes) else MissingImage(name, data)
        return Sample(key=name, label=label, image=image)


class _WatchedFile:
    """A file that remembers whether more was asked for than it has: tarfile takes a lost end for the end."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.ran_out = False

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        self.ran_out |= not data
        return data


@dataclass(frozen=True, kw_only=True)
class ParquetPart:
    """One row group: `image` holds bytes, or a struct with a field ``bytes``; `first` is its first row's number."""

    url: str
    group: int
    first: int
    rows: int
    image: str
    label: str | None

    def read(self) -> Iterator[Sample]:
        columns = [self.image, *([self.label] if self.label else [])]
        row = self.first
        with open_parquet(self.url) as file:
            for batch in file.iter_batches(ROWS_READ_AHEAD, row_groups=[self.group], columns=columns):
                images = batch.column(self.image)
                labels = batch.column(self.label) if self.label else None
                for index in range(len(images)):
                    label = labels[index].as_py() if labels is not None else None
                    yield self._make_sample(row, images[index].as_py(), label)
                    row += 1

    def _make_sample(self, row: int, value: Any, label: str | int | None) -> Sample:
        name = f"{posixpath.basename(self.url)}#{row}"
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None or len(data) > MAX_IMAGE_BYTES:
            reason = "the row has no image" if data is None else _describe_too_large()
            return Sample(key=name, label=label, image=MissingImage(name, reason))
        return Sample(key=name, label=label, image=EncodedImage(name, data))


def parse_label_value(text: str) -> str | int | None:
    """Read a class as written in a shard: an index or a name."""
    return int(text) if text.isdecimal() and text.isascii() else text or None


@contextmanager
def open_parquet(url: str) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Open a Parquet file, here or at a URL.

    Raises:
        DataError: it is not one.
        NestForgeError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise NestForgeError(f"{url} needs pyarrow; run {EXTRA}") from error
    try:
        with open_file(url) as file:
            yield pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"cannot read {url} ({describe_error(error)}); fetch it again or leave it out") from error


def choose_columns(url: str, schema: pyarrow.Schema) -> tuple[str, str | None]:
    """Return the columns of the image and, if there is one, of its class.

    Raises:
        DataError: no column holds bytes under one of the usual names.
    """
    import pyarrow

    def holds_bytes(kind: pyarrow.DataType) -> bool:
        if pyarrow.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
        return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))

    def holds_class(kind: pyarrow.DataType) -> bool:
        names = (
            pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_dictionary(kind)
        )
        return bool(names or pyarrow.types.is_integer(kind))

    images = [name for name in IMAGE_COLUMNS if name in schema.names and holds_bytes(schema.field(name).type)]
    labels = [name for name in LABEL_COLUMNS if name in schema.names and holds_class(schema.field(name).type)]
    if not images:
        raise DataError(
            f"{url} has no column of image bytes called one of {', '.join(IMAGE_COLUMNS)} "
            f"(its columns: {', '.join(schema.names[:8])})"
        )
    return images[0], labels[0] if labels else None


def _describe_too_large() -> str:
    return f"more than {MAX_IMAGE_BYTES >> 20} MiB"
