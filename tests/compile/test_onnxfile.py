"""Foreign ONNX files: what is read off them, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from rich.console import Console

from nestforge.artifact.artifact import inspect
from nestforge.builder import build
from nestforge.compile.constants import add_initializer, fold_constants
from nestforge.compile.onnxfile import (
    count_graph_macs,
    count_layer_macs,
    inspect_classifier,
    read_onnx,
    serialize,
)
from nestforge.config import parse_config
from nestforge.engines import get_engine
from nestforge.engines.base import Settings
from nestforge.errors import ModelError
from nestforge.measure.benchmark import bench
from nestforge.networks.layers import count_kernel_macs
from nestforge.networks.zoo import get_variant
from nestforge.tables.builds import list_manifest_rows
from nestforge.tables.measurements import show_bench


def write_model(text: str, path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_reads_our_export(slim_onnx: Path) -> None:
    model = read_onnx(slim_onnx)
    classifier = inspect_classifier(model)
    assert (classifier.num_classes, classifier.fixed_batch, classifier.gives_probabilities) == (10, None, False)
    assert count_graph_macs(model, 56, 56) == count_kernel_macs(get_variant("resnest14_slim"))


def test_constants_old_opset_and_softmax(tmp_path: Path) -> None:
    text = """<ir_version: 7, opset_import: ["" : 11]> g (float[1,3,8,8] x) => (float[1,4] y)
        <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}>
        { p = GlobalAveragePool(x)  f = Flatten(p)  c = Constant<value = float[4] {0,0,0,0}>()
          l = Gemm<transB = 1>(f, w, c)  y = Softmax<axis = 1>(l) }"""
    model = read_onnx(write_model(text, tmp_path / "m.onnx"))
    classifier = inspect_classifier(model)
    assert classifier.gives_probabilities
    assert (classifier.fixed_batch, classifier.fixed_height, classifier.num_classes) == (1, 8, 4)
    assert count_graph_macs(model, 8, 8) == 12
    assert "Constant" not in {node.op_type for node in model.graph}


@pytest.mark.parametrize(
    ("signature", "body", "message"),
    [
        ("(float[1,1,8,8] x) => (float[1,1,8,8] y)", "y = Relu(x)", r"\(1, 1, 8, 8\) float"),
        ("(float[1,8,8,3] x) => (float[1,8,8,3] y)", "y = Relu(x)", r"takes \(B, 3, H, W\)"),
        ("(uint8[1,3,8,8] x) => (float[1,3,8,8] y)", "y = Cast<to = 1>(x)", "uint8"),
        ("(float[1,3,8,8] x) => (float[1,3,8,8] y)", "y = Relu(x)", r"is not \(B, classes\)"),
        ("(float[1,3,8,8] x, float[1,3,8,8] z) => (float[1,3,8,8] y)", "y = Add(x, z)", "has 2 inputs"),
    ],
)
def test_not_an_image_classifier(signature: str, body: str, message: str, tmp_path: Path) -> None:
    text = f'<ir_version: 9, opset_import: ["" : 17]> g {signature} {{ {body} }}'
    with pytest.raises(ModelError, match=message):
        inspect_classifier(read_onnx(write_model(text, tmp_path / "m.onnx")))


def test_broken_files(slim_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no ONNX file"):
        read_onnx(tmp_path / "none.onnx")
    data = slim_onnx.read_bytes()
    for content in (b"", b"\x00" * 64, b"text", data[: len(data) // 2]):
        path = tmp_path / "m.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError, match="is not a valid ONNX model"):
            read_onnx(path)


def test_external_data_is_not_followed(slim_onnx: Path, tmp_path: Path) -> None:
    proto = onnx.load(slim_onnx)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ModelError, match="in other files"):
        read_onnx(tmp_path / "m.onnx")


def test_softmax_before_a_reshape_counts(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[n,3,8,8] x) => (float[n,3] y)
        { p = GlobalAveragePool(x)  s = Softmax<axis = 1>(p)  f = Flatten(s)  y = Identity(f) }"""
    assert inspect_classifier(read_onnx(write_model(text, tmp_path / "m.onnx"))).gives_probabilities


