"""A float32 graph and ranges become an int8 graph with QuantizeLinear/DequantizeLinear pairs.

Where pairs stand decides which kernels an engine runs:

- the data input of every convolution and matrix product with constant weights;
- both inputs of an addition that joins a convolution's output to another branch (a residual), so that the engine
  can fuse the sum into the convolution; but not where nothing reads the sum in 8 bits, as before the last pooling:
  there it changes more predictions than all other activations together, and hardly any time;
- the output of a convolution with ReLU, so that the kernel writes 8 bits whoever reads them (split attention);
- before a max pool or a reshape instead of after it, which is the same and moves a quarter of the bytes;
- everything that reads such a value reads the quantized one, so that it is stored once.

Activations: unsigned 8 bits over the calibrated range. Weights: signed, symmetric, per output channel or per tensor.
Biases stay in float; engines add them to the 32-bit sums.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from nestforge.compile.calibrate import Range
from nestforge.compile.constants import add_initializer
from nestforge.compile.passes.pads import read_padding
from nestforge.errors import ConfigError

WEIGHT_MAX = 127
SMALLEST_RANGE = 1e-30  # a scale must not underflow
_OUTPUT_AXIS = {"Conv": 0, "Gemm": 1, "MatMul": 1}  # of the weight; Gemm's is 0 when transB
WEIGHTED_OPS = frozenset({*_OUTPUT_AXIS, "ConvTranspose", "DeformConv", "Einsum", "GRU", "LSTM", "RNN"})
MOVES = frozenset({"MaxPool", "Flatten", "Reshape", "Squeeze", "Identity"})


@dataclass(frozen=True, kw_only=True)
class QuantizationSummary:
    """What was quantized."""

    activations: int
    weighted_layers: int
    float_weighted_layers: tuple[str, ...]  # of all `WEIGHTED_OPS`: those left in float


def find_convolutions(model: ir.Model, indices: Collection[int]) -> frozenset[str]:
    """Return the names of the convolutions with these indices, counted from 0 in graph order.

    Raises:
        ConfigError: an index the graph has no convolution for.
    """
    names = [str(node.name) for node in model.graph if node.op_type == "Conv"]
    wrong = [index for index in indices if index >= len(names)]
    if wrong:
        raise ConfigError(
            f"skip_convolutions holds {wrong[0]} but the model has {len(names)} convolutions, 0 to {len(names) - 1}"
        )
    return frozenset(names[index] for index in indices)


def find_activations(model: ir.Model, *, skip: Collection[str] = ()) -> dict[str, ir.Value]:
    """Return the values that get a quantizer, by name; nodes named in `skip` ask for none."""
    found: dict[str, ir.Value] = {}

    def ask(value: ir.Value | None) -> None:
        if value is not None:
            source = find_source(value)
            found[str(source.name)] = source

    nodes = [node for node in model.graph if node.name not in skip]
    for node in nodes:
        if is_weighted(node):
            ask(node.inputs[0])
        elif _is_rectified_convolution(node, skip):
            ask(node.outputs[0])
    for node in nodes:
        if is_residual(node) and not found.keys().isdisjoint(_list_results(node)):
            for value in node.inputs:
                if not _is_output_of(value, skip):
                    ask(value)
    return found


def quantize_graph(
    model: ir.Model,
    ranges: Mapping[str, Range],
    *,
    per_channel: bool,
    avoid_saturation: bool,
    skip: Collection[str] = (),
    activations: Collection[str] | None = None,
    means: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> QuantizationSummary:
    """Insert the pairs into `model`, in place; the nodes named in `skip` stay in float.

    `means` are those of the channels of what layers read: the error that rounding the weights makes on them is taken
    out of the bias (Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019).
    `activations` names what gets a quantizer where `model` is a part that cannot tell by itself; names of other parts
    are ignored.

    With `avoid_saturation`, no two neighbouring products can overflow 16 bits; see `scale_weights`.
    """
    graph = model.graph
    read = {node.name: node.inputs[0].name for node in graph if node.inputs and node.inputs[0] is not None}
    if activations is None:
        found = find_activations(model, skip=skip)
    else:
        values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
        found = {str(value.name): value for value in values if value.name in activations}
    for name, value in found.items():
        _quantize_activation(graph, value, ranges[name])
    layers, left = 0, []
    for node in list(graph):
        if node.name not in skip and is_weighted(node) and _reads_quantized(node):
            error = _quantize_weight(graph, node, per_channel=per_channel, avoid_saturation=avoid_saturation)
            mean = (means or {}).get(str(read[node.name]))
            if mean is not None and node.op_type != "MatMul":  # which has no bias
                _correct_bias(graph, node, error, mean)
            layers += 1
        elif node.op_type in WEIGHTED_OPS:
            left.append(str(node.name))
    NameFixPass()(model)  # a graph that was quantized before has nodes of these names
    return QuantizationSummary(activations=len(found), weighted_layers=layers, float_weighted_layers=tuple(left))


def scale_weights(
    rows: npt.NDArray[np.float32], *, per_channel: bool, avoid_saturation: bool
) -> npt.NDArray[np.float32]:
    """Return the scale of each output channel for `rows`, shape (C_out, taps, C_in): weight = scale x int8.

    CPUs without a dot-product instruction add two neighbouring products, u8 x s8, in 16 bits. The sum stays below
    32,768 for any activations when two neighbouring weights of one sign add up to at most 128; the scale is made
    just large enough for that (127, which leaves one unit for rounding). See `list_pairs` for who is whose neighbour.
    """
    reach = np.abs(rows).max((1, 2))
    if avoid_saturation:
        for first, second in list_pairs(rows):
            for sign in (1, -1):
                both = np.maximum(sign * first, 0) + np.maximum(sign * second, 0)
                reach = np.maximum(reach, both.reshape(len(rows), -1).max(1, initial=0))
    if not per_channel:
        reach = np.full_like(reach, reach.max())
    reach = np.where(reach > SMALLEST_RANGE, reach, 1.0)
    return (reach / WEIGHT_MAX).astype(np.float32)


Rows = npt.NDArray[np.float32]


def list_pairs(rows: Rows) -> list[tuple[Rows, Rows]]:
    """Return the weights of (C_out, taps, C_in) whose products a kernel may add first, as pairs of equal arrays.

    Kernels take two neighbours along C_in at a time. With an odd C_in some pad the input and some let the next tap
    begin in the middle of a pair: then every two neighbours in the order (taps, C_in) are counted.
    """
    if rows.shape[2] % 2 == 0:
        return [(rows[:, :, ::2], rows[:, :, 1::2])]
    flat = rows.reshape(len(rows), -1)
    return [(flat[:, :-1], flat[:, 1:])]


def is_weighted(node: ir.Node) -> bool:
    """Tell whether a node is a convolution or matrix product with constant float weights, of a layout we quantize."""
    return node.op_type in _OUTPUT_AXIS and find_obstacle(node) is None


def find_obstacle(node: ir.Node) -> str | None:
    """Return why a node of `WEIGHTED_OPS` cannot be quantized, or None where it can."""
    if node.op_type not in _OUTPUT_AXIS:
        return f"{node.op_type} is not quantized"
    value, weights = (*node.inputs, None, None)[:2]
    tensor = ir.convenience.get_const_tensor(weights) if weights is not None else None
    if tensor is None:
        return "its weights are not constant"
    if value is None or value.is_initializer():
        return "its input is constant"
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weights are {tensor.dtype.name.lower()}, not float32"
    if node.op_type != "Conv" and len(tensor.shape) != 2:
        return f"its weights have {len(tensor.shape)} dimensions, not 2"
    if node.op_type == "Gemm" and _has_flag(node, "transA"):
        return "its input is transposed"
    return None


def _has_flag(node: ir.Node, name: str) -> bool:
    attribute = node.attributes.get(name)
    return attribute is not None and attribute.as_int() != 0


def _is_depthwise(node: ir.Node, weight: npt.NDArray[np.float32]) -> bool:
    """Tell whether each output reads one input: engines compute those tap by tap, without adding pairs."""
    group = node.attributes.get("group")
    return node.op_type == "Conv" and group is not None and group.as_int() == weight.shape[0] and weight.shape[1] == 1


def is_residual(node: ir.Node) -> bool:
    """Tell whether a node adds two branches, one of which a convolution puts out."""
    if node.op_type != "Add" or any(value is None or value.is_initializer() for value in node.inputs):
        return False
    producers = [value.producer() for value in node.inputs if value is not None]
    return any(producer is not None and producer.op_type == "Conv" for producer in producers)


def _list_results(node: ir.Node) -> list[str]:
    """Return the names of a sum and of what activation makes of it."""
    result = node.outputs[0]
    return [str(result.name), *(str(use.node.outputs[0].name) for use in result.uses() if use.node.op_type == "Relu")]


def _is_output_of(value: ir.Value | None, names: Collection[str]) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and producer.name in names


def _is_rectified_convolution(node: ir.Node, skip: Collection[str]) -> bool:
    producer = node.inputs[0].producer() if node.op_type == "Relu" and node.inputs[0] is not None else None
    return producer is not None and producer.op_type == "Conv" and producer.name not in skip and is_weighted(producer)


def find_source(value: ir.Value) -> ir.Value:
    """Return the value whose elements `value` moves or selects: quantizing that one instead changes nothing else.

    A Pad before a max pool may fill in the lowest float, which is in no range: then it is what the pool gives.
    """
    producer = value.producer()
    while producer is not None and producer.op_type in MOVES and producer.inputs[0] is not None:
        before = producer.inputs[0].producer()
        if before is not None and before.op_type == "Pad" and not _fills_zeros(before):
            break
        value, producer = producer.inputs[0], before
    return value


def _fills_zeros(pad: ir.Node) -> bool:
    padding = read_padding(pad)
    return padding is not None and padding.fill == 0


def _reads_quantized(node: ir.Node) -> bool:
    producer = find_source(node.inputs[0]).producer() if node.inputs[0] is not None else None
    return producer is not None and producer.op_type == "DequantizeLinear"


def _quantize_activation(graph: ir.Graph, value: ir.Value, bounds: Range) -> None:
    uses = list(value.uses())
    width = bounds.high - bounds.low
    scale = np.float32(width / 255 if width > SMALLEST_RANGE else 1.0)
    zero_point = np.uint8(np.clip(round(-bounds.low / float(scale)), 0, 255))
    inputs = [add_initializer(graph, f"{value.name}.scale", np.asarray(scale))]
    inputs.append(add_initializer(graph, f"{value.name}.zero_point", np.asarray(zero_point)))
    quantize = ir.node("QuantizeLinear", [value, *inputs], name=f"{value.name}.quantize")
    quantize.outputs[0].name = f"{value.name}.quantized"
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *inputs], name=f"{value.name}.dequantize")
    dequantize.outputs[0].name = f"{value.name}.dequantized"
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [quantize, dequantize])
    else:
        graph.insert_after(producer, [quantize, dequantize])
    for user, index in uses:
        user.replace_input_with(index, dequantize.outputs[0])


def _quantize_weight(
    graph: ir.Graph, node: ir.Node, *, per_channel: bool, avoid_saturation: bool
) -> npt.NDArray[np.float64]:
    """Return what rounding took from the sum over taps of each weight, (C_out, C_in / groups)."""
    value = node.inputs[1]
    assert value is not None
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    weight = tensor.numpy()
    axis = 0 if node.op_type == "Gemm" and _has_flag(node, "transB") else _OUTPUT_AXIS[node.op_type]
    moved = np.moveaxis(weight, axis, 0)
    rows = moved.reshape(*moved.shape[:2], -1).transpose(0, 2, 1)  # (C_out, taps, C_in)
    pairs_overflow = avoid_saturation and not _is_depthwise(node, weight)
    scale = scale_weights(rows, per_channel=per_channel, avoid_saturation=pairs_overflow)
    steps = scale.reshape(-1, *[1] * (moved.ndim - 1))
    rounded = np.clip(np.round(moved / steps), -WEIGHT_MAX, WEIGHT_MAX)
    quantized = np.moveaxis(rounded, 0, axis).astype(np.int8)
    inputs = [
        add_initializer(graph, f"{node.name}.weight_int8", np.ascontiguousarray(quantized)),
        add_initializer(graph, f"{node.name}.weight_scale", scale),
        add_initializer(graph, f"{node.name}.weight_zero_point", np.zeros(len(scale), np.int8)),
    ]
    dequantize = ir.node("DequantizeLinear", inputs, {"axis": axis}, name=f"{node.name}.weight_dequantize")
    dequantize.outputs[0].name = f"{node.name}.weight_dequantized"
    graph.insert_before(node, dequantize)
    node.replace_input_with(1, dequantize.outputs[0])
    if not value.uses():
        graph.initializers.pop(str(value.name), None)
    error = moved.astype(np.float64) - rounded.astype(np.float64) * steps
    return np.asarray(error.reshape(*moved.shape[:2], -1).sum(2))


def _correct_bias(
    graph: ir.Graph, node: ir.Node, error: npt.NDArray[np.float64], mean: npt.NDArray[np.float64]
) -> None:
    """Add to the bias what rounding the weights takes from each output, where inputs are at their mean."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = ir.convenience.get_const_tensor(bias) if bias is not None else None
    if bias is not None and (tensor is None or len(tensor.shape) != 1):
        return
    group = node.attributes.get("group")
    groups = group.as_int() if group is not None else 1
    shift = (error.reshape(groups, -1, error.shape[1]) * mean.reshape(groups, 1, -1)).sum(2).reshape(-1)
    old = tensor.numpy().astype(np.float64) if tensor is not None else 0.0
    corrected = add_initializer(graph, f"{node.name}.bias_corrected", (old + shift).astype(np.float32))
    node.resize_inputs(3)
    node.replace_input_with(2, corrected)
    if bias is not None and not bias.uses():
        graph.initializers.pop(str(bias.name), None)
