"""A labelled folder in two halves, for where the same data must serve two purposes and no image may serve both."""

from __future__ import annotations

from pathlib import Path

from nestforge.data.imagefolder import ImageFolder


def link_halves(images: ImageFolder, folder: Path) -> tuple[list[int], list[int]]:
    """Link every other image of each class into `folder`/half0, the rest into half1; return which those are."""
    seen: dict[str, int] = {}
    halves: tuple[list[int], list[int]] = ([], [])
    for index, (path, name) in enumerate(zip(images.paths, images.folders, strict=True)):
        side = seen.get(name, 0) % 2
        seen[name] = seen.get(name, 0) + 1
        halves[side].append(index)
        target = folder / f"half{side}" / name
        target.mkdir(parents=True, exist_ok=True)
        (target / path.name).symlink_to(path.resolve())
    return halves