def test_weights_that_are_also_inputs_and_fixed_batches(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[4,3,8,8] x, float[3,2] w) => (float[4,2] y)
        <float[3,2] w = {1,2,3,4,5,6}, int64[2] shape = {4,-1}>
        { p = GlobalAveragePool(x)  f = Reshape(p, shape)  y = MatMul(f, w) }"""
    model = read_onnx(write_model(text, tmp_path / "m.onnx"))
    assert [value.name for value in model.graph.inputs] == ["x"]
    classifier = inspect_classifier(model)
    assert (classifier.fixed_batch, classifier.num_classes) == (4, 2)


def test_taken_names_are_avoided(slim_onnx: Path) -> None:
    graph = read_onnx(slim_onnx).graph
    first, second = (add_initializer(graph, "fc.weight", np.zeros(1, np.float32)) for _ in range(2))
    assert len({"fc.weight", first.name, second.name}) == 3


PADS = """<ir_version: 9, opset_import: ["" : 17]> padded (float[n,3,h,w] x) => (float[n,4] y)
    {
        one = Constant<value = int64[1] {4}>()
        zeros = ConstantOfShape<value = int64[1] {0}>(one)
        ends = Constant<value = int64[4] {1, 1, 1, 1}>()
        flat = Concat<axis = 0>(ends, zeros)
        pair = Constant<value = int64[2] {2, 4}>()
        table = Reshape(flat, pair)
        turned = Transpose<perm = [1, 0]>(table)
        start = Constant<value = int64[1] {-1}>()
        end = Constant<value = int64[1] {-9}>()
        axis = Constant<value = int64[1] {0}>()
        step = Constant<value = int64[1] {-1}>()
        backwards = Slice(turned, start, end, axis, step)
        all = Constant<value = int64[1] {-1}>()
        mixed = Reshape(backwards, all)
        order = Constant<value = int64[8] {1, 3, 0, 2, 5, 7, 4, 6}>()
        pads = Gather(mixed, order)
        wide = Pad(x, pads)
        c = Conv(wide, w)
        p = GlobalAveragePool(c)
        y = Flatten(p)
    }"""


def test_pads_that_the_graph_computes_become_constants(tmp_path: Path) -> None:
    """As torch.onnx.export writes ZeroPad2d: without it no size is known, and no multiplication counted."""
    proto = onnx.parser.parse_model(PADS)
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path = tmp_path / "a.onnx"
    onnx.save(proto, path)
    model = read_onnx(path)
    assert [node.op_type for node in model.graph] == ["Pad", "Conv", "GlobalAveragePool", "Flatten"]
    pads = model.graph[0].inputs[1].const_value.numpy()
    images = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    engine, settings = get_engine("onnxruntime"), Settings(batch=2, height=8, width=8)
    expected, found = (engine.open(data, settings).run(images) for data in (path.read_bytes(), serialize(model)))
    assert (expected == found).all()
    height, width = 8 + int(pads[2] + pads[6]) - 2, 8 + int(pads[3] + pads[7]) - 2
    assert height * width > 36
    assert count_graph_macs(model, 8, 8) == 4 * 27 * height * width


UNKNOWN = """<ir_version: 9, opset_import: ["" : 17]> odd (float[n,3,h,w] x) => (float[n,4] y)
    { a = Conv(x, w)  m = ReduceMax<keepdims = 0>(a)  i = Cast<to = 7>(m)  z = Mul(i, zeros)
      wide = Pad(a, z)  b = Conv(wide, v)  p = GlobalAveragePool(b)  y = Flatten(p) }"""
UNKNOWN_CONSTANTS = {
    "w": np.ones((4, 3, 1, 1), np.float32),
    "v": np.ones((4, 4, 1, 1), np.float32),
    "zeros": np.zeros(8, np.int64),
}


def test_sizes_that_are_not_known_count_nothing() -> None:
    """One convolution's size depends on what is in the image: the count of the other alone would be wrong."""
    proto = onnx.parser.parse_model(UNKNOWN)
    for name, array in UNKNOWN_CONSTANTS.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for index, node in enumerate(proto.graph.node):
        node.name = f"node{index}"
    model = ir.from_proto(proto)
    assert sorted(count_layer_macs(model, 8, 8).values()) == [0, 4 * 3 * 64]
    assert count_graph_macs(model, 8, 8) == 0


def test_what_is_not_known_is_said_and_not_shown_as_a_share(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(UNKNOWN)
    for name, array in UNKNOWN_CONSTANTS.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, tmp_path / "a.onnx")
    config = {
        "model": {"onnx": str(tmp_path / "a.onnx")},
        "dtype": "fp32",
        "preprocess": {"ops": [{"op": "resize", "size": [8, 8]}]},
        "output": str(tmp_path / "artifact"),
    }
    build(parse_config(config, source="test"))
    rows = dict(list_manifest_rows(inspect(tmp_path / "artifact")))
    assert rows["model"] == "a, 4 classes, 8x8, MACs unknown"
    result = bench(tmp_path / "artifact", seconds=0.3)
    assert (result.macs, result.peak_share) == (0, None)
    show_bench(result, Console(file=(text := io.StringIO()), width=100))
    assert "share of peak" in text.getvalue()


def test_large_constants_are_not_computed() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> big (float[n,3,h,w] x) => (float[n,3] y)
        { size = Constant<value = int64[3] {100000, 100000, 100000}>()  huge = ConstantOfShape(size)
          p = GlobalAveragePool(x)  y = Flatten(p)  z = Identity(huge) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    assert fold_constants(model) == 0


@pytest.mark.parametrize("body", ["q = Div(one, zero)", "q = Add(one, three)"], ids=["by zero", "of two sizes"])
def test_what_has_no_result_stays(body: str) -> None:
    text = f"""<ir_version: 9, opset_import: ["" : 17]> bad (float[n,3,h,w] x) => (float[n,3] y, int64[k] z)
        <int64[2] one = {{1, 1}}, int64[2] zero = {{0, 0}}, int64[3] three = {{1, 2, 3}}>
        {{ {body}  z = Shape(q)  p = GlobalAveragePool(x)  y = Flatten(p) }}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert fold_constants(model) == 0
    assert [node.op_type for node in model.graph][1] == "Shape"
