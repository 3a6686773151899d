"""What a build warns of: layers that an int8 artifact executes in float, and sums that this CPU overflows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from nestforge.artifact.manifest import QuantizationRecord
from nestforge.compile.quantize import WEIGHTED_OPS, find_obstacle
from nestforge.engines.base import Kernel
from nestforge.engines.machine import read_machine


@dataclass(frozen=True, kw_only=True)
class WeightedLayer:
    """A convolution, matrix product or other node with weights; `obstacle` says why it cannot be quantized."""

    name: str
    op_type: str
    obstacle: str | None


def describe_layers(model: ir.Model) -> dict[str, WeightedLayer]:
    """Return the layers of a graph that is not quantized yet, by every name that a kernel may give for one."""
    return {
        alias: WeightedLayer(name=str(node.name), op_type=node.op_type, obstacle=find_obstacle(node))
        for node in model.graph
        if node.op_type in WEIGHTED_OPS
        for alias in list_aliases(node)
    }


def list_aliases(node: ir.Node) -> list[str]:
    """Return a node's name, and those of the graph's outputs that it gives, which engines may call it by."""
    return [str(node.name), *(str(value.name) for value in node.outputs if value.is_graph_output())]


def find_warnings(
    quantization: QuantizationRecord | None,
    kernels: Iterable[Kernel],
    layers: Mapping[str, WeightedLayer],
    *,
    chosen: Collection[str],
) -> tuple[str, ...]:
    """Name what an int8 build executes in float although it has weights, and sums that this CPU will overflow.

    `layers` are those of `describe_layers`; the build file asks for those named in `chosen` to stay in float.
    """
    if quantization is None:
        return ()
    warnings = []
    if not quantization.saturation_avoided and not read_machine().has_int8_dot_product:
        warnings.append("this CPU overflows 16-bit sums of full-range weights: set quantize.saturation to auto")
    named: set[str] = set()
    for kernel in kernels:
        if kernel.is_weighted and not kernel.is_int8:
            within = [layers[name] for name in kernel.layers if name in layers]
            named.update(layer.name for layer in within)
            fallback = WeightedLayer(name=kernel.name, op_type=kernel.layer_type, obstacle=None)
            for layer in dict.fromkeys(within) or [fallback]:
                reason = _explain(layer, chosen)
                warnings.append(f"{layer.op_type} {layer.name} runs in {kernel.precision}, not in int8{reason}")
    for name in quantization.float_weighted_layers:
        if name not in named:  # the engine does not say what it executes, or not by this name
            warnings.append(f"{layers[name].op_type} {name} stays in float{_explain(layers[name], chosen)}")
    return tuple(warnings)


def _explain(layer: WeightedLayer, chosen: Collection[str]) -> str:
    if layer.obstacle is not None:
        return f": {layer.obstacle}"
    return ": the build file leaves it in float" if layer.name in chosen else ""
