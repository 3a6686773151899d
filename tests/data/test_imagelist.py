"""Lists of images: whatever separates path and class, the images and classes are those of the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestforge.data.imagefolder import choose_balanced, list_images, match_classes
from nestforge.data.imagelist import ListedImage, parse_image_list
from nestforge.data.labels import Label
from nestforge.data.preprocess import decode_image
from nestforge.data.sources import list_local_files, open_source
from nestforge.errors import DataError
from tests.support.images import write_images

ROWS = [("a/0.png", "3"), ("b 1/1.JPEG", "0"), ("c.png", "12")]
NAMED = [("a/0.png", "night snake"), ("b.png", "tench, Tinca tinca")]

TEXTS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "header": ("path,label\na/0.png,3\nb 1/1.JPEG,0\nc.png,12\n", ROWS),
    "no_header": ("a/0.png,3\nb 1/1.JPEG,0\nc.png,12\n", ROWS),
    "caffe": ("a/0.png 3\nb 1/1.JPEG 0\nc.png 12\n", ROWS),
    "spaces_before_class": ("a/0.png    3\nb 1/1.JPEG  0\nc.png 12", ROWS),
    "tabs": ("a/0.png\t3\nb 1/1.JPEG\t0\nc.png\t12\n", ROWS),
    "semicolons": ("Path;Label\na/0.png;3\nb 1/1.JPEG;0\nc.png;12\n", ROWS),
    "class_first": ("3,a/0.png\n0,b 1/1.JPEG\n12,c.png\n", ROWS),
    "mxnet": ("0\t3.000000\ta/0.png\n1\t0.000000\tb 1/1.JPEG\n2\t12.000000\tc.png\n", ROWS),
    "windows": ("\ufeffpath,label\r\na/0.png,3\r\n\r\nb 1/1.JPEG,0\r\nc.png,12\r\n", ROWS),
    "more_columns": ("id,width,file_name,label\n7,5,a/0.png,3\n8,5,b 1/1.JPEG,0\n9,5,c.png,12\n", ROWS),
    "hugging_face": ("file_name,label\na/0.png,3\nb 1/1.JPEG,0\nc.png,12\n", ROWS),
    "own_words": ("Photo,What\na/0.png,3\nb 1/1.JPEG,0\nc.png,12\n", ROWS),
    "spaces_around": ("path , label\n a/0.png , 3\nb 1/1.JPEG , 0\nc.png,12\n", ROWS),
    "quoted": ('"path","label"\n"a/0.png","3"\n"b 1/1.JPEG","0"\n"c.png","12"\n', ROWS),
    "names": ('path,label\na/0.png,night snake\nb.png,"tench, Tinca tinca"\n', NAMED),
    "names_and_tabs": ("a/0.png\tnight snake\nb.png\ttench, Tinca tinca\n", NAMED),
    "alone": ("a/0.png\nb 1/1.JPEG\nc.png\n", [(path, "") for path, _ in ROWS]),
    "alone_with_header": ("path\na/0.png\nc.png\n", [("a/0.png", ""), ("c.png", "")]),
    "no_suffix": (
        "ImageId,Class\nval_1,n01440764\nval_2,n01443537\n",
        [("val_1", "n01440764"), ("val_2", "n01443537")],
    ),
    "one_line": ("a/0.png 3", ROWS[:1]),
    "kept_order": ("b.png 1\na.png 0\n", [("b.png", "1"), ("a.png", "0")]),
    "path_with_comma": ("a, b.png 1\nc, d.png 0\n", [("a, b.png", "1"), ("c, d.png", "0")]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_way_to_write_a_list(name: str) -> None:
    text, rows = TEXTS[name]
    assert parse_image_list(text) == [ListedImage(path, label) for path, label in rows]


REFUSED = {
    "empty": ("\n \n", "it is empty"),
    "no_paths": ("tench\nshark\n", "no column of it holds paths"),
    "numbers": ("490\n361\n171\n", "numbers and no paths.*development kit"),
    "unnamed_columns": ("a.png,3,train\nb.png,4,train\n", "3 fields; name the columns"),
    "unknown_columns": ("path,x,y\na.png,3,4\n", r"called label \(its columns: path, x, y\)"),
    "missing_class": ("path,label\na.png,3\nb.png,\n", r"'b\.png' has no class"),
    "short_line": ("a.png,3\nb.png\n", "entry 2, 'b.png', has 1 fields and not 2"),
    "unquoted_name": ("path,label\na.png,night snake\nb.png,tench, Tinca\n", "has 3 fields and not 2; quote"),
    "no_path": ("path,label\na.png,3\n,4\n", "entry 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    text, message = REFUSED[name]
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        list_images(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_images(tmp_path / "data", "val/cat/0.png", "val/cat/1.png", "val/dog/0.png")


LINES = "val/cat/0.png,0\nval/dog/0.png,1\nval/cat/1.png,0\n"
PETS = (Label("cat"), Label("dog"))


@pytest.mark.parametrize("name", ["list.csv", "list.txt", "LIST.CSV", "list.tsv", "list.lst"])
def test_a_list_is_a_dataset(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / name
    path.write_text(LINES)
    folder = list_images(path)
    assert folder.root == path
    assert [folder.name_of(file) for file in folder.paths] == ["val/cat/0.png", "val/dog/0.png", "val/cat/1.png"]
    assert match_classes(folder, PETS) == [0, 1, 0]
    assert {file.parent.name for file in choose_balanced(folder, 2, seed=0)} == {"cat", "dog"}
    source = open_source(path)
    assert (source.kind, source.images) == ("folder", 3)
    samples = [sample for part in source.parts for sample in part.read()]
    assert [(sample.key, sample.label) for sample in samples] == [tuple(line.split(",")) for line in LINES.split()]
    assert [file.is_absolute() and file.is_file() for file in list_local_files(source)] == [True] * 3
    monkeypatch.chdir(root.parent)
    assert list_images(Path("data", name)).paths == tuple(Path("data", line.split(",")[0]) for line in LINES.split())


def test_classes_by_name_and_by_index_are_the_same(root: Path) -> None:
    names = root / "names.csv"
    names.write_text(LINES.replace(",0", ",Cat").replace(",1", ",DOG"))
    assert match_classes(list_images(names), PETS) == [0, 1, 0]
    numbers = root / "numbers.csv"
    numbers.write_text(LINES)
    assert match_classes(list_images(numbers), (Label("1"), Label("0"))) == [1, 0, 1]  # where labels are numbers: names


def test_classes_that_are_none_are_refused(root: Path) -> None:
    path = root / "list.csv"
    path.write_text(LINES.replace(",1", ",2").replace(",0", ",1"))
    with pytest.raises(DataError, match=r"1 of 2 classes in .*class '2' is not one .*indices count from 0 to 1"):
        match_classes(list_images(path), PETS)
    path.write_text("val/cat/0.png\n")
    with pytest.raises(DataError, match="names images without a class; write path,label"):
        match_classes(list_images(path), PETS)


def test_paths_are_relative_to_the_list_and_nothing_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "lists" / "list.csv"
    path.parent.mkdir()
    path.write_text(LINES)
    monkeypatch.chdir(root)
    with pytest.raises(
        DataError, match=r"none of its 3 files is there.*\(it is below the current folder\).*relative to"
    ):
        list_images(path)
    path.write_text(LINES.replace("val/", "../val/"))
    assert all(file.is_file() for file in list_images(path).paths)
    path.write_text(LINES.replace("val/", f"{root}/val/"))
    folder = list_images(path)
    assert folder.paths[0] == root / "val/cat/0.png"
    assert folder.name_of(folder.paths[0]) == str(root / "val/cat/0.png")
    assert open_source(path).images == 3


def test_windows_paths(root: Path) -> None:
    path = root / "list.csv"
    path.write_text("path,label\r\n" + LINES.replace("/", "\\").replace("\n", "\r\n"))
    assert all(file.is_file() for file in list_images(path).paths)
    (root / "a\\b.png").write_bytes((root / "val/cat/0.png").read_bytes())
    path.write_text("a\\b.png,0\n")
    assert list_images(path).paths == (root / "a\\b.png",)
    path.write_text("C:\\data\\x.png,0\n")
    with pytest.raises(DataError, match="none of its 1 files is there"):
        list_images(path)


def test_names_without_a_suffix_are_those_of_the_images_there(root: Path) -> None:
    path = root / "val" / "cat" / "solution.csv"
    path.write_text("ImageId,Class\n0,cat\n1,cat\n")
    assert [file.name for file in list_images(path).paths] == ["0.png", "1.png"]


def test_some_missing_files_are_found_when_they_are_read(root: Path) -> None:
    path = root / "list.csv"
    path.write_text(LINES + "val/dog/gone.png,1\n")
    paths = list_images(path).paths
    assert len(paths) == 4
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        decode_image(paths[-1])


def test_an_image_that_is_listed_again(root: Path) -> None:
    path = root / "list.csv"
    path.write_text(LINES + "val/dog/0.png,1\n")
    with pytest.warns(UserWarning, match="1 images more than once; each is taken once"):
        assert len(list_images(path).paths) == 3
    path.write_text(LINES + "val/dog/0.png,0\n")
    with pytest.raises(DataError, match="has two classes, '1' and '0'"):
        list_images(path)


def test_only_a_suffix_of_a_list(root: Path) -> None:
    path = root / "list.csv"
    path.write_text(LINES + "val/x.jpg,1\n")
    assert len(list_images(path, suffix="png").paths) == 3
    with pytest.raises(DataError, match=r"no images in .* that end in \.gif"):
        list_images(path, suffix="gif")


def test_urls_in_a_list_here_are_refused(root: Path) -> None:
    path = root / "list.csv"
    path.write_text(LINES + "https://example.org/x.png,1\n")
    with pytest.raises(DataError, match="is a URL; fetch the images"):
        list_images(path)


def test_a_list_at_a_url(root: Path) -> None:
    system = pytest.importorskip("fsspec").filesystem("memory")
    (root / "list.csv").write_text("path,label\r\n" + LINES.replace("/", "\\") + "./val/cat/0.png,0\n")
    (root / "machine.csv").write_text("/data/x.png,0\n")
    system.put(str(root), "/listed", recursive=True)
    try:
        with pytest.warns(UserWarning, match="1 images more than once"):
            source = open_source("memory://listed/list.csv")
        samples = [sample for part in source.parts for sample in part.read()]
        assert [sample.label for sample in samples] == ["0", "1", "0"]
        assert [decode_image(sample.image).size for sample in samples] == [(16, 12)] * 3
        with pytest.raises(DataError, match="is a path of a machine"):
            open_source("memory://listed/machine.csv")
    finally:
        system.rm("/listed", recursive=True)


def test_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes("a.png,0\n".encode("utf-16"))
    with pytest.raises(DataError, match="is UTF-16 or not text at all"):
        list_images(path)
    path.write_bytes(b'"' + b"x" * 200_000)
    with pytest.raises(DataError, match="cannot be read"):
        list_images(path)
