"""Labelled folders, label files, and a calibration subset chosen by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nestforge.checks import suggest_nearest
from nestforge.errors import DataError
from nestforge.files import read_small_file

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_LABEL_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The images below a folder, sorted by class and name; `folders[i]` is the class folder of `paths[i]`."""

    root: Path
    paths: tuple[Path, ...]
    folders: tuple[str, ...]  # "" for an image that lies in the root itself

    @property
    def classes(self) -> list[str]:
        """The class folders, sorted."""
        return sorted(set(self.folders))


@dataclass(frozen=True)
class Label:
    """One class: its name for people, and its WordNet id where there is one."""

    name: str
    wnid: str | None = None

    @property
    def aliases(self) -> tuple[str, ...]:
        """What a class folder may be called."""
        first = self.name.split(",")[0].strip()
        names = [self.name, first, self.name.replace(" ", "_"), first.replace(" ", "_")]
        return tuple(dict.fromkeys([*([self.wnid] if self.wnid else []), *names]))


def list_images(root: Path, *, suffix: str | None = None) -> ImageFolder:
    """List the images in `root` and in its class folders (one level), in a stable order.

    `suffix`, with or without its dot and in any case, takes only the files that end in it.

    Raises:
        DataError: no such folder, or no image in it.
    """
    if not root.is_dir():
        raise DataError(f"no dataset folder {root}; give a folder with one subfolder of images per class")
    try:
        accepted = SUFFIXES if suffix is None else frozenset({f".{suffix.removeprefix('.').lower()}"})
        rows = [("", path) for path in root.iterdir() if _is_image(path, accepted)]
        for folder in root.iterdir():
            if folder.is_dir():
                rows += [(folder.name, path) for path in folder.iterdir() if _is_image(path, accepted)]
    except OSError as error:
        raise DataError(f"cannot list {error.filename}: {error.strerror}; check its permissions") from error
    if not rows:
        suffixes = " ".join(sorted(accepted))
        raise DataError(f"no images in {root} or its subfolders; files must end in one of {suffixes}")
    rows.sort(key=lambda row: (row[0], row[1].name))
    return ImageFolder(root=root, paths=tuple(path for _, path in rows), folders=tuple(folder for folder, _ in rows))


def _is_image(path: Path, accepted: frozenset[str]) -> bool:
    return path.suffix.lower() in accepted and not path.name.startswith(".") and not path.is_dir()


def choose_balanced(dataset: ImageFolder, count: int, seed: int) -> tuple[Path, ...]:
    """Choose up to `count` images, as evenly over the classes as they allow; the same seed chooses the same."""
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
    return ImageFolder(
        root=dataset.root, paths=tuple(path for path, _ in rows), folders=tuple(folder for _, folder in rows)
    )


def read_labels(path: Path) -> tuple[Label, ...]:
    """Read a label file: line i names class i, as ``name`` or ``wnid<TAB>name``.

    Raises:
        DataError: missing, empty, too large or not UTF-8.
    """
    try:
        content = read_small_file(path, limit_bytes=MAX_LABEL_BYTES)
        if len(content) > MAX_LABEL_BYTES:
            raise DataError(f"label file {path} is over {MAX_LABEL_BYTES >> 20} MiB; give one class name a line")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read label file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"label file {path} is not UTF-8 text; give one class name a line") from error
    labels = tuple(parse_label(line) for line in text.splitlines() if line.strip())
    if not labels:
        raise DataError(f"label file {path} is empty; give one class name a line")
    return labels


def parse_label(line: str) -> Label:
    """Read one line of a label file."""
    first, tab, rest = line.strip().partition("\t")
    return Label(rest.strip(), first.strip()) if tab else Label(first)


def format_label(label: Label) -> str:
    """Write one line of a label file."""
    return f"{label.wnid}\t{label.name}" if label.wnid else label.name


def index_aliases(labels: Sequence[Label]) -> tuple[dict[str, int], set[str]]:
    """Return the class index of every name a class may be called, and the names that mean more than one."""
    index_of: dict[str, int] = {}
    ambiguous: set[str] = set()
    for index, label in enumerate(labels):
        for alias in label.aliases:
            if index_of.setdefault(alias, index) != index:
                ambiguous.add(alias)
    for alias in ambiguous:
        del index_of[alias]
    return index_of, ambiguous


def match_classes(dataset: ImageFolder, labels: Sequence[Label]) -> list[int]:
    """Return the class index of every image.

    Raises:
        DataError: images outside class folders, or a folder that no label is called; both sides are shown.
    """
    return match_folders(dataset.root, dataset.folders, labels)


def match_folders(root: str | Path, folders: Sequence[str], labels: Sequence[Label]) -> list[int]:
    """Return the class index of every image by its class folder; `root` names the dataset in errors.

    Raises:
        DataError: as `match_classes`.
    """
    index_of, ambiguous = index_aliases(labels)
    classes = sorted(set(folders))
    if "" in classes:
        raise DataError(f"{root} has images outside class folders; give one subfolder per class")
    unknown = [folder for folder in classes if folder not in index_of]
    if unknown:
        known = sorted(index_of)
        why = "names more than one label" if unknown[0] in ambiguous else "is none of the artifact's labels"
        raise DataError(
            f"{len(unknown)} of {len(classes)} class folders in {root} match no label: folder "
            f"{unknown[0]!r} {why}{suggest_nearest(unknown[0], known)} (folders: "
            f"{', '.join(classes[:3])}, ...; labels: "
            f"{', '.join(label.aliases[0] for label in labels[:3])}, ...)"
        )
    return [index_of[folder] for folder in folders]


def read_imagenet_labels() -> tuple[Label, ...]:
    """Return the 1,000 classes of ImageNet-1k (ILSVRC2012) in their usual order, with wnids."""
    return read_labels(Path(__file__).with_name("imagenet_labels.txt"))
