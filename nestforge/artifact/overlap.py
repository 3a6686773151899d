"""The refusal to measure on images that a build has already used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nestforge.artifact.manifest import FileRecord, Manifest
from nestforge.errors import DataError
from nestforge.files import hash_file


def find_overlap(inputs: Mapping[str, FileRecord], paths: Sequence[Path]) -> list[Path]:
    """Return the files among `paths` with the content of an input; only files of an input's size are read."""
    hashes: dict[int, set[str]] = {}
    for record in inputs.values():
        hashes.setdefault(record.size_bytes, set()).add(record.sha256)
    found = []
    for path in paths:
        same_size = hashes.get(path.stat().st_size) if path.is_file() else None
        if same_size and hash_file(path) in same_size:
            found.append(path)
    return found


def refuse_overlap(
    inputs: Mapping[str, FileRecord], paths: Sequence[Path], *, override: str, kind: str = "calibration"
) -> None:
    """Refuse images that were used before as `kind` images; `override` is the option that accepts them.

    Raises:
        DataError: some of `paths` have the content of an input.
    """
    found = find_overlap(inputs, paths)
    if found:
        raise DataError(
            f"{len(found)} of these {len(paths)} images are also {kind} images, the first {found[0]}: accuracy on "
            f"them would be optimistic; take other images, or override with {override}"
        )


def refuse_calibration_images(manifest: Manifest, paths: Sequence[Path]) -> None:
    """Refuse to measure an int8 artifact on the images it was calibrated on.

    Raises:
        DataError: as `refuse_overlap`.
    """
    if manifest.config.dtype == "int8":
        refuse_overlap(manifest.inputs, paths, override="--allow-overlap")
