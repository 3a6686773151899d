"""ONNX files in and out, whoever wrote them, and the sizes of what a graph computes."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import version_converter
from onnx_ir.passes.common import LiftConstantsToInitializersPass, NameFixPass, RemoveInitializersFromInputsPass

from nestforge.compile.constants import fold_constants
from nestforge.compile.externaldata import count_bytes, list_tensors, read_external_data
from nestforge.compile.functions import inline_functions
from nestforge.compile.nodeorder import sort_nodes
from nestforge.compile.operators import refuse_training
from nestforge.errors import ModelError

# onnx-ir logs, with a traceback, where it cannot infer shapes: that is for those who set logging up
logging.getLogger("onnx_ir").addHandler(logging.NullHandler())

MAX_ONNX_BYTES = 2 << 30  # protobuf's own limit
OLDEST_IR = 8  # that of CONVERTED_OPSET; in 3, weights are unknown unless they are inputs too
OLDEST_OPSET = 13  # the first with per-channel QuantizeLinear
CONVERTED_OPSET = 17
STEPPING_OPSET = 6


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A model, and the files beside its own that hold its weights."""

    model: ir.Model
    data_files: tuple[Path, ...]


def read_onnx(path: Path) -> ir.Model:
    """Return the model of an ONNX file; see `read_onnx_file`."""
    return read_onnx_file(path).model


def read_onnx_file(path: Path) -> OnnxFile:
    """Read an ONNX file: opset 13 or above, sorted nodes, no functions, a unique name for every node.

    Constants are initializers, also small ones that the graph computes, and those that are inputs too, as IR version 3
    lists all weights, are inputs no more. Weights in other files are read into the model.

    Raises:
        ModelError: missing, too large, not ONNX, or with data in files that are missing or not its own.
    """
    if not path.is_file():
        raise ModelError(f"no ONNX file {path}; give the path of an exported model")
    size_bytes = path.stat().st_size
    if size_bytes > MAX_ONNX_BYTES:
        raise ModelError(f"{path} is over 2 GiB; export the model with smaller weights")
    try:
        proto = onnx.load(path, load_external_data=False)
        data_files = read_external_data(proto, path, limit_bytes=MAX_ONNX_BYTES - size_bytes)
        model = ir.from_proto(_modernize(proto))
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        RemoveInitializersFromInputsPass()(model)
        fold_constants(model)
        NameFixPass()(model)
    except ModelError:
        raise
    except Exception as error:  # protobuf, the checker and the converter each have their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path} is not a valid ONNX model ({reason}); export it again") from error
    return OnnxFile(model=model, data_files=data_files)


def _modernize(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with sorted nodes and no functions, in an IR version and opset that engines and passes know."""
    del proto.training_info[:]
    proto.ir_version = max(proto.ir_version, OLDEST_IR)
    for graph in (proto.graph, *proto.functions):
        sort_nodes(graph)
    _check(proto)
    proto = inline_functions(proto)
    refuse_training(proto)
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < STEPPING_OPSET:  # shapes, which the next step asks for, are not inferred before it
        proto = version_converter.convert_version(proto, STEPPING_OPSET)
    if opset < OLDEST_OPSET:
        proto = version_converter.convert_version(onnx.shape_inference.infer_shapes(proto), CONVERTED_OPSET)
    _forget_maps(proto.graph)
    return proto


def _check(proto: onnx.ModelProto) -> None:
    """Check a model; as runtimes do, let inputs and outputs be without a number of dimensions."""
    values = (*proto.graph.input, *proto.graph.output)
    ranks = [value.type.tensor_type for value in values if value.type.HasField("tensor_type")]
    unknown = [tensor for tensor in ranks if not tensor.HasField("shape")]
    for tensor in unknown:
        tensor.shape.SetInParent()
    onnx.checker.check_model(proto)
    for tensor in unknown:
        tensor.ClearField("shape")
    for weight in list_tensors(proto):
        if weight.HasField("raw_data") and len(weight.raw_data) != count_bytes(weight):
            raise ValueError(f"tensor {weight.name[:100]!r} does not have the bytes that its dimensions ask for")


def _forget_maps(graph: onnx.GraphProto) -> None:
    """Forget the types of values that are maps, as a ZipMap gives them: of an output, the name alone stays."""
    for value in (*graph.output, *graph.value_info):
        kind = value.type
        while kind.WhichOneof("value") in ("sequence_type", "optional_type"):
            kind = getattr(kind, kind.WhichOneof("value")).elem_type
        if kind.HasField("map_type"):
            value.ClearField("type")


def serialize(model: ir.Model) -> bytes:
    """Return the bytes of a model's file; the same model gives the same bytes."""
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


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


def _with_input(model: ir.Model, batch: int, height: int, width: int) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    initializers = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in initializers and len(dims) == 4:
            for dim, size in zip(dims, (batch, 3, height, width), strict=True):
                dim.dim_value = size
    for value in proto.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    return proto
