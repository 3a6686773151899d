"""The output of a graph that classifies: which one it is, and how many classes it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from nestforge.compile.imageinput import FLOATS, describe_type, is_standard
from nestforge.compile.onnxfile import infer_shapes
from nestforge.engines import get_engine
from nestforge.engines.base import Settings
from nestforge.errors import EngineError, ModelError


@dataclass(frozen=True, kw_only=True)
class ClassOutput:
    """The value that scores classes; `dims` are its dimensions for `batch` images."""

    value: ir.Value
    dims: tuple[int, ...]
    classes: int


def choose_class_output(model: ir.Model, *, wanted: str | None, labels: int | None, settings: Settings) -> ClassOutput:
    """Find the value that gives scores by class for images of `settings`: `wanted`, or the output there is.

    Of several outputs it is the one with as many elements an image as there are `labels`, or the only one that can be.

    Raises:
        ModelError: there is none, more than one, or `wanted` is not one; the outputs and their shapes are listed.
    """
    outputs = list(model.graph.outputs)
    if wanted is not None:
        outputs = [_find_value(model, wanted)]
        model.graph.outputs[:] = outputs
    if not outputs:
        raise ModelError("the model has no output; make the class scores its only one")
    dims = _read_output_dims(model, settings)
    candidates = [
        ClassOutput(value=value, dims=tuple(dims[str(value.name)]), classes=classes)
        for value in outputs
        if (classes := _count_classes(value, dims.get(str(value.name)), settings.batch)) is not None
    ]
    matching = [candidate for candidate in candidates if candidate.classes == labels]
    if len(candidates) > 1 and len(matching) == 1:
        return matching[0]
    if len(candidates) == 1 and (len(outputs) == 1 or labels in (None, candidates[0].classes)):
        return candidates[0]
    shown = {str(value.name): _show(value, dims.get(str(value.name))) for value in outputs}
    raise ModelError(_explain_choice(outputs, candidates, shown, labels))


def _explain_choice(
    outputs: Sequence[ir.Value], candidates: Sequence[ClassOutput], shown: Mapping[str, str], labels: int | None
) -> str:
    listed = ", ".join(f"{name[:100]!r} {kind}" for name, kind in shown.items())
    if candidates:
        known = "no labels tell which" if labels is None else f"{labels} labels fit none of them, or more than one"
        return f"several outputs may be the class scores, and {known}; set model.output to one of {listed}"
    noun = "output" if len(outputs) == 1 else "outputs"
    origin = next((found for value in outputs if (found := _find_scores(value)) is not None), None)
    if origin is not None:
        zipped = any(is_made_by(value, "ZipMap") for value in outputs)
        remedy = ", or export it with options={'zipmap': False}" if zipped else ""
        return f"{noun} {listed}: made of the scores {str(origin.name)[:100]!r}; set model.output to that name{remedy}"
    return f"{noun} {listed}: not (B, classes) in float; make the class scores an output, or name them in model.output"


def is_made_by(value: ir.Value, op_type: str) -> bool:
    """Tell whether an operator of this type puts a value out."""
    producer = value.producer()
    return producer is not None and producer.op_type == op_type


def _show(value: ir.Value, dims: Sequence[int] | None) -> str:
    if is_made_by(value, "ZipMap"):
        return "(map from class to score)"
    return describe_type(value.type, None if dims is None else [dim or None for dim in dims])


def _find_value(model: ir.Model, name: str) -> ir.Value:
    """Return the value of this name: an output, or what any node puts out."""
    values = [*model.graph.outputs, *(value for node in model.graph for value in node.outputs)]
    found = next((value for value in values if value.name == name and value.producer() is not None), None)
    if found is None:
        listed = ", ".join(repr(str(value.name)[:100]) for value in model.graph.outputs)
        raise ModelError(f"model.output {name[:100]!r} is not a value of the model; its outputs are {listed}")
    return found


def _find_scores(value: ir.Value) -> ir.Value | None:
    """Return the scores that an output of the best classes, by number, name or as a map, is made of."""
    for _ in range(4):
        node = value.producer()
        if node is None or not node.inputs or node.inputs[0] is None:
            return None
        value = node.inputs[0]
        if node.op_type in ("ArgMax", "TopK", "ZipMap"):
            return value
        if is_standard(node) and node.op_type not in ("Cast", "Squeeze", "Reshape", "Flatten", "Identity", "Gather"):
            return None
    return None


def _read_output_dims(model: ir.Model, settings: Settings) -> dict[str, list[int]]:
    """Return the dimensions of the outputs; the graph is run where those of floats cannot be inferred."""
    proto = infer_shapes(model, settings.batch, settings.height, settings.width)
    dims: dict[str, list[int]] = {}
    for value, info in zip(model.graph.outputs, proto.graph.output, strict=True):
        tensor = info.type.tensor_type if info.type.HasField("tensor_type") else None
        if tensor is not None and tensor.elem_type:
            value.type = ir.TensorType(ir.DataType(tensor.elem_type))
        if value.is_graph_input():
            dims[str(value.name)] = [settings.batch, settings.channels, settings.height, settings.width]
        elif tensor is not None and tensor.HasField("shape"):
            dims[str(value.name)] = [dim.dim_value for dim in tensor.shape.dim]
    unknown = [
        value for value in model.graph.outputs if _may_be_scores(value) and not all(dims.get(str(value.name), [0]))
    ]
    return dims | (_run_for_dims(model, unknown, settings) if unknown else {})


def _may_be_scores(value: ir.Value) -> bool:
    """Tell whether a value can be a tensor of floats, as far as is known, that is not made of scores itself."""
    tensor = value.type is None or isinstance(value.type, ir.TensorType)
    made = value.producer() is not None and _find_scores(value) is None
    return tensor and made and value.dtype in (*FLOATS, None, ir.DataType.UNDEFINED)


def _run_for_dims(model: ir.Model, values: Sequence[ir.Value], settings: Settings) -> dict[str, list[int]]:
    """Return the dimensions of values by running the graph, with ONNX Runtime, which leaves them to the run."""
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=str(value.name)) for value in values)
    images = np.zeros((settings.batch, settings.channels, settings.height, settings.width), np.float32)
    try:
        found = get_engine("onnxruntime").open(proto.SerializeToString(), settings).run_all(images)
    except EngineError as error:
        names = ", ".join(repr(str(value.name)[:100]) for value in values)
        raise ModelError(f"the size of output {names} is not in the model, and running it fails: {error}") from error
    dims: dict[str, list[int]] = {}
    for value in values:
        array = found[str(value.name)]
        if isinstance(array, np.ndarray):  # and no sequence
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            dims[str(value.name)] = list(array.shape)
    return dims


def _count_classes(value: ir.Value, dims: Sequence[int] | None, batch: int) -> int | None:
    """Return how many classes a value scores; None where it does not: one axis of at least two, beside the batch."""
    if not dims or value.dtype not in FLOATS or value.producer() is None or _find_scores(value) is not None:
        return None
    batched = [1, *dims] if len(dims) == 1 and batch == 1 else list(dims)
    classes = [side for side in batched[1:] if side != 1]
    return classes[0] if batched[0] == batch and len(classes) == 1 and classes[0] > 1 else None
