"""Counts equal an independent count; unreadable images are listed; both artifacts see the same images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from nestforge.compile.build import build
from nestforge.config import parse_config
from nestforge.data.preprocess import make_reference_preprocess, normalize_images, read_image
from nestforge.errors import ArtifactError, ConfigError, DataError
from nestforge.measure.evaluate import evaluate
from nestforge.measure.predict import predict
from tests.conftest import CLASSES


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
    assert result.unreadable == ()
    assert result.vs is None


def test_paired(artifacts: dict[str, Path], dataset: Path) -> None:
    same = evaluate(artifacts["fp32"], dataset, vs=artifacts["fp32"]).vs
    assert same is not None
    assert (same.lost, same.gained, same.answers_changed, same.mcnemar_p, same.difference) == (0, 0, 0, 1, 0)
    result = evaluate(artifacts["int8"], dataset, vs=artifacts["fp32"])
    assert result.vs is not None
    assert result.vs.difference == pytest.approx((result.top1.correct - result.vs.top1.correct) / 40)
    assert result.vs.top1.correct == evaluate(artifacts["fp32"], dataset).top1.correct


def test_limit_is_balanced_and_repeatable(artifacts: dict[str, Path], dataset: Path) -> None:
    first, again = (evaluate(artifacts["fp32"], dataset, limit=20) for _ in range(2))
    assert first.images == 20
    assert first == again
    with pytest.raises(ConfigError, match="below 1"):
        evaluate(artifacts["fp32"], dataset, limit=0)


def test_unreadable_images_are_listed_not_counted(artifacts: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    (copy / "coat" / "1.png").write_bytes(b"gone")
    (copy / "bag" / "9.png").write_bytes(b"")
    result = evaluate(artifacts["int8"], copy, vs=artifacts["fp32"])
    assert result.images == 39
    assert sorted(item.image.name for item in result.unreadable) == ["1.png", "9.png"]
    for path in copy.rglob("*.png"):
        path.write_bytes(b"gone")
    with pytest.raises(DataError, match="not one of 41 images"):
        evaluate(artifacts["fp32"], copy)


def test_refusals(artifacts: dict[str, Path], dataset: Path, slim_config: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is no artifact"):
        evaluate(tmp_path, dataset)
    with pytest.raises(DataError, match="no dataset folder"):
        evaluate(artifacts["fp32"], tmp_path / "none")
    with pytest.raises(DataError, match="no images"):
        evaluate(artifacts["fp32"], tmp_path)
    (tmp_path / "sock").mkdir()
    shutil.copy(dataset / "bag" / "0.png", tmp_path / "sock")
    with pytest.raises(DataError, match=r"folder 'sock' is none of the artifact's labels"):
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
    assert [row.image for row in found] == paths
    assert found[1].error is not None
    assert found[1].top == ()
    _, _, logits = count_by_hand(artifacts["fp32"], dataset)
    for row in (found[0], found[2]):
        values = logits[row.image].astype(np.float64)
        probabilities = np.exp(values) / np.exp(values).sum()
        order = np.argsort(-values)[:3]
        assert [entry.index for entry in row.top] == order.tolist()
        assert [entry.probability for entry in row.top] == pytest.approx(probabilities[order], rel=1e-3)
        assert [entry.label for entry in row.top] == [CLASSES[index] for index in order]
    with pytest.raises(DataError, match=r"broken\.jpg"):
        predict(artifacts["fp32"], [broken])
    with pytest.raises(DataError, match="no image given"):
        predict(artifacts["fp32"], [])
