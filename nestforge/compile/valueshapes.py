"""What is known of the values inside a graph: what can be inferred, never what a file states.

Files state sizes that are not theirs any more: for one image where the input now takes any number, or by a name that
stands for the batch, the height and the width at once. Engines and graph passes would believe them.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from nestforge.compile.onnxfile import infer_shapes, read_shapes
from nestforge.errors import ModelError

_BATCHES = (2, 3)  # two, so that no other dimension is taken for the batch


def forget_shapes(model: ir.Model) -> None:
    """Forget what a file states of values that nodes put out; of what the graph itself gives, all but the type."""
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.shape = None
            if not value.is_graph_output():
                value.type = None


def infer_values(model: ir.Model) -> bool:
    """Give the values of a graph the types and shapes that can be inferred, in place; tell whether any can.

    Operators of other domains, and types that the graph cannot have, leave them unknown.
    """
    try:
        return ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model).modified
    except Exception:  # of onnx, onnx-ir and protobuf
        return False


def name_batches(model: ir.Model, height: int, width: int) -> int:
    """Give the first dimension of values the name of the input's, in place, where it is the batch; return of how many.

    Names are lost in reshapes to a size that the graph computes. With numbers in their place, as many as two and three
    images of this size, inference follows most of them.
    """
    batch = model.graph.inputs[0].shape
    values = [value for node in model.graph for value in node.outputs if value.shape]
    unknown = [value for value in values if value.shape and not isinstance(value.shape[0], int)]
    if batch is None or all(value.shape and value.shape[0] == batch[0] for value in unknown):
        return 0
    try:
        found = [read_shapes(infer_shapes(model, size, height, width)) for size in _BATCHES]
    except ModelError:  # the batch is fixed inside
        return 0
    named = 0
    for value in unknown:
        sizes = [shapes.get(str(value.name)) or [0] for shapes in found]
        if value.shape is not None and value.shape[0] != batch[0] and tuple(size[0] for size in sizes) == _BATCHES:
            value.shape = ir.Shape([batch[0], *value.shape[1:]])
            named += 1
    return named
