"""ONNX files in and out, and what can be read off a graph: its image input, its classes, its MACs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import version_converter
from onnx_ir.passes.common import LiftConstantsToInitializersPass, NameFixPass, RemoveInitializersFromInputsPass

from nestforge.compile.constants import fold_constants
from nestforge.errors import ModelError

MAX_ONNX_BYTES = 2 << 30  # protobuf's own limit
OLDEST_OPSET = 13  # the first with per-channel QuantizeLinear
CONVERTED_OPSET = 17
_SHAPE_ONLY = frozenset({"Flatten", "Reshape", "Squeeze", "Identity", "Cast"})


@dataclass(frozen=True, kw_only=True)
class ImageClassifier:
    """What a graph takes and gives; a None side or batch is dynamic."""

    input_name: str
    fixed_batch: int | None
    fixed_height: int | None
    fixed_width: int | None
    num_classes: int
    gives_probabilities: bool  # the graph ends in a softmax


def read_onnx(path: Path) -> ir.Model:
    """Read an ONNX file, with an opset of at least 13 and a unique name for every node.

    Constants are initializers, also small ones that the graph computes.

    Raises:
        ModelError: missing, too large, not ONNX, or with data in other files.
    """
    if not path.is_file():
        raise ModelError(f"no ONNX file {path}; give the path of an exported model")
    if path.stat().st_size > MAX_ONNX_BYTES:
        raise ModelError(f"{path} is over 2 GiB; export the model with smaller weights")
    try:
        proto = onnx.load(path, load_external_data=False)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer):
            raise ModelError(f"{path} keeps its weights in other files; save it as one file")
        onnx.checker.check_model(proto)
        opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
        if opset < OLDEST_OPSET:
            proto = version_converter.convert_version(proto, CONVERTED_OPSET)
        model = ir.from_proto(proto)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        RemoveInitializersFromInputsPass()(model)
        fold_constants(model)
        NameFixPass()(model)
    except ModelError:
        raise
    except Exception as error:  # protobuf, the checker and the converter each have their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path} is not a valid ONNX model ({reason}); export it again") from error
    return model


def serialize(model: ir.Model) -> bytes:
    """Return the bytes of a model's file; the same model gives the same bytes."""
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def inspect_classifier(model: ir.Model) -> ImageClassifier:
    """Find the image input and the class output.

    Raises:
        ModelError: the graph does not take exactly one (B, 3, H, W) float32 input, or gives no (B, classes).
    """
    initializers = set(model.graph.initializers)
    inputs = [value for value in model.graph.inputs if value.name not in initializers]
    if len(inputs) != 1:
        raise ModelError(f"the model has {len(inputs)} inputs; an image classifier takes one image batch (B, 3, H, W)")
    value = inputs[0]
    dims = _read_dims(value)
    if len(dims) != 4 or dims[1] != 3 or value.dtype != ir.DataType.FLOAT:
        kind = value.dtype.name.lower() if value.dtype else "unknown"
        shown = ", ".join("?" if dim is None else str(dim) for dim in dims)
        raise ModelError(f"input {value.name!r} is ({shown}) {kind}; an image classifier takes (B, 3, H, W) float32")
    if not model.graph.outputs:
        raise ModelError("the model has no output; make the class scores its only one")
    proto = infer_shapes(model, dims[0] or 1, dims[2] or 224, dims[3] or 224)
    output = proto.graph.output[0].type.tensor_type.shape.dim
    classes = [dim.dim_value for dim in output]
    if len(classes) != 2 or classes[1] < 2:
        several = f" (the first of {len(proto.graph.output)} outputs)" if len(proto.graph.output) > 1 else ""
        raise ModelError(
            f"output {proto.graph.output[0].name!r}{several} is not (B, classes); make the class scores the only output"
        )
    return ImageClassifier(
        input_name=str(value.name),
        fixed_batch=dims[0],
        fixed_height=dims[2],
        fixed_width=dims[3],
        num_classes=classes[1],
        gives_probabilities=_ends_in_softmax(model),
    )


def append_softmax(model: ir.Model) -> None:
    """Make the graph give probabilities, in place; one that does already stays as it is."""
    logits = model.graph.outputs[0]
    producer = logits.producer()
    if producer is None or _ends_in_softmax(model):
        return
    softmax = ir.node("Softmax", [logits], {"axis": 1}, name="softmax")
    probabilities = softmax.outputs[0]
    probabilities.name, logits.name = logits.name, f"{logits.name}.logits"
    probabilities.type, probabilities.shape = logits.type, logits.shape
    model.graph.insert_after(producer, softmax)
    model.graph.outputs[0] = probabilities


def count_graph_macs(model: ir.Model, height: int, width: int) -> int:
    """Return the multiply-accumulates of convolutions and matrix products for one image; 0 where one is not known."""
    macs = count_layer_macs(model, height, width).values()
    return sum(macs) if all(macs) else 0


def count_layer_macs(model: ir.Model, height: int, width: int) -> dict[str, int]:
    """Return the multiply-accumulates of each convolution and matrix product for one image, by the node's name.

    A layer whose size cannot be inferred has 0.
    """
    proto = infer_shapes(model, 1, height, width)
    shapes = read_shapes(proto)
    macs = {}
    for node in proto.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
            continue
        out, weight = shapes.get(node.output[0]) or [0], shapes.get(node.input[1]) or [0]
        if node.op_type == "Conv":
            macs[node.name] = math.prod(out) * math.prod(weight[1:])
        else:
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            macs[node.name] = math.prod(out) * weight[-1 if transposed or len(weight) == 1 else -2]
    return macs


def infer_shapes(model: ir.Model, batch: int, height: int, width: int) -> onnx.ModelProto:
    """Return the model for one input size, with the type of every value as far as it can be known.

    Raises:
        ModelError: the shapes contradict each other.
    """
    try:
        return onnx.shape_inference.infer_shapes(_with_input(model, batch, height, width), data_prop=True)
    except Exception as error:  # onnx and protobuf each have their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"the model's shapes contradict each other ({reason}); export it again") from error


def read_shapes(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """Return the shapes of all values and constants of a model with inferred shapes; unknown sides are 0."""
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in (*proto.graph.value_info, *proto.graph.output, *proto.graph.input)
    }
    return shapes | {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}


def make_split(graph: ir.Graph, value: ir.Value | None, parts: int, *, name: str) -> ir.Node:
    """Return a node, not yet in the graph, that cuts the channels of `value` in equal parts."""
    count = {"num_outputs": parts} if graph.opset_imports.get("", 0) >= 18 else {}
    split = ir.node("Split", [value], {"axis": 1, **count}, num_outputs=parts, name=name)
    for index, output in enumerate(split.outputs):
        output.name = f"{name}{index}"
    return split


def _ends_in_softmax(model: ir.Model) -> bool:
    producer = model.graph.outputs[0].producer()
    while producer is not None and producer.op_type in _SHAPE_ONLY and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    return producer is not None and producer.op_type == "Softmax"


def _read_dims(value: ir.Value) -> list[int | None]:
    shape = value.shape
    return [] if shape is None else [dim if isinstance(dim, int) and dim > 0 else None for dim in shape.dims]


def _with_input(model: ir.Model, batch: int, height: int, width: int) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    initializers = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in initializers and len(dims) == 4:
            for dim, size in zip(dims, (batch, 3, height, width), strict=True):
                dim.dim_value = size
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    return proto
