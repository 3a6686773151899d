"""Rewritings: exact on every way the network is written and exported, and blind to everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from nestforge.compile.onnxfile import read_onnx, serialize
from nestforge.compile.passes import PASSES, apply_passes
from nestforge.compile.passes.split_radix import find_origin
from nestforge.data.imagefolder import choose_balanced, list_images
from nestforge.data.preprocess import Preprocess, Resize, load_image
from nestforge.networks.checkpoint import read_checkpoint
from nestforge.networks.graph import build_graph
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant
from tests.support.forms import FORMS, Net, torch

SCRIPT_OPSETS = (11, 17, 20)
DYNAMO = [("split", 18), ("split", 23), ("view", 18), ("reshape", 23)]


def run(model: bytes, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    output: npt.NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return output


def count(model: ir.Model, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph)


def check_rewritten(path: Path, net: Net, radix: int) -> None:
    """Every radix view or split of activations goes; the answer stays, at another batch than the traced one too."""
    model = read_onnx(path)
    passes = apply_passes(model)
    rewritten = serialize(model)
    onnx.checker.check_model(onnx.load_from_string(rewritten), full_check=True)
    assert passes.get("split_radix", 0) == (radix > 1)
    assert radix == 1 or count(model, "ReduceSum") == 0
    assert count(model, "Split") == (radix > 1)  # the attention's
    for batch in (2, 3):
        images = torch.randn(batch, 3, 12, 12)
        with torch.no_grad():
            expected = net(images).numpy()
        found = run(rewritten, images.numpy())
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", SCRIPT_OPSETS)
@pytest.mark.parametrize(("radix", "cardinality"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 4)])
@pytest.mark.parametrize("form", FORMS)
def test_exact_on_traced_exports(form: str, radix: int, cardinality: int, opset: int, tmp_path: Path) -> None:
    net = Net(form, radix, cardinality).eval()
    options = {"input_names": ["input"], "opset_version": opset, "dynamic_axes": {"input": {0: "batch"}}}
    torch.onnx.export(net, (torch.randn(2, 3, 12, 12),), tmp_path / "net.onnx", dynamo=False, **options)
    check_rewritten(tmp_path / "net.onnx", net, radix)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("form", "opset"), DYNAMO)
def test_exact_on_captured_exports(form: str, opset: int, tmp_path: Path) -> None:
    net = Net(form, 2, 2).eval()
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    options = {"input_names": ["input"], "opset_version": opset, "dynamic_shapes": shapes, "verbose": False}
    torch.onnx.export(
        net, (torch.randn(2, 3, 12, 12),), tmp_path / "net.onnx", dynamo=True, external_data=False, **options
    )
    check_rewritten(tmp_path / "net.onnx", net, 2)


@pytest.mark.parametrize("name", ["resnest14_slim", "resnest50_fast_2s1x64d", "resnest50_fast_4s2x40d", "resnest50"])
def test_exact_on_whole_networks(name: str) -> None:
    variant = get_variant(name)
    model = build_graph(variant, make_seeded_weights(variant, 0))
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    expected = run(serialize(model), images)
    passes = apply_passes(model)
    assert passes["split_radix"] == sum(variant.depths)
    assert count(model, "BatchNormalization") == 0
    assert np.abs(run(serialize(model), images) - expected).max() < 1e-5 * np.abs(expected).max()


def test_exact_on_a_trained_network(shared: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(shared / "data" / "tiny-imagenet-calib.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    paths = choose_balanced(list_images(tmp_path / "tiny-imagenet-calib"), 16, seed=0)
    preprocess = Preprocess(ops=(Resize(size=(64, 64)),))
    images = np.stack([load_image(path, preprocess) for path in paths])
    variant = get_variant("resnest14")
    checkpoint = shared / "checkpoints" / "resnest14_tiny_imagenet.pth"
    model = build_graph(variant, read_checkpoint(checkpoint, variant))
    expected = run(serialize(model), images)
    assert apply_passes(model)["split_radix"] == 4
    assert np.abs(run(serialize(model), images) - expected).max() < 1e-5 * np.abs(expected).max()


GROUPED = """
  u = Conv <group = 2, kernel_shape = [1, 1]> (x, w)
  r = Relu (u)
