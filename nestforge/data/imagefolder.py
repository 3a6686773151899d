"""Labelled folders and lists of images, how their classes are matched, and a calibration subset chosen by a seed."""

from __future__ import annotations

import os
import posixpath
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nestforge.checks import suggest_nearest
from nestforge.data.filenames import describe_ignored, get_suffix, is_hidden, list_suffixes
from nestforge.data.imagelist import LIST_SUFFIXES, read_image_list, take_once
from nestforge.data.labels import ClassNames, Label, is_number
from nestforge.errors import DataError

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The images of a folder, sorted by class and name, or of a list, in its order.

    `root` is what was given; `folders[i]` is the class of `paths[i]`: its folder in `root`, or what the list says.
    """

    root: Path
    paths: tuple[Path, ...]
    folders: tuple[str, ...]  # "" for an image that lies in the root itself, or has no class in the list
    is_list: bool = False

    @property
    def classes(self) -> list[str]:
        """The class folders, or the classes in the list, sorted."""
        return sorted(set(self.folders))

    def name_of(self, path: Path) -> str:
        """Return the path relative to the folder, or to the list's folder where it is below that."""
        base = self.root.parent if self.is_list else self.root
        return str(path).removeprefix(f"{str(base).rstrip('/')}/")


def list_images(root: Path, *, suffix: str | None = None) -> ImageFolder:
    """List the images in a folder, or those that a list names.

    With `suffix`, only files that end in it are listed; its dot may be left out, and case does not matter. The class of
    an image is the folder in `root` that it is in, at any depth. Hidden files and folders are skipped; of other files
    that are no images a warning says how many there are. A list is as `read_image_list` reads it.

    Raises:
        DataError: the folder does not exist, there is no image in it, or a list cannot be read or names nothing that is
            there.
    """
    accepted = list_suffixes() if suffix is None else frozenset({f".{suffix.removeprefix('.').lower()}"})
    if root.is_file():
        return _read_list(root, accepted if suffix is not None else None)
    if not root.is_dir():
        raise DataError(f"no dataset folder {root}; give a folder with one subfolder of images per class, or a list")
    base = os.path.join(root, "")  # noqa: PTH118 (Path drops what tells a folder from its name's beginning)
    images: list[tuple[str, str]] = []
    ignored: list[str] = []
    try:
        for key in (path.removeprefix(base) for path in _walk(root)):
            if get_suffix(key) in accepted:
                images.append((key.split("/")[0] if "/" in key else "", key))
            else:
                ignored.append(key)
        empty = _find_empty_classes(root, {folder for folder, _ in images})
    except OSError as error:
        raise DataError(f"cannot list {error.filename}: {error.strerror}; check its permissions") from error
    left_out = describe_ignored(ignored)
    if not images:
        found = f" ({left_out})" if left_out else ""
        wanted = f"files must end in {', '.join(accepted)}" if suffix else "give files that Pillow reads, such as .jpg"
        raise DataError(f"no images in {root} or its subfolders{found}; {wanted}")
    if suffix is None and left_out:
        warnings.warn(f"{root}: {left_out}", stacklevel=1)
    if empty:
        shown = ", ".join(empty[:_SHOWN]) + (", ..." if len(empty) > _SHOWN else "")
        warnings.warn(f"{root}: {len(empty)} folders without images: {shown}", stacklevel=1)
    images.sort()
    return ImageFolder(
        root=root, paths=tuple(Path(base + key) for _, key in images), folders=tuple(folder for folder, _ in images)
    )


def _walk(root: Path) -> Iterator[str]:
    """Yield the paths of all files below `root` that are not hidden; follow links to folders, but not in circles."""
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(os.fspath(root), ())]
    while waiting:
        folder, above = waiting.pop()
        status = os.stat(folder)  # noqa: PTH116
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if _is_folder(entry):
                    waiting.append((entry.path, (*above, identity)))
                else:
                    yield entry.path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: found out when it is read
        return False


def _find_empty_classes(root: Path, used: set[str]) -> list[str]:
    if not used - {""}:
        return []
    with os.scandir(root) as entries:
        folders = {entry.name for entry in entries if _is_folder(entry) and not is_hidden(entry.name)}
    return sorted(folders - used)


def _read_list(path: Path, accepted: frozenset[str] | None) -> ImageFolder:
    if path.suffix.lower() not in LIST_SUFFIXES:
        raise DataError(
            f"{path} is a file; give a folder of images, or a list of them ({', '.join(sorted(LIST_SUFFIXES))})"
        )
    listed = [row for row in read_image_list(path) if accepted is None or get_suffix(row[0].name) in accepted]
    if not listed:
        raise DataError(f"no images in {path} that end in {', '.join(accepted or ())}")
    class_of = take_once(listed, source=str(path))
    return ImageFolder(root=path, paths=tuple(class_of), folders=tuple(class_of.values()), is_list=True)


