"""Models of every kind beyond their build: sensitivity, tables, and what the manifest says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import nestforge
from nestforge.artifact.artifact import inspect
from nestforge.tables.builds import list_manifest_rows
from tests.support.onnx_models import build_artifact, make_classifier, make_weights, save

TO_NCHW = "q = Cast<to = 1>(x)  t = Transpose<perm = [0,3,1,2]>(q)  "
TWO_CONVOLUTIONS = "c0 = Conv<pads = [1,1,1,1]>({image}, w0, b)  r0 = Relu(c0)  "


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("channels", [3, 1])
def test_sensitivity_of_a_model_of_integers(
    channels: int, engine: str, calibration_images: Path, tmp_path: Path
) -> None:
    """The graph is cut into parts that take floats; never where integers go from one node to the next."""
    weights = {**make_weights(8), "w0": make_weights(channels)["w"]}
    proto = make_classifier(
        takes=f"uint8[N,H,W,{channels}] x",
        before=TO_NCHW + TWO_CONVOLUTIONS.format(image="t"),
        image="r0",
        weights=weights,
    )
    calibration = {"data": str(calibration_images), "count": 8}
    artifact = build_artifact(
        save(proto, tmp_path / "m.onnx"), tmp_path / "a", dtype="int8", calibration=calibration, engine=engine
    )
    layers = nestforge.sensitivity(artifact, images=4).layers
    assert len(layers) == 3
    assert all(layer.alone_sqnr_db > 20 for layer in layers)


def test_tables_say_what_the_source_takes_and_gives(tmp_path: Path) -> None:
    half = {name: array.astype(np.float16) for name, array in make_weights(1).items()}
    proto = make_classifier(
        takes="float16[1,16,16,1] x",
        before="t = Transpose<perm = [0,3,1,2]>(x)  ",
        image="t",
        scores="l",
        after="y = LogSoftmax(l)",
        gives="float16[1,10] y, float16[1,8,1,1] p",
        weights=half,
    )
    path = save(proto, tmp_path / "m.onnx")
    artifact = build_artifact(
        path, tmp_path / "a", preprocess={"mean": [0.5] * 3, "std": [0.5] * 3}, model={"output": "y"}
    )
    rows = dict(list_manifest_rows(inspect(artifact)))
    assert rows["source takes"] == "grey images, NHWC float16, batches of 1 alone; float16 became float32"
    assert rows["source gives"] == "y (1, 10), scores are logarithms of probabilities; not used: p"


def test_tables_of_a_variant(artifacts: dict[str, Path]) -> None:
    rows = dict(list_manifest_rows(inspect(artifacts["int8"])))
    assert rows["source takes"] == "images, NCHW float32, any batch"
    assert rows["source gives"].endswith("(1, 10), scores are logits")


def test_names_of_a_file_can_be_anything(tmp_path: Path) -> None:
    """Names that ours would collide with, and names with slashes and colons, as TensorFlow's and Caffe2's."""
    proto = make_classifier()
    renamed = {"x": "serving/input:0", "y": "x.given", "c": "x", "r": "serving/input:0.given", "p": "softmax"}
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
        node.name = "serving/input:0.transpose"
    proto.graph.input[0].name, proto.graph.output[0].name = renamed["x"], renamed["y"]
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    cast = onnx.helper.make_node("Cast", [renamed["x"]], ["cast"], to=1)
    proto.graph.node.insert(0, cast)
    proto.graph.node[1].input[0] = "cast"
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a", append_softmax=True)
    assert inspect(artifact).interface.output == "x.given"
    assert inspect(artifact).scores == "probabilities"
    built = onnx.load(artifact / "model.onnx").graph
    assert [value.name for value in (*built.input, *built.output)] == ["serving/input:0", "x.given"]
