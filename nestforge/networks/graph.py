"""ResNeSt as an ONNX graph, made directly from a state dict, without torch.

The graph has the nodes of the authors' network and a dynamic batch, height and width. Its initializers have the names
of the state dict. The network is written here independently of `resnest`, so that each checks the other:
`nestforge.export` runs both and compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.tape import Tape

from nestforge.networks.zoo import Block, Variant, list_blocks

OPSET = 17
IR_VERSION = 9
BATCH_NORM_EPSILON = 1e-5


class _Builder:
    """Appends nodes to a tape; parameters are looked up by their name in the state dict."""

    def __init__(self, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
        self.tape = Tape()
        self.weights = weights

    def op(
        self, op_type: str, name: str, inputs: Sequence[ir.Value], **attributes: int | float | list[int]
    ) -> ir.Value:
        value = self.tape.op(op_type, list(inputs), attributes, name=name)
        value.name = f"{name}.out"
        return value

    def parameter(self, name: str) -> ir.Value:
        return self.tape.initializer(ir.tensor(self.weights[name], name=name))

    def constant(self, name: str, values: list[int]) -> ir.Value:
        return self.tape.initializer(ir.tensor(np.asarray(values, np.int64), name=name))

    def conv(self, x: ir.Value, name: str, *, stride: int = 1, groups: int = 1) -> ir.Value:
        kernel = self.weights[f"{name}.weight"].shape[2]
        leaves = ["weight", "bias"] if f"{name}.bias" in self.weights else ["weight"]
        inputs = [x, *(self.parameter(f"{name}.{leaf}") for leaf in leaves)]
        return self.op(
            "Conv",
            name,
            inputs,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
            group=groups,
        )

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        inputs = [x, *(self.parameter(f"{name}.{leaf}") for leaf in ("weight", "bias", "running_mean", "running_var"))]
        return self.op("BatchNormalization", name, inputs, epsilon=BATCH_NORM_EPSILON)

    def relu(self, x: ir.Value, name: str) -> ir.Value:
        return self.op("Relu", f"{name}.relu", [x])

    def split(self, x: ir.Value, name: str, parts: int) -> Sequence[ir.Value]:
        values = self.tape.op_multi_out("Split", [x], {"axis": 1}, num_outputs=parts, name=name)
        for index, value in enumerate(values):
            value.name = f"{name}.out{index}"
        return values

    def average_pool(self, x: ir.Value, name: str, *, kernel: int, stride: int, pad: int, ceil: bool) -> ir.Value:
        return self.op(
            "AveragePool",
            name,
            [x],
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            ceil_mode=int(ceil),
            count_include_pad=int(pad > 0),
        )


def build_graph(variant: Variant, weights: Mapping[str, npt.NDArray[np.float32]]) -> ir.Model:
    """Return the network as an ONNX model: ``input`` (B, 3, H, W) float32 -> ``output`` (B, classes) logits.

    `weights` is a complete state dict, as `read_checkpoint` or `make_seeded_weights` returns it.
    """
    net = _Builder(weights)
    num_classes = weights["fc.weight"].shape[0]
    images = ir.val("input", ir.DataType.FLOAT, ["batch", 3, "height", "width"])
    x = net.relu(net.norm(net.conv(images, "conv1.0", stride=2), "conv1.1"), "conv1.1")
    x = net.relu(net.norm(net.conv(x, "conv1.3"), "conv1.4"), "conv1.4")
    x = net.relu(net.norm(net.conv(x, "conv1.6"), "bn1"), "bn1")
    x = net.op("MaxPool", "maxpool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for block in list_blocks(variant):
        x = _add_block(net, x, block, variant)
    x = net.op("Flatten", "flatten", [net.op("GlobalAveragePool", "avgpool", [x])])
    logits = net.op("Gemm", "fc", [x, net.parameter("fc.weight"), net.parameter("fc.bias")], transB=1)
    logits.name = "output"
    logits.type = ir.TensorType(ir.DataType.FLOAT)
    logits.shape = ir.Shape(["batch", num_classes])
    graph = ir.Graph(
        [images],
        [logits],
        nodes=net.tape.nodes,
        initializers=net.tape.initializers,
        opset_imports={"": OPSET},
        name=variant.name,
    )
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="nestforge")


def _add_block(net: _Builder, x: ir.Value, block: Block, variant: Variant) -> ir.Value:
    """Append one bottleneck: (B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""
    name = block.name

    def avd(value: ir.Value) -> ir.Value:
        return net.average_pool(value, f"{name}.avd_layer", kernel=3, stride=block.stride, pad=1, ceil=False)

    y = net.relu(net.norm(net.conv(x, f"{name}.conv1"), f"{name}.bn1"), f"{name}.bn1")
    if block.avd and variant.avd_first:
        y = avd(y)
    y = _add_split_attention(net, y, f"{name}.conv2", variant, stride=1 if block.avd else block.stride)
    if block.avd and not variant.avd_first:
        y = avd(y)
    y = net.norm(net.conv(y, f"{name}.conv3"), f"{name}.bn3")
    if block.downsample:
        if block.stride > 1:
            x = net.average_pool(x, f"{name}.downsample.0", kernel=block.stride, stride=block.stride, pad=0, ceil=True)
        x = net.norm(net.conv(x, f"{name}.downsample.1"), f"{name}.downsample.2")
    return net.relu(net.op("Add", f"{name}.add", [y, x]), name)


def _add_split_attention(net: _Builder, x: ir.Value, name: str, variant: Variant, *, stride: int) -> ir.Value:
    """Append the split-attention convolution: (B, C, H, W) -> (B, C, H/stride, W/stride)."""
    radix, cardinality = variant.radix, variant.cardinality
    u = net.relu(
        net.norm(net.conv(x, f"{name}.conv", stride=stride, groups=radix * cardinality), f"{name}.bn0"), f"{name}.bn0"
    )  # (B, R*C, H, W), radix-major
    splits = net.split(u, f"{name}.split", radix) if radix > 1 else [u]  # R x (B, C, H, W)
    total = splits[0]
    for index, part in enumerate(splits[1:], start=1):
        total = net.op("Add", f"{name}.sum{index}", [total, part])
    gap = net.op("GlobalAveragePool", f"{name}.gap", [total])  # (B, C, 1, 1)
    z = net.relu(net.norm(net.conv(gap, f"{name}.fc1", groups=cardinality), f"{name}.bn1"), f"{name}.bn1")
    z = net.conv(z, f"{name}.fc2", groups=cardinality)  # (B, K*R*C/K, 1, 1), cardinality-major
    if radix == 1:
        return net.op("Mul", f"{name}.scale", [net.op("Sigmoid", f"{name}.sigmoid", [z]), u])
    z = net.op("Reshape", f"{name}.view", [z, net.constant(f"{name}.view_shape", [0, cardinality, radix, -1])])
    z = net.op("Transpose", f"{name}.transpose", [z], perm=[0, 2, 1, 3])  # (B, R, K, C/K)
    z = net.op("Softmax", f"{name}.rsoftmax", [z], axis=1)
    z = net.op("Reshape", f"{name}.flat", [z, net.constant(f"{name}.flat_shape", [0, -1, 1, 1])])  # (B, R*C, 1, 1)
    attention = net.split(z, f"{name}.attention", radix)  # R x (B, C, 1, 1)
    pairs = zip(attention, splits, strict=True)
    scaled = [net.op("Mul", f"{name}.scale{index}", pair) for index, pair in enumerate(pairs)]
    out = scaled[0]
    for index, part in enumerate(scaled[1:], start=1):
        out = net.op("Add", f"{name}.combine{index}", [out, part])
    return out
