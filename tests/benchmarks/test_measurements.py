"""The scripts' own steps on a small network: what they build, compare and count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.accuracy import preprocessing
from benchmarks.accuracy.quantizers import CHANGES, run_group, summarize
from benchmarks.accuracy.reference import Reference, make_folds
from benchmarks.common.images import LazySamples, generate_photos, link_repeatedly
from benchmarks.common.models import build_seeded, write_float32
from benchmarks.common.peers import quantize_with_onnxruntime
from benchmarks.common.splits import link_halves
from benchmarks.common.stages import time_stages
from benchmarks.speed.contenders import Task, compare
from benchmarks.speed.scale import summarize_ray
from nestforge.artifact.artifact import open_artifact
from nestforge.compile.source import load_source
from nestforge.config import parse_config
from nestforge.data.imagefolder import list_images
from nestforge.data.preprocess import make_reference_preprocess
from nestforge.engines import get_engine
from nestforge.engines.base import Settings
from nestforge.errors import DataError
from nestforge.progress import no_progress

SIZE = 56
NETWORK = "resnest14_slim"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What contenders are given: artifacts, the float32 graph, ONNX Runtime's int8."""
    folder = tmp_path_factory.mktemp("models")
    photos = generate_photos(folder / "photos", 4)
    for dtype in ("fp32", "int8"):
        build_seeded(NETWORK, folder / dtype, photos=photos, count=4, dtype=dtype)
    given = write_float32(NETWORK, folder / "given.onnx")
    samples = LazySamples(list_images(photos).paths, make_reference_preprocess(SIZE))
    assert len(samples) == len(list(samples)) == 4
    quantize_with_onnxruntime(given, samples, folder / "ort.onnx")
    return folder


