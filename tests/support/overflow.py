"""Convolutions whose 16-bit sums would overflow, and how wrong an engine's answers are.

    ONEDNN_MAX_CPU_ISA=AVX2 python -m tests.support.overflow

prints for each kind, as JSON: the error with weights that avoid it, with weights of the full range, and OpenVINO's
kernels. oneDNN reads the variable once a process, so that another instruction set needs another process.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from nestforge.compile.calibrate import Range
from nestforge.compile.onnxfile import serialize
from nestforge.compile.quantize import find_activations, quantize_graph
from nestforge.engines import get_engine
from nestforge.engines.base import Settings

# name -> C_in, C_out, kernel, groups: odd and even C_in, RGB, grouped, depthwise, several outputs an input
CONVOLUTIONS = {
    "rgb 3x3": (3, 16, 3, 1),
    "rgb 1x1": (3, 16, 1, 1),
    "even 3x3": (16, 16, 3, 1),
    "odd 3x3": (5, 16, 3, 1),
    "even 1x1": (32, 16, 1, 1),
    "odd 1x1": (33, 16, 1, 1),
    "grouped": (16, 32, 3, 2),
    "odd groups": (6, 16, 3, 2),
    "depthwise": (16, 16, 3, 16),
    "two outputs an input": (16, 32, 3, 16),
}


def make_worst_case(c_in: int, c_out: int, kernel: int, groups: int) -> tuple[ir.Model, np.ndarray]:
    """A network whose convolution `w` adds full-range products of one sign, and an image that is white.

    What follows reads its output quantized, so that ONNX Runtime too fuses it into an int8 kernel.
    """
    rng = np.random.default_rng(0)
    pointwise = np.eye(c_in, 3, dtype=np.float32)[:, :, None, None] if c_in > 3 else None
    if pointwise is not None:
        pointwise[3:, 0] = 1
    weight = rng.choice([0.9, 1.0], (c_out, c_in // groups, kernel, kernel)).astype(np.float32)
    weight *= rng.choice([-1, 1], (c_out, 1, 1, 1))
    first = "f = Conv(x, wf)  a = Relu(f)" if pointwise is not None else "a = Identity(x)"
    pad = kernel // 2
    text = f"""<ir_version: 9, opset_import: ["" : 17]> g (float[n,3,8,8] x) => (float[n,{c_out}] y)
        {{ {first}  c = Conv<group = {groups}, pads = [{pad},{pad},{pad},{pad}]>(a, w)
           d = Conv(c, wd)  p = GlobalAveragePool(d)  y = Flatten(p) }}"""
    proto = onnx.parser.parse_model(text)
    identity = np.eye(c_out, dtype=np.float32)[:, :, None, None]
    for name, array in (("wf", pointwise), ("w", weight), ("wd", identity)):
        if array is not None:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for index, node in enumerate(proto.graph.node):
        node.name = f"node{index}"
    return ir.from_proto(proto), np.ones((1, 3, 8, 8), np.float32)


def run_worst_case(kind: str, engine: str, *, avoid_saturation: bool) -> tuple[float, list[str]]:
    """Return the largest error, relative to the same file step by step in float, and the convolution kernels."""
    model, images = make_worst_case(*CONVOLUTIONS[kind])
    _, _, kernel, _ = CONVOLUTIONS[kind]
    total = float(kernel**2 * model.graph.initializers["w"].shape[1])
    ranges = dict.fromkeys(find_activations(model), Range(0.0, 1.0)) | {"c": Range(-total, total)}
    quantize_graph(model, ranges, per_channel=True, avoid_saturation=avoid_saturation)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (expected,) = onnxruntime.InferenceSession(serialize(model), options).run(None, {"x": images})
    session = get_engine(engine).open(serialize(model), Settings(height=8, width=8))
    found = session.run(images)
    largest = float(np.abs(expected).max())
    assert largest > 0.5
    kernels = [kernel.implementation for kernel in session.list_kernels() if kernel.layer_type == "Convolution"]
    return float(np.abs(found - expected).max()) / largest, kernels


def main() -> None:
    """Print what this process's instruction sets make of every kind."""
    found = {}
    for kind in CONVOLUTIONS:
        avoided, kernels = run_worst_case(kind, "openvino", avoid_saturation=True)
        ignored, _ = run_worst_case(kind, "openvino", avoid_saturation=False)
        found[kind] = (avoided, ignored, kernels)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
