"""Parameters, MACs and state-dict tables against the seed document and the structure in the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nestforge.networks.catalog import models
from nestforge.networks.layers import (
    convert_macs_to_vendor_gflops,
    count_macs,
    count_parameters,
    expected_shapes,
    make_seeded_weights,
)
from nestforge.networks.resnest import ResNeSt
from nestforge.networks.zoo import VARIANTS, get_variant

# measured on the authors' code with thop 0.1.1; the document prints 79.762 for resnest200
DOCUMENT = {
    "resnest50": (27_483_240, "12.065"),
    "resnest101": (48_275_016, "29.861"),
    "resnest200": (70_201_544, "79.672"),
    "resnest269": (110_929_480, "173.421"),
}


@pytest.mark.parametrize("name", DOCUMENT)
def test_document_figures_to_the_last_digit(name: str) -> None:
    params, flops = DOCUMENT[name]
    variant = get_variant(name)
    assert count_parameters(variant) == params
    assert f"{convert_macs_to_vendor_gflops(count_macs(variant)):.3f}" == flops


def list_official_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The state dict of the authors' network, written out from the paper's structure and their names."""
    variant = get_variant(name)
    stem = {"resnest101": 64, "resnest200": 64, "resnest269": 64, "resnest14_slim": 8}.get(name, 32)
    radix, cardinality, width = 2, 1, 64
    if "fast" in name:
        code = name.rsplit("_", 1)[1]  # such as 2s1x64d
        radix, rest = int(code.split("s")[0]), code.split("s")[1].removesuffix("d")
        cardinality, width = (int(part) for part in rest.split("x"))
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(prefix: str, channels: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{prefix}.{leaf}"] = (channels,)
        shapes[f"{prefix}.num_batches_tracked"] = ()

    shapes["conv1.0.weight"] = (stem, 3, 3, 3)
    norm("conv1.1", stem)
    shapes["conv1.3.weight"] = (stem, stem, 3, 3)
    norm("conv1.4", stem)
    shapes["conv1.6.weight"] = (2 * stem, stem, 3, 3)
    norm("bn1", 2 * stem)
    inplanes = 2 * stem
    planes_of = (16, 32, 64, 96) if name == "resnest14_slim" else (64, 128, 256, 512)
    for stage, (depth, planes) in enumerate(zip(variant.depths, planes_of, strict=True), 1):
        inner = int(planes * width / 64) * cardinality
        middle = max(inner * radix // 4, 32)
        for block in range(depth):
            prefix = f"layer{stage}.{block}"
            shapes[f"{prefix}.conv1.weight"] = (inner, inplanes, 1, 1)
            norm(f"{prefix}.bn1", inner)
            shapes[f"{prefix}.conv2.conv.weight"] = (inner * radix, inner // (radix * cardinality), 3, 3)
            norm(f"{prefix}.conv2.bn0", inner * radix)
            shapes[f"{prefix}.conv2.fc1.weight"] = (middle, inner // cardinality, 1, 1)
            shapes[f"{prefix}.conv2.fc1.bias"] = (middle,)
            norm(f"{prefix}.conv2.bn1", middle)
            shapes[f"{prefix}.conv2.fc2.weight"] = (inner * radix, middle // cardinality, 1, 1)
            shapes[f"{prefix}.conv2.fc2.bias"] = (inner * radix,)
            shapes[f"{prefix}.conv3.weight"] = (4 * planes, inner, 1, 1)
            norm(f"{prefix}.bn3", 4 * planes)
            if block == 0:
                shapes[f"{prefix}.downsample.1.weight"] = (4 * planes, inplanes, 1, 1)
                norm(f"{prefix}.downsample.2", 4 * planes)
            inplanes = 4 * planes
    classes = 10 if name == "resnest14_slim" else 1000
    shapes["fc.weight"], shapes["fc.bias"] = (classes, inplanes), (classes,)
    return shapes


@pytest.mark.parametrize("name", VARIANTS)
def test_state_dict_is_the_official_one(name: str) -> None:
    assert expected_shapes(get_variant(name)) == list_official_shapes(name)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("resnest200", "resnest269")])
def test_torch_module_has_these_tensors(name: str) -> None:
    state = ResNeSt(get_variant(name)).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == expected_shapes(get_variant(name))


def test_seeded_weights_are_reproducible() -> None:
    variant = get_variant("resnest14_slim")
    first, again, other = (make_seeded_weights(variant, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["fc.weight"], other["fc.weight"])


def test_seeded_batch_norms_expect_what_they_see() -> None:
    """What a batch norm reads has the size that it stores, in the first block as in the last."""
    variant = get_variant("resnest101")
    module = ResNeSt(variant).eval()
    state = {name: torch.from_numpy(value) for name, value in make_seeded_weights(variant, 0).items()}
    module.load_state_dict(state, strict=False)
    ratios = []

    def compare(norm: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if inputs[0].shape[2] > 1:  # not inside the attention, where a channel is a constant
            ratios.append(float(inputs[0].square().mean() / norm.running_var.mean()))

    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.register_forward_pre_hook(compare)
    with torch.inference_mode():
        logits = module(torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    assert len(ratios) > 100
    assert 1 / 6 < min(ratios) < max(ratios) < 6
    assert 0.1 < float(logits.std()) < 50


def test_models_lists_every_variant_with_computed_columns() -> None:
    rows = {row.name: row for row in models()}
    assert len(rows) == len(VARIANTS)
    assert {"resnest14", "resnest26", "resnest50", "resnest101", "resnest200", "resnest269"} < set(rows)
    assert sum(name.startswith("resnest50_fast_") for name in rows) == 7
    row = rows["resnest50"]
    assert (row.size, row.params, row.vendor_gflops) == (224, 27_483_240, 12.065)
    assert row.weights_url is not None
    assert row.weights_url.endswith("/resnest50-528c19ca.pth")
    assert row.kernel_macs < row.macs
