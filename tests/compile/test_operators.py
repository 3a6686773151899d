"""Networks in training mode, and operators that are not ONNX's: the cause is named, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from nestforge.builder import build
from nestforge.compile.onnxfile import read_onnx
from nestforge.config import parse_config
from nestforge.errors import ModelError
from tests.support.forms import torch
from tests.support.graphs import make_proto, make_weights

CONSTANTS: dict[str, np.ndarray] = make_weights(w=(4, 3, 3, 3), scale=(4,), bias=(4,), mean=(4,)) | {
    "variance": np.ones(4, np.float32),
    "ratio": np.array(0.5, np.float32),
    "none": np.array(0, np.float32),
    "true": np.array(True),
    "false": np.array(False),
}
TAIL = "p = GlobalAveragePool(a)  y = Flatten(p)"
NORM = "BatchNormalization<training_mode = 1>(c, scale, bias, mean, variance)"
OLD_NORM = "BatchNormalization(c, scale, bias, mean, variance)"


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        (f"c = Conv(x, w)  a, m, s = {NORM}  {TAIL}", 17),
        (f"c = Conv(x, w)  a = {NORM}  {TAIL}", 15),
        (f"c = Conv(x, w)  a, m, s, m2, s2 = {OLD_NORM}  {TAIL}", 13),
        (f"c = Conv(x, w)  a, m, s, m2, s2 = {OLD_NORM}  {TAIL}", 9),
        (f"c = Conv(x, w)  a, k = Dropout(c, ratio, true)  {TAIL}", 17),
        (f"c = Conv(x, w)  t = Constant<value = bool {{1}}>()  a = Dropout(c, , t)  {TAIL}", 13),
    ],
)
def test_training_mode_is_named(body: str, opset: int, tmp_path: Path) -> None:
    onnx.save(make_proto(body, CONSTANTS, opset=opset), tmp_path / "m.onnx")
    with pytest.raises(
        ModelError, match=r"^(BatchNormalization|Dropout) 'a' is in training mode: .*call model\.eval\(\)"
    ):
        read_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "body",
    [
        f"c = Conv(x, w)  a = {OLD_NORM}  {TAIL}",
        f"c = Conv(x, w)  a, k = Dropout(c, ratio, false)  {TAIL}",
        f"c = Conv(x, w)  a = Dropout(c, none, true)  {TAIL}",
        "n, m, s = BatchNormalization<training_mode = 1>(w, bias3, bias3, bias3, ones3)  a = Conv(x, n)  " + TAIL,
    ],
)
def test_inference_and_norms_of_weights_pass(body: str, tmp_path: Path) -> None:
    constants = CONSTANTS | {"bias3": np.zeros(3, np.float32), "ones3": np.ones(3, np.float32)}
    onnx.save(make_proto(body, constants), tmp_path / "m.onnx")
    assert read_onnx(tmp_path / "m.onnx")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [11, 12, 13, 17])
def test_a_module_exported_in_training_mode(opset: int, tmp_path: Path) -> None:
    nn = torch.nn
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]
    torch.onnx.export(
        nn.Sequential(*layers).train(),
        (torch.randn(2, 3, 8, 8),),
        tmp_path / "m.onnx",
        dynamo=False,
        opset_version=opset,
        training=torch.onnx.TrainingMode.TRAINING,
    )
    with pytest.raises(ModelError, match=r"BatchNormalization '.+' is in training mode"):
        read_onnx(tmp_path / "m.onnx")


def make_config(path: Path, config: dict[str, Any], **changes: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "labels"} | {
        "model": {"onnx": str(path)},
        "preprocess": {"ops": [{"op": "resize", "size": [56, 56]}]},
        "output": str(path.parent / "artifact"),
        **changes,
    }


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("level", "operator"), [("EXTENDED", "FusedConv"), ("ALL", "Conv")])
def test_what_onnxruntime_optimised_is_refused_in_int8(
    level: str, operator: str, engine: str, slim_onnx: Path, slim_config: dict[str, Any], tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(tmp_path / "m.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(slim_onnx), options, providers=["CPUExecutionProvider"])
    config = make_config(tmp_path / "m.onnx", slim_config, engine=engine)
    with pytest.raises(
        ModelError, match=rf"operator {operator} of domain 'com\.microsoft.*build from the file before"
    ) as caught:
        build(parse_config(config, source="test"))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_other_domains_are_named(dtype: str, slim_config: dict[str, Any], tmp_path: Path) -> None:
    body = f"c = Conv(x, w)  a = acme.Swoosh(c)  b = acme.Whirl(a)  {TAIL.replace('(a)', '(b)')}"
    onnx.save(make_proto(body, CONSTANTS, domains=', "acme" : 1'), tmp_path / "m.onnx")
    config = make_config(tmp_path / "m.onnx", slim_config, dtype=dtype)
    with pytest.raises(
        ModelError, match=r"operator Swoosh of domain 'acme' \(node .*\) and 1 other is not one of ONNX's own; export"
    ):
        build(parse_config(config, source="test"))


def test_foreign_operators_that_nothing_needs_do_not_matter(slim_config: dict[str, Any], tmp_path: Path) -> None:
    body = f"c = Conv(x, w)  a = Relu(c)  z = acme.Swoosh(a)  {TAIL}"
    proto = make_proto(body, CONSTANTS, domains=', "acme" : 1', outputs="float[n,4] y, float[n] z")
    onnx.save(proto, tmp_path / "m.onnx")
    config = make_config(tmp_path / "m.onnx", slim_config)
    config["model"]["output"] = "y"
    assert build(parse_config(config, source="test")).parity.cosine > 0.99
