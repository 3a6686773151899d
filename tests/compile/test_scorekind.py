"""What scores are, and the probabilities that are shown: a model's own, where it gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import nestforge
from nestforge.artifact.artifact import inspect
from nestforge.compile.scorekind import recognise_values
from nestforge.data.preprocess import normalize_images
from tests.support.onnx_models import SIDE, build_artifact, make_classifier, run_reference, save

AXIS = "axis = Constant<value = int64[1] {1}>()  "
ONE = "one = Constant<value = float {1.0}>()  "
SMALL = "k = Constant<value = float {0.05}>()  s = Mul(l, k)  "  # so that no probability is 0 or 1
PROBABILITIES = {
    "Softmax": "y = Softmax<axis = 1>(s)",
    "Softmax before a reshape": (
        "t = Softmax<axis = -1>(s)  all = Constant<value = int64[2] {-1, 10}>()  y = Reshape(t, all)"
    ),
    "Exp, ReduceSum, Div": AXIS + "e = Exp(s)  t = ReduceSum(e, axis)  y = Div(e, t)",
    "Exp, ReduceSum, Div of what is below the largest": (
        AXIS + "m = ReduceMax<axes = [1]>(s)  d = Sub(s, m)  e = Exp(d)  t = ReduceSum(e, axis)  y = Div(e, t)"
    ),
    "the mean of two Softmax": (
        "u = Softmax(s)  n = Neg(s)  v = Softmax(n)  t = Add(u, v)  "
        "half = Constant<value = float {0.5}>()  y = Mul(t, half)"
    ),
    "Softmax in 8 bits": (
        "scale = Constant<value = float {0.00390625}>()  zero = Constant<value = uint8 {0}>()  "
        "t = Softmax<axis = 1>(s)  q = QuantizeLinear(t, scale, zero)  y = DequantizeLinear(q, scale, zero)"
    ),
}
LOGARITHMS = {
    "LogSoftmax": "y = LogSoftmax<axis = 1>(s)",
    "Log of Softmax": "t = Softmax<axis = 1>(s)  y = Log(t)",
    "Exp, ReduceSum, Log, Sub": AXIS + "e = Exp(s)  t = ReduceSum(e, axis)  g = Log(t)  y = Sub(s, g)",
}
SIGMOIDS = {
    "Sigmoid": "y = Sigmoid(s)",
    "HardSigmoid": "y = HardSigmoid(s)",
    "Neg, Exp, Add, Div": ONE + "n = Neg(s)  e = Exp(n)  t = Add(e, one)  y = Div(one, t)",
    "Neg, Exp, Add, Reciprocal": ONE + "n = Neg(s)  e = Exp(n)  t = Add(one, e)  y = Reciprocal(t)",
}
LOGITS = {
    "logits": "y = Identity(s)",
    "positive logits": "y = Abs(s)",
    "a Div that is none": ONE + "y = Div(one, s)",
}
ENDS = {
    name: (after, kind)
    for kind, ends in (
        ("probabilities", PROBABILITIES),
        ("log_probabilities", LOGARITHMS),
        ("sigmoid", SIGMOIDS),
        ("logits", LOGITS),
    )
    for name, after in ends.items()
}


def make_probabilities(scores: npt.NDArray[np.float32], kind: str) -> npt.NDArray[np.float64]:
    exact = scores.astype(np.float64)
    if kind == "log_probabilities":
        return np.exp(exact)
    return np.exp(exact) / np.exp(exact).sum() if kind == "logits" else exact


@pytest.mark.parametrize(("after", "kind"), ENDS.values(), ids=ENDS)
def test_predict_prints_the_model_s_own_probabilities(after: str, kind: str, tmp_path: Path) -> None:
    proto = make_classifier(scores="l", after=SMALL + after)
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a")
    assert inspect(artifact).scores == kind
    pixels = np.random.default_rng(5).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "image.png")
    images = normalize_images(pixels, inspect(artifact).preprocess)
    expected = make_probabilities(run_reference(proto, {"x": images}, "y")[0], kind)
    with nestforge.load(artifact) as classify:
        top = classify(tmp_path / "image.png", top=10).top
    assert [best.index for best in top] == np.argsort(-expected, kind="stable").tolist()
    np.testing.assert_allclose([best.probability for best in top], np.sort(expected)[::-1], atol=1e-4)


@pytest.mark.parametrize("name", ["logits", "LogSoftmax", "Softmax", "Exp, ReduceSum, Div", "Sigmoid"])
def test_append_softmax_where_there_is_none(name: str, tmp_path: Path) -> None:
    """`append_softmax` makes probabilities of logits and of logarithms; a model's own stay as they are."""
    after, kind = ENDS[name]
    path = save(make_classifier(scores="l", after=SMALL + after), tmp_path / "m.onnx")
    plain, appended = (build_artifact(path, tmp_path / str(on), append_softmax=on) for on in (False, True))
    assert inspect(appended).scores == ("sigmoid" if kind == "sigmoid" else "probabilities")
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(tmp_path / "i.png")
    with nestforge.load(plain) as first, nestforge.load(appended) as second:
        tops = [classify(tmp_path / "i.png", top=10).top for classify in (first, second)]
    assert [best.index for best in tops[0]] == [best.index for best in tops[1]]
    for one, other in zip(*tops, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-5)


def test_values_tell_sums_of_one() -> None:
    logits = np.random.default_rng(0).standard_normal((4, 10)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert recognise_values(logits) == "logits"
    assert recognise_values(probabilities) == "probabilities"
    assert recognise_values(probabilities.astype(np.float16).astype(np.float32)) == "probabilities"
    assert recognise_values(np.log(probabilities)) == "log_probabilities"
    assert recognise_values(np.concatenate([probabilities, logits])) == "logits"  # all images must agree
    assert recognise_values(np.full((4, 10), np.nan, np.float32)) == "logits"
    assert recognise_values(-np.abs(logits) * 100) == "logits"
