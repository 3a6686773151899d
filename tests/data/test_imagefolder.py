"""Listing, balanced choice, labels and their match with class folders; batches in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nestforge.data.imagefolder import choose_balanced, list_images, match_classes
from nestforge.data.labels import Label, read_imagenet_labels
from nestforge.data.loader import Batch, Unreadable, load_batches
from nestforge.data.preprocess import make_reference_preprocess, normalize_images, read_image
from nestforge.errors import DataError


def test_list_is_sorted_by_class_and_skips_hidden_files(dataset: Path, tmp_path: Path) -> None:
    listed = list_images(dataset)
    assert len(listed.paths) == 40
    assert list(listed.folders) == sorted(listed.folders)
    (tmp_path / "a").mkdir()
    for name in ("B.JPEG", "a.jpg", ".hidden.jpg"):
        (tmp_path / "a" / name).write_bytes(b"x")
    assert [path.name for path in list_images(tmp_path).paths] == ["B.JPEG", "a.jpg"]


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dataset folder"):
        list_images(tmp_path / "none")
    with pytest.raises(DataError, match="no images in"):
        list_images(tmp_path)


def test_balanced_choice(dataset: Path) -> None:
    listed = list_images(dataset)
    chosen = choose_balanced(listed, 20, seed=1)
    assert chosen == choose_balanced(listed, 20, seed=1)
    assert chosen != choose_balanced(listed, 20, seed=2)
    assert len(set(chosen)) == 20
    counts = [sum(path.parent.name == name for path in chosen) for name in listed.classes]
    assert set(counts) == {2}
    assert sorted(choose_balanced(listed, 1000, seed=0)) == sorted(listed.paths)


def test_labels_match_wnid_name_or_first_synonym(dataset: Path) -> None:
    labels = [Label("tench, Tinca tinca", "n01440764"), Label("night snake"), Label("crane"), Label("crane")]
    assert labels[0].aliases[:3] == ("n01440764", "tench, Tinca tinca", "tench")
    assert "night_snake" in labels[1].aliases
    listed = list_images(dataset)
    names = [Label(name) for name in reversed(listed.classes)]
    assert match_classes(listed, names) == [9 - listed.classes.index(folder) for folder in listed.folders]


def test_mismatch_shows_both_sides(dataset: Path) -> None:
    listed = list_images(dataset)
    with pytest.raises(DataError, match=r"1 of 10 .*'bag' is not one.*folders: bag, boot.*labels: bags, boot"):
        match_classes(listed, [Label("bags"), *(Label(name) for name in listed.classes[1:])])


def test_ambiguous_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "crane").mkdir()
    (tmp_path / "crane" / "0.png").write_bytes(b"x")
    labels = read_imagenet_labels()
    with pytest.raises(DataError, match="matches more than one label"):
        match_classes(list_images(tmp_path), labels)
    (tmp_path / "crane").rename(tmp_path / "n03126707")
    assert match_classes(list_images(tmp_path), labels) == [517]


def test_imagenet_labels() -> None:
    labels = read_imagenet_labels()
    assert len(labels) == 1000
    assert labels[0] == Label("tench, Tinca tinca", "n01440764")
    assert labels[207].name == "golden retriever"
    wnids = [str(label.wnid) for label in labels]
    assert wnids == sorted(set(wnids))


def test_batches_keep_order_and_report_what_is_broken(dataset: Path, tmp_path: Path) -> None:
    preprocess = make_reference_preprocess(56)
    paths = list(list_images(dataset).paths[:11])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    paths.insert(3, broken)
    items = list(load_batches(paths, preprocess, batch=4, workers=3))
    bad = [item for item in items if isinstance(item, Unreadable)]
    assert [(item.index, item.image) for item in bad] == [(3, str(broken))]
    batches = [item for item in items if isinstance(item, Batch)]
    assert [index for batch in batches for index in batch.indices] == [i for i in range(12) if i != 3]
    assert [len(batch.indices) for batch in batches] == [3, 4, 4]
    for batch in batches:
        for index, image in zip(batch.indices, batch.images_nchw, strict=True):
            expected = normalize_images(read_image(paths[index], preprocess)[None], preprocess)[0]
            assert np.array_equal(image, expected)


def test_loading_is_lazy(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a bounded number of images is decoded ahead of the reader."""
    decoded = []
    original = Image.open

    def count_and_open(path: Path) -> Image.Image:
        decoded.append(path)
        return original(path)

    monkeypatch.setattr(Image, "open", count_and_open)
    batches = load_batches(list(list_images(dataset).paths) * 50, make_reference_preprocess(32), batch=4, workers=2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(decoded) <= 2 * 2 * 4
