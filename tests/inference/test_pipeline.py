"""The pipeline: order kept, memory bounded, the same answers however it is arranged."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nestforge.artifact.artifact import open_artifact
from nestforge.data.imagefolder import list_images
from nestforge.data.loader import Unreadable
from nestforge.engines.base import Images, Logits, Parallelism, Settings
from nestforge.engines.fake import FakeEngine
from nestforge.errors import DataError, EngineError
from nestforge.inference.classifier import Classifier
from nestforge.inference.pipeline import Outputs, choose_parallelism, run_in_order
from nestforge.inference.topk import TopK

PATHS = [Path(str(index)) for index in range(50)]


def load(path: Path) -> np.ndarray:
    """An image that is its own number; every seventh is broken, and some are slow."""
    number = int(path.name)
    if number % 7 == 3:
        raise DataError(f"{path}: broken")
    time.sleep(0.002 * (number % 3))
    return np.full((3, 4, 4), number, np.float32)


def answer(images_nchw: Images) -> Logits:
    return images_nchw.mean((2, 3))


@pytest.mark.parametrize(("batch", "streams", "workers"), [(1, 1, 1), (1, 4, 4), (4, 2, 3), (8, 1, 5)])
def test_every_image_once_and_in_order(batch: int, streams: int, workers: int) -> None:
    session = FakeEngine(answer).open(b"", Settings(batch=batch, height=4, width=4, streams=streams))
    items = list(run_in_order(session, PATHS, load, workers=workers))
    good = [
        (index, row[0])
        for item in items
        if isinstance(item, Outputs)
        for index, row in zip(item.indices, item.logits, strict=True)
    ]
    assert good == [(index, index) for index in range(50) if index % 7 != 3]
    assert [item.index for item in items if isinstance(item, Unreadable)] == list(range(3, 50, 7))


def test_reader_that_stops_holds_the_pipeline() -> None:
    loaded: list[Path] = []
    session = FakeEngine(answer).open(b"", Settings(batch=2, height=4, width=4))

    def count(path: Path) -> np.ndarray:
        loaded.append(path)
        return np.zeros((3, 4, 4), np.float32)

    items = run_in_order(session, PATHS * 100, count, workers=3)
    next(items)
    time.sleep(0.1)
    assert len(loaded) <= 2 * 3 * 2
    items.close()  # type: ignore[attr-defined]
    assert len(loaded) <= 2 * 3 * 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pipeline")]


def test_engine_that_fails_twice_ends_the_run() -> None:
    def fail(images_nchw: Images) -> Logits:
        raise EngineError("no")

    session = FakeEngine(fail).open(b"", Settings(height=4, width=4))
    with pytest.warns(UserWarning, match="run once more"), pytest.raises(EngineError, match="no"):
        list(run_in_order(session, PATHS, lambda path: np.zeros((3, 4, 4), np.float32), workers=2))


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_predictions_do_not_depend_on_the_parallelism(dtype: str, artifacts: dict[str, Path], dataset: Path) -> None:
    artifact = open_artifact(artifacts[dtype])
    paths = list_images(dataset).paths
    found = [
        list(Classifier(artifact, parallelism).classify(paths))
        for parallelism in (
            choose_parallelism(artifact, len(paths)),
            Parallelism(batch=1, streams=1, threads=1),
            Parallelism(batch=3, streams=2, threads=2),
            Parallelism(batch=8, streams=1, threads=2),
        )
    ]
    assert not any(isinstance(item, Unreadable) for items in found for item in items)
    classes = [[item.classes for item in items if isinstance(item, TopK)] for items in found]
    assert classes[0] == classes[1] == classes[2] == classes[3]
    if dtype == "int8":
        assert found[0] == found[1] == found[2] == found[3]


def test_parallelism_follows_cores_and_images(artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = open_artifact(artifacts["fp32"])
    monkeypatch.setattr("nestforge.inference.pipeline.count_available_cores", lambda: 8)
    one, few, many, unknown = (choose_parallelism(artifact, images) for images in (1, 5, 1000, None))
    assert one == Parallelism(batch=1, streams=1, threads=8)
    assert few == Parallelism(batch=1, streams=5, threads=8)
    assert many == unknown == Parallelism(batch=2, streams=8, threads=8)
    assert choose_parallelism(artifact, 1000, threads=3) == Parallelism(batch=2, streams=3, threads=3)
    fixed = artifact.manifest.model_copy(update={"fixed_batch": 3})
    assert choose_parallelism(dataclasses.replace(artifact, manifest=fixed), 1).batch == 3
