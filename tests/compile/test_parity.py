"""What may be asked of an exported file follows from what float32 can give, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from nestforge.compile.parity import (
    PROBES,
    ProbeDifference,
    check_parity,
    compute_relative_differences,
    describe_constant_logits,
    describe_instability,
    judge,
    make_probe_images,
)
from nestforge.engines.base import Images
from nestforge.engines.torch import TorchReference, load_module
from nestforge.errors import ModelError
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant
from tests.support.checkpoints import make_unstable_weights


def make_probes(file: Sequence[float], torch_float32: Sequence[float], size: int = 64) -> list[ProbeDifference]:
    pairs = zip(PROBES, file, torch_float32, strict=True)
    return [ProbeDifference(probe=name, size=size, file=a, torch_float32=b) for name, a, b in pairs]


STABLE = [2e-7, 3e-7, 2e-7, 4e-7, 1e-7]
UNSTABLE = [2e-7, 0.2, 3e-5, 2e-7, 3e-7]


@pytest.mark.parametrize(
    ("file", "torch_float32"),
    [
        ([9e-5] * 5, STABLE),
        ([1e-6, 0.7, 1e-4, 1e-6, 1e-6], UNSTABLE),
        ([1e-6, 1e-6, 1e-6, 0.3, 1e-6], UNSTABLE),  # another order of sums stumbles on another image
        ([1e-6, 0.2, 0.3, 0.1, 1e-6], UNSTABLE),
        ([0.003] * 5, [0.001] * 5),
    ],
)
def test_what_float32_explains_is_accepted(file: list[float], torch_float32: list[float]) -> None:
    judge(make_probes(file, torch_float32))


@pytest.mark.parametrize(
    ("file", "torch_float32", "message"),
    [
        ([1e-6, 1e-6, 1e-6, 1e-6, 2e-4], STABLE, r"by 2\.00e-04 on strong noise at 64x64, .*limit 1\.0e-04"),
        ([1e-6, 0.9, 1e-6, 1e-6, 1e-6], UNSTABLE, r"by 9\.00e-01 on black at 64x64, .*2\.0e-01 \(limit 8\.0e-01"),
        ([0.01, 0.2, 0.01, 0.01, 1e-6], UNSTABLE, r"more than float32 explains on 3 of 5 images"),
        ([0.3, 0.3, 0.3, 0.3, 0.3], UNSTABLE, r"on 4 of 5 images, such as .* where torch's own float32 differs by"),
        ([np.inf, 0.1, 1e-6, 1e-6, 1e-6], UNSTABLE, r"not finite on noise at 64x64"),
    ],
)
def test_what_float32_does_not_explain_is_refused(file: list[float], torch_float32: list[float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        judge(make_probes(file, torch_float32))


def test_each_size_is_judged_by_itself() -> None:
    """Wrong at odd sizes only, as a pool that rounds the other way would be."""
    stable, wrong = make_probes([1e-6] * 5, UNSTABLE), make_probes([0.01] * 5, UNSTABLE, size=49)
    judge(stable * 3)
    with pytest.raises(ModelError, match="on 4 of 5 images"):
        judge(stable * 3 + wrong)


def test_instability_is_named() -> None:
    assert describe_instability(make_probes(STABLE, STABLE)) == ()
    (note,) = describe_instability(make_probes(STABLE, UNSTABLE))
    assert "unstable on 1 of 5 probe images" in note
    assert "2.0e-01 off its float64 (black at 64x64)" in note


def test_logits_that_do_not_depend_on_the_image_are_named() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 7))
    assert describe_constant_logits(logits) == ()
    for constant in (np.zeros((5, 7)), np.tile(logits[:1], (5, 1))):
        (note,) = describe_constant_logits(constant)
        assert "the same logits for every probe image" in note


def test_relative_differences() -> None:
    a = np.array([[1.0, -4.0], [0.0, 0.0]], np.float32)
    assert compute_relative_differences(a, a).tolist() == [0, 0]
    assert compute_relative_differences(a + np.float32(1), a).tolist() == [0.25, 1]
    for value in (np.nan, np.inf):
        wrong = np.array([[1.0, -4.0], [0.0, value]], np.float32)
        assert compute_relative_differences(wrong, a).tolist() == [0, np.inf]
        assert compute_relative_differences(a, wrong).tolist() == [0, np.inf]


def test_probes_hold_random_and_extreme_images() -> None:
    images = make_probe_images(40)
    assert images.shape == (len(PROBES), 3, 40, 40)
    assert images.dtype == np.float32
    assert images[1].max() < -2
    assert images[2].min() > 2
    assert np.abs(images[4]).max() > 10
    assert make_probe_images(40, 56).shape == (5, 3, 40, 56)


def test_reference_is_the_module_in_both_types() -> None:
    variant = get_variant("resnest14_slim")
    weights = make_unstable_weights(variant, signal=1e-5)
    before = {name: value.copy() for name, value in weights.items()}
    reference = TorchReference(lambda: load_module(variant, weights))
    images = make_probe_images(40)
    float32 = reference.run_float32(images)
    float64 = reference.run_float64(images)
    others = reference.run_float32_in_other_orders(images)
    assert (float32.dtype, float64.dtype) == (np.float32, np.float64)
    with torch.inference_mode():
        expected = load_module(variant, weights).double()(torch.from_numpy(images).double()).numpy()
    assert np.abs(float64 - expected).max() < 1e-9 * np.abs(expected).max()
    assert np.array_equal(reference.run_float32(images), float32)
    assert len(others) == 3
    assert all(0 < compute_relative_differences(other, float64).max() < 0.1 for other in others)
    assert all(np.array_equal(value, before[name]) for name, value in weights.items())


def test_float64_takes_few_large_images_at_a_time() -> None:
    batches = []

    class Network(torch.nn.Module):
        def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
            batches.append((len(images_nchw), images_nchw.dtype))
            return images_nchw.mean((2, 3))

    for side, expected in ((8, [5]), (300, [2, 2, 1]), (416, [1] * 5), (600, [1] * 5)):
        batches.clear()
        logits = TorchReference(Network).run_float64(make_probe_images(side))
        assert logits.shape == (5, 3)
        assert batches == [(count, torch.float64) for count in expected]


def test_more_float32_runs_only_where_the_file_is_beyond_the_tolerance(slim_onnx: Path) -> None:
    variant = get_variant("resnest14_slim")
    asked = []

    class Counting(TorchReference):
        def run_float32_in_other_orders(self, images_nchw: Images) -> list[npt.NDArray[np.float32]]:
            asked.append(len(images_nchw))
            return super().run_float32_in_other_orders(images_nchw)

    right, wrong = (
        Counting(lambda seed=seed: load_module(variant, make_seeded_weights(variant, seed))) for seed in (0, 1)
    )
    report = check_parity(slim_onnx, right, sizes=[(56, 56), (40, 48)])
    assert [(check.batch, check.size) for check in report.checks] == [(1, 56), (5, 56), (1, (40, 48)), (5, (40, 48))]
    assert all(check.relative_difference < 1e-5 > check.torch_float32_difference > 0 for check in report.checks)
    assert asked == []
    with pytest.raises(ModelError, match="differs from torch in float64"):
        check_parity(slim_onnx, wrong, sizes=[(56, 56)])
    assert asked == [5]
