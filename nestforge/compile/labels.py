"""The labels of a build: as many as the model has classes, in the order of its outputs."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nestforge.config import BuildConfig
from nestforge.data.labelfiles import read_labels
from nestforge.data.labels import Label, read_imagenet_labels
from nestforge.errors import DataError

IMAGENET = "imagenet"
_NO_CLASS = frozenset({"background", "__background__", "dummy", "unused"})  # what some label files begin with


def read_config_labels(config: BuildConfig) -> tuple[Label, ...] | None:
    """Return the labels that a build file names, or None where it names none.

    Raises:
        DataError: the file cannot be used.
    """
    if config.labels is None:
        return None
    return read_imagenet_labels() if config.labels == IMAGENET else read_labels(Path(config.labels))


def read_build_labels(config: BuildConfig, num_classes: int) -> tuple[Label, ...]:
    """Return the labels that a build file names, () where it names none.

    Raises:
        DataError: they cannot be read, or are not as many as the model has classes.
    """
    labels = read_config_labels(config)
    if labels is None or config.labels is None:
        return ()
    if len(labels) != num_classes:
        extra = len(labels) == num_classes + 1 and labels[0].name.lower() in _NO_CLASS
        hint = f"; leave out {labels[0].name!r}, which the model has no class for" if extra else ""
        raise DataError(
            f"labels {config.labels!r} has {len(labels)} names but the model has {num_classes} classes{hint}"
        )
    if config.labels != IMAGENET:
        _warn_of_odd_labels(labels, config.labels)
    return labels


def _warn_of_odd_labels(labels: Sequence[Label], source: str) -> None:
    names = Counter(label.name for label in labels if label.wnid is None)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        warnings.warn(
            f"labels {source!r}: {len(twice)} names mean more than one class, such as {twice[0]!r}; folders and lists "
            "cannot tell those classes apart, unless they have WordNet ids (wnid<TAB>name)",
            stacklevel=1,
        )
    wnids = [label.wnid for label in labels]
    if wnids != sorted(map(str, wnids)) and set(wnids) == {label.wnid for label in read_imagenet_labels()}:
        warnings.warn(
            f"labels {source!r} are ImageNet's classes in an order of their own, and most models have them in that of "
            "their WordNet ids; is it the order of this model's outputs? (labels: imagenet is the usual one)",
            stacklevel=1,
        )
