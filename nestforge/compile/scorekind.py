"""What a graph's scores are: logits, probabilities (of the classes together, or each by itself), or logarithms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from nestforge.artifact.manifest import ScoreKind

SUM_TOLERANCE = 1e-3  # of probabilities that were computed in 16 bits
# operators that move, round or drop nothing a score is read by
_MOVES = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_SHAPE_ONLY = _MOVES | {"Cast", "DequantizeLinear", "QuantizeLinear"}
_KINDS: dict[str, ScoreKind] = {
    "Softmax": "probabilities",
    "QLinearSoftmax": "probabilities",
    "LogSoftmax": "log_probabilities",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "sigmoid",
    "QLinearSigmoid": "sigmoid",
}


def recognise_graph(model: ir.Model) -> ScoreKind | None:
    """Return what the last operator says the output is; None where it may be anything, as the parts of a softmax."""
    producer = _skip_moves(model.graph.outputs[0])
    if producer is None:
        return None
    if producer.op_type in _KINDS:
        return _KINDS[producer.op_type]
    return "sigmoid" if _is_written_sigmoid(producer) else None


def recognise_values(scores: npt.NDArray[np.float32]) -> ScoreKind:
    """Return what scores (B, classes) of different images are, by their sums; `sigmoid` is not told from logits."""
    exact = scores.astype(np.float64)
    if _add_up_to_one(exact):
        return "probabilities"
    if np.isfinite(exact).all() and (exact <= SUM_TOLERANCE).all() and _add_up_to_one(np.exp(exact)):
        return "log_probabilities"
    return "logits"


def append_softmax(model: ir.Model) -> None:
    """Make a graph whose scores are logits, or logarithms of probabilities, give probabilities, in place."""
    scores = model.graph.outputs[0]
    producer = scores.producer()
    if producer is None:
        return
    softmax = ir.node("Softmax", [scores], {"axis": 1}, name="softmax")
    probabilities = softmax.outputs[0]
    probabilities.name, scores.name = scores.name, f"{scores.name}.logits"
    probabilities.type, probabilities.shape = scores.type, scores.shape
    model.graph.insert_after(producer, softmax)
    model.graph.outputs[0] = probabilities


def _add_up_to_one(scores: npt.NDArray[np.float64]) -> bool:
    return bool((scores >= 0).all() and (np.abs(scores.sum(axis=1) - 1) <= SUM_TOLERANCE).all())


def _skip_moves(value: ir.Value | None) -> ir.Node | None:
    """Return the node that computes what `value` only moves."""
    producer = value.producer() if value is not None else None
    while producer is not None and producer.op_type in _SHAPE_ONLY and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    return producer


def _is_written_sigmoid(node: ir.Node) -> bool:
    """Tell whether a node is the last of 1 / (1 + exp(-x))."""
    if node.op_type not in ("Div", "Reciprocal"):
        return False
    total = _skip_moves(node.inputs[-1])
    if total is None or total.op_type != "Add" or (node.op_type == "Div" and not _is_one(node.inputs[0])):
        return False
    producers = [_skip_moves(value) for value in total.inputs]
    return any(_is_one(value) for value in total.inputs) and any(
        producer is not None and producer.op_type == "Exp" for producer in producers
    )


def _is_one(value: ir.Value | None) -> bool:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensor is not None and tensor.size == 1 and float(tensor.numpy().reshape(())) == 1
