"""Rows as Arrow tables: how they travel between machines, and the Parquet file of results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nestforge.data.storage import EXTRA
from nestforge.errors import NestForgeError
from nestforge.files import atomic_write
from nestforge.scale.rows import Row

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise NestForgeError(f"this needs pyarrow; run {EXTRA}") from error

ROW_GROUP = 65_536
RESULTS = pa.schema(
    [
        ("part", pa.int32()),  # with `position`: which image of the source this is
        ("position", pa.int32()),
        ("key", pa.string()),
        ("truth", pa.int32()),  # null where the source does not say, or was not asked
        ("classes", pa.list_(pa.int32())),  # best first; empty where `error` says why
        ("probabilities", pa.list_(pa.float32())),
        ("error", pa.string()),
    ]
)
# What a worker sends also says how many images the part has, so that a lost one is noticed.
ROWS = RESULTS.append(pa.field("of", pa.int32()))

Write = Callable[[Row], None]


def table_from_rows(rows: Iterable[Row], *, of: int | None = None) -> pa.Table:
    """Return rows as a table of `ROWS`; `of` is the number of images of their part."""
    records = [{name: getattr(row, name) for name in RESULTS.names} | {"of": of} for row in rows]
    return pa.Table.from_pylist(records, schema=ROWS)


def rows_from_table(table: pa.Table) -> Iterator[Row]:
    """Yield the rows of a table of `ROWS`."""
    for record in table.select(RESULTS.names).to_pylist():
        classes, probabilities = tuple(record.pop("classes")), tuple(record.pop("probabilities"))
        yield Row(**record, classes=classes, probabilities=probabilities)


@contextmanager
def write_results(output: Path, metadata: Mapping[str, Any]) -> Iterator[Write]:
    """Give a function that appends rows to the Parquet file `output`, which appears when all went well.

    `metadata` lies in the file's schema as JSON under ``nestforge``.

    Raises:
        NestForgeError: as `atomic_write`.
    """
    schema = RESULTS.with_metadata({"nestforge": json.dumps(metadata)})
    waiting: list[Row] = []

    def append(row: Row) -> None:
        waiting.append(row)
        if len(waiting) >= ROW_GROUP:
            flush()

    def flush() -> None:
        if waiting:
            writer.write_table(table_from_rows(waiting).select(RESULTS.names).cast(schema))
            waiting.clear()

    with atomic_write(output) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        yield append
        flush()
