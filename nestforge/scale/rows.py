"""The answers as rows: one for every image, whatever became of it, and a Parquet file of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nestforge.data.storage import EXTRA
from nestforge.errors import NestForgeError
from nestforge.files import atomic_write

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


Write = Callable[[pa.Table], None]


@contextmanager
def write_results(output: Path | None, metadata: Mapping[str, Any]) -> Iterator[Write]:
    """Give a function that appends rows to `output`, which appears when all went well; without one it does nothing.

    `metadata` lies in the file's schema as JSON under ``nestforge``.

    Raises:
        NestForgeError: as `atomic_write`.
    """
    if output is None:
        yield lambda table: None
        return
    schema = RESULTS.with_metadata({"nestforge": json.dumps(metadata)})
    waiting: list[pa.Table] = []

    def append(table: pa.Table) -> None:
        waiting.append(table.select(RESULTS.names).cast(schema))
        if sum(map(len, waiting)) >= ROW_GROUP:
            flush()

    def flush() -> None:
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
            waiting.clear()

    with atomic_write(output) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        yield append
        flush()
