"""Every layer of a variant with its sizes: the expected state dict, parameter and MAC counts, seeded weights.

Everything is computed from the table in `zoo`, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nestforge.networks.zoo import Variant, list_blocks

Weights = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer; `elements` is the number of values in its output for one image."""

    name: str
    kind: Literal["conv", "norm", "linear", "average_pool"]
    elements: int
    weight_shape: tuple[int, ...] = ()  # conv (C_out, C_in/groups, k, k), norm (C,), linear (out, in)
    bias: bool = False

    @property
    def kernel_macs(self) -> int:
        """Multiply-accumulates of a convolution or linear layer for one image, else 0."""
        return self.elements * math.prod(self.weight_shape[1:]) if self.kind in ("conv", "linear") else 0


def list_layers(variant: Variant, *, image_size: int | None = None, num_classes: int | None = None) -> list[Layer]:
    """Return the layers of `variant` in the order of the authors' state dict."""
    size = variant.image_size if image_size is None else image_size
    return list(_walk_layers(variant, size, variant.num_classes if num_classes is None else num_classes))


def _conv(name: str, c_out: int, c_in: int, kernel: int, side: int, groups: int = 1, bias: bool = False) -> Layer:
    shape = (c_out, c_in // groups, kernel, kernel)
    return Layer(name=name, kind="conv", elements=c_out * side * side, weight_shape=shape, bias=bias)


def _norm(name: str, channels: int, side: int) -> Layer:
    return Layer(name=name, kind="norm", elements=channels * side * side, weight_shape=(channels,), bias=True)


def _pool(name: str, channels: int, side: int) -> Layer:
    return Layer(name=name, kind="average_pool", elements=channels * side * side)


def _walk_layers(variant: Variant, size: int, num_classes: int) -> Iterator[Layer]:
    stem, radix, cardinality = variant.stem_width, variant.radix, variant.cardinality
    side = math.ceil(size / 2)
    yield _conv("conv1.0", stem, 3, 3, side)
    yield _norm("conv1.1", stem, side)
    yield _conv("conv1.3", stem, stem, 3, side)
    yield _norm("conv1.4", stem, side)
    yield _conv("conv1.6", stem * 2, stem, 3, side)
    yield _norm("bn1", stem * 2, side)
    side = math.ceil(side / 2)  # max pool
    channels = stem * 2
    for block in list_blocks(variant):
        width, splits, attention = block.group_width, block.group_width * radix, block.attention_width
        side_out = math.ceil(side / block.stride)
        side_split = side_out if variant.avd_first else side
        yield _conv(f"{block.name}.conv1", width, block.in_channels, 1, side)
        yield _norm(f"{block.name}.bn1", width, side)
        yield _conv(f"{block.name}.conv2.conv", splits, width, 3, side_split, radix * cardinality)
        yield _norm(f"{block.name}.conv2.bn0", splits, side_split)
        yield _conv(f"{block.name}.conv2.fc1", attention, width, 1, 1, cardinality, bias=True)
        yield _norm(f"{block.name}.conv2.bn1", attention, 1)
        yield _conv(f"{block.name}.conv2.fc2", splits, attention, 1, 1, cardinality, bias=True)
        yield _conv(f"{block.name}.conv3", block.out_channels, width, 1, side_out)
        yield _norm(f"{block.name}.bn3", block.out_channels, side_out)
        if block.avd:
            yield _pool(f"{block.name}.avd_layer", width, side_out)
        if block.downsample:
            yield _pool(f"{block.name}.downsample.0", block.in_channels, side_out)
            yield _conv(f"{block.name}.downsample.1", block.out_channels, block.in_channels, 1, side_out)
            yield _norm(f"{block.name}.downsample.2", block.out_channels, side_out)
        side, channels = side_out, block.out_channels
    yield Layer(name="fc", kind="linear", elements=num_classes, weight_shape=(num_classes, channels), bias=True)


def expected_shapes(variant: Variant, *, num_classes: int | None = None) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the authors' state dict, batch-norm buffers included."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in list_layers(variant, num_classes=num_classes):
        if layer.kind == "average_pool":
            continue
        shapes[f"{layer.name}.weight"] = layer.weight_shape
        if layer.bias:
            shapes[f"{layer.name}.bias"] = layer.weight_shape[:1]
        if layer.kind == "norm":
            shapes[f"{layer.name}.running_mean"] = layer.weight_shape
            shapes[f"{layer.name}.running_var"] = layer.weight_shape
            shapes[f"{layer.name}.num_batches_tracked"] = ()
    return shapes


def count_parameters(variant: Variant, *, num_classes: int | None = None) -> int:
    """Return the number of trainable parameters (batch-norm buffers are not counted)."""
    shapes = expected_shapes(variant, num_classes=num_classes)
    return sum(math.prod(shape) for name, shape in shapes.items() if name.endswith((".weight", ".bias")))


def count_kernel_macs(variant: Variant, *, image_size: int | None = None, num_classes: int | None = None) -> int:
    """Return the multiply-accumulates that convolution and linear kernels execute for one image."""
    layers = list_layers(variant, image_size=image_size, num_classes=num_classes)
    return sum(layer.kernel_macs for layer in layers)


def count_macs(variant: Variant, *, image_size: int | None = None, num_classes: int | None = None) -> int:
    """Return the MACs for one image as thop 0.1.1 counts them, the convention of published tables.

    It adds to the kernels' MACs four for each output value of a batch norm and one for each of an average pool.
    """
    weight = {"norm": 4, "average_pool": 1}
    layers = list_layers(variant, image_size=image_size, num_classes=num_classes)
    return sum(layer.kernel_macs + weight.get(layer.kind, 0) * layer.elements for layer in layers)


def convert_macs_to_vendor_gflops(macs: int) -> float:
    """Return "flops(G)" of the vendor guide: MACs x 2 / 0.9e9 (the divisor is 0.9, not 1.0)."""
    return macs * 2 / 0.9e9


def make_seeded_weights(variant: Variant, seed: int, *, num_classes: int | None = None) -> Weights:
    """Return a reproducible random state dict with plausible batch-norm statistics.

    Convolution weights are drawn as in He et al. (arXiv:1502.01852), so the output of a convolution has twice the
    second moment of its input. The running variances of batch norms are close to that, so activations keep their size
    at any depth, as in a trained network. The last batch norm of a block has a small gain, so the sum over blocks grows
    slowly.
    """
    rng = np.random.default_rng(seed)
    variances = _estimate_variances(variant)
    weights: Weights = {}
    for name, shape in expected_shapes(variant, num_classes=num_classes).items():
        owner, leaf = name.rsplit(".", 1)
        if leaf == "num_batches_tracked":
            continue
        if len(shape) > 1:
            value = rng.standard_normal(shape, np.float32) * math.sqrt(2 / math.prod(shape[1:]))
        elif leaf == "running_var":
            value = rng.uniform(0.7, 1.3, shape) * variances.get(owner, 1.0)
        elif leaf == "weight":
            value = rng.uniform(0.8, 1.2, shape) * (_LAST_GAIN if owner.endswith("bn3") else 1.0)
        else:
            value = rng.standard_normal(shape) * 0.1
        weights[name] = value.astype(np.float32)
    return weights


_LAST_GAIN = 0.3  # mean weight of the last batch norm of a block


def _estimate_variances(variant: Variant) -> dict[str, float]:
    """Return batch norm -> variance of its input, for those where it is far from 1: they read the sum over blocks."""
    variances = {"conv1.1": 2.0}  # images are normalised to a second moment of 1
    moment = 1.0  # second moment of the block's input; about 1 after the stem's ReLU and max pool
    for block in list_blocks(variant):
        variances[f"{block.name}.bn1"] = variances[f"{block.name}.downsample.2"] = 2 * moment
        moment = (1 + _LAST_GAIN**2) / 2 if block.downsample else moment + _LAST_GAIN**2 / 2
    return variances