"""
WITHOUT_PLACE = {
    "parts of two sizes": GROUPED + "a, b = Split <axis = 1> (r, uneven)\n y = Concat <axis = 1> (b, a)",
    "another axis": GROUPED + "a, b = Split <axis = 2> (r)\n y = Add (a, b)",
    "read elsewhere": GROUPED
    + "a, b = Split <axis = 1> (r)\n c = Add (a, b)\n d = Concat <axis = 1> (c, c)\n y = Add (d, r)",
    "no grouped convolution": "r = Relu (x)\n a, b = Split <axis = 1> (r)\n y = Add (a, b)",
    "groups the parts do not divide": (
        "u = Conv <group = 2, kernel_shape = [1, 1]> (x, w)\n a, b, c, d = Split <axis = 1> (u)\n"
        "e = Add (a, b)\n f = Add (c, d)\n y = Add (e, f)"
    ),
    "a view read whole": "v = Reshape (x, five)\n s = ReduceSum <keepdims = 0> (v, one)\n t = Abs (v)\n y = Sum (s, t)",
    "a sum that keeps its axis": "v = Reshape (x, five)\n y = ReduceSum <keepdims = 1> (v, one)",
    "a sum over space": "v = Reshape (x, five)\n y = ReduceSum <keepdims = 0> (v, three)",
}


@pytest.mark.parametrize("body", WITHOUT_PLACE.values(), ids=WITHOUT_PLACE)
def test_nothing_changes_where_there_is_no_place(body: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[2, 4, 6, 6] x) => (float y)
    <float[4, 2, 1, 1] w = {{1, 2, 3, 4, 5, 6, 7, 8}}, int64[2] uneven = {{1, 3}}, int64[1] one = {{1}},
     int64[1] three = {{3}}, int64[5] five = {{2, 2, 2, 6, 6}}> {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = ir.from_proto(proto)
    before = [(node.name, node.op_type) for node in model.graph]
    assert apply_passes(model) == {}
    assert [(node.name, node.op_type) for node in model.graph] == before


def make_padded(pads: str = "{0, 0, 1, 0, 0, 0, 2, 1}", body: str = "", **attributes: str) -> ir.Model:
    mode = f"<{attributes['mode']}>" if "mode" in attributes else ""
    text = f"""<ir_version: 8, opset_import: ["" : 17]> net (float[n, 3, 8, 8] x) => (float[n, 4, h, w] y)
    <int64[8] pads = {pads}, float zero = {{{attributes.get("fill", "0")}}}>
    {{ p = Pad {mode} (x, pads, zero)
       {body or f"y = Conv <{attributes.get('conv', 'pads = [1, 1, 1, 1], strides = [2, 2]')}> (p, w)"} }}"""
    proto = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return ir.from_proto(proto)


def test_pads_are_the_convolution_s() -> None:
    model = make_padded()
    images = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    expected = run(serialize(model), images)
    assert apply_passes(model) == {"fold_pads": 1}
    assert [node.op_type for node in model.graph] == ["Conv"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert np.abs(run(serialize(model), images) - expected).max() <= 1e-6 * np.abs(expected).max()


OTHER_PADS = {
    "of channels": {"pads": "{0, 1, 0, 0, 0, 0, 0, 0}", "body": "y = Relu(p)"},
    "that cut": {"pads": "{0, 0, -1, 0, 0, 0, 0, 0}"},
    "by reflection": {"mode": 'mode = "reflect"'},
    "with ones": {"fill": "1"},
    "automatic ones beside it": {"conv": 'auto_pad = "SAME_UPPER"'},
    "read elsewhere": {"body": "c = Conv (p, w)  r = GlobalMaxPool (p)  s = ReduceSum (r)  y = Add (c, s)"},
}


@pytest.mark.parametrize("case", OTHER_PADS.values(), ids=OTHER_PADS)
def test_other_pads_stay(case: dict[str, str]) -> None:
    model = make_padded(**case)
    assert apply_passes(model) == {}
    assert count(model, "Pad") == 1


def test_passes_can_be_left_out(slim_onnx: Path) -> None:
    model = read_onnx(slim_onnx)
    assert apply_passes(model, without=frozenset(step.name for step in PASSES)) == {}
    assert set(apply_passes(model, without=frozenset({"split_radix"}))) == {"fold_batch_norm"}
    assert apply_passes(model)["split_radix"] == 4
    assert apply_passes(model) == {}  # a second time there is nothing left


def test_parts_know_where_they_come_from(slim_onnx: Path) -> None:
    model = read_onnx(slim_onnx)
    names = {str(node.name) for node in model.graph if node.op_type == "Conv"}
    apply_passes(model)
    parts = {str(node.name) for node in model.graph if node.op_type == "Conv"}
    assert len(parts) > len(names)
    assert {find_origin(name) for name in parts} == names
