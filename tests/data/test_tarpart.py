"""Tar shards as people have them: every image is a sample with its class, and what can be none is one that fails."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from nestforge.data.images import EncodedImage
from nestforge.data.parts import MissingImage, Sample
from nestforge.data.sources import open_source
from nestforge.data.tarpart import TarPart
from nestforge.errors import DataError
from tests.support.images import encode_image
from tests.support.shards import Member, make_link, make_special, write_shard

A, B, C = (encode_image(value) for value in range(3))
Row = tuple[str, str | int | None, bytes | str]  # name in the shard, class, and bytes or a part of the reason


def read_rows(path: Path) -> list[tuple[str, str | int | None, bytes | str]]:
    return [describe(sample) for sample in TarPart(url=str(path)).read()]


def describe(sample: Sample) -> tuple[str, str | int | None, bytes | str]:
    shard, _, name = sample.key.partition("/")
    assert shard == "a.tar"
    assert str(sample.image) == sample.key
    if isinstance(sample.image, EncodedImage):
        return name, sample.label, sample.image.data
    assert isinstance(sample.image, MissingImage)
    with pytest.raises(DataError) as caught:
        sample.image.read_bytes()
    return name, sample.label, str(caught.value)


NO_IMAGE = "no image file"

SHARDS: dict[str, tuple[list[Member], list[Row]]] = {
    "keys": (
        [("0.png", A), ("0.cls", b"3"), ("1.jpg", B), ("1.cls", b"cat\n")],
        [("0.png", 3, A), ("1.jpg", "cat", B)],
    ),
    "class_first": ([("0.cls", b"3"), ("0.png", A)], [("0.png", 3, A)]),
    "folders": ([("cat/0.png", A), ("dog/0.png", B)], [("cat/0.png", "cat", A), ("dog/0.png", "dog", B)]),
    "deeper_folders": ([("data/val/cat/0.png", A)], [("data/val/cat/0.png", "cat", A)]),
    "here": ([("./cat/0.png", A), ("./1.png", B)], [("cat/0.png", "cat", A), ("1.png", None, B)]),
    "absolute": ([("/cat/0.png", A)], [("cat/0.png", "cat", A)]),
    "capitals": ([("0.PNG", A), ("0.CLS", b"3"), ("1.JPEG", B)], [("0.PNG", 3, A), ("1.JPEG", None, B)]),
    "other_suffixes": (
        [("0.jfif", A), ("1.avif", B), ("2.tga", C)],
        [("0.jfif", None, A), ("1.avif", None, B), ("2.tga", None, C)],
    ),
    "dots": (
        [("p0.1.png", A), ("p0.2.png", B), ("p1.1.png", C)],
        [("p0.1.png", None, A), ("p0.2.png", None, B), ("p1.1.png", None, C)],
    ),
    "dots_and_folders": ([("v1.0/x.y.z.png", A), ("v1.0/x.y.z.cls", b"3")], [("v1.0/x.y.z.png", 3, A)]),
    "dots_and_classes": (
        [("p0.1.png", A), ("p0.1.cls", b"1"), ("p0.2.png", B), ("p0.2.cls", b"2")],
        [("p0.1.png", 1, A), ("p0.2.png", 2, B)],
    ),
    "views": ([("0.left.png", A), ("0.right.png", B), ("0.cls", b"3")], [("0.left.png", 3, A), ("0.right.png", 3, B)]),
    "two_formats": ([("0.png", A), ("0.webp", B), ("0.cls", b"3")], [("0.png", 3, A), ("0.webp", 3, B)]),
    "beside": ([("0.png", A), ("0.seg.npy", b"x"), ("0.json", b"{}"), ("0.cls", b"3")], [("0.png", 3, A)]),
    "json": ([("0.png", A), ("0.json", b'{"label": 3}')], [("0.png", 3, A)]),
    "json_name": ([("0.json", b'{"label": "cat", "width": 9}'), ("0.png", A)], [("0.png", "cat", A)]),
    "json_text_number": ([("0.png", A), ("0.json", b'{"class": "3"}')], [("0.png", 3, A)]),
    "json_float": ([("0.png", A), ("0.json", b'{"label": 3.0}')], [("0.png", 3, A)]),
    "json_without": ([("cat/0.png", A), ("cat/0.json", b'{"caption": "dog"}')], [("cat/0.png", "cat", A)]),
    "json_broken": (
        [("cat/0.png", A), ("cat/0.json", b"{"), ("cat/1.png", B), ("cat/1.json", b"[3]")],
        [("cat/0.png", "cat", A), ("cat/1.png", "cat", B)],
    ),
    "cls_before_json": ([("0.png", A), ("0.json", b'{"label": 4}'), ("0.cls", b"3")], [("0.png", 3, A)]),
    "txt_number": ([("val/0.png", A), ("val/0.txt", b"3\n")], [("val/0.png", 3, A)]),
    "txt_name": ([("0.png", A), ("0.txt", b"cat")], [("0.png", "cat", A)]),
    "txt_caption": ([("cat/0.png", A), ("cat/0.txt", b"a dog on a sofa")], [("cat/0.png", "cat", A)]),
    "hidden": (
        [
            (".DS_Store", b"x"),
            ("._0.png", b"x"),
            ("cat/.0.png", B),
            (".ipynb_checkpoints/0.png", B),
            ("__MACOSX/0.png", B),
            ("@eaDir/0.png", B),
            ("cat/Thumbs.db", b"x"),
            ("./.hidden/cat/0.png", B),
            ("0.png", A),
        ],
        [("0.png", None, A)],
    ),
    "folder_members": (
        [make_special("cat", tarfile.DIRTYPE), ("cat/0.png", A), make_special("x.png", tarfile.DIRTYPE)],
        [("cat/0.png", "cat", A)],
    ),
    "long_names": ([("é" * 150 + "/" + "x" * 150 + ".png", A)], [("é" * 150 + "/" + "x" * 150 + ".png", "é" * 150, A)]),
    # links
    "hard_link": (
        [("cat/0.png", A), make_link("dog/0.png", "cat/0.png", hard=True)],
        [("cat/0.png", "cat", A), ("dog/0.png", "dog", A)],
    ),
    "hard_link_here": (
        [("./cat/0.png", A), make_link("./dog/0.png", "./cat/0.png", hard=True)],
        [("cat/0.png", "cat", A), ("dog/0.png", "dog", A)],
    ),
    "symbolic_link": (
        [("cat/0.png", A), make_link("dog/1.png", "../cat/0.png")],
        [("cat/0.png", "cat", A), ("dog/1.png", "dog", A)],
    ),
    "link_ahead": (
        [make_link("dog/1.png", "../cat/0.png"), ("cat/0.png", A)],
        [("dog/1.png", "dog", A), ("cat/0.png", "cat", A)],
    ),
    "link_of_link": (
        [
            ("0.png", A),
            make_link("1.png", "0.png"),
            make_link("2.png", "1.png"),
            make_link("3.png", "2.png", hard=True),
        ],
        [(f"{number}.png", None, A) for number in range(4)],
    ),
    "linked_class": (
        [("0.png", A), ("0.cls", b"3"), ("1.png", B), make_link("1.cls", "0.cls")],
        [("0.png", 3, A), ("1.png", 3, B)],
    ),
    "broken_link": (
        [make_link("0.png", "gone.png"), ("1.png", A)],
        [("0.png", None, "a link to gone.png, which is not in the shard"), ("1.png", None, A)],
    ),
    "link_outside": (
        [make_link("0.png", "/etc/hostname"), ("1.png", A)],
        [("0.png", None, "a link to /etc/hostname, which is not"), ("1.png", None, A)],
    ),
    "circle": (
        [make_link("0.png", "1.png"), make_link("1.png", "0.png")],
        [("0.png", None, "leads in a circle"), ("1.png", None, "leads in a circle")],
    ),
    "link_to_folder": (
        [make_special("cat", tarfile.DIRTYPE), make_link("0.png", "cat")],
        [("0.png", None, "not a regular file")],
    ),
    "linked_folder": ([("cat/0.png", A), make_link("dog", "cat")], [("cat/0.png", "cat", A), ("dog", None, NO_IMAGE)]),
    # what can be no sample
    "no_image": (
        [("0.cls", b"3"), ("0.json", b"{}"), ("1.png", A)],
        [("0", None, "no image file, such as 0.jpg, beside 0.cls, 0.json"), ("1.png", None, A)],
    ),
    "unread_kind": ([("cat/0.heic", B), ("cat/1.png", A)], [("cat/0", None, "beside 0.heic"), ("cat/1.png", "cat", A)]),
    "unread_kind_and_dots": (
        [("p.1.png", A), ("p.2.heic", B)],
        [("p.1.png", None, A), ("p.2", None, "beside p.2.heic")],
    ),
    "readme": (
        [("README.md", b"x"), ("LICENSE", b"x"), ("1.png", A)],
        [("README", None, NO_IMAGE), ("LICENSE", None, NO_IMAGE), ("1.png", None, A)],
    ),
    "apart": (
        [("0.png", A), ("1.png", B), ("0.cls", b"3")],
        [("0.png", None, A), ("1.png", None, B), ("0", None, "files of one sample follow each other")],
    ),
    "pipe": (
        [make_special("0.png", tarfile.FIFOTYPE), ("1.png", A)],
        [("0.png", None, "not a regular file"), ("1.png", None, A)],
    ),
    "again": (
        [("0.png", A), ("1.png", B), ("0.png", C)],
        [("0.png", None, A), ("1.png", None, B), ("0.png", None, "another image of this path")],
    ),
    "twice_in_turn": (
        [("0.png", A), ("0.png", C), ("0.cls", b"3")],
        [("0.png", 3, A), ("0.png", None, "another image of this path")],
    ),
    "large_class": (
        [("0.png", A), ("0.cls", b"3" * 2000)],
        [("0.png", None, "its .cls cannot be read: more than 1 KiB")],
    ),
    "list_of_classes": (
        [("0.png", A), ("0.json", b'{"label": [1, 2]}')],
        [("0.png", None, "gives no single class: [1, 2]")],
    ),
}


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_samples(name: str, form: int, tmp_path: Path) -> None:
    members, rows = SHARDS[name]
    found = read_rows(write_shard(tmp_path / "a.tar", members, form=form))
    assert [row[:2] for row in found] == [row[:2] for row in rows]
    for (_, _, content), (_, _, expected) in zip(found, rows, strict=True):
        assert content == expected or (isinstance(content, str) and isinstance(expected, str) and expected in content)


def test_attributes_in_headers_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "made by hand"}) as tar:
        member = tarfile.TarInfo("cat/0.png")
        member.size, member.mtime = len(A), 1.5
        member.pax_headers = {"SCHILY.xattr.user.note": "x", "LIBARCHIVE.creationtime": "1.25"}
        tar.addfile(member, io.BytesIO(A))
    assert read_rows(path) == [("cat/0.png", "cat", A)]


def test_links_are_followed_at_a_url(tmp_path: Path) -> None:
    system = pytest.importorskip("fsspec").filesystem("memory")
    members, rows = SHARDS["link_of_link"]
    system.put(str(write_shard(tmp_path / "a.tar", members)), "/linked/a.tar")
    try:
        source = open_source("memory://linked/a.tar")
        assert [describe(sample) for part in source.parts for sample in part.read()] == rows
    finally:
        system.rm("/linked", recursive=True)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz", "a.tar.zst", "A.TGZ"])
def test_compressed_shards_are_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    for source in (tmp_path / name, tmp_path, tmp_path / "*"):
        with pytest.raises(DataError, match=r"is compressed \(.*\); unpack it to \.tar") as caught:
            open_source(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_shards_are_refused_by_content(kind: str, tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", SHARDS["keys"][0], mode=f"w:{kind}")
    with pytest.raises(DataError, match=r"is compressed \((gzip|bzip2|xz)\)"):
        read_rows(path)


def test_a_damaged_shard_is_no_compressed_one(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", SHARDS["keys"][0])
    content = path.read_bytes()
    for damaged in (content[:700], gzip.compress(content)[4:], b"x" * 2000):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is damaged after"):
            read_rows(path)


def test_a_shard_of_hidden_files_has_no_samples(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", [(".ipynb_checkpoints/0.png", A)])
    with pytest.raises(DataError, match="has no samples"):
        read_rows(path)


def test_suffixes_of_shards_in_any_case(tmp_path: Path) -> None:
    write_shard(tmp_path / "A.TAR", SHARDS["keys"][0])
    (tmp_path / "._A.TAR").write_bytes(b"x")
    for source in (tmp_path / "A.TAR", tmp_path, tmp_path / "*.TAR", tmp_path / "*"):
        assert [part.url for part in open_source(source).parts if isinstance(part, TarPart)] == [
            str(tmp_path / "A.TAR")
        ]


def test_shards_of_several_splits_are_refused(tmp_path: Path) -> None:
    for name in ("imagenet-train-000000.tar", "imagenet-train-000001.tar", "imagenet-validation-000000.tar"):
        write_shard(tmp_path / name, SHARDS["keys"][0])
    with pytest.raises(
        DataError, match=r"shards of train and validation; name those to take, as in .*/imagenet-validation-\*\.tar"
    ):
        open_source(tmp_path)
    assert len(open_source(tmp_path / "imagenet-validation-*.tar").parts) == 1
    (tmp_path / "imagenet-validation-000000.tar").unlink()
    assert len(open_source(tmp_path).parts) == 2


def test_shards_beside_a_folder_without_images(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", SHARDS["keys"][0])
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "x.txt").write_text("x")
    assert open_source(tmp_path).kind == "tar"
