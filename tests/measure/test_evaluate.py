"""Counts equal an independent count; unreadable images are listed; both artifacts see the same images."""

from __future__ import annotations

import importlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from nestforge.artifact.artifact import open_artifact
from nestforge.builder import build
from nestforge.config import parse_config
from nestforge.data.imagefolder import list_images
from nestforge.data.preprocess import load_image, make_reference_preprocess, normalize_images, read_image
from nestforge.data.sources import open_source
from nestforge.engines.base import Images, Kernel, Logits, Parallelism, Session
from nestforge.errors import ArtifactError, ConfigError, DataError, EngineError
from nestforge.inference.classifier import Classifier
from nestforge.inference.pipeline import Outputs, run_in_order
from nestforge.measure.evaluate import evaluate, fingerprint_evaluation
from nestforge.scale import run as run_module
from nestforge.scale.predict import predict
from nestforge.scale.rows import Row
from tests.support.data import CLASSES

module = importlib.import_module("nestforge.measure.evaluate")


def count_by_hand(artifact: Path, dataset: Path) -> tuple[int, int, dict[Path, np.ndarray]]:
    """One image at a time, straight through ONNX Runtime."""
    session = onnxruntime.InferenceSession(artifact / "model.onnx")
    preprocess = make_reference_preprocess(56)
    top1 = top5 = 0
    logits = {}
    for index, name in enumerate(CLASSES):
        for path in sorted((dataset / name).iterdir()):
            images = normalize_images(read_image(path, preprocess)[None], preprocess)
            logits[path] = session.run(None, {"input": images})[0][0]
            order = np.argsort(-logits[path])
            top1 += order[0] == index
            top5 += index in order[:5]
    return top1, top5, logits


def test_counts_equal_an_independent_count(artifacts: dict[str, Path], dataset: Path) -> None:
    result = evaluate(artifacts["fp32"], dataset)
    top1, top5, _ = count_by_hand(artifacts["fp32"], dataset)
    assert (result.images, result.top1.correct, result.top5.correct) == (40, top1, top5)
    assert 0 < top5 < 40
    assert result.top1.rate == top1 / 40
    assert (result.unreadable, result.unreadable_images) == (0, ())
    assert result.vs is None


def test_paired(artifacts: dict[str, Path], dataset: Path) -> None:
    same = evaluate(artifacts["fp32"], dataset, vs=artifacts["fp32"]).vs
    assert same is not None
    assert (same.lost, same.gained, same.changed_predictions, same.mcnemar_p, same.difference) == (0, 0, 0, 1, 0)
    result = evaluate(artifacts["int8"], dataset, vs=artifacts["fp32"])
    assert result.vs is not None
    assert result.vs.difference == pytest.approx((result.top1.correct - result.vs.top1.correct) / 40)
    assert result.vs.top1.correct == evaluate(artifacts["fp32"], dataset).top1.correct


def test_limit_is_balanced_and_repeatable(artifacts: dict[str, Path], dataset: Path) -> None:
    first, again = (evaluate(artifacts["fp32"], dataset, limit=20) for _ in range(2))
    assert first.images == 20
    assert first == again
    with pytest.raises(ConfigError, match="limit 0 is outside"):
        evaluate(artifacts["fp32"], dataset, limit=0)


