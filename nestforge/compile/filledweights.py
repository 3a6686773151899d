"""Weights that a graph fills with one number (ConstantOfShape) instead of holding them: made into tensors.

The light models of the onnx package are such graphs. Only int8 needs the tensors; without them the file stays small.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from nestforge.compile.constants import add_initializer
from nestforge.compile.imageinput import is_standard
from nestforge.errors import ModelError

MAX_BYTES = 1 << 30  # of all of them together
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def fill_weights(model: ir.Model) -> int:
    """Make tensors of the weights that `model` fills with one number, in place; return how many.

    Raises:
        ModelError: they have over `MAX_BYTES`.
    """
    total = count = 0
    for node in list(model.graph):
        if node.op_type not in _WEIGHTED or len(node.inputs) < 2 or node.inputs[1] is None:
            continue
        weight = node.inputs[1]
        producer = weight.producer()
        if producer is None or producer.op_type != "ConstantOfShape" or not is_standard(producer):
            continue
        shape = ir.convenience.get_const_tensor(producer.inputs[0]) if producer.inputs[0] is not None else None
        value = producer.attributes.get_tensor("value")
        if shape is None:
            continue
        sides = [int(side) for side in shape.numpy().reshape(-1)]
        number = np.zeros(1, np.float32) if value is None else value.numpy().reshape(-1)
        total += math.prod(sides) * number.itemsize
        if total > MAX_BYTES:
            raise ModelError(f"the model fills weights of over {MAX_BYTES >> 20} MiB; build it with dtype fp32")
        filled = add_initializer(model.graph, f"{weight.name}.filled", np.full(sides, number[0]))
        ir.convenience.replace_all_uses_with(weight, filled)
        count += 1
    if count:
        RemoveUnusedNodesPass()(model)
    return count
