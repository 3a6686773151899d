"""The input of a graph that takes images: which one it is, its layout, and its number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from nestforge.errors import ModelError

Layout = Literal["NCHW", "NHWC", "CHW", "HWC"]

MAX_SIDE = 8192  # as `preprocess` has it
MAX_PIXELS = 1 << 27  # of a batch

_CHANNELS = (3, 1)  # colour or grey
_CONVOLUTION_WEIGHTS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}  # the input that is the weight
# operators that leave each channel where it is; the image is the first input that the graph does not hold
_ARITHMETIC = frozenset({"Abs", "Add", "Clip", "Div", "Exp", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Sqrt", "Sub"})
_ACTIVATIONS = frozenset({"LeakyRelu", "PRelu", "Reciprocal", "Relu", "Round", "Sigmoid", "Tanh"})
_NORMS = frozenset({"BatchNormalization", "DequantizeLinear", "InstanceNormalization", "LRN", "QuantizeLinear"})
_CHANNELWISE = _ARITHMETIC | _ACTIVATIONS | _NORMS | {"Cast", "Dropout", "Identity", "Pad", "Resize", "Upsample"}
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
INTEGERS = frozenset(
    {
        ir.DataType.UINT8,
        ir.DataType.INT8,
        ir.DataType.UINT16,
        ir.DataType.INT16,
        ir.DataType.UINT32,
        ir.DataType.INT32,
        ir.DataType.UINT64,
        ir.DataType.INT64,
    }
)


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """What a graph takes: `channels` are 3 (colour) or 1 (grey); a None batch or side is dynamic.

    A layout without N has no batch axis: `batch` is then 1.
    """

    value: ir.Value
    layout: Layout
    dtype: ir.DataType
    channels: int
    batch: int | None
    height: int | None
    width: int | None


def find_image_input(model: ir.Model) -> ImageInput:
    """Find the one input of a graph that takes a batch of images.

    The first convolution says which axis holds the channels, and how many they are where the input does not.

    Raises:
        ModelError: there is none or several, or it is not (B, C, H, W) or (B, H, W, C) with three channels or one.
    """
    value = _find_only_input(model)
    dims = read_dims(value)
    traced = _trace_channels(model, value)
    if not dims and traced is not None:
        dims = [None] * 4
    dtype = value.dtype
    without_batch = dims is not None and len(dims) == 3 and 3 in (dims[0], dims[2])
    if dims is None or not (len(dims) == 4 or without_batch) or dtype not in FLOATS | INTEGERS:
        raise ModelError(f"input {describe_value(value)} is not a batch of images: (B, 3, H, W) float32")
    assert dtype is not None
    batched = [1, *dims] if without_batch else dims
    axis, channels = _choose_channels(batched, None if without_batch else traced)
    if channels not in _CHANNELS:
        found = f" and its first convolution reads {channels} channels" if batched[axis] is None else ""
        raise ModelError(
            f"input {describe_value(value)} has neither 3 channels nor 1{found}; nestforge feeds colour or grey images"
        )
    height, width = batched[2:] if axis == 1 else batched[1:3]
    if max(height or 0, width or 0) > MAX_SIDE or (batched[0] or 1) * (height or 1) * (width or 1) > MAX_PIXELS:
        raise ModelError(
            f"input {describe_value(value)} is larger than any batch of images; export it for smaller ones"
        )
    layout: Layout = ("CHW" if axis == 1 else "HWC") if without_batch else ("NCHW" if axis == 1 else "NHWC")
    return ImageInput(
        value=value, layout=layout, dtype=dtype, channels=channels, batch=batched[0], height=height, width=width
    )


def read_dims(value: ir.Value) -> list[int | None] | None:
    """Return the dimensions of a value, None where one is not a positive number; None for a value without rank."""
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) and dim > 0 else None for dim in value.shape.dims]


def describe_value(value: ir.Value) -> str:
    """Return name, dimensions and type of a value for people: ``'x' (?, 3, 224, 224) float32``."""
    return f"{str(value.name)[:100]!r} {describe_type(value.type, read_dims(value))}"


def describe_type(kind: ir.TypeProtocol | None, dims: Sequence[int | None] | None) -> str:
    """Return dimensions and type for people; ``?`` is a dimension that is not fixed."""
    if kind is not None and not isinstance(kind, ir.TensorType):
        return f"({type(kind).__name__.removesuffix('Type').lower()})"
    shown = "of unknown shape" if dims is None else f"({', '.join('?' if dim is None else str(dim) for dim in dims)})"
    return f"{shown} {name_dtype(kind.dtype) if kind is not None else 'of unknown type'}"


def name_dtype(dtype: ir.DataType | None) -> str:
    """Return a type by the name numpy has for it."""
    if dtype is None or dtype == ir.DataType.UNDEFINED:
        return "of unknown type"
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def is_standard(node: ir.Node) -> bool:
    """Tell whether a node is one of ONNX's own operators, whose attributes and inputs the checker has seen."""
    return node.domain in ("", "ai.onnx")