def test_unreadable_images_are_listed_not_counted(artifacts: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    (copy / "coat" / "1.png").write_bytes(b"gone")
    (copy / "bag" / "9.png").write_bytes(b"")
    result = evaluate(artifacts["int8"], copy, vs=artifacts["fp32"])
    assert result.images == 39
    assert sorted(Path(item.image).name for item in result.unreadable_images) == ["1.png", "9.png"]
    assert result.unreadable == 2
    for path in copy.rglob("*.png"):
        path.write_bytes(b"gone")
    with pytest.raises(DataError, match="none of 41 images"):
        evaluate(artifacts["fp32"], copy)


def test_refusals(artifacts: dict[str, Path], dataset: Path, slim_config: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a nestforge artifact"):
        evaluate(tmp_path, dataset)
    with pytest.raises(DataError, match="no dataset folder"):
        evaluate(artifacts["fp32"], tmp_path / "none")
    with pytest.raises(DataError, match="no images"):
        evaluate(artifacts["fp32"], tmp_path)
    (tmp_path / "sock").mkdir()
    shutil.copy(dataset / "bag" / "0.png", tmp_path / "sock")
    with pytest.raises(DataError, match=r"folder 'sock' is not one of the labels"):
        evaluate(artifacts["fp32"], tmp_path)
    unlabelled = {key: value for key, value in slim_config.items() if key != "labels"}
    output = tmp_path / "unlabelled"
    build(parse_config({**unlabelled, "dtype": "fp32", "output": str(output)}, source="test"))
    with pytest.raises(ConfigError, match="different labels"):
        evaluate(artifacts["fp32"], dataset, vs=output)


def test_predict(artifacts: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"x")
    paths = [dataset / "boot" / "2.png", broken, dataset / "bag" / "0.png"]
    found = predict(artifacts["fp32"], paths, top=3)
    assert [row.image for row in found] == list(map(str, paths))
    assert (len(found), found.images, found.unreadable) == (3, 2, 1)
    assert found[1].error is not None
    assert found[1].top == ()
    _, _, logits = count_by_hand(artifacts["fp32"], dataset)
    for row in (found[0], found[2]):
        values = logits[Path(row.image)].astype(np.float64)
        probabilities = np.exp(values) / np.exp(values).sum()
        order = np.argsort(-values)[:3]
        assert [entry.index for entry in row.top] == order.tolist()
        assert [entry.probability for entry in row.top] == pytest.approx(probabilities[order], rel=1e-3)
        assert [entry.label for entry in row.top] == [CLASSES[index] for index in order]
    with pytest.raises(DataError, match=r"broken\.jpg"):
        predict(artifacts["fp32"], [broken])
    with pytest.raises(DataError, match="no image given"):
        predict(artifacts["fp32"], [])


class StopError(Exception):
    pass


@pytest.mark.parametrize("vs", [None, "int8"])
def test_an_interrupted_evaluation_goes_on(
    vs: str | None, artifacts: dict[str, Path], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped again and again, it never classifies an image again that a journal holds."""
    monkeypatch.setenv("NESTFORGE_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "CHUNK_SECONDS", 0)
    (tmp_path / "data").mkdir()
    data = tmp_path / "data" / "set"
    shutil.copytree(dataset, data)
    (data / "coat" / "1.png").write_bytes(b"gone")
    other = artifacts[vs] if vs else None
    expected = evaluate(artifacts["fp32"], data, vs=other)
    real = run_module.classify_samples
    classified: list[tuple[str, str]] = []

    def stop_after_a_while(classifier: Classifier, *arguments: Any) -> Iterator[Row]:
        for count, row in enumerate(real(classifier, *arguments)):
            if count >= 17:
                raise StopError
            yield row
            if row.error is None:
                classified.append((classifier.artifact.folder.name, row.key))

    monkeypatch.setattr(run_module, "classify_samples", stop_after_a_while)
    runs = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="continuing an interrupted evaluation")
        while True:
            runs += 1
            try:
                found = evaluate(artifacts["fp32"], data, vs=other)
                break
            except StopError:
                assert list((tmp_path / "journals").iterdir())
    assert found == expected
    assert runs == (3 if vs is None else 5)
    assert len(set(classified)) == len(classified)
    assert not list((tmp_path / "journals").iterdir())


def test_another_artifact_or_a_changed_image_starts_again(
    artifacts: dict[str, Path], dataset: Path, tmp_path: Path
) -> None:
    data = tmp_path / "set"
    shutil.copytree(dataset, data)
    opened = {name: open_artifact(folder) for name, folder in artifacts.items()}

    def fingerprint(name: str = "fp32", limit: int | None = None) -> dict[str, Any] | None:
        return fingerprint_evaluation(opened[name], open_source(data, limit=limit))

    first = fingerprint()
    assert first is not None
    assert fingerprint() == first
    assert fingerprint("int8") != first
    list_images(data).paths[5].chmod(0o600)
    second = fingerprint()
    assert second != first
    assert fingerprint(limit=39) != second


def test_an_engine_that_fails_once_is_asked_again(artifacts: dict[str, Path], dataset: Path) -> None:
    opened = open_artifact(artifacts["fp32"])
    paths = list_images(dataset).paths

    def classify(session: Session) -> list[list[float]]:
        preprocess, classes = opened.manifest.preprocess, opened.manifest.classes
        items = run_in_order(session, paths, lambda path: load_image(path, preprocess), workers=1, classes=classes)
        return [item.logits.tolist() for item in items if isinstance(item, Outputs)]

    parallelism = Parallelism(batch=8)
    expected = classify(opened.open_session(parallelism))
    for fault in FAULTS:
        session = FaultySession(opened.open_session(parallelism), fault, times=1)
        with pytest.warns(UserWarning, match="a batch of 8 images failed and is run once more"):
            assert classify(session) == expected
        with (
            pytest.warns(UserWarning, match="run once more"),
            pytest.raises(EngineError, match=r"broken|not finite|scores for 8 images of 10 classes"),
        ):
            classify(FaultySession(opened.open_session(parallelism), fault, times=2))


def fail(scores: Logits) -> Logits:
    raise EngineError("broken")


def spoil(scores: Logits) -> Logits:
    return np.where(scores == scores.max(), np.nan, scores)


def cut(scores: Logits) -> Logits:
    return scores[:, :-1]


FAULTS = (fail, spoil, cut)


class FaultySession:
    """Its third batch goes wrong, for `times` tries."""

    def __init__(self, session: Session, fault: Callable[[Logits], Logits], *, times: int) -> None:
        self.settings = session.settings
        self._session, self._fault = session, fault
        self._calls, self._wrong = 0, range(3, 3 + times)

    def run(self, images_nchw: Images) -> Logits:
        self._calls += 1
        scores = self._session.run(images_nchw)
        return self._fault(scores) if self._calls in self._wrong else scores

    def run_all(self, images_nchw: Images) -> dict[str, Logits]:
        return self._session.run_all(images_nchw)

    def list_kernels(self) -> list[Kernel]:
        return []
