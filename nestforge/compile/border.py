"""The ends of a graph: whatever it takes and gives, the artifact takes (B, 3, H, W) float32 and gives (B, classes).

In front, where they are needed: grey from colour, rounding to integers, a transpose, the batch axis taken off. Behind:
axes of one element taken off. All of it is part of the graph, so every engine does the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from nestforge.compile.constants import add_initializer
from nestforge.compile.imageinput import FLOATS, ImageInput

GREY_WEIGHTS = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # of red, green and blue: Pillow's, rounded to 16 bits
_TO_CHANNELS_LAST, _TO_CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


class _Chain:
    """Nodes made one after the other."""

    def __init__(self, graph: ir.Graph, value: ir.Value, name: str) -> None:
        self.value = value
        self.nodes: list[ir.Node] = []
        self._graph, self._name = graph, name

    def add(
        self,
        op_type: str,
        *constants: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
        attributes: dict[str, int | Sequence[int]] | None = None,
    ) -> None:
        name = f"{self._name}.{op_type.lower()}"
        given = [add_initializer(self._graph, f"{name}.{index}", array) for index, array in enumerate(constants)]
        node = ir.node(op_type, [self.value, *given], attributes or {}, name=name)
        node.outputs[0].name = name
        self.nodes.append(node)
        self.value = node.outputs[0]


def adapt_input(model: ir.Model, image: ImageInput, *, channels: str) -> None:
    """Let the graph take (B, 3, H, W) float32 in the order `channels` (rgb or bgr), in place, under the input's name.

    An integer input gets the nearest integers of what comes in, a grey one the luma that Pillow gives a grey image;
    floats of another width are float32 already (`widen_floats`).
    """
    graph, given = model.graph, image.value
    name = str(given.name)
    taken = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape([image.batch or "batch", 3, image.height or "height", image.width or "width"]),
    )
    given.name = f"{name}.given"
    chain = _Chain(graph, taken, name)
    if image.channels == 1:
        weights = np.array(GREY_WEIGHTS if channels == "rgb" else GREY_WEIGHTS[::-1], np.float32)
        chain.add("Mul", weights.reshape(1, 3, 1, 1))
        chain.add("ReduceSum", np.array([1], np.int64))
    if image.dtype not in FLOATS:
        limits = np.iinfo(image.dtype.numpy())
        chain.add("Round")
        if limits.bits <= 16:
            chain.add("Clip", np.array(limits.min, np.float32), np.array(limits.max, np.float32))
        chain.add("Cast", attributes={"to": int(image.dtype)})
    if image.layout in ("NHWC", "HWC"):
        _skip_transposes(given, chain.value)
        chain.add("Transpose", attributes={"perm": _TO_CHANNELS_LAST})
    if image.layout in ("CHW", "HWC"):
        chain.add("Squeeze", np.array([0], np.int64))
    ir.convenience.replace_all_uses_with(given, chain.value, replace_graph_outputs=True)
    graph.inputs[:] = [taken]
    if len(graph):
        graph.insert_before(graph[0], chain.nodes)
    else:
        graph.extend(chain.nodes)
    RemoveUnusedNodesPass()(model)


def adapt_output(model: ir.Model, output: ir.Value, *, rank: int, classes: int, batch: int | None) -> None:
    """Let the graph give nothing but `output`, as (B, classes) float32, in place, under its name.

    `output` has `rank` axes: the batch first, `classes` elements of each image after it; or, with a rank of 1, the
    classes alone.
    """
    graph = model.graph
    name = str(output.name)
    if rank != 2:
        output.name = f"{name}.given"
        chain = _Chain(graph, output, name)
        if rank == 1:
            chain.add("Reshape", np.array([-1, classes], np.int64))
        else:
            chain.add("Flatten", attributes={"axis": 1})
        producer = output.producer()
        assert producer is not None  # an input of images is no output of scores
        graph.insert_after(producer, chain.nodes)
        output = chain.value
        output.name = name
    output.type = ir.TensorType(ir.DataType.FLOAT)
    output.shape = ir.Shape([batch or "batch", classes])
    graph.outputs[:] = [output]
    RemoveUnusedNodesPass()(model)


def _skip_transposes(given: ir.Value, channels_first: ir.Value) -> None:
    """Let what transposes `given` to channels first read that at once."""
    for user, _ in list(given.uses()):
        order = user.attributes.get_ints("perm") if user.op_type == "Transpose" else None
        if order is not None and tuple(order) == _TO_CHANNELS_FIRST and not user.outputs[0].is_graph_output():
            ir.convenience.replace_all_uses_with(user.outputs[0], channels_first)