def _find_only_input(model: ir.Model) -> ir.Value:
    """Return the input that the graph reads; others that nothing reads do not matter."""
    inputs = list(model.graph.inputs)
    read = [value for value in inputs if value.uses()]
    if len(read) == 1:
        return read[0]
    if len(inputs) == 1:
        return inputs[0]
    listed = ": " + ", ".join(describe_value(value) for value in (read or inputs)) if inputs else ""
    raise ModelError(
        f"the model has {len(read or inputs)} inputs{listed}; an image classifier takes one batch of images: "
        "export it with the others as constants"
    )


def _choose_channels(dims: list[int | None], traced: tuple[int, int] | None) -> tuple[int, int]:
    """Return the axis of the channels, 1 or 3, and their number; 3 where nothing says otherwise."""
    if traced is not None and traced[0] in (1, 3) and dims[traced[0]] in (None, traced[1]):
        return traced
    for channels in _CHANNELS:
        for axis in (1, 3):
            if dims[axis] == channels:
                return axis, channels
    return 1, dims[1] or 3


def _trace_channels(model: ir.Model, image: ir.Value) -> tuple[int, int] | None:
    """Return the axis of `image` that the first convolution takes as channels, and how many it reads.

    None where there is no convolution, or more than arithmetic and transposes lie between.
    """
    node = next((node for node in model.graph if is_standard(node) and node.op_type in _CONVOLUTION_WEIGHTS), None)
    if node is None:
        return None
    weight = _read_weight_shape(node.inputs[_CONVOLUTION_WEIGHTS[node.op_type]])
    if weight is None or len(weight) != 4:
        return None
    axis, value = 1, node.inputs[0]
    while value is not None and value is not image:
        producer = value.producer()
        if producer is None or not is_standard(producer):
            return None
        if producer.op_type == "Transpose":
            order = producer.attributes.get_ints("perm", (3, 2, 1, 0))
            if order is None or sorted(order) != [0, 1, 2, 3]:
                return None
            axis, value = order[axis], producer.inputs[0]
        elif producer.op_type in _CHANNELWISE:
            value = next((v for v in producer.inputs if v is not None and not _is_constant(v)), None)
        else:
            return None
    return None if value is None else (axis, weight[1] * node.attributes.get_int("group", 1))


def _is_constant(value: ir.Value) -> bool:
    """Tell whether the graph holds a value, or computes it from nothing else."""
    left, seen = [value], {value}
    while left:
        producer = (given := left.pop()).producer()
        if producer is None and not given.is_initializer():
            return False
        read = {v for v in producer.inputs if v is not None} - seen if producer is not None else set()
        seen |= read
        left += read
    return True


def _read_weight_shape(value: ir.Value | None) -> list[int] | None:
    """Return the shape of a weight, which may be stored in 8 bits, or filled with one number."""
    while value is not None and value.producer() is not None:
        producer = value.producer()
        assert producer is not None
        if not is_standard(producer):
            return None
        if producer.op_type == "ConstantOfShape" and producer.inputs[0] is not None:
            shape = ir.convenience.get_const_tensor(producer.inputs[0])
            return None if shape is None else [int(side) for side in shape.numpy().reshape(-1)]
        if producer.op_type not in ("DequantizeLinear", "QuantizeLinear", "Cast", "Identity"):
            return None
        value = producer.inputs[0]
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else [int(side) for side in tensor.shape.numpy()]
