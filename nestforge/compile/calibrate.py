"""Streaming range observers: what values each activation takes, in constant memory however many images are seen.

A histogram counts float32 values by their upper 16 bits (sign, exponent, 7 bits of mantissa). Its bins are at most
1/128 of their value wide, need no range chosen beforehand, and can be added up over batches in any order.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from nestforge.compile.rangesearch import find_kl_range, find_mse_range
from nestforge.data.loader import map_in_order
from nestforge.engines.base import Engine, Images, Settings
from nestforge.errors import ModelError

CalibrationMode = Literal["percentile", "max", "kl_divergence", "mse"]

_BINS = 1 << 16
_SIGN = 1 << 15
_INFINITY = 0x7F80  # upper half of float32 +inf; larger magnitudes are NaN
_ORDER = np.concatenate([np.arange(_BINS - 1, _SIGN - 1, -1), np.arange(_SIGN)])  # bins by rising value
_EDGE_BITS = np.arange(_INFINITY + 1, dtype=np.uint32) << 16
_MAGNITUDE_EDGES = _EDGE_BITS.view(np.float32).astype(np.float64)  # edges of the finite bins of one sign


@dataclass(frozen=True)
class Range:
    """The interval of real values an activation is quantized over; always holds 0."""

    low: float
    high: float


@dataclass
class Histogram:
    """Counts of the values seen of one activation."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))
    low: float = np.inf
    high: float = -np.inf

    def observe(self, values: npt.NDArray[np.float32]) -> None:
        """Add all `values`, an array of any shape, float32."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if not flat.size:
            return
        upper = flat.view(np.uint16)[1::2] if sys.byteorder == "little" else flat.view(np.uint16)[::2]
        self.counts += np.bincount(upper, minlength=_BINS)
        self.low = min(self.low, float(flat.min()))
        self.high = max(self.high, float(flat.max()))

    @property
    def is_finite(self) -> bool:
        """True where values were seen and none was infinite or not a number."""
        return self.total > 0 and not (self.counts[_INFINITY:_SIGN].any() or self.counts[_SIGN + _INFINITY :].any())

    @property
    def total(self) -> int:
        """Number of values seen."""
        return int(self.counts.sum())

    def share_outside(self, bounds: Range) -> float:
        """Return the fraction of all values seen that lie outside `bounds`, to within one bin at each end."""
        above = self.counts[:_SIGN][_MAGNITUDE_EDGES[:-1].searchsorted(bounds.high) :].sum()
        below = self.counts[_SIGN:][_MAGNITUDE_EDGES[:-1].searchsorted(-bounds.low) :].sum()
        return float(above + below) / max(self.total, 1)

    def percentile(self, percent: float) -> float:
        """Return the value that `percent` of all values seen lie at or below, to within one bin."""
        ordered = self.counts[_ORDER]
        cumulative = np.cumsum(ordered)
        target = percent / 100 * (cumulative[-1] - 1) + 1  # numpy's linear definition, as a count
        position = int(np.searchsorted(cumulative, target))
        low, high = _bin_edges(int(_ORDER[position]))
        inside = (target - (cumulative[position] - ordered[position])) / ordered[position]
        return float(np.clip(low + inside * (high - low), self.low, self.high))

    def find_range(self, mode: CalibrationMode, percentile: float) -> Range:
        """Return the range to quantize over.

        All values (max), all but the tails beyond `percentile`, or the clipping that `rangesearch` finds best.
        """
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if mode == "percentile":
            low, high = self.percentile(100 - percentile), self.percentile(percentile)
        elif mode == "mse" and low < high:
            seen = _ORDER[self.counts[_ORDER] > 0]
            centres = np.array([sum(_bin_edges(int(bits))) / 2 for bits in seen])
            low, high = find_mse_range(centres.clip(self.low, self.high), self.counts[seen].astype(float), low, high)
        elif mode == "kl_divergence" and low < high:
            low, high = find_kl_range(*self._accumulate_nonzero(), low, high)
        return Range(min(low, 0.0), max(high, 0.0))

    def _accumulate_nonzero(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return rising values and how many non-zero values lie below each; every range represents 0 exactly."""
        seen = [int(bits) for bits in _ORDER if self.counts[bits] and bits % _SIGN]
        edges, below = [self.low], [0.0]
        for bits in seen:
            near, far = (float(np.clip(edge, self.low, self.high)) for edge in _bin_edges(bits))
            edges += [near, far]
            below += [below[-1], below[-1] + float(self.counts[bits])]
        return np.array(edges), np.array(below)


@dataclass
class ChannelMean:
    """The mean of each channel of an activation, (B, C, ...)."""

    total: npt.NDArray[np.float64] | float = 0.0
    count: int = 0

    def observe(self, values: npt.NDArray[np.float32]) -> None:
        """Add all `values`."""
        axes = (0, *range(2, values.ndim))
        self.total = self.total + values.sum(axes, dtype=np.float64)
        self.count += values.size // values.shape[1]

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """The mean of each channel, shape (C,)."""
        return np.asarray(self.total / max(self.count, 1))


def _bin_edges(bits: int) -> tuple[float, float]:
    near, far = _MAGNITUDE_EDGES[bits % _SIGN], _MAGNITUDE_EDGES[bits % _SIGN + 1]
    return (near, far) if bits < _SIGN else (-far, -near)


def observe_activations(
    model: ir.Model,
    names: Collection[str],
    batches: Iterable[Images],
    *,
    engine: Engine,
    settings: Settings,
    means: Mapping[str, ChannelMean] = MappingProxyType({}),
) -> dict[str, Histogram]:
    """Run `batches` through the float32 graph and return a histogram of each value in `names`.

    The values named in `means` are added to those. Memory is that of two batches' activations and one histogram a
    value, however many batches there are.

    Raises:
        ModelError: an activation is not finite.
    """
    probe = ir.to_proto(model)
    input_name = str(model.graph.inputs[0].name)
    outputs = {output.name for output in probe.graph.output}
    for name in dict.fromkeys((*names, *means)):
        if name != input_name and name not in outputs:
            probe.graph.output.add(name=name)
    session = engine.open(probe.SerializeToString(), settings)
    histograms = {name: Histogram() for name in names}

    def run(images_nchw: Images) -> dict[str, npt.NDArray[np.float32]]:
        return {**session.run_all(images_nchw), input_name: images_nchw}

    for values in map_in_order(batches, run, ahead=2, workers=1):  # a batch runs while the one before is counted
        for observers in (histograms, means):
            for name, observer in observers.items():
                observer.observe(values[name])
    for name, histogram in histograms.items():
        if not histogram.is_finite:
            raise ModelError(f"activation {name!r} is not finite on the calibration images; check the preprocessing")
    return histograms
