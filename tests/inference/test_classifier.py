"""A classifier that stays open: every form of an image, lists, threads, closing."""

from __future__ import annotations

import io
import itertools
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nestforge
from nestforge import Classifier, DataError, NestForgeError
from nestforge.artifact import artifact as artifact_module
from nestforge.data.preprocess import load_image


@pytest.fixture(scope="module")
def classify(artifacts: dict[str, Path]) -> Classifier:
    return nestforge.load(artifacts["int8"])


def test_every_form_of_an_image_gives_the_same(classify: Classifier, dataset: Path) -> None:
    path = dataset / "bag" / "0.png"
    expected = classify(path)
    assert expected.image == str(path)
    assert len(expected.top) == 5
    assert sum(row.probability for row in classify(path, top=10).top) == pytest.approx(1)
    with Image.open(path) as opened:
        lazy = classify(opened)
        forms = [str(path), path.read_bytes(), bytearray(path.read_bytes()), opened.copy(), np.asarray(opened)]
        assert opened.getpixel((0, 0))  # the caller's image is still open
    assert [classify(form).top for form in forms] == [expected.top] * 5
    assert lazy.top == expected.top
    assert [row.top for row in classify([path, *forms])] == [expected.top] * 6
    assert classify((path,))[0] == expected
    assert classify([]) == []


def test_modes_of_pillow_are_converted_as_files_are(classify: Classifier, dataset: Path, tmp_path: Path) -> None:
    with Image.open(dataset / "coat" / "1.png") as opened:
        picture = opened.convert("RGB")
    grey = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    for mode, image in (
        ("RGBA", picture.convert("RGBA")),
        ("L", picture.convert("L")),
        ("P", picture.convert("P")),
        ("CMYK", picture.convert("CMYK")),
        ("I;16", Image.fromarray(grey)),
    ):
        suffix = "tiff" if mode == "CMYK" else "png"
        image.save(tmp_path / f"x.{suffix}")
        assert classify(image).top == classify(tmp_path / f"x.{suffix}").top, mode


def test_one_that_cannot_be_read(classify: Classifier, dataset: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"x")
    good = dataset / "bag" / "0.png"
    found = classify([good, broken, good])
    assert [row.error is None for row in found] == [True, False, True]
    assert found[1].image == str(broken)
    assert found[0] == found[2]
    with pytest.raises(DataError, match=r"broken\.jpg: not a readable image"):
        classify(broken)
    with pytest.raises(DataError, match=r"^image 0: not a readable image"):
        classify(b"x")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, "NoneType is not an image"),
        (3, "int is not an image"),
        (np.zeros((3, 8, 8), np.uint8), r"give \(H, W, 3\) uint8 RGB"),
        (np.zeros((8, 8, 3), np.float32), r"give \(H, W, 3\) uint8 RGB"),
        (np.zeros((8, 8), np.uint8), r"give \(H, W, 3\) uint8 RGB"),
        (np.zeros((0, 8, 3), np.uint8), r"give \(H, W, 3\) uint8 RGB"),
    ],
)
def test_what_is_no_image_is_said(classify: Classifier, image: object, reason: str) -> None:
    with pytest.raises(DataError, match=f"image 0: .*{reason}"):
        classify(image)  # type: ignore[call-overload]
    with pytest.raises(DataError, match=f"image 1: .*{reason}"):
        classify([b"", image])  # type: ignore[list-item]


def test_it_is_opened_once(artifacts: dict[str, Path], dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = artifact_module.hash_file
    monkeypatch.setattr(artifact_module, "hash_file", lambda path: opened.append(path) or real(path))  # type: ignore[func-returns-value]
    with nestforge.load(artifacts["fp32"]) as classify:
        first = len(opened)
        for _ in range(3):
            classify(dataset / "bag" / "0.png")
    assert first == len(opened) == len(classify.artifact.manifest.outputs)


def test_threads_get_their_own_predictions(artifacts: dict[str, Path], dataset: Path) -> None:
    paths = sorted(dataset.rglob("*.png"))
    expected = {path: row.top for path, row in zip(paths, nestforge.load(artifacts["int8"])(paths), strict=True)}
    with (
        nestforge.load(artifacts["int8"], streams=2, threads=2) as classify,
        ThreadPoolExecutor(8) as pool,
    ):
        asked = paths * 5
        assert list(pool.map(lambda path: classify(path).top, asked)) == [expected[path] for path in asked]


def test_closing_waits_for_calls_that_run_and_refuses_later_ones(
    artifacts: dict[str, Path], dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dataset / "bag" / "0.png"
    classify = nestforge.load(artifacts["fp32"])
    begun, go_on = threading.Event(), threading.Event()

    def read_slowly(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return load_image(*arguments)

    monkeypatch.setattr("nestforge.inference.classifier.load_image", read_slowly)
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(classify, [path] * 5)
        assert begun.wait(30)
        closing = pool.submit(classify.close)
        time.sleep(0.1)
        assert not closing.done()
        go_on.set()
        assert len(call.result(30)) == 5
        closing.result(30)
    classify.close()
    with pytest.raises(NestForgeError, match="is closed; load it again"):
        classify(path)


def test_a_stream_that_is_left_neither_hangs_nor_goes_on(artifacts: dict[str, Path], dataset: Path) -> None:
    path = dataset / "bag" / "0.png"
    with nestforge.load(artifacts["fp32"]) as classify:
        stream = classify.classify(itertools.repeat(path))
        next(stream)
    with pytest.raises(NestForgeError, match="is closed; load it again"):
        list(stream)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pipeline")]


def test_settings(artifacts: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    with nestforge.load(artifacts["fp32"], batch=3, streams=2, threads=2) as classify:
        assert (classify.parallelism.batch, classify.parallelism.streams, classify.parallelism.threads) == (3, 2, 2)
        assert len(classify([dataset / "bag" / "0.png"] * 7)) == 7
        with pytest.raises(NestForgeError, match="top 0 is outside"):
            classify(dataset / "bag" / "0.png", top=0)
    for options in ({"batch": 0}, {"streams": -1}, {"threads": 5000}):
        with pytest.raises(NestForgeError, match="is outside 1 to 4096"):
            nestforge.load(artifacts["fp32"], **options)  # type: ignore[arg-type]
    copy = Path(shutil.copytree(artifacts["fp32"], tmp_path / "copy"))
    with (copy / "model.onnx").open("ab") as file:
        file.write(io.BytesIO(b"\0").getvalue())
    with pytest.raises(NestForgeError, match="is not the file that was built"):
        nestforge.load(copy)