def test_peers_are_given_the_same_network(models: Path) -> None:
    given = onnx.load(models / "given.onnx")
    assert "BatchNormalization" not in {node.op_type for node in given.graph.node}
    images = np.random.default_rng(0).standard_normal((2, 3, SIZE, SIZE), np.float32)
    expected = open_artifact(models / "fp32").open_session(Settings(batch=2)).run(images)
    found = (
        get_engine("onnxruntime").open(models / "given.onnx", Settings(batch=2, height=SIZE, width=SIZE)).run(images)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_contenders_are_measured_or_say_why_not(models: Path) -> None:
    names = ["nestforge, int8", "ONNX Runtime static, int8", "OpenVINO, fp32", "OpenVINO + NNCF as documented, int8"]
    found = compare(names, Task(NETWORK, models), (1, 1, 1), 2)
    assert list(found) == names
    failure = found.pop("OpenVINO + NNCF as documented, int8")
    assert str(failure).startswith("EngineError: ")
    for throughputs in found.values():
        assert isinstance(throughputs, list)
        assert len(throughputs) == 2
        assert min(throughputs) > 0


def test_halves_share_no_image_and_have_every_class(dataset: Path, tmp_path: Path) -> None:
    images = list_images(dataset)
    halves = link_halves(images, tmp_path)
    assert sorted([*halves[0], *halves[1]]) == list(range(len(images.paths)))
    for side, half in enumerate(halves):
        linked = list_images(tmp_path / f"half{side}")
        assert [path.resolve() for path in linked.paths] == [images.paths[index].resolve() for index in half]
        assert set(linked.folders) == set(images.folders)


def test_links_are_as_many_as_needed(dataset: Path, tmp_path: Path) -> None:
    linked = list_images(link_repeatedly(dataset, tmp_path / "links", 90))
    sources = [path.resolve() for path in linked.paths]
    assert len(sources) == 90
    assert {sources.count(path) for path in sources} == {2, 3}


def test_stages_are_timed_per_item_on_any_number_of_threads() -> None:
    seen: list[int] = []
    found = time_stages({"a": (seen.append, range(7)), "b": (str, [1])}, threads=(1, 3), rounds=2)
    assert sorted(seen) == sorted([*range(7)] * 4)
    assert list(found) == ["a", "b"]
    assert all(len(times_ms) == 2 and min(times_ms) > 0 for times_ms in found.values())


def test_what_ray_costs() -> None:
    seconds = {
        "one process, 1 thread": [(1.0, 10.0)] * 3,
        "one process, 2 threads": [(0.5, 5.0)] * 3,
        "ray, 1 worker": [(3.0, 12.0)] * 3,
        "ray, 2 workers": [(2.0, 8.0)] * 3,
    }
    found = summarize_ray(seconds, few=10, many=100)
    assert found["ms_per_image"]["ray, 1 worker"] == {"total": [120.0] * 3, "marginal": [100.0] * 3}
    assert found["ratios"]["total"]["one_worker_by_one_thread"] == (1.2, 1.2, 1.2)
    assert found["ratios"]["marginal"]["one_worker_by_two_workers"] == (1.5, 1.5, 1.5)


@pytest.fixture(scope="module")
def build_file(slim_config: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return {**slim_config, "output": str(tmp_path_factory.mktemp("output"))}


def test_quantizers_are_counted_over_both_halves(
    build_file: dict[str, object], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "halves").mkdir()
    folds = make_folds(parse_config(build_file, source="t"), dataset, halves=True, folder=tmp_path / "halves")
    assert [len(fold.paths) for fold in folds] == [20, 20]
    assert not set(folds[0].paths) & set(folds[1].paths)
    [row] = summarize([outcome for fold in folds for outcome in run_group("float32", fold)])
    assert (row["images"], row["changed_predictions"], row["paired"].difference) == (40, 0, 0.0)
    rows = summarize([outcome for fold in folds for outcome in run_group(CHANGES, fold)])
    assert [row["changed"] for row in rows][:2] == ["the default", "the default, exact sums"]
    assert {(row["contender"], row["images"], row["calibration"]) for row in rows} == {("nestforge", 40, 20)}
    for row in rows:
        assert 0 <= row["changed_predictions"] <= 40
        assert row["paired"].lost + row["paired"].gained <= row["changed_predictions"]


def test_what_float32_predicts_is_kept_for_the_same_images_and_model_alone(
    build_file: dict[str, object], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = parse_config(build_file, source="t")
    [fold] = make_folds(config, dataset, halves=False, folder=tmp_path)
    first = Reference(fold, load_source(config, no_progress)).expected
    kept = sorted((tmp_path / "nestforge-accuracy").iterdir())
    assert len(kept) == 2
    np.testing.assert_array_equal(Reference(fold, load_source(config, no_progress)).expected, first)
    assert sorted((tmp_path / "nestforge-accuracy").iterdir()) == kept
    other = parse_config(build_file | {"model": {"name": NETWORK, "seed": 1}}, source="t")
    assert (Reference(fold, load_source(other, no_progress)).expected != first).any()
    assert len(list((tmp_path / "nestforge-accuracy").iterdir())) == 3  # the same images, another model


def test_preprocessing_is_compared_with_the_published(artifacts: dict[str, Path], dataset: Path) -> None:
    rows = preprocessing.measure(open_artifact(artifacts["fp32"]), dataset, limit=None)
    assert rows[0].change == "as published"
    assert (rows[0].changed_predictions, rows[0].paired) == (0, None)
    assert {row.images for row in rows} == {40}
    same = next(row for row in rows if row.change == "crop: ECenterCrop, S/(S+32)")
    assert (same.changed_predictions, same.correct) == (0, rows[0].correct)  # what this artifact does by itself
    assert any(row.changed_predictions for row in rows[1:])


def test_an_unreadable_image_ends_a_comparison(artifacts: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "0.png").write_bytes((dataset / "bag" / "0.png").read_bytes())
    (tmp_path / "bag" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1\.png.*; take it out of the folder"):
        preprocessing.measure(open_artifact(artifacts["fp32"]), tmp_path, limit=None)
