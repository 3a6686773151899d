"""Small image classifiers as ONNX files of every kind that exporters write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from nestforge.artifact.artifact import open_artifact
from nestforge.builder import build
from nestforge.config import parse_config
from nestforge.engines.base import Parallelism

SIDE = 16  # of the images
CLASSES = 10
FEATURES = 8

Arrays = dict[str, npt.NDArray[np.generic]]


def make_weights(channels: int = 3, classes: int = CLASSES, seed: int = 0) -> Arrays:
    """Weights of one convolution with 8 outputs, `w` and `b`, and of a linear layer, `fw` and `fb`."""
    rng = np.random.default_rng(seed)
    shapes = {"w": (FEATURES, channels, 3, 3), "b": (FEATURES,), "fw": (classes, FEATURES), "fb": (classes,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def make_model(
    body: str,
    *,
    takes: str = "float[N,3,H,W] x",
    gives: str = "float[N,10] y",
    weights: Mapping[str, npt.NDArray[np.generic]] | None = None,
    opset: int = 17,
    ir_version: int = 9,
    imports: str = "",
) -> onnx.ModelProto:
    """Return a graph in ONNX's text form, with `make_weights` unless others are given, and unused ones left out."""
    text = f'<ir_version: {ir_version}, opset_import: ["" : {opset}{imports}]> g ({takes}) => ({gives}) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    used = {name for node in proto.graph.node for name in node.input}
    for name, array in (make_weights() if weights is None else weights).items():
        if name in used:
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return proto


# the pieces most models of the tests are put together from
CONVOLUTION = "c = Conv<pads = [1,1,1,1]>({image}, w, b)  r = Relu(c)  p = GlobalAveragePool(r)  "
FLATTEN = "f = Flatten(p)  "
HEAD = "{scores} = Gemm<transB = 1>(f, fw, fb)  "


def make_classifier(
    *, before: str = "", image: str = "x", flatten: str = FLATTEN, scores: str = "y", after: str = "", **options: Any
) -> onnx.ModelProto:
    """Return convolution, pooling and a linear layer; text `before` makes the `image` of the input `x`."""
    body = before + CONVOLUTION.format(image=image) + flatten + HEAD.format(scores=scores) + after
    return make_model(body, **options)


def save(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def build_artifact(
    path: Path, output: Path, *, dtype: str = "fp32", side: int | Sequence[int] = SIDE, **changes: Any
) -> Path:
    """Build an artifact of an ONNX file for images of one size, and return its folder."""
    size = [side, side] if isinstance(side, int) else list(side)
    preprocess = {"ops": [{"op": "resize", "size": size}], **changes.pop("preprocess", {})}
    section = {"onnx": str(path), **changes.pop("model", {})}
    config = {"model": section, "dtype": dtype, "preprocess": preprocess, "output": str(output), **changes}
    build(parse_config(config, source="test"))
    return output


def make_images(count: int, *, channels: int = 3, hw: tuple[int, int] = (SIDE, SIDE)) -> npt.NDArray[np.float32]:
    """Return seeded noise (count, channels, H, W)."""
    return np.random.default_rng(1).standard_normal((count, channels, *hw)).astype(np.float32)


def run_artifact(folder: Path, images_nchw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what an artifact gives for images (B, 3, H, W), in batches of the size it can run."""
    artifact = open_artifact(folder)
    batch = artifact.choose_batch(len(images_nchw))
    session = artifact.open_session(Parallelism.make(batch=batch))
    parts = [session.run(images_nchw[index : index + batch]) for index in range(0, len(images_nchw), batch)]
    return np.concatenate([part.copy() for part in parts])


def run_reference(proto: onnx.ModelProto, values: Mapping[str, npt.NDArray[np.generic]], output: str) -> Any:
    """Return one output of a model as ONNX Runtime computes it from the file as it is, optimizations off.

    ONNX's own evaluator takes its place for float64, of which ONNX Runtime has no convolution.
    """
    if any(array.dtype == np.float64 for array in values.values()):
        return ReferenceEvaluator(proto).run([output], dict(values))[0]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run([output], dict(values))[0]


def list_initializer_inputs(proto: onnx.ModelProto) -> None:
    """List all weights as inputs too, as files of IR version 3 do, in place."""
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
