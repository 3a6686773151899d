"""image2npz: contents, order, resuming, bad images; reading npz files that are not what they say."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nestforge.errors import DataError
from nestforge.vacc.npz import convert_images, read_datalist, read_image_npz, read_npz, write_npz


def test_contents_list_and_order(labelled: Path, tmp_path: Path) -> None:
    result = convert_images(labelled, tmp_path / "npz", tmp_path / "list.txt")
    assert (result.written, result.skipped, result.unreadable, result.listed) == (30, 0, (), 30)
    listed = (tmp_path / "list.txt").read_text().splitlines()
    images = sorted((path for path in labelled.rglob("*.*")), key=lambda path: (path.parent.name, path.name))
    assert len(images) == 30
    assert listed == [str(tmp_path / "npz" / path.parent.name / f"{path.stem}.npz") for path in images]
    for name, image in zip(listed, images, strict=True):
        with np.load(name, allow_pickle=False) as loaded:
            assert loaded.files == ["input_0"]
            array = loaded["input_0"]
        assert array.dtype == np.uint8
        assert np.array_equal(array.transpose(1, 2, 0), np.asarray(Image.open(image).convert("RGB")))
        assert np.array_equal(read_image_npz(Path(name)), array)


def test_resumes_and_renews(labelled: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(labelled, data)
    convert_images(data, tmp_path / "npz", tmp_path / "list.txt")
    first = (tmp_path / "list.txt").read_bytes()
    outputs = sorted((tmp_path / "npz").rglob("*.npz"))
    outputs[3].unlink()
    again = convert_images(data, tmp_path / "npz", tmp_path / "list.txt", workers=1)
    assert (again.written, again.skipped) == (1, 29)
    assert (tmp_path / "list.txt").read_bytes() == first
    image = next(data.rglob("0.JPEG"))
    Image.new("RGB", (9, 9)).save(image)
    os.utime(image, (2**31, 2**31))
    assert convert_images(data, tmp_path / "npz", tmp_path / "list.txt").written == 1
    assert read_image_npz(tmp_path / "npz" / image.parent.name / "0.npz").shape == (3, 9, 9)


def test_unreadable_images_are_not_listed(labelled: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(labelled, data)
    bad = sorted(data.rglob("*.jpg"))[4]
    bad.write_bytes(b"\xff\xd8 not a picture")
    result = convert_images(data, tmp_path / "npz", tmp_path / "list.txt")
    assert [item.image for item in result.unreadable] == [str(bad)]
    listed = (tmp_path / "list.txt").read_text().splitlines()
    assert len(listed) == 29
    assert all(Path(name).is_file() for name in listed)
    assert not any(f"{bad.parent.name}/{bad.stem}.npz" in name for name in listed)


def test_two_images_for_one_npz(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    for suffix in ("png", "bmp"):
        Image.new("RGB", (2, 2)).save(tmp_path / "data" / "a" / f"x.{suffix}")
    with pytest.raises(DataError, match="rename one"):
        convert_images(tmp_path / "data", tmp_path / "npz", tmp_path / "list.txt")
    assert not (tmp_path / "npz").exists()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([np.uint8, np.float32, np.float64, np.int64]),
    st.lists(st.integers(0, 5), max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_write_and_read_are_inverse(
    tmp_path_factory: pytest.TempPathFactory, dtype: type, shape: list[int], seed: int
) -> None:
    array = (np.random.default_rng(seed).standard_normal(shape) * 50).astype(dtype)
    path = tmp_path_factory.getbasetemp() / "any.npz"
    write_npz(path, "output_0", array)
    found = read_npz(path, "output_0", max_values=1000)
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    with np.load(path, allow_pickle=False) as loaded:
        assert np.array_equal(loaded["output_0"], array)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pickle_was_run",)


def make_npy(header: dict[str, object], data: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + data


def write_raw(path: Path, content: bytes, *, key: str = "input_0") -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{key}.npy", content)


def test_objects_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    header = {"descr": "|O", "fortran_order": False, "shape": (1,)}
    write_raw(tmp_path / "bomb.npz", make_npy(header, pickle.dumps(np.array([Bomb()], object))))
    with pytest.raises(DataError, match="not plain numbers"):
        read_image_npz(tmp_path / "bomb.npz")
    assert not (tmp_path / "pickle_was_run").exists()


@pytest.mark.parametrize(
    ("shape", "data", "message"),
    [
        ((3, 10**6, 10**6), b"", "more than"),
        ((3, 4, 4), bytes(47), "damaged"),
        ((3, 4, 4), bytes(2**20), "damaged"),
        ((4, 4, 3), bytes(48), r"not \(3, H, W\)"),
        ((3, 0, 4), b"", r"not \(3, H, W\)"),
        ((3, -4, 4), bytes(48), "more than"),
    ],
)
def test_lying_headers(tmp_path: Path, shape: tuple[int, ...], data: bytes, message: str) -> None:
    write_raw(tmp_path / "a.npz", make_npy({"descr": "|u1", "fortran_order": False, "shape": shape}, data))
    with pytest.raises(DataError, match=message):
        read_image_npz(tmp_path / "a.npz")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_any_damage_is_a_data_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    image = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    write_npz(path, "input_0", image)
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content[: place % len(content)] if cut else content)
    try:
        assert np.array_equal(read_image_npz(path), image)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"\n \n", "empty"), (b"/a/b.npz\n/a/b.npz\n", "more than once"), (b"\xff\xfe", "UTF-8")],
)
def test_bad_lists(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_datalist(tmp_path / "list.txt")
    with pytest.raises(DataError, match="cannot read datalist"):
        read_datalist(tmp_path / "none.txt")
