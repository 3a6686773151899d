"""The count: every image once, whatever order its row comes in and however often."""

from __future__ import annotations

import pyarrow as pa

from nestforge.errors import DataError

LISTED = 100  # reasons kept; the rows have all


class Tally:
    """Counts rows by part and position; memory is a byte for every image of a source."""

    def __init__(self, parts: int) -> None:
        self._seen: list[bytearray | None] = [None] * parts
        self.images = self.unreadable = self.top1 = self.top5 = self.repeated = 0
        self.reasons: list[str] = []

    def add(self, table: pa.Table) -> pa.Table:
        """Count the rows (`ROWS`) that are new, and return them."""
        columns = (table[name].to_pylist() for name in ("part", "position", "of", "truth", "classes", "error"))
        new = []
        for index, (part, position, of, truth, classes, error) in enumerate(zip(*columns, strict=True)):
            seen = self._seen[part]
            if seen is None:
                seen = self._seen[part] = bytearray(of)
            if seen[position]:
                self.repeated += 1
                continue
            seen[position] = 1
            new.append(index)
            if error is not None:
                self.unreadable += 1
                if len(self.reasons) < LISTED:
                    self.reasons.append(error)
                continue
            self.images += 1
            if truth is not None:
                self.top1 += classes[0] == truth
                self.top5 += truth in classes
        return table if len(new) == len(table) else table.take(pa.array(new, pa.int64()))

    def check_complete(self) -> None:
        """Refuse a count from which an image is missing.

        Raises:
            DataError: rows are missing, or none could be classified.
        """
        lost = [part for part, seen in enumerate(self._seen) if seen is None or not all(seen)]
        if lost:
            raise DataError(f"{len(lost)} of {len(self._seen)} parts did not come back whole; run it again")
        if not self.images:
            raise DataError(f"not one of {self.unreadable} images could be read; the first: {self.reasons[0]}")
