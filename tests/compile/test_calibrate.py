"""Percentiles against numpy on all values; merging and memory do not depend on how values arrive."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nestforge.compile.calibrate import Histogram, observe_activations
from nestforge.compile.passes.fold_batch_norm import fold_batch_norm
from nestforge.compile.quantize import find_activations
from nestforge.engines import get_engine
from nestforge.engines.base import Settings
from nestforge.errors import ModelError
from nestforge.networks.graph import build_graph
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant

BIN = 2**-7  # largest width of a bin relative to its value


def make_histogram(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.observe(values)
    return histogram


@pytest.mark.parametrize("percent", [0, 0.01, 1, 50, 90, 99.9, 99.99, 100])
@pytest.mark.parametrize("kind", ["normal", "relu", "heavy", "constant"])
def test_percentile_is_numpys_within_one_bin(kind: str, percent: float) -> None:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(100_000).astype(np.float32)
    values = {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "heavy": (normal**5).astype(np.float32),
        "constant": np.full(1000, -3.25, np.float32),
    }[kind]
    expected = np.percentile(values.astype(np.float64), percent)
    # one bin, and the gap between neighbouring values that numpy interpolates over
    order = np.sort(values)
    place = percent / 100 * (len(order) - 1)
    gap = float(order[int(np.ceil(place))] - order[int(np.floor(place))])
    assert abs(make_histogram(values).percentile(percent) - expected) <= BIN * abs(expected) + gap + 1e-38


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(
        np.float32,
        st.integers(1, 300),
        elements=st.floats(-(2.0**90), 2.0**90, width=32, allow_nan=False, allow_subnormal=False),
    ),
    st.integers(1, 7),
)
def test_observing_in_pieces_is_the_same(values: np.ndarray, pieces: int) -> None:
    whole, parts = make_histogram(values), Histogram()
    for part in np.array_split(values, pieces):
        parts.observe(part)
    assert np.array_equal(whole.counts, parts.counts)
    assert (whole.low, whole.high) == (parts.low, parts.high) == (values.min(), values.max())
    assert whole.total == len(values)
    bounds = whole.find_range("percentile", 99.9)
    assert bounds.low <= 0 <= bounds.high
    assert values.min() <= whole.percentile(50) <= values.max()


def test_not_finite_is_noticed() -> None:
    for value in (np.nan, np.inf, -np.inf):
        assert not make_histogram(np.array([1, value], np.float32)).is_finite
    assert make_histogram(np.array([1, -1], np.float32)).is_finite
    assert not Histogram().is_finite


def test_max_and_percentile_ranges() -> None:
    values = np.concatenate([np.linspace(-1, 2, 100_000), [50.0]]).astype(np.float32)
    histogram = make_histogram(values)
    assert histogram.find_range("max", 99).high == 50
    clipped = histogram.find_range("percentile", 99)
    assert clipped.high == pytest.approx(1.97, rel=BIN)
    assert clipped.low == pytest.approx(-0.97, rel=BIN)


@pytest.fixture(scope="module")
def folded() -> ir.Model:
    variant = get_variant("resnest14_slim")
    model = build_graph(variant, make_seeded_weights(variant, 0))
    fold_batch_norm(model)
    return model


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_observed_activations_are_those_of_the_graph(name: str, folded: ir.Model) -> None:
    names = list(find_activations(folded))
    images = np.random.default_rng(1).standard_normal((7, 3, 56, 56), np.float32)
    options = Settings(batch=4, height=56, width=56)
    histograms = observe_activations(folded, names, [images[:4], images[4:]], engine=get_engine(name), settings=options)
    assert "input" in histograms
    probe = ir.to_proto(folded)
    for value in names:
        if value != "input":
            probe.graph.output.add(name=value)
    whole = get_engine("onnxruntime").open(probe.SerializeToString(), Settings(batch=7, height=56, width=56))
    reference = whole.run_all(images) | {"input": images}
    for value in names:
        assert histograms[value].total == reference[value].size
        assert histograms[value].high == pytest.approx(float(reference[value].max()), rel=1e-4, abs=1e-5)
        assert histograms[value].percentile(99) == pytest.approx(
            np.percentile(reference[value], 99), rel=2 * BIN, abs=1e-3
        )


def test_batches_are_consumed_one_by_one(folded: ir.Model) -> None:
    """Memory is flat because nothing asks for a second batch before the first is counted."""
    alive: list[int] = []

    def generate() -> Iterator[np.ndarray]:
        for index in range(5):
            alive.append(index)
            yield np.zeros((1, 3, 56, 56), np.float32)

    histograms = observe_activations(
        folded, ["input"], generate(), engine=get_engine("onnxruntime"), settings=Settings(height=56, width=56)
    )
    assert alive == list(range(5))
    assert histograms["input"].total == 5 * 3 * 56 * 56
    assert histograms["input"].counts.nbytes == 8 << 16


def test_infinite_activation_is_an_error(folded: ir.Model) -> None:
    images = np.full((1, 3, 56, 56), np.inf, np.float32)
    with pytest.raises(ModelError, match="not finite"):
        observe_activations(
            folded, ["input"], [images], engine=get_engine("onnxruntime"), settings=Settings(height=56, width=56)
        )
