"""The split-attention convolution against a naive one, group by group; the graph against the module."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch.nn import functional

from nestforge.networks.graph import build_graph
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.resnest import ResNeSt, SplitAttention
from nestforge.networks.zoo import get_variant

GRID = [(radix, cardinality) for radix in (1, 2, 4) for cardinality in (1, 2, 4)]


def run_naively(layer: SplitAttention, x: torch.Tensor) -> torch.Tensor:
    """Paper, section 3: each cardinal group on its own, its splits one by one.

    The convolution's groups are radix-major: split r of cardinal group k is group r * K + k. fc1 and fc2 are
    cut into one small layer per cardinal group; fc2's rows of group k are its R splits, one after the other.
    """
    radix, cardinality = layer.radix, layer.cardinality
    channels = x.shape[1]
    groups = radix * cardinality
    inputs = x.chunk(groups, 1)
    kernels = layer.conv.weight.chunk(groups, 0)
    convolved = [functional.conv2d(i, k, padding=1, stride=layer.conv.stride) for i, k in zip(inputs, kernels)]  # noqa: B905
    u = functional.relu(layer.bn0(torch.cat(convolved, 1)))
    per_group = channels // cardinality
    outputs = []
    for k in range(cardinality):
        splits = [u[:, r * channels + k * per_group : r * channels + (k + 1) * per_group] for r in range(radix)]
        gap = sum(splits).mean((2, 3))  # (B, C/K)
        middle = layer.fc1.weight.shape[0] // cardinality
        rows = slice(k * middle, (k + 1) * middle)
        z = functional.linear(gap, layer.fc1.weight[rows, :, 0, 0], layer.fc1.bias[rows])
        bn = layer.bn1
        z = (z - bn.running_mean[rows]) / torch.sqrt(bn.running_var[rows] + bn.eps) * bn.weight[rows] + bn.bias[rows]
        rows = slice(k * radix * per_group, (k + 1) * radix * per_group)
        z = functional.linear(functional.relu(z), layer.fc2.weight[rows, :, 0, 0], layer.fc2.bias[rows])
        attention = z.view(-1, radix, per_group)
        attention = torch.sigmoid(attention) if radix == 1 else torch.softmax(attention, 1)
        outputs.append(sum(attention[:, r, :, None, None] * splits[r] for r in range(radix)))
    return torch.cat(outputs, 1)


def randomize(module: torch.nn.Module) -> None:
    for value in module.state_dict().values():
        if value.dtype.is_floating_point:
            value.copy_(torch.rand_like(value) + 0.5 if value.ndim == 1 else torch.randn_like(value) * 0.3)


@pytest.mark.parametrize(("radix", "cardinality"), GRID)
def test_split_attention_equals_naive_groups(radix: int, cardinality: int) -> None:
    torch.manual_seed(0)
    layer = SplitAttention(16, 32, radix=radix, cardinality=cardinality, stride=1).eval()
    randomize(layer)
    x = torch.randn(2, 16, 7, 9)
    with torch.inference_mode():
        expected, found = run_naively(layer, x), layer(x)
    assert found.shape == (2, 16, 7, 9)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("avd_first", [False, True])
@pytest.mark.parametrize(("radix", "cardinality"), GRID)
def test_graph_equals_module(radix: int, cardinality: int, avd_first: bool) -> None:
    variant = dataclasses.replace(
        get_variant("resnest14_slim"), radix=radix, cardinality=cardinality, avd_first=avd_first, depths=(1, 2, 1, 1)
    )
    weights = make_seeded_weights(variant, 3)
    module = ResNeSt(variant).eval()
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)
    proto = ir.to_proto(build_graph(variant, weights))
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for batch, height, width in ((1, 56, 56), (3, 47, 65)):
        images = np.random.default_rng(batch).standard_normal((batch, 3, height, width), np.float32)
        with torch.inference_mode():
            expected = module(torch.from_numpy(images)).numpy()
        (found,) = session.run(None, {"input": images})
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        assert np.abs(expected[0]).max() > 0.1
