"""Small ONNX graphs from text, their weights drawn from a seed, and what an engine makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime

from nestforge.compile.calibrate import ChannelMean, observe_activations
from nestforge.compile.onnxfile import read_onnx, serialize
from nestforge.compile.quantize import QuantizationSummary, find_activations, is_weighted, quantize_graph
from nestforge.engines import get_engine
from nestforge.engines.base import Settings

Arrays = Mapping[str, npt.NDArray[np.generic]]


def make_proto(
    body: str,
    constants: Arrays,
    *,
    inputs: str = "float[n,3,h,w] x",
    outputs: str = "float[n,k] y",
    opset: int = 17,
    domains: str = "",
) -> onnx.ModelProto:
    """Return the graph with nodes `body` in ONNX's textual form, and the constants that it reads."""
    text = f'<ir_version: 9, opset_import: ["" : {opset}{domains}]> net ({inputs}) => ({outputs}) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    read = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if name in read
    )
    return proto


def make_model(body: str, constants: Arrays, folder: Path, **options: str | int) -> ir.Model:
    """Return the graph as a build reads it, through a file in `folder`."""
    path = folder / "graph.onnx"
    onnx.save(make_proto(body, constants, **options), path)  # type: ignore[arg-type]
    return read_onnx(path)


def make_weights(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, npt.NDArray[np.float32]]:
    """Return a normal array of each shape."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def run_exactly(model: ir.Model | onnx.ModelProto, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the first output, computed node by node in the types that the graph says."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = serialize(model) if isinstance(model, ir.Model) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    output: npt.NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return output


def quantize_on(model: ir.Model, images: npt.NDArray[np.float32], **options: bool) -> QuantizationSummary:
    """Quantize a graph in place over the range of all values that `images` give, with its biases corrected.

    `options` are those of `quantize_graph`.
    """
    names = list(find_activations(model))
    layers = [node for node in model.graph if is_weighted(node) and node.op_type != "MatMul"]
    means = {str(node.inputs[0].name): ChannelMean() for node in layers if node.inputs[0] is not None}
    batch, channels, height, width = images.shape
    settings = Settings(batch=batch, channels=channels, height=height, width=width)
    engine = get_engine("onnxruntime")
    histograms = observe_activations(model, names, [images], engine=engine, settings=settings, means=means)
    ranges = {name: histogram.find_range("max", 100) for name, histogram in histograms.items()}
    corrections = {name: mean.mean for name, mean in means.items()}
    return quantize_graph(
        model, ranges, **({"per_channel": True, "avoid_saturation": False} | options), means=corrections
    )


def run_engine(name: str, model: ir.Model, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what an engine's own kernels give."""
    batch, channels, height, width = images.shape
    settings = Settings(batch=batch, channels=channels, height=height, width=width)
    return get_engine(name).open(serialize(model), settings).run(images)