def choose_balanced(dataset: ImageFolder, count: int, seed: int) -> tuple[Path, ...]:
    """Choose up to `count` images, as evenly over the classes as possible; the same seed chooses the same images."""
    rng = random.Random(seed)
    queues: dict[str, list[Path]] = {folder: [] for folder in dataset.classes}
    for folder, path in zip(dataset.folders, dataset.paths, strict=True):
        queues[folder].append(path)
    for paths in queues.values():
        rng.shuffle(paths)
    order = list(queues)
    rng.shuffle(order)
    chosen: list[Path] = []
    depth = 0
    while len(chosen) < min(count, len(dataset.paths)):
        row = [queues[folder][depth] for folder in order if depth < len(queues[folder])]
        chosen += row[: count - len(chosen)]
        depth += 1
    return tuple(chosen)


def choose_images(dataset: ImageFolder, count: int, *, seed: int = 0) -> ImageFolder:
    """Return the dataset with the images that `choose_balanced` chooses, in the dataset's order."""
    chosen = set(choose_balanced(dataset, count, seed))
    rows = [row for row in zip(dataset.paths, dataset.folders, strict=True) if row[0] in chosen]
    return replace(dataset, paths=tuple(path for path, _ in rows), folders=tuple(folder for _, folder in rows))


def match_classes(dataset: ImageFolder, labels: Sequence[Label]) -> list[int]:
    """Return the class index of every image; names are compared as `ClassNames` does.

    Raises:
        DataError: images without a class, or a class that matches no label; the message names some of both.
    """
    keys = [dataset.name_of(path) for path in dataset.paths]
    return match_folders(dataset.root, dataset.folders, labels, keys=keys, is_list=dataset.is_list)


def match_folders(
    root: str | Path, folders: Sequence[str], labels: Sequence[Label], *, keys: Sequence[str], is_list: bool = False
) -> list[int]:
    """Return the class index of every image by its class folder, or by its class in a list.

    `root` names the dataset in errors, and `keys` are the paths of the images relative to it.

    Raises:
        DataError: as `match_classes`.
    """
    classes = sorted(set(folders))
    if "" in classes:
        where = "names images without a class" if is_list else "has images outside class folders"
        remedy = "write path,label on each line" if is_list else "give one subfolder per class, or a list"
        raise DataError(f"{root} {where}; {remedy}")
    names = ClassNames(labels)
    index_of = {name: names.find(name) for name in classes}
    unknown = {name for name, index in index_of.items() if index is None}
    if unknown:
        rows = [] if is_list else zip(keys, folders, strict=True)
        deeper = _find_deeper_classes(
            str(root), {posixpath.dirname(key) for key, name in rows if name in unknown}, names
        )
        noun, kind = ("class", "classes") if is_list else ("folder", "class folders")
        first = min(unknown)
        why = "matches more than one label" if names.is_ambiguous(first) else "is not one of the labels"
        hint = _suggest(first, classes, labels, names)
        if deeper:
            hint = f"; the class folders lie deeper: give {' or '.join(deeper[:_SHOWN])}"
        raise DataError(
            f"{len(unknown)} of {len(classes)} {kind} in {root} match no label: {noun} {first!r} {why}{hint} "
            f"({kind.split()[-1]}: {', '.join(classes[:_SHOWN])}, ...; labels: "
            f"{', '.join(label.aliases[0] for label in labels[:_SHOWN])}, ...)"
        )
    indices = [name for name in index_of if names.is_index(name)]
    if indices and not is_list:
        warnings.warn(
            f"{root}: folders called by numbers are taken for class indices counted from 0: "
            f"{indices[0]!r} for {labels[int(indices[0])].name!r}",
            stacklevel=1,
        )
    return [index for index in map(index_of.__getitem__, folders) if index is not None]


def _suggest(unknown: str, classes: Sequence[str], labels: Sequence[Label], names: ClassNames) -> str:
    """Return what may have been meant, as the middle of a sentence, or ""."""
    numbers = [int(name) for name in classes if is_number(name)]
    if len(numbers) == len(classes) and min(numbers) > 0 and max(numbers) == len(labels):
        return f"; class indices count from 0 to {len(labels) - 1}"
    return suggest_nearest(unknown, names.known)


def _find_deeper_classes(root: str, folders: Iterable[str], names: ClassNames) -> list[str]:
    """Return the folders that class folders lie in, as in a dataset of ``train`` and ``val``."""
    found = set()
    for folder in folders:
        parts = folder.split("/")
        place = next((place for place in range(1, len(parts)) if names.find(parts[place]) is not None), None)
        if place is not None:
            found.add(posixpath.join(root, *parts[:place]))
    return sorted(found)
