"""A network cut into parts that run one after the other, so that a change in one costs only it and what follows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir

from nestforge.compile.nodeorder import list_reads
from nestforge.compile.onnxfile import infer_shapes, read_shapes
from nestforge.compile.plan import QuantizationPlan
from nestforge.compile.quantize import MOVES, find_activations
from nestforge.engines.base import Engine, Images, Session, Settings

_FLOAT_TYPES = (0, 1, 10, 11, 16)  # unknown, float32, float16, float64, bfloat16


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a float32 graph from one value, (B, C, H, W), to the next."""

    proto: onnx.ModelProto
    settings: Settings

    @property
    def nodes(self) -> frozenset[str]:
        """Names of its nodes."""
        return frozenset(node.name for node in self.proto.graph.node)

    @property
    def values(self) -> frozenset[str]:
        """Names of its input and of what its nodes put out."""
        made = (name for node in self.proto.graph.node for name in node.output)
        return frozenset([self.proto.graph.input[0].name, *made])

    def open(self, engine: Engine) -> Session:
        """Open it in float32."""
        return engine.open(self.proto.SerializeToString(), self.settings)

    def open_quantized(
        self, engine: Engine, plan: QuantizationPlan, activations: Collection[str], *, kept_in_float: Collection[str]
    ) -> Session:
        """Open what `quantize` makes."""
        return engine.open(
            self.quantize(plan, activations, kept_in_float=kept_in_float).SerializeToString(), self.settings
        )

    def quantize(
        self, plan: QuantizationPlan, activations: Collection[str], *, kept_in_float: Collection[str]
    ) -> onnx.ModelProto:
        """Return the part in int8: `activations` are quantized, and all layers except those `kept_in_float`."""
        model = ir.from_proto(self.proto)
        plan.apply(model, kept_in_float=kept_in_float, activations=activations)
        quantized = ir.to_proto(model)
        output = quantized.graph.output[0]
        if output.name in activations:  # the value belongs to both parts, and a layer here may be who asks for it
            dequantized = next(node for node in quantized.graph.node if node.name == f"{output.name}.dequantize")
            output.name = dequantized.output[0]
        return quantized


def cut_graph(model: ir.Model, engine: Engine, settings: Settings) -> list[Segment]:
    """Cut a graph wherever all of it that follows reads a single float value of four dimensions, not before a ReLU.

    What is known from the input's shape alone becomes a constant.
    """
    proto = infer_shapes(model, settings.batch, settings.height, settings.width)
    graph = proto.graph
    shapes, integers, dependent = read_shapes(proto), _list_integers(proto), _list_dependent(graph)
    last_use = {name: index for index, node in enumerate(graph.node) for name in list_reads(node)}
    last_use |= {output.name: len(graph.node) for output in graph.output}
    cuts: list[tuple[int, str]] = []
    live = {graph.input[0].name}
    crossing: set[str] = set()  # sizes that a later part reads
    for index, node in enumerate(graph.node[:-1]):
        live |= {name for name in node.output if name}
        live -= {name for name in live if last_use.get(name, -1) <= index}
        value = "".join(live & dependent) if len(live & dependent) == 1 else ""
        fused = graph.node[index + 1].op_type == "Relu"  # which engines run with the layer before it
        whole = value in node.output and value not in integers and _is_known(shapes.get(value, []))
        if whole and not fused and node.op_type not in MOVES:
            cuts.append((index + 1, value))
            crossing |= live - dependent
    fixed = _read_sizes(proto, sorted(crossing), engine, settings)
    bounds = [(0, graph.input[0].name), *cuts, (len(graph.node), graph.output[0].name)]
    return [
        _extract(proto, bounds[place], bounds[place + 1], shapes, fixed, settings) for place in range(len(bounds) - 1)
    ]


def list_boundary_values(
    segments: Sequence[Segment], model: ir.Model, requested: Collection[str], *, skip: Collection[str]
) -> list[set[str]]:
    """Return for each part of `model` the values at its ends that are not its own to quantize.

    A value between two parts is the first's where only layers of that ask for it, and else the second's; so layers
    that are kept in float in one part take their quantizers with them.
    """
    boundary_values: list[set[str]] = [set() for _ in segments]
    for place, segment in enumerate(segments[:-1]):
        end = segment.proto.graph.output[0].name
        only_here = end in requested and end not in find_activations(model, skip={*skip, *segment.nodes})
        boundary_values[place + only_here].add(end)
    return boundary_values


def find_affected_segments(
    segments: Sequence[Segment], boundary_values: Sequence[Collection[str]], changed: Collection[str], place: int
) -> range:
    """Return the parts to compile again, where quantizers of the values in `changed` appear or go; `place` is one.

    The first layer of a stage may be the only one that reads the sum before it in 8 bits. Kept in float, it leaves the
    inputs of that sum in float, which are outputs of an earlier part.
    """
    touched = [
        index
        for index, (segment, theirs) in enumerate(zip(segments, boundary_values, strict=True))
        if index == place or not segment.values.difference(theirs).isdisjoint(changed)
    ]
    return range(touched[0], touched[-1] + 1)


def run_chain(sessions: Sequence[Session], batches: Sequence[Images]) -> list[Images]:
    """Run batches through sessions one after the other."""
    for session in sessions:
        batches = [session.run(batch).copy() for batch in batches]
    return list(batches)


def _is_known(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and all(shape)


def _list_integers(proto: onnx.ModelProto) -> set[str]:
    """Return the names of the values that are no floats."""
    infos = (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)
    return {info.name for info in infos if info.type.tensor_type.elem_type not in _FLOAT_TYPES}


def _list_dependent(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the values that depend on what is in the images, not on their size alone."""
    found = {graph.input[0].name}
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and not found.isdisjoint(list_reads(node)):
            found |= set(node.output)
    return found


def _read_sizes(
    proto: onnx.ModelProto, names: Sequence[str], engine: Engine, settings: Settings
) -> dict[str, onnx.TensorProto]:
    if not names:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    for name in names:
        probe.graph.output.add(name=name)
    images = np.zeros((settings.batch, settings.channels, settings.height, settings.width), np.float32)
    values = engine.open(probe.SerializeToString(), settings).run_all(images)
    return {name: onnx.numpy_helper.from_array(np.asarray(values[name]), name) for name in names}


def _extract(
    proto: onnx.ModelProto,
    begin: tuple[int, str],
    end: tuple[int, str],
    shapes: dict[str, list[int]],
    fixed: dict[str, onnx.TensorProto],
    settings: Settings,
) -> Segment:
    graph = proto.graph
    nodes = graph.node[begin[0] : end[0]]
    read = {name for node in nodes for name in node.input}
    value = onnx.helper.make_tensor_value_info(begin[1], onnx.TensorProto.FLOAT, shapes[begin[1]])
    result = onnx.helper.make_tensor_value_info(end[1], onnx.TensorProto.FLOAT, None)
    made = {name for node in nodes for name in node.output}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    constants += [tensor for name, tensor in fixed.items() if name in read - made]
    part = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, graph.name, [value], [result], constants),
        opset_imports=proto.opset_import,
        ir_version=proto.ir_version,
    )
    _, channels, height, width = shapes[begin[1]]
    return Segment(proto=part, settings=replace(settings, channels=channels, height=height, width=width))
