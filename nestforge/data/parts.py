"""The parts of a source. One worker reads a part on its own, sample by sample."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nestforge.data.images import EncodedImage, ImageFile
from nestforge.data.storage import EXTRA, describe_error, is_remote, open_file
from nestforge.errors import DataError, NestForgeError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

MAX_IMAGE_BYTES = 256 << 20
ROWS_READ_AHEAD = 64
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "bytes")
LABEL_COLUMNS = ("label", "labels", "cls", "class", "wnid", "fine_label")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image; `key` is its name in the source, `label` its class there, an index or a name."""

    key: str
    label: str | int | None
    image: ImageFile


class Part(Protocol):
    """A piece of a source, small enough to send to a worker; it always has the same samples in the same order."""

    def read(self) -> Iterator[Sample]:
        """Yield the samples.

        Raises:
            DataError: the file with the samples is damaged, so some samples would be lost.
        """
        ...


@dataclass(frozen=True)
class MissingImage:
    """A sample without a usable image, and the reason."""

    name: str
    reason: str

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        raise DataError(self.reason)


@dataclass(frozen=True)
class RemoteImage:
    """An image file at a URL; the worker that decodes it fetches it then."""

    url: str

    def __str__(self) -> str:
        return self.url

    def read_bytes(self) -> bytes:
        with open_file(self.url) as file:
            data: bytes = file.read(MAX_IMAGE_BYTES + 1)
        if len(data) > MAX_IMAGE_BYTES:
            raise DataError(describe_too_large())
        return data


@dataclass(frozen=True, kw_only=True)
class FolderPart:
    """Some files of a folder, each as (class folder, key, absolute path or URL)."""

    files: tuple[tuple[str, str, str], ...]

    def read(self) -> Iterator[Sample]:
        for folder, key, url in self.files:
            yield Sample(key=key, label=folder or None, image=RemoteImage(url) if is_remote(url) else Path(url))


@dataclass(frozen=True, kw_only=True)
class ParquetPart:
    """One row group: `image` is the column with bytes, or a struct with a field ``bytes``; `first` is its first row."""

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
            reason = "the row has no image" if data is None else describe_too_large()
            return Sample(key=name, label=label, image=MissingImage(name, reason))
        return Sample(key=name, label=label, image=EncodedImage(name, data))


def parse_label_value(text: str) -> str | int | None:
    """Return the class that a shard's text gives: an index or a name."""
    return int(text) if text.isdecimal() and text.isascii() else text or None


@contextmanager
def open_parquet(url: str) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Open a Parquet file, here or at a URL.

    Raises:
        DataError: it is not a Parquet file.
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
    """Return the column of the image and, if there is one, the column of its class.

    Raises:
        DataError: no column with one of the usual names holds bytes.
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
            f"{url} has no column with image bytes; call it one of {', '.join(IMAGE_COLUMNS)} "
            f"(its columns: {', '.join(schema.names[:8])})"
        )
    return images[0], labels[0] if labels else None


def describe_too_large(limit_bytes: int = MAX_IMAGE_BYTES) -> str:
    """Say that a file or a value is over its limit."""
    return f"more than {limit_bytes >> 20} MiB" if limit_bytes >= 1 << 20 else f"more than {limit_bytes >> 10} KiB"
