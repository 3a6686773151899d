"""ONNX files."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

from tests.hostile.corpus.case import EITHER, REFUSED, USED, Case, damage, put
from tests.hostile.corpus.images import encode, make_picture


def list_onnx(model: bytes) -> Iterator[Case]:
    """Yield damaged versions of `model`, and valid ONNX files that are no image classifiers."""
    import onnx
    from onnx import TensorProto, helper

    def graph(
        nodes: list[Any],
        *,
        shape: tuple[Any, ...] = ("n", 3, 8, 8),
        dtype: int = TensorProto.FLOAT,
        inputs: int = 1,
        outputs: tuple[str, ...] = ("y",),
        weights: tuple[Any, ...] = (),
        opset: int = 17,
    ) -> bytes:
        made = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x" * (i + 1), dtype, shape) for i in range(inputs)],
            [helper.make_tensor_value_info(name, dtype, ("n", "k")) for name in outputs],
            list(weights),
        )
        proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])
        data: bytes = proto.SerializeToString()
        return data

    flat = helper.make_node("Flatten", ["x"], ["y"])
    node = helper.make_node
    external = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
    external.ClearField("float_data")
    external.data_location = TensorProto.EXTERNAL
    entry = external.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"
    short = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
    short.dims[0] = 10**12
    negative = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
    negative.dims[0] = -4
    yield Case("onnx", "plain.onnx", USED, put(graph([flat])))
    yield Case("onnx", "model.onnx", USED, put(model))
    yield Case("onnx", "second_input_unread.onnx", USED, put(graph([flat], inputs=2)))
    yield Case("onnx", "one_channel.onnx", USED, put(graph([flat], shape=("n", 1, 8, 8))))
    yield Case("onnx", "channels_last.onnx", USED, put(graph([flat], shape=("n", 8, 8, 3))))
    yield Case("onnx", "unsorted.onnx", USED, put(graph([node("Flatten", ["z"], ["y"]), node("Relu", ["x"], ["z"])])))
    bad = {
        "empty": b"",
        "text": b"no model",
        "noise": random.Random(2).randbytes(2000),
        "png": encode(make_picture(), "PNG"),
        "no_graph": onnx.ModelProto(ir_version=8).SerializeToString(),
        "no_nodes": graph([]),
        "no_input": graph([flat], inputs=0),
        "two_inputs": graph([node("Add", ["x", "xx"], ["z"]), node("Flatten", ["z"], ["y"])], inputs=2),
        "no_output": graph([flat], outputs=()),
        "wrong_output": graph([flat], outputs=("z",)),
        "five_channels": graph([flat], shape=("n", 5, 8, 8)),
        "rank_two": graph([flat], shape=("n", 192)),
        "scalar": graph([flat], shape=()),
        "integers": graph([flat], dtype=TensorProto.INT64),
        "strings": graph([flat], dtype=TensorProto.STRING),
        "half": graph([flat], dtype=TensorProto.FLOAT16),
        "one_class": graph([node("GlobalAveragePool", ["x"], ["p"]), node("ReduceMean", ["p"], ["y"], keepdims=0)]),
        "image_out": graph([node("Relu", ["x"], ["y"])]),
        "unknown_operator": graph([node("Explode", ["x"], ["y"])]),
        "unknown_domain": graph([node("Flatten", ["x"], ["y"], domain="com.nobody")]),
        "opset0": graph([flat], opset=0),
        "opset1": graph([flat], opset=1),
        "opset_future": graph([flat], opset=9999),
        "opset_negative": graph([flat], opset=-3),
        "cycle": graph([node("Relu", ["b"], ["a"]), node("Relu", ["a"], ["b"]), node("Flatten", ["b"], ["y"])]),
        "twice": graph([flat, flat]),
        "external": graph([flat, node("Relu", ["w"], ["z"])], weights=(external,)),
        "short_weights": graph([flat, node("Relu", ["w"], ["z"])], weights=(short,)),
        "negative_weights": graph([flat, node("Relu", ["w"], ["z"])], weights=(negative,)),
        "huge_sides": graph([flat], shape=("n", 3, 2**40, 2**40)),
        "huge_batch": graph([flat], shape=(2**62, 3, 8, 8)),
        "no_arguments": graph([node("Conv", [], ["y"])]),
    }
    for name, content in bad.items():
        either = name in ("opset_future", "huge_sides", "huge_batch", "opset1", "unknown_domain", "twice", "half")
        yield Case("onnx", f"{name}.onnx", EITHER if either else REFUSED, put(content))
    for name, content in damage(model[: len(model) // 8] if len(model) > 1 << 20 else model, 12, seed=4):
        yield Case("onnx", f"{name}.onnx", EITHER, put(content))
    yield Case("onnx", "pipe.onnx", REFUSED, lambda path: os.mkfifo(path))
    yield Case("onnx", "folder.onnx", REFUSED, lambda path: path.mkdir())
