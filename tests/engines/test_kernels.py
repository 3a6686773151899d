"""What engines say they execute: every weighted layer once, its precision, and what was fused into it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx_ir as ir
import pytest

from nestforge.compile.calibrate import Range
from nestforge.compile.onnxfile import read_onnx, serialize
from nestforge.compile.passes import apply_passes
from nestforge.compile.quantize import find_activations, quantize_graph
from nestforge.compile.warnings import describe_layers
from nestforge.engines import get_engine
from nestforge.engines.base import Kernel, Settings
from nestforge.engines.fake import FakeEngine
from nestforge.errors import EngineError
from tests.support.graphs import make_proto, make_weights

ENGINES = ["openvino", "onnxruntime"]
WEIGHTS = make_weights(
    w=(4, 3, 3, 3), w2=(4, 4, 3, 3), depthwise=(4, 1, 3, 3), g=(4, 5), t=(5, 4), b=(4,), b5=(5,), scale=(4,), mean=(4,)
) | {"variance": make_weights(1, v=(4,))["v"] ** 2}
PADS = "pads = [1, 1, 1, 1]"
POOL = "p = GlobalAveragePool(z)  y = Flatten(p)"


def quantize(model: ir.Model) -> ir.Model:
    ranges = dict.fromkeys(find_activations(model), Range(0.0, 6.0)) | {"input": Range(-2.0, 2.6)}
    quantize_graph(model, ranges, per_channel=True, avoid_saturation=False)
    return model


def list_weighted(model: ir.Model, engine: str) -> list[Kernel]:
    session = get_engine(engine).open(serialize(model), Settings(height=56, width=56))
    return [kernel for kernel in session.list_kernels() if kernel.is_weighted]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_every_weighted_layer_is_reported_once(dtype: str, engine: str, slim_onnx: Path) -> None:
    model = read_onnx(slim_onnx)
    apply_passes(model)
    layers = describe_layers(model)
    weighted = [str(node.name) for node in model.graph if node.op_type in ("Conv", "Gemm")]
    kernels = list_weighted(quantize(model) if dtype == "int8" else model, engine)
    found = [{layers[name].name for name in kernel.layers if name in layers} for kernel in kernels]
    assert sorted(name for names in found for name in names) == sorted(weighted)
    assert len(kernels) == len(weighted)
    if dtype == "fp32":
        assert {(kernel.precision, kernel.is_int8) for kernel in kernels} == {("f32", False)}


def test_onnxruntime_tells_which_layers_it_leaves_in_float(slim_onnx: Path) -> None:
    """Those whose result nothing reads in 8 bits: the last of split attention, of the network, and before its sum."""
    model = read_onnx(slim_onnx)
    apply_passes(model)
    kernels = list_weighted(quantize(model), "onnxruntime")
    names = {kernel.layers[-1] for kernel in kernels if not kernel.is_int8}
    assert names == {f"layer{i}.0.conv2.fc2" for i in (1, 2, 3, 4)} | {"fc", "layer4.0.conv3", "layer4.0.downsample.1"}
    assert Counter(kernel.precision for kernel in kernels) == {"u8": len(kernels) - len(names), "f32": len(names)}


FUSIONS = {
    **{
        activation: (f"c = Conv<{PADS}>(x, w, b)  a = {activation}(c)  z = Conv<{PADS}>(a, w2)  {POOL}", activation)
        for activation in ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh")
    },
    "a batch norm": (
        f"c = Conv<{PADS}>(x, w)  n = BatchNormalization(c, scale, b, mean, variance)  z = Relu(n)  {POOL}",
        "BatchNormalization",
    ),
    "a sum": (
        f"c = Conv<{PADS}>(x, w)  r = Relu(c)  d = Conv<{PADS}>(r, w2)  e = Add(d, r)  z = Relu(e)  {POOL}",
        "Add",
    ),
    "depthwise": (f"c = Conv<{PADS}>(x, w)  d = Conv<{PADS}, group = 4>(c, depthwise)  z = Relu(d)  {POOL}", "Relu"),
    "a classifier of two layers": (
        f"z = Conv<{PADS}>(x, w)  p = GlobalAveragePool(z)  f = Flatten(p)  h = Gemm(f, g, b5)  r = Relu(h)"
        "  y = Gemm(r, t)",
        "Relu",
    ),
    "a matrix product and its bias": (
        f"z = Conv<{PADS}>(x, w)  p = GlobalAveragePool(z)  f = Flatten(p)  h = MatMul(f, g)  y = Add(h, b5)",
        "Add",
    ),
    "a transposed convolution": (f"c = Conv<{PADS}>(x, w)  z = ConvTranspose(c, w2)  {POOL}", ""),
}


@pytest.mark.parametrize(("body", "fused"), FUSIONS.values(), ids=FUSIONS)
def test_onnxruntime_names_what_it_fused(body: str, fused: str) -> None:
    proto = make_proto(body, WEIGHTS, inputs="float[n,3,8,8] x")
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}-{index}"
    session = get_engine("onnxruntime").open(proto.SerializeToString(), Settings(height=8, width=8))
    weighted = [kernel for kernel in session.list_kernels() if kernel.is_weighted]
    expected = [node.name for node in proto.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    assert sorted(name for kernel in weighted for name in kernel.layers if name in expected) == sorted(expected)
    with_it = [kernel for kernel in weighted if any(name.startswith(f"{fused}-") for name in kernel.layers)]
    assert len(with_it) == (1 if fused else 0)


def test_kernels_of_a_file_that_is_gone(slim_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(slim_onnx.read_bytes())
    session = get_engine("onnxruntime").open(path, Settings(height=56, width=56))
    path.unlink()
    with pytest.raises(EngineError, match="cannot list its kernels"):
        session.list_kernels()


def test_running_onnxruntime_does_not_import_onnx(slim_onnx: Path) -> None:
    code = (
        "import pathlib, sys, numpy as np\n"
        "from nestforge.engines import get_engine\n"
        "from nestforge.engines.base import Settings\n"
        f"session = get_engine('onnxruntime').open(pathlib.Path({str(slim_onnx)!r}), Settings(height=56, width=56))\n"
        "session.run(np.zeros((1, 3, 56, 56), np.float32))\n"
        "assert 'onnx' not in sys.modules\n"
        "assert session.list_kernels()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_engines_say_which_passes_they_prefer() -> None:
    assert get_engine("openvino").preferred_passes == {"split_radix"}
    assert get_engine("onnxruntime").preferred_passes == frozenset()
    assert FakeEngine(lambda images: images).preferred_passes == frozenset()


def test_no_word_of_openvino_stands_outside_its_engine() -> None:
    words = ('"Convolution"', '"FullyConnected"', '"u8"')
    root = Path(__file__).parents[2] / "nestforge"
    engines = {root / "engines" / "openvino.py", root / "engines" / "optimized_graph.py"}
    for path in set(root.rglob("*.py")) - engines - {root / "engines" / "base.py"}:
        assert not any(word in path.read_text() for word in words), path
