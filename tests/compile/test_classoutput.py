"""Which output classifies: the only one that can, the one that fits the labels, or the one the build file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from nestforge.artifact.artifact import inspect
from nestforge.config import parse_config
from nestforge.errors import ConfigError, DataError, ModelError
from tests.support.onnx_models import (
    CONVOLUTION,
    build_artifact,
    make_classifier,
    make_images,
    make_model,
    run_artifact,
    run_reference,
    save,
)

FEATURES = {"gives": "float[N,8] f, float[N,10] y"}  # of which the first has two dimensions too
MAPS = ', "ai.onnx.ml" : 3'
NUMBERS = "{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}".replace("{", "[").replace("}", "]")


@pytest.fixture
def ten_labels(tmp_path: Path) -> str:
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"class {index}\n" for index in range(10)))
    return str(path)


def build_one(proto: onnx.ModelProto, folder: Path, **changes: Any) -> Path:
    return build_artifact(save(proto, folder / "m.onnx"), folder / "a", **changes)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_labels_tell_scores_from_features(
    dtype: str, ten_labels: str, calibration_images: Path, tmp_path: Path
) -> None:
    """Without a word, the features before the logits were the classes."""
    proto = make_classifier(**FEATURES)
    calibration = {"data": str(calibration_images), "count": 10}
    artifact = build_one(proto, tmp_path, labels=ten_labels, dtype=dtype, calibration=calibration)
    manifest = inspect(artifact)
    assert (manifest.classes, manifest.interface.output, manifest.interface.unused_outputs) == (10, "y", ("f",))
    built = onnx.load(artifact / "model.onnx")
    assert [value.name for value in built.graph.output] == ["y"]
    images = make_images(2)
    expected = run_reference(proto, {"x": images}, "y")
    tolerance = (1e-4 if dtype == "fp32" else 0.2) * np.abs(expected).max()
    np.testing.assert_allclose(run_artifact(artifact, images), expected, atol=tolerance)


def test_without_labels_several_are_an_error(ten_labels: str, tmp_path: Path) -> None:
    listed = r"set model\.output to one of 'f' \(1, 8\) float32, 'y' \(1, 10\) float32$"
    with pytest.raises(ModelError, match=f"no labels tell which; {listed}"):
        build_one(make_classifier(**FEATURES), tmp_path)
    twice = make_classifier(scores="l", after="y = Softmax(l)", gives="float[N,10] l, float[N,10] y")
    with pytest.raises(ModelError, match="10 labels fit none of them, or more than one"):
        build_one(twice, tmp_path, labels=ten_labels)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["f", "y", "l", "r_pooled"])
def test_the_build_file_names_any_value(name: str, tmp_path: Path) -> None:
    """Also one inside the graph: the logits before a softmax."""
    after = "y = Softmax(l)  r_pooled = GlobalMaxPool(r)"
    proto = make_classifier(scores="l", after=after, gives="float[N,8] f, float[N,10] y, float[N,8,1,1] r_pooled")
    artifact = build_one(proto, tmp_path, model={"output": name})
    manifest = inspect(artifact)
    assert manifest.classes == (8 if name in ("f", "r_pooled") else 10)
    assert manifest.scores == ("probabilities" if name == "y" else "logits")
    images = make_images(2)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("l", 1, None))
    expected = run_reference(proto, {"x": images}, name).reshape(2, -1)
    np.testing.assert_allclose(run_artifact(artifact, images), expected, atol=1e-4)


def test_names_that_are_no_scores(ten_labels: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.output 'nothing' is not a value of the model; .* are 'f', 'y'"):
        build_one(make_classifier(**FEATURES), tmp_path, model={"output": "nothing"})
    with pytest.raises(ModelError, match=r"output 'r' \(1, 8, 16, 16\) float32: not \(B, classes\)"):
        build_one(make_classifier(**FEATURES), tmp_path, model={"output": "r"})
    with pytest.raises(ModelError, match="'x' is not a value"):
        build_one(make_classifier(**FEATURES), tmp_path, model={"output": "x"})
    with pytest.raises(DataError, match="has 10 lines but the model has 8 classes"):
        build_one(make_classifier(**FEATURES), tmp_path, model={"output": "f"}, labels=ten_labels)
    with pytest.raises(ConfigError, match="'output' goes with 'onnx'"):
        parse_config({"model": {"name": "resnest14_slim", "seed": 0, "output": "y"}, "output": "a"}, source="test")


def test_other_outputs_do_not_matter_where_one_fits(tmp_path: Path) -> None:
    """Feature maps, the best class, the image itself: none of them can be scores by class."""
    gives = "float[N,8,H,W] r, int64[N] best, float[N,10] y, float[N,3,H,W] x"
    proto = make_classifier(after="best = ArgMax<axis = 1, keepdims = 0>(y)", gives=gives)
    artifact = build_one(proto, tmp_path)
    assert inspect(artifact).interface.unused_outputs == ("r", "best", "x")
    images = make_images(2)
    np.testing.assert_allclose(run_artifact(artifact, images), run_reference(proto, {"x": images}, "y"), atol=1e-4)


REFUSED = {
    "the best class": ("y = ArgMax<axis = 1, keepdims = 0>(l)", "int64[N] y", r"'y' \(1\) int64", "l"),
    "the best class as a float": (
        "m = ArgMax<axis = 1>(l)  y = Cast<to = 1>(m)",
        "float[N,1] y",
        r"'y' \(1, 1\) float32",
        "l",
    ),
    "the best five": (
        "k = Constant<value = int64[1] {5}>()  y, i = TopK(l, k)",
        "float[N,5] y, int64[N,5] i",
        r"outputs 'y' \(1, 5\) float32, 'i' \(1, 5\) int64",
        "l",
    ),
    "maps of sklearn-onnx": (
        f"best = ArgMax<axis = 1, keepdims = 0>(l)  y = ai.onnx.ml.ZipMap<classlabels_int64s = {NUMBERS}>(l)",
        "int64[N] best, seq(map(int64, float)) y",
        r"'y' \(map from class to score\).*options=\{'zipmap': False\}",
        "l",
    ),
    "words": (
        "y = Cast<to = 8>(l)",
        "string[N,10] y",
        r"output 'y' \(1, 10\) string: not \(B, classes\) in float",
        None,
    ),
    "whole numbers": ("y = Cast<to = 7>(l)", "int64[N,10] y", r"'y' \(1, 10\) int64: not", None),
    "a sequence": ("y = SequenceConstruct(l)", "seq(float[N,10]) y", r"output 'y' \(sequence\): not", None),
    "a single number": ("y = ReduceMax(l)", "float[N,1] y", r"'y' \(1, 1\) float32: not", None),
    "sequences of scores": (
        "z = Constant<value = int64[1] {1}>()  u = Unsqueeze(l, z)  y = Concat<axis = 1>(u, u)",
        "float[N,2,10] y",
        r"'y' \(1, 2, 10\) float32: not",
        None,
    ),
}


@pytest.mark.parametrize("opset", [10, 17])
@pytest.mark.parametrize(("after", "gives", "message", "remedy"), REFUSED.values(), ids=REFUSED)
def test_other_outputs_are_refused_by_name(
    after: str, gives: str, message: str, remedy: str | None, opset: int, tmp_path: Path
) -> None:
    """Where they are made of scores, these are named; and naming those in the build file works."""
    if opset < 11 and ("Sequence" in after or "Unsqueeze" in after):
        pytest.skip("not in this opset")
    imports = MAPS if "ZipMap" in after else ""
    proto = make_classifier(scores="l", after=after, gives=gives, imports=imports, opset=opset)
    with pytest.raises(ModelError, match=message) as error:
        build_one(proto, tmp_path)
    assert not (tmp_path / "a").exists()
    assert (remedy is not None) == ("made of the scores" in str(error.value))
    if remedy:
        assert f"made of the scores {remedy!r}; set model.output to that name" in str(error.value)
        assert inspect(build_one(proto, tmp_path, model={"output": remedy})).classes == 10


UNKNOWN = """sizes = Shape(f)  begin = Constant<value = int64[1] {1}>()  end = Constant<value = int64[1] {2}>()
    width = Slice(sizes, begin, end)  all = Constant<value = int64[1] {-1}>()  t = Concat<axis = 0>(all, width)
    i = Cast<to = 7>(f)  z = ReduceMin<keepdims = 0>(i)  o = Mul(z, nothing)  w2 = Add(t, o)  y = Reshape(f, w2)"""


def test_a_size_that_only_a_run_shows(tmp_path: Path) -> None:
    """The last reshape is to a size computed from activations, which no inference can know."""
    body = CONVOLUTION.format(image="x") + "f = Flatten(p)  " + UNKNOWN
    weights = {"w": np.ones((8, 3, 3, 3), np.float32), "b": np.zeros(8, np.float32), "nothing": np.zeros(2, np.int64)}
    proto = make_model(body, gives="float[N,K] y", weights=weights)
    images = make_images(2)
    artifact = build_one(proto, tmp_path, engine="onnxruntime")
    assert inspect(artifact).classes == 8
    np.testing.assert_allclose(run_artifact(artifact, images), run_reference(proto, {"x": images}, "y"), atol=1e-4)
