"""A batch that is fixed inside a graph is found at build, and everything works with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import nestforge
from nestforge.artifact.artifact import inspect, open_artifact
from nestforge.engines.base import Parallelism
from nestforge.errors import EngineError, ModelError
from nestforge.measure.benchmark import bench
from nestforge.measure.evaluate import evaluate
from nestforge.measure.tune import tune
from tests.support.data import CLASSES
from tests.support.onnx_models import (
    build_artifact,
    make_classifier,
    make_images,
    make_model,
    make_weights,
    run_artifact,
    run_reference,
    save,
)

SHUFFLE = """wide = Constant<value = int64[5] {1, 2, 4, 16, 16}>()  five = Reshape(r0, wide)
    turned = Transpose<perm = [0, 2, 1, 3, 4]>(five)  back = Constant<value = int64[4] {1, 8, 16, 16}>()
    s = Reshape(turned, back)  """
FIXED = {
    "flatten by a reshape": {"flatten": "to = Constant<value = int64[2] {1, 8}>()  f = Reshape(p, to)  "},
    "flatten to one row": {"flatten": "to = Constant<value = int64[2] {1, -1}>()  f = Reshape(p, to)  "},
    "channel shuffle": {
        "before": "c0 = Conv<pads = [1,1,1,1]>(x, w0, b)  r0 = Relu(c0)  " + SHUFFLE,
        "image": "s",
        "weights": {**make_weights(8), "w0": make_weights()["w"]},
    },
    "a token for one image": {
        "before": "c0 = Conv<pads = [1,1,1,1]>(x, w0, b)  t = Concat<axis = 1>(c0, token)  ",
        "image": "t",
        "weights": {**make_weights(9), "w0": make_weights()["w"], "token": np.ones((1, 1, 16, 16), np.float32)},
    },
    "images that are mixed": {"scores": "l", "after": "m = ReduceMean<axes = [0]>(l)  y = Sub(l, m)  "},
    "norms of the batch": {
        "scores": "l",
        "after": "lo = ReduceMin<axes = [0]>(l)  hi = ReduceMax<axes = [0]>(l)  n = Add(l, hi)  y = Sub(n, lo)  ",
    },
}  # fmt: skip


def build_fixed(name: str, folder: Path, **changes: Any) -> tuple[onnx.ModelProto, Path]:
    proto = make_classifier(**FIXED[name])
    return proto, build_artifact(save(proto, folder / "m.onnx"), folder / "a", **changes)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", FIXED)
def test_found_by_running_two_images(name: str, engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing in the file says so: its input has a batch by name. OpenVINO alone would mend some of them."""
    proto, artifact = build_fixed(name, tmp_path, engine=engine)
    assert inspect(artifact).fixed_batch == 1
    assert capfd.readouterr() == ("", "")  # what fails meanwhile is nobody's business
    images = make_images(3)
    expected = np.concatenate([run_reference(proto, {"x": image[None]}, "y") for image in images])
    np.testing.assert_allclose(run_artifact(artifact, images), expected, atol=1e-4)
    with pytest.raises(EngineError, match="has a fixed batch of 1; use --batch 1"):
        open_artifact(artifact).open_session(Parallelism.make(batch=2))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_any_batch_stays_any(engine: str, tmp_path: Path) -> None:
    artifact = build_artifact(save(make_classifier(), tmp_path / "m.onnx"), tmp_path / "a", engine=engine)
    assert inspect(artifact).fixed_batch is None


def test_a_batch_of_four_inside(tmp_path: Path) -> None:
    proto = make_classifier(flatten="to = Constant<value = int64[2] {4, 8}>()  f = Reshape(p, to)  ")
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a")
    assert (inspect(artifact).fixed_batch, inspect(artifact).interface.output_shape) == (4, (4, 10))
    images = make_images(4)
    np.testing.assert_allclose(run_artifact(artifact, images), run_reference(proto, {"x": images}, "y"), atol=1e-4)


def test_a_declared_batch_is_kept(tmp_path: Path) -> None:
    proto = make_classifier(takes="float[3,3,H,W] x")
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a")
    assert inspect(artifact).fixed_batch == 3
    images = make_images(3)
    np.testing.assert_allclose(run_artifact(artifact, images), run_reference(proto, {"x": images}, "y"), atol=1e-4)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text("".join(f"{name}\n" for name in CLASSES))
    return path


@pytest.fixture(scope="module", params=["flatten by a reshape", "channel shuffle"])
def fixed(
    request: pytest.FixtureRequest, calibration_images: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An int8 artifact of a model with a batch of 1 inside."""
    folder = tmp_path_factory.mktemp("fixed")
    calibration = {"data": str(calibration_images), "count": 10}
    _, artifact = build_fixed(request.param, folder, dtype="int8", calibration=calibration, labels=str(labels))
    assert inspect(artifact).fixed_batch == 1
    return artifact


def test_predict_and_evaluate(fixed: Path, dataset: Path) -> None:
    files = sorted(dataset.rglob("*.png"))[:5]
    with nestforge.load(fixed) as classify:
        together = [prediction.top[0] for prediction in classify(files)]
        apart = [classify(file).top[0] for file in files]
    assert together == apart
    assert evaluate(fixed, dataset).images == 40


def test_bench_and_tune(fixed: Path) -> None:
    assert bench(fixed, seconds=0.3).parallelism.batch == 1
    tuning = tune(fixed, budget_seconds=5)
    assert {candidate.parallelism.batch for candidate in (tuning.latency, tuning.throughput)} == {1}


def test_sensitivity(fixed: Path) -> None:
    result = nestforge.sensitivity(fixed, images=3)
    assert len(result.layers) == inspect(fixed).quantization.weighted_layers
    assert result.images == 3


def test_scores_that_change_are_refused(tmp_path: Path) -> None:
    """A model exported for training drops activations at random."""
    noise = make_classifier(scores="l", after="n = RandomNormalLike(l)  y = Add(l, n)")
    with pytest.raises(ModelError, match=r"other scores for the same image each time; .* \(model\.eval\(\)\)"):
        build_artifact(save(noise, tmp_path / "m.onnx"), tmp_path / "a")


def test_scores_that_only_depend_on_the_size_are_no_reason(tmp_path: Path) -> None:
    """The same scores for every image say nothing of a batch, and are not an error here."""
    proto = make_model(
        "z = Constant<value = float {0.0}>()  q = Mul(x, z)  c = Conv<pads = [1,1,1,1]>(q, w, b)  "
        "p = GlobalAveragePool(c)  f = Flatten(p)  y = Gemm<transB = 1>(f, fw, fb)"
    )
    assert inspect(build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a")).fixed_batch is None
