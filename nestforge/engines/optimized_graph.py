"""The kernels of ONNX Runtime, read from the optimised graph that it saves.

ONNX Runtime does not list the kernels that it executes, but it can save the optimised graph, which has one node per
kernel. Optimisers rename and fuse nodes. The nodes of the original graph are matched to those of the optimised one by
their names and by the values that both graphs have. Only this module of the engines needs the package onnx.
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
_MADE_TYPES = {  # result types that do not depend on the inputs
    "ConvInteger": onnx.TensorProto.INT32,
    "DynamicQuantizeLinear": onnx.TensorProto.UINT8,
    "MatMulInteger": onnx.TensorProto.INT32,
    "MatMulIntegerToFloat": onnx.TensorProto.FLOAT,
    "Shape": onnx.TensorProto.INT64,
}
_TYPE_INPUTS = {
    "DequantizeLinear": 1,
    "QuantizeLinear": 2,
    "QGemm": 8,
}  # index of the input whose type is that of the result
_DEFAULT_TYPES = {"QuantizeLinear": onnx.TensorProto.UINT8, "QGemm": onnx.TensorProto.FLOAT}  # without that input
_RENAMED = re.compile(r"^fused |_nchwc$|_token_\d+$")  # what optimisers add to a node's or a value's name
_JOINS_PRODUCER = frozenset(  # nodes that a kernel fuses after its own sum, rather than before it
    {"Add", "BatchNormalization", "Clip", "HardSigmoid", "LeakyRelu", "Mul", "QuantizeLinear", "Relu", "Sigmoid"}
)


def list_kernels(model: Path | bytes, options: onnxruntime.SessionOptions) -> list[Kernel]:
    """Return the kernels that ONNX Runtime executes for an ONNX file or its bytes, opened with `options`.

    Raises:
        EngineError: the file can no longer be opened, or the optimised graph cannot be written.
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
        raise EngineError(f"onnxruntime cannot list its kernels: {str(error).splitlines()[0]}") from error
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
    """Return the element type of every value: as the graph declares it, or as it follows from the nodes."""
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
    """Return the element type of a node's result, which is mostly that of its first input."""
    if node.op_type == "Cast":
        return next(int(attribute.i) for attribute in node.attribute if attribute.name == "to")
    if node.op_type in _MADE_TYPES:
        return _MADE_TYPES[node.op_type]
    position = _TYPE_INPUTS.get(node.op_type, 0)
    return types.get(node.input[position]) if position < len(node.input) else _DEFAULT_TYPES.get(node.op_type)


def _find_layers(original: onnx.GraphProto, optimized: onnx.GraphProto) -> dict[int, list[str]]:
    """Return optimised node index -> names of the original nodes in it, in the order of the original graph."""
    producers = {name: index for index, node in enumerate(original.node) for name in node.output if name}
    named = {node.name: index for index, node in enumerate(original.node) if node.name}
    kernel_of: dict[int, int] = {}
    for index, node in enumerate(optimized.node):
        anchor = _find_anchor(node, named, producers)
        if anchor is not None:
            kernel_of.setdefault(anchor, index)
    _assign_others(original, producers, kernel_of)
    layers: dict[int, list[str]] = {}
    for position in sorted(kernel_of):
        layers.setdefault(kernel_of[position], []).append(original.node[position].name)
    return layers


def _find_anchor(node: onnx.NodeProto, named: Mapping[str, int], producers: Mapping[str, int]) -> int | None:
    """Return the original node that an optimised one is named after, or whose result it computes."""
    plain = _RENAMED.sub("", _RENAMED.sub("", node.name))
    for name in (node.name, plain):
        if name in named:
            return named[name]
    return next((producers[name] for name in (*node.output, plain) if name in producers), None)


def _assign_others(original: onnx.GraphProto, producers: Mapping[str, int], kernel_of: dict[int, int]) -> None:
    """Assign nodes that no kernel is named after to the kernel before them or, failing that, after them."""
    for position, node in enumerate(original.node):
        before = [kernel_of[producers[name]] for name in node.input if producers.get(name) in kernel_of]
        if position not in kernel_of and before and node.op_type in _JOINS_PRODUCER:
            kernel_of[position] = max(before)
    readers: dict[str, int] = {}
    for position in range(len(original.node) - 1, -1, -1):
        node = original.node[position]
        behind = [kernel_of[readers[name]] for name in node.output if readers.get(name) in kernel_of]
        if position not in kernel_of and behind:
            kernel_of[position] = behind[0]
        readers |= dict.fromkeys(node.input, position)
