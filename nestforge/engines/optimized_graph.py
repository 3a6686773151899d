"""The kernels of ONNX Runtime, read from the optimised graph that it saves.

ONNX Runtime does not list what it executes, but it writes the graph as its optimisers leave it: one node a kernel.
Nodes are renamed on the way, and one may stand for several: what became of each node of the original graph is found
by names and by the values that both graphs have. Only this module of the engines needs the package onnx.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime

from nestforge.engines.base import Kernel
from nestforge.errors import EngineError

_WEIGHTED_TYPES = frozenset(
    {
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "Gemm",
        "MatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "NhwcFusedConv",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
_SHORT_NAMES = {
    "BFLOAT16": "bf16",
    "BOOL": "boolean",
    "DOUBLE": "f64",
    "FLOAT": "f32",
    "FLOAT16": "f16",
    "INT32": "i32",
    "INT64": "i64",
    "INT8": "i8",
    "UINT8": "u8",
}
_INT8_PRECISIONS = frozenset({"u8", "i8"})
_MADE_TYPES = {  # whatever their inputs are
    "ConvInteger": onnx.TensorProto.INT32,
    "DynamicQuantizeLinear": onnx.TensorProto.UINT8,
    "MatMulInteger": onnx.TensorProto.INT32,
    "MatMulIntegerToFloat": onnx.TensorProto.FLOAT,
    "Shape": onnx.TensorProto.INT64,
}
_TYPE_INPUTS = {"DequantizeLinear": 1, "QuantizeLinear": 2, "QGemm": 8}  # the input whose type the result has
_DEFAULT_TYPES = {"QuantizeLinear": onnx.TensorProto.UINT8, "QGemm": onnx.TensorProto.FLOAT}  # without that input
_RENAMED = re.compile(r"^fused |_nchwc$|_token_\d+$")  # what optimisers add to a node's or a value's name
_JOINS_PRODUCER = frozenset(  # what a kernel takes in behind its own sum, rather than in front of it
    {"Add", "BatchNormalization", "Clip", "HardSigmoid", "LeakyRelu", "Mul", "QuantizeLinear", "Relu", "Sigmoid"}
)


def list_kernels(model: Path | bytes, options: onnxruntime.SessionOptions) -> list[Kernel]:
    """Return what ONNX Runtime executes of an ONNX file or its bytes, opened with `options`.

    Raises:
        EngineError: the file cannot be opened any more, or the optimised graph cannot be written.
    """
    try:
        original = _load(model)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            options.optimized_model_filepath = str(path)
            source = model if isinstance(model, bytes) else str(model)
            onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            optimized = _load(path)
    except Exception as error:  # onnxruntime's and protobuf's exceptions share no public base class
        raise EngineError(f"onnxruntime does not say what it executes: {str(error).splitlines()[0]}") from error
    precisions = _find_precisions(optimized.graph)
    layers = _find_layers(original.graph, optimized.graph)
    kernels = []
    for index, node in enumerate(optimized.graph.node):
        precision = next((precisions[name] for name in node.input if name in precisions), "")
        kernels.append(
            Kernel(
                name=node.name,
                layer_type=node.op_type,
                precision=precision,
                is_weighted=node.op_type in _WEIGHTED_TYPES,
                is_int8=precision in _INT8_PRECISIONS,
                implementation=node.domain,
                layers=tuple(layers.get(index, ())),
            )
        )
    return kernels


def _load(model: Path | bytes) -> onnx.ModelProto:
    if isinstance(model, bytes):
        return onnx.load_from_string(model)
    return onnx.load(model, load_external_data=False)


def _find_precisions(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the element type of every value: as the graph tells it, or as nodes hand it on."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    infos = (*graph.input, *graph.output, *graph.value_info)
    types |= {info.name: info.type.tensor_type.elem_type for info in infos}
    for node in graph.node:
        made = _find_made_type(node, types)
        for name in node.output:
            if name and made:
                types.setdefault(name, made)
    names = {name: onnx.TensorProto.DataType.Name(number) for name, number in types.items()}
    return {name: _SHORT_NAMES.get(kind, kind.lower()) for name, kind in names.items()}


def _find_made_type(node: onnx.NodeProto, types: Mapping[str, int]) -> int | None:
    """Return the element type of what a node makes, where that is not already known: mostly that of its first input."""
    if node.op_type == "Cast":
        return next(int(attribute.i) for attribute in node.attribute if attribute.name == "to")
    if node.op_type in _MADE_TYPES:
        return _MADE_TYPES[node.op_type]
    position = _TYPE_INPUTS.get(node.op_type, 0)
    return types.get(node.input[position]) if position < len(node.input) else _DEFAULT_TYPES.get(node.op_type)


def _find_layers(original: onnx.GraphProto, optimized: onnx.GraphProto) -> dict[int, list[str]]:
    """Return the names of the original nodes in each optimised one, by its index and in the original's order."""
    producers = {name: index for index, node in enumerate(original.node) for name in node.output if name}
    named = {node.name: index for index, node in enumerate(original.node) if node.name}
    kernel_of: dict[int, int] = {}
    for index, node in enumerate(optimized.node):
        anchor = _find_anchor(node, named, producers)
        if anchor is not None:
            kernel_of.setdefault(anchor, index)
    _assign_others(original, producers, kernel_of)
    layers: dict[int, list[str]] = {}
    for place in sorted(kernel_of):
        layers.setdefault(kernel_of[place], []).append(original.node[place].name)
    return layers


def _find_anchor(node: onnx.NodeProto, named: Mapping[str, int], producers: Mapping[str, int]) -> int | None:
    """Return the original node that an optimised one is named after, or whose value it gives."""
    plain = _RENAMED.sub("", _RENAMED.sub("", node.name))
    for name in (node.name, plain):
        if name in named:
            return named[name]
    return next((producers[name] for name in (*node.output, plain) if name in producers), None)


def _assign_others(original: onnx.GraphProto, producers: Mapping[str, int], kernel_of: dict[int, int]) -> None:
    """Give nodes that no kernel is named after to the kernel before them, or else to the one behind them."""
    for place, node in enumerate(original.node):
        before = [kernel_of[producers[name]] for name in node.input if producers.get(name) in kernel_of]
        if place not in kernel_of and before and node.op_type in _JOINS_PRODUCER:
            kernel_of[place] = max(before)
    readers: dict[str, int] = {}
    for place in range(len(original.node) - 1, -1, -1):
        node = original.node[place]
        behind = [kernel_of[readers[name]] for name in node.output if readers.get(name) in kernel_of]
        if place not in kernel_of and behind:
            kernel_of[place] = behind[0]
        readers |= dict.fromkeys(node.input, place)
