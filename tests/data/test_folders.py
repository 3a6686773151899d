"""Folders as people have them: every image is counted in its class, or a line says what is left out, or what to do."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path

import pytest
from PIL import Image, features

from nestforge.data.filenames import describe_ignored, is_hidden, list_suffixes
from nestforge.data.imagefolder import choose_balanced, list_images, match_classes
from nestforge.data.labels import Label, number_labels
from nestforge.data.preprocess import decode_image
from nestforge.data.sources import open_source
from nestforge.errors import DataError
from tests.support.images import encode_image, write_files, write_images

PETS = (Label("cat"), Label("dog"))
WITH_IDS = (Label("tench, Tinca tinca", "n01440764"), Label("goldfish", "n01443537"))
HIDDEN = (
    *(".ipynb_checkpoints/0-checkpoint.png", "cat/.ipynb_checkpoints/0-checkpoint.png", "cat/.0.png", "cat/._0.png"),
    *("__MACOSX/cat/._0.png", "__MACOSX/cat/0.png", "@eaDir/0.png", "cat/@eaDir/0.png/THUMB.jpg", ".thumbnails/0.png"),
    *(".git/0.png", "$RECYCLE.BIN/0.png"),
)
LITTER = ("Thumbs.db", "cat/Thumbs.db", "cat/desktop.ini", ".DS_Store", "cat/.DS_Store")


def list_names(root: Path) -> list[tuple[str, str]]:
    folder = list_images(root)
    return [(name, folder.name_of(path)) for name, path in zip(folder.folders, folder.paths, strict=True)]


def test_hidden_files_and_folders_are_skipped_without_a_word(tmp_path: Path) -> None:
    root = write_files(write_images(tmp_path / ".cache" / "data", "cat/0.png", "dog/0.png", *HIDDEN), *LITTER)
    expected = [("cat", "cat/0.png"), ("dog", "dog/0.png")]
    assert list_names(root) == expected
    source = open_source(root)
    assert [(sample.label, sample.key) for part in source.parts for sample in part.read()] == expected
    assert match_classes(list_images(root), PETS) == [0, 1]


def test_hidden_files_are_skipped_at_a_url(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    root = write_files(write_images(tmp_path, "cat/0.png", "dog/a/b/0.png", *HIDDEN), *LITTER)
    system.put(str(root), "/.cache/hidden", recursive=True)
    try:
        source = open_source("memory://.cache/hidden")
        rows = [(sample.label, sample.key) for part in source.parts for sample in part.read()]
    finally:
        system.rm("/.cache/hidden", recursive=True)
    assert rows == [("cat", "cat/0.png"), ("dog", "dog/a/b/0.png")]


def test_what_is_no_image_is_reported_by_suffix(tmp_path: Path) -> None:
    root = write_images(tmp_path, "cat/0.png", "dog/0.png")
    write_files(root, *(f"cat/{number}.txt" for number in range(10)), "dog/a.HEIC", "dog/b.heic", "README")
    with pytest.warns(UserWarning, match=r": 13 files ignored: 10 \.txt, 2 \.heic, 1 without a suffix$"):
        assert len(list_images(root).paths) == 2
    with pytest.warns(UserWarning, match="13 files ignored"):
        assert open_source(root).images == 2


def test_what_is_no_image_is_reported_at_a_url(tmp_path: Path) -> None:
    system = pytest.importorskip("fsspec").filesystem("memory")
    system.put(str(write_files(write_images(tmp_path, "cat/0.png"), "cat/0.heic")), "/ignored", recursive=True)
    try:
        with pytest.warns(UserWarning, match=r"1 file ignored: 1 \.heic"):
            assert open_source("memory://ignored").images == 1
    finally:
        system.rm("/ignored", recursive=True)


def test_files_left_out_on_purpose_are_not_reported(tmp_path: Path) -> None:
    root = write_images(tmp_path, "cat/0.png", "cat/1.jpg")
    assert [path.name for path in list_images(root, suffix="PNG").paths] == ["0.png"]
    with pytest.raises(DataError, match=r"files must end in \.webp"):
        list_images(root, suffix=".webp")


def test_a_folder_without_images_says_what_it_has(tmp_path: Path) -> None:
    write_files(tmp_path, "cat/0.heic", "cat/1.heic", "notes.txt")
    with pytest.raises(DataError, match=r"no images in .* \(3 files ignored: 2 \.heic, 1 \.txt\); give"):
        list_images(tmp_path)


def test_few_kinds_are_shown() -> None:
    assert describe_ignored([]) is None
    names = [f"{index}.{letter}" for letter in "abcdefg" for index in range(2)]
    assert describe_ignored(names) == "14 files ignored: 2 .a, 2 .b, 2 .c, 2 .d, 2 .e, 4 of other kinds"


def test_suffixes_are_those_that_pillow_decodes() -> None:
    suffixes = list_suffixes()
    assert {
        ".jpg",
        ".jpeg",
        ".jfif",
        ".jpe",
        ".png",
        ".apng",
        ".gif",
        ".webp",
        ".avif",
        ".bmp",
        ".dib",
    } <= suffixes
    assert {".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".qoi", ".mpo"} <= suffixes
    assert not suffixes & {
        ".eps",
        ".ps",
        ".pdf",
        ".mpg",
        ".mpeg",
        ".h5",
        ".hdf",
        ".grib",
        ".bufr",
        ".wmf",
        ".emf",
    }
    assert not suffixes & {".txt", ".json", ".cls", ".csv", ".npz", ".tar", ".svg", ".heic", ""}


WRITTEN = {
    "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe", ".JPG"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k"),
    **{kind: (f".{kind.lower()}",) for kind in ("BMP", "DIB", "GIF", "ICO", "PCX", "PPM", "QOI", "SGI", "TGA", "TIFF")},
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_every_kind_of_image_is_counted_and_decoded(kind: str, tmp_path: Path) -> None:
    feature = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}.get(kind)
    Image.init()
    if kind not in Image.SAVE or (feature and not features.check(feature)):
        pytest.skip(f"this Pillow writes no {kind}")
    for suffix in WRITTEN[kind]:
        (tmp_path / f"x{suffix}").write_bytes(encode_image(kind=kind, size=(32, 32)))
    paths = list_images(tmp_path).paths
    assert sorted(path.suffix for path in paths) == sorted(WRITTEN[kind])
    assert {decode_image(path).mode for path in paths} == {"RGB"}


def test_folders_in_class_folders_count_for_the_class(tmp_path: Path) -> None:
    write_images(tmp_path, "dog/2.png", "cat/images/0.png", "cat/a/b/1.png", "cat/z.png", "dog/images/0.png")
    assert [name for name, _ in list_names(tmp_path)] == ["cat", "cat", "cat", "dog", "dog"]
    assert match_classes(list_images(tmp_path), PETS) == [0, 0, 0, 1, 1]
    assert len(choose_balanced(list_images(tmp_path), 4, seed=0)) == 4


def test_links_to_class_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    store = write_images(tmp_path / "store", "a/0.png", "b/0.png", "b/1.png")
    data = tmp_path / "data"
    data.mkdir()
    (data / "cat").symlink_to(store / "a")
    (data / "dog").symlink_to(store / "b", target_is_directory=True)
    (store / "a" / "again").symlink_to(store / "a")
    (store / "b" / "all").symlink_to(data)
    listed = list_names(data)
    assert [name for name, key in listed if key.count("/") == 1] == ["cat", "dog", "dog"]
    assert len(listed) == len(set(listed)) < 20


def test_broken_links_are_counted_as_unreadable(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/0.png")
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "cat" / "loop.png").symlink_to("loop.png")
    paths = list_images(tmp_path).paths
    assert [path.name for path in paths] == ["0.png", "gone.png", "loop.png"]
    for path, reason in zip(paths[1:], ("no such file", "not a readable image"), strict=True):
        with pytest.raises(DataError, match=rf"{path.name}: {reason}"):
            decode_image(path)


def test_empty_class_folders_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/0.png")
    for name in ("dog", "eel", "fox", "gnu"):
        (tmp_path / name).mkdir()
    with pytest.warns(UserWarning, match=r"4 folders without images: dog, eel, fox, \.\.\.$"):
        assert list_images(tmp_path).classes == ["cat"]


def test_a_flat_folder_has_no_empty_classes(tmp_path: Path) -> None:
    write_images(tmp_path, "0.png", "1.png")
    (tmp_path / "results").mkdir()
    folder = list_images(tmp_path)
    assert folder.classes == [""]
    with pytest.raises(DataError, match="has images outside class folders; give one subfolder per class, or a list"):
        match_classes(folder, PETS)


SPELLINGS = {
    "names": (("cat", "dog"), PETS),
    "case": (("Cat", "DOG"), PETS),
    "ids": (("n01440764", "n01443537"), WITH_IDS),
    "ids_and_names": (("n01440764-tench", "n01443537_goldfish"), WITH_IDS),
    "first_synonym": (("tench", "goldfish"), WITH_IDS),
    "whole_name": (("tench, Tinca tinca", "goldfish"), WITH_IDS),
    "underscores": (("great_white_shark", "night_snake"), (Label("great white shark"), Label("night snake"))),
    "spaces": (("great white shark", "night snake"), (Label("great_white_shark"), Label("night-snake"))),
    "decomposed": ((unicodedata.normalize("NFD", "é"), "ö"), (Label("é"), Label(unicodedata.normalize("NFD", "ö")))),
    "numbers_without_labels": (("0", "1"), number_labels(2)),
    "leading_zeros": (("000", "001"), number_labels(2)),
    "numbers_that_are_names": (("7", "3"), (Label("7"), Label("3"))),
    "odd_names": (("001.Albatross", "0 - zero"), (Label("001.Albatross"), Label("0 - zero"))),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_class_folders_are_found(name: str, tmp_path: Path) -> None:
    folders, labels = SPELLINGS[name]
    write_images(tmp_path, *(f"{folder}/0.png" for folder in folders))
    folder = list_images(tmp_path)
    found = dict(zip(folder.folders, match_classes(folder, labels), strict=True))
    assert [found[name] for name in folders] == [0, 1]


def test_numbers_are_indices_where_no_label_is_a_number_and_that_is_said(tmp_path: Path) -> None:
    write_images(tmp_path, "0000/0.png", "0010/0.png", "0002/0.png")
    labels = [Label(f"class of {letter}") for letter in "abcdefghijk"]
    with pytest.warns(UserWarning, match=r"class indices counted from 0: '0000' for 'class of a'"):
        assert match_classes(list_images(tmp_path), labels) == [0, 2, 10]


REFUSED: dict[str, tuple[tuple[str, ...], tuple[Label, ...], str]] = {
    "other_classes": (("cat", "bird"), PETS, r"1 of 2 class folders in .*'bird' is not one of the labels"),
    "near_miss": (("cats", "dog"), PETS, "'cats' is not one .*did you mean 'cat'"),
    "splits": (("train/cat", "val/cat", "val/dog"), PETS, r"lie deeper: give [^ ]*train or [^ ]*val \("),
    "dataset_above": (("pets/val/cat", "pets/val/dog"), PETS, r"lie deeper: give [^ ]*pets/val \("),
    "groups": (("mammals/cat", "more/dog"), PETS, r"lie deeper: give [^ ]*mammals or [^ ]*more \("),
    "from_one": (("1", "2"), PETS, "class indices count from 0 to 1"),
    "too_large": (("0", "7"), PETS, "'7' is not one of"),
    "two_meanings": (("crane", "dog"), (Label("crane", "n1"), Label("crane", "n2"), PETS[1]), "matches more than one"),
    "same_when_folded": (("CAT", "dog"), (Label("Cat"), Label("cat"), PETS[1]), "'CAT' matches more than one"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_folders_that_match_no_label_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    folders, labels, message = REFUSED[name]
    write_images(tmp_path, *(f"{folder}/0.png" for folder in folders))
    with pytest.raises(DataError, match=message) as caught:
        match_classes(list_images(tmp_path), labels)
    assert "\n" not in str(caught.value)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "0.png", "data.zip", "data.tar")
    for name in ("0.png", "data.zip", "data.tar"):
        with pytest.raises(DataError, match=r"is a file; give a folder of images, or a list of them \(\.csv"):
            list_images(tmp_path / name)
    with pytest.raises(DataError, match="no dataset folder"):
        list_images(tmp_path / "nowhere.csv")


def test_hidden_is_told_by_names_alone() -> None:
    for name in (".ipynb_checkpoints", "._0.png", "Thumbs.db", "__MACOSX", "@eaDir"):
        assert is_hidden(name)
    for name in ("cat", "thumbs", "macosx", "..", ".", "0.png", "_0.png"):
        assert not is_hidden(name)


def test_nothing_is_said_about_a_folder_in_order(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/0.png", "dog/0.jfif", "dog/1.avif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert match_classes(list_images(tmp_path), PETS) == [0, 1, 1]
