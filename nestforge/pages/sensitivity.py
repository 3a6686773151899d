"""What `nestforge sensitivity --json` wrote, read back for a page."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from nestforge.errors import DataError

MAX_BYTES = 64 << 20


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class LayerRow(_Row):
    """One layer: what quantizing it alone costs, and what sparing it alone gives back."""

    name: str
    kind: str
    macs_share: float
    time_share: float | None = None
    alone_sqnr_db: float | None
    alone_flips: int
    spared_sqnr_db: float | None
    spared_flips: int
    range_low: float | None = None
    range_high: float | None = None
    clipped_share: float | None = None

    @property
    def noise_percent(self) -> float:
        """Noise of this layer quantized alone, in percent of the logits' power."""
        return 0.0 if self.alone_sqnr_db is None else 100 * 10 ** (-self.alone_sqnr_db / 10)


class SensitivityFile(_Row):
    """A sensitivity report; `complete` is off where it was interrupted."""

    artifact_or_config: str
    images: int
    complete: bool
    total_sqnr_db: float | None
    total_flips: int
    layers: tuple[LayerRow, ...]

    def compute_gain_db(self, layer: LayerRow) -> float:
        """Return by how much the SQNR of the whole rises when the layer is spared."""
        if layer.spared_sqnr_db is None or self.total_sqnr_db is None:
            return 0.0
        return layer.spared_sqnr_db - self.total_sqnr_db


def read_sensitivity(path: Path) -> SensitivityFile:
    """Read a sensitivity report.

    Raises:
        DataError: missing, too large, or not such a report.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is over {MAX_BYTES >> 20} MiB; give what 'nestforge sensitivity --json' wrote")
        found = SensitivityFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{path} is no sensitivity report ({where}: {first['msg']}); give what 'nestforge sensitivity --json' wrote"
        ) from error
    numbers = [
        found.total_sqnr_db,
        *(value for row in found.layers for value in (row.alone_sqnr_db, row.spared_sqnr_db)),
    ]
    if not all(value is None or math.isfinite(value) for value in numbers) or not found.layers:
        raise DataError(f"{path} has no layers, or numbers that are not finite; run 'nestforge sensitivity' again")
    return found
