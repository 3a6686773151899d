"""The count: every image once, whatever order its row comes in and however often."""

from __future__ import annotations

from nestforge.data.loader import UnreadableImage
from nestforge.errors import DataError
from nestforge.scale.rows import Row

LISTED = 1000  # unreadable images kept with their reasons; a file of rows has all


class Tally:
    """Counts rows by part and position; memory is a byte for every image of a source."""

    def __init__(self, parts: int) -> None:
        self._seen: list[bytearray] = [bytearray() for _ in range(parts)]
        self._expected: list[int | None] = [None] * parts
        self.images = self.unreadable = self.repeated = 0
        self._listed: list[tuple[int, int, UnreadableImage]] = []

    def expect(self, part: int, images: int) -> None:
        """Note how many images a part has."""
        self._expected[part] = images

    def add(self, row: Row) -> bool:
        """Count a row, and tell whether it is new."""
        seen = self._seen[row.part]
        if len(seen) <= row.position:
            seen.extend(bytes(row.position + 1 - len(seen)))
        if seen[row.position]:
            self.repeated += 1
            return False
        seen[row.position] = 1
        if row.error is None:
            self.images += 1
        else:
            if len(self._listed) < LISTED:
                self._listed.append((row.part, row.position, UnreadableImage(image=row.key, reason=row.error)))
            self.unreadable += 1
        return True

    @property
    def listed(self) -> tuple[UnreadableImage, ...]:
        """The first unreadable images, in the order of the source."""
        return tuple(image for _, _, image in sorted(self._listed, key=lambda entry: entry[:2]))

    def check_complete(self) -> None:
        """Refuse a count from which an image is missing.

        Raises:
            DataError: rows are missing, or none could be classified.
        """
        lost = [
            part
            for part, (seen, expected) in enumerate(zip(self._seen, self._expected, strict=True))
            if not seen or not all(seen) or expected not in (None, len(seen))
        ]
        if lost:
            raise DataError(f"{len(lost)} of {len(self._seen)} parts did not come back whole; run it again")
        if not self.images:
            raise DataError(f"none of {self.unreadable} images could be read; the first: {self.listed[0].reason}")
