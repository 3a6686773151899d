"""What a group of files in a tar shard comes to: its images, their classes, and what has no image."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field

from nestforge.data.images import EncodedImage
from nestforge.data.parts import LABEL_COLUMNS, MissingImage, Sample, parse_label_value
from nestforge.errors import DataError

Content = bytes | str  # of a file; as text, why there is none
Value = str | int | None
LABEL_BYTES = {".cls": 1 << 10, ".json": 1 << 20, ".txt": 1 << 10}  # suffixes of what may say a class, and limits


@dataclass
class Group:
    """Files that follow each other in a shard and share their folder and their name up to its first dot.

    `images` and `labels` (files with a suffix of `LABEL_BYTES`) are by path; `others` are the paths of the rest.
    """

    key: str
    images: dict[str, Content] = field(default_factory=dict)
    labels: dict[str, Content] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)  # paths of images that the shard has had before

    def list_samples(self, shard: str) -> Iterator[Sample]:
        """Yield a sample for each image, and one for each name that has no image, which cannot be read."""
        for path, content in self.images.items():
            name, label = f"{shard}/{path}", None
            try:
                label = self._find_label(path)
            except DataError as error:
                content = str(error)
            image = EncodedImage(name, content) if isinstance(content, bytes) else MissingImage(name, content)
            yield Sample(key=name, label=label, image=image)
        for path in self.repeated:
            name = f"{shard}/{path}"
            yield Sample(key=name, label=None, image=MissingImage(name, "the shard has another image of this path"))
        for stem, found in self._list_without_image().items():
            name = f"{shard}/{stem}"
            reason = (
                f"the sample has no image file, such as {posixpath.basename(stem)}.jpg, beside {', '.join(found)} "
                "(files of one sample follow each other)"
            )
            yield Sample(key=name, label=None, image=MissingImage(name, reason))

    def _find_label(self, image: str) -> Value:
        stems = _list_stems(image)
        for stem in stems:
            if (content := self.labels.get(f"{stem}.cls")) is not None:
                if isinstance(content, str):
                    raise DataError(f"its .cls cannot be read: {content}")
                return parse_label_value(content.decode("utf-8", "replace").strip())
        for stem in stems:
            if isinstance(content := self.labels.get(f"{stem}.json"), bytes):
                label = _read_json_label(content)
                if label is not None:
                    return label
        folder = posixpath.basename(posixpath.dirname(image)) or None
        for stem in stems:
            if isinstance(content := self.labels.get(f"{stem}.txt"), bytes):
                label = parse_label_value(content.decode("utf-8", "replace").strip())
                return label if isinstance(label, int) else folder or label
        return folder

    def _list_without_image(self) -> dict[str, list[str]]:
        """Return the names of the files that belong to no image, by what they are called without their suffix."""
        left = [*self.labels, *self.others]
        stems = [posixpath.splitext(path)[0] for path in (*self.images, *self.repeated)]
        if not stems:
            return {self.key: [posixpath.basename(path) for path in left]}
        found: dict[str, list[str]] = {}
        for path in left:
            stem = posixpath.splitext(path)[0]
            if not any(f"{stem}.".startswith(f"{other}.") or f"{other}.".startswith(f"{stem}.") for other in stems):
                found.setdefault(stem, []).append(posixpath.basename(path))
        return found


def _list_stems(path: str) -> list[str]:
    """Return a path without its suffix, and without more and more of what follows the first dot of its name."""
    folder, name = posixpath.split(path)
    parts = name.split(".")
    return [posixpath.join(folder, ".".join(parts[:count])) for count in range(len(parts) - 1, 0, -1)]


def _read_json_label(content: bytes) -> Value:
    """Return the class in a sample's JSON, None where it says none.

    Raises:
        DataError: it says one that is neither a number nor a text.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    value = next((data[key] for key in LABEL_COLUMNS if data.get(key) is not None), None)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        return parse_label_value(value.strip())
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise DataError(f"its .json gives no single class: {json.dumps(value)[:60]}")
