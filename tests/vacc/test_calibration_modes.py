"""What the vendor's build options do to an artifact: four calibration modes, skipped convolutions, softmax."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestforge.artifact.artifact import open_artifact
from nestforge.builder import build
from nestforge.compile.calibrate import Histogram
from nestforge.compile.passes.split_radix import find_origin
from nestforge.compile.rangesearch import LEVELS
from nestforge.config import parse_config
from nestforge.engines.base import Parallelism
from nestforge.errors import ConfigError


def fill(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values.astype(np.float32), 3):
        histogram.observe(part)
    return histogram


def quantize(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scale = (high - low) / (LEVELS - 1)
    zero_point = np.clip(np.rint(-low / scale), 0, LEVELS - 1)
    return (np.clip(np.rint(values / scale) + zero_point, 0, LEVELS - 1) - zero_point) * scale


NORMAL = np.random.default_rng(0).standard_normal(200_000)
RECTIFIED = np.maximum(NORMAL, 0)


@pytest.mark.parametrize("values", [NORMAL, RECTIFIED, np.append(RECTIFIED, [30.0])], ids=["both", "relu", "outlier"])
def test_mse_beats_every_range_of_a_grid(values: np.ndarray) -> None:
    found = fill(values).find_range("mse", 99.99)
    error = np.square(quantize(values, found.low, found.high) - values).mean()
    for low in np.linspace(min(values.min(), 0.0), 0, 5 if values.min() < 0 else 1):
        for high in np.linspace(values.max() / 20, values.max(), 40):
            assert error <= 1.02 * np.square(quantize(values, low, high) - values).mean()


def test_kl_clips_far_outliers_and_keeps_a_uniform_range() -> None:
    clipped = fill(np.append(np.tile(RECTIFIED, 4), [1000.0])).find_range("kl_divergence", 99.99)
    assert clipped.low == 0
    assert 3 < clipped.high < 100
    uniform = fill(np.random.default_rng(1).uniform(0, 5, 200_000)).find_range("kl_divergence", 99.99)
    assert uniform.high == pytest.approx(5, rel=0.02)


def test_kl_ends_are_found_separately() -> None:
    values = np.concatenate([np.tile(NORMAL, 4), [500.0]])
    found = fill(values).find_range("kl_divergence", 99.99)
    assert found.low < -3
    assert found.high < 100


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30),
    st.sampled_from(["mse", "kl_divergence"]),
)
def test_any_values_give_a_range_within_theirs(values: list[float], mode: str) -> None:
    found = fill(np.array(values)).find_range(mode, 99.99)  # type: ignore[arg-type]
    assert min(min(values), 0) <= found.low <= 0 <= found.high <= max(max(values), 0)


@pytest.fixture(scope="module")
def base(labelled: Path) -> dict[str, object]:
    return {
        "model": {"name": "resnest14_slim", "seed": 0},
        "calibration": {"data": str(labelled), "count": 10},
        "preprocess": {"ops": [{"op": "resize", "size": [56, 56]}]},
    }


@pytest.mark.parametrize("mode", ["percentile", "max", "kl_divergence", "mse"])
def test_every_mode_builds_a_faithful_artifact(base: dict[str, object], tmp_path: Path, mode: str) -> None:
    config = base | {"quantize": {"mode": mode}, "output": str(tmp_path / mode)}
    result = build(parse_config(config, source="test"))
    assert result.parity.cosine > 0.97
    assert open_artifact(result.artifact).manifest.config.quantize.mode == mode


def test_modes_differ(base: dict[str, object], tmp_path: Path) -> None:
    models = set()
    for mode in ("percentile", "max", "kl_divergence", "mse"):
        build(parse_config(base | {"quantize": {"mode": mode}, "output": str(tmp_path / mode)}, source="test"))
        models.add((tmp_path / mode / "model.onnx").read_bytes())
    assert len(models) == 4


def test_skipped_convolutions_stay_in_float(base: dict[str, object], tmp_path: Path) -> None:
    config = base | {"quantize": {"skip_convolutions": [0, 3]}, "output": str(tmp_path / "a")}
    manifest = open_artifact(build(parse_config(config, source="test")).artifact).manifest
    assert manifest.quantization is not None
    names = manifest.quantization.float_weighted_layers
    assert names[0] == "conv1.0"
    assert len({find_origin(name) for name in names}) == 2  # a rewriting may have computed one of them in parts
    with pytest.raises(ConfigError, match=r"holds 999 but the model has \d+ convolutions"):
        build(
            parse_config(base | {"quantize": {"skip_convolutions": [999]}, "output": str(tmp_path / "b")}, source="t")
        )
    assert not (tmp_path / "b").exists()


def test_appended_softmax_gives_probabilities(base: dict[str, object], tmp_path: Path) -> None:
    logits, probabilities = (
        open_artifact(
            build(
                parse_config(
                    base | {"dtype": "fp32", "append_softmax": on, "output": str(tmp_path / str(on))}, source="test"
                )
            ).artifact
        )
        for on in (False, True)
    )
    assert (logits.manifest.scores, probabilities.manifest.scores) == ("logits", "probabilities")
    images = np.random.default_rng(0).standard_normal((2, 3, 56, 56), np.float32)
    a, b = (artifact.open_session(Parallelism(batch=2)).run(images) for artifact in (logits, probabilities))
    expected = np.exp(a - a.max(1, keepdims=True))
    np.testing.assert_allclose(b, expected / expected.sum(1, keepdims=True), atol=1e-6)
