"""What a build file's `quantize` section comes to on a graph and calibration images: ranges, and what gets them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from nestforge.compile.artifact import QuantizationRecord
from nestforge.compile.calibrate import Histogram, Range, observe_activations
from nestforge.compile.images import BuildImages
from nestforge.compile.onnxfile import count_graph_macs, serialize
from nestforge.compile.passes.fold_batch_norm import fold_batch_norm
from nestforge.compile.quantize import find_activations, find_convolutions, quantize_graph
from nestforge.compile.source import Source
from nestforge.config import BuildConfig, QuantizeSection
from nestforge.engines import get_engine
from nestforge.engines.base import Engine, Settings
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.errors import ModelError
from nestforge.progress import Progress, advance_over

CALIBRATION_BATCH = 1


@dataclass(frozen=True, kw_only=True)
class QuantizationPlan:
    """Everything that decides an int8 graph, whichever further layers are spared."""

    histograms: dict[str, Histogram]  # of every activation that gets a range
    ranges: dict[str, Range]
    skip: frozenset[str]  # layers the build file leaves in float
    per_channel: bool
    avoid_saturation: bool

    def apply(
        self, model: ir.Model, *, spared: Collection[str] = (), activations: Collection[str] | None = None
    ) -> QuantizationRecord:
        """Quantize `model` in place, but not the layers called `spared`; `activations` as for `quantize_graph`."""
        summary = quantize_graph(
            model,
            self.ranges,
            per_channel=self.per_channel,
            avoid_saturation=self.avoid_saturation,
            skip=self.skip.union(spared),
            activations=activations,
        )
        return QuantizationRecord(
            activations=summary.activations,
            weighted_layers=summary.weighted_layers,
            float_weighted_layers=summary.float_weighted_layers,
            saturation_avoided=self.avoid_saturation,
        )


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A build before anything is quantized."""

    config: BuildConfig
    source: Source  # its graph is ready to be quantized: batch norms are folded
    original: bytes  # the graph as it was given
    kernel_macs: int
    images: BuildImages
    engine: Engine
    settings: Settings  # for the calibration images' batch
    plan: QuantizationPlan | None  # int8 only


def prepare(config: BuildConfig, source: Source, progress: Progress) -> Prepared:
    """Make a graph ready to be quantized, in place, and measure its ranges on the calibration images.

    Raises:
        NestForgeError: as `plan_quantization`, and where the calibration images cannot be used.
    """
    engine = get_engine(config.engine)
    height, width = source.height, source.width
    batch = source.classifier.fixed_batch or CALIBRATION_BATCH
    images = BuildImages(config, source.preprocess, (height, width), batch=batch)
    settings = Settings(batch=batch, height=height, width=width, threads=count_available_cores())
    original = serialize(source.model)
    kernel_macs = count_graph_macs(source.model, height, width)
    fold_batch_norm(source.model)
    plan = None
    if config.dtype == "int8":
        plan = plan_quantization(source.model, config.quantize, images, engine, settings, progress)
    return Prepared(
        config=config,
        source=source,
        original=original,
        kernel_macs=kernel_macs,
        images=images,
        engine=engine,
        settings=settings,
        plan=plan,
    )


def plan_quantization(
    model: ir.Model,
    section: QuantizeSection,
    images: BuildImages,
    engine: Engine,
    settings: Settings,
    progress: Progress,
) -> QuantizationPlan:
    """Measure the ranges of every activation that `model` quantizes on the calibration images.

    Raises:
        ModelError: there is nothing to quantize, or an activation is not finite.
        ConfigError: a convolution to skip does not exist.
        DataError: a calibration image cannot be read.
    """
    skip = find_convolutions(model, section.skip_convolutions)
    names = list(find_activations(model, skip=skip))
    if not names:
        raise ModelError("the model has no convolution or matrix product with constant weights to quantize")
    with progress("calibrating", len(images)) as advance:
        batches = advance_over(images.load(), advance)
        histograms = observe_activations(model, names, batches, engine=engine, settings=settings)
    return QuantizationPlan(
        histograms=histograms,
        ranges={name: histograms[name].find_range(section.mode, section.percentile) for name in names},
        skip=skip,
        per_channel=section.per_channel,
        avoid_saturation=section.saturation == "avoid"
        or (section.saturation == "auto" and not read_machine().has_int8_dot_product),
    )
