"""What a build file's `quantize` section comes to on a graph and calibration images: ranges, and what gets them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from nestforge.artifact.manifest import QuantizationRecord
from nestforge.compile.calibrate import ChannelMean, Histogram, Range, observe_activations
from nestforge.compile.images import BuildImages
from nestforge.compile.onnxfile import count_graph_macs, serialize
from nestforge.compile.passes import apply_passes
from nestforge.compile.passes.split_radix import find_origin
from nestforge.compile.quantize import find_activations, find_convolutions, is_weighted, quantize_graph
from nestforge.compile.source import Source
from nestforge.config import BuildConfig, QuantizeSection
from nestforge.data.labels import Label
from nestforge.engines import get_engine
from nestforge.engines.base import Engine, Settings
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.errors import ModelError
from nestforge.progress import Progress, advance_over

CALIBRATION_BATCH = 1
MAX_PASS_DIFFERENCE = 1e-4  # relative to the largest output


@dataclass(frozen=True, kw_only=True)
class QuantizationPlan:
    """Everything that decides an int8 graph, whichever further layers are kept in float."""

    histograms: dict[str, Histogram]  # of every activation that gets a range
    ranges: dict[str, Range]
    skip: frozenset[str]  # layers the build file leaves in float
    per_channel: bool
    avoid_saturation: bool
    means: dict[str, npt.NDArray[np.float64]] | None  # of the channels of what layers read, to correct biases by

    def apply(
        self, model: ir.Model, *, kept_in_float: Collection[str] = (), activations: Collection[str] | None = None
    ) -> QuantizationRecord:
        """Quantize `model` in place, except the layers `kept_in_float`; `activations` as for `quantize_graph`."""
        summary = quantize_graph(
            model,
            self.ranges,
            per_channel=self.per_channel,
            avoid_saturation=self.avoid_saturation,
            skip=self.skip.union(kept_in_float),
            activations=activations,
            means=self.means,
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
    source: Source  # its graph is rewritten, ready to be quantized
    original: bytes  # the graph as it was given
    kernel_macs: int
    passes: dict[str, int]  # places by pass
    images: BuildImages
    engine: Engine
    settings: Settings  # for the calibration images' batch
    plan: QuantizationPlan | None  # int8 only

    def fingerprint(self) -> dict[str, object]:
        """Return everything that what is measured of this build depends on, as JSON values."""
        inputs = self.source.inputs | self.images.inputs
        return {
            "config": self.config.model_dump(mode="json", exclude={"output"}),
            "inputs": {name: record.sha256 for name, record in inputs.items()},
            "engine": [self.engine.name, self.engine.version],
            "cpu": list(read_machine().flags),
            "nestforge": version("nestforge"),
        }


def prepare(config: BuildConfig, source: Source, progress: Progress, *, labels: Sequence[Label] = ()) -> Prepared:
    """Make a graph ready to be quantized, in place, and measure its ranges on the calibration images.

    With `labels`, the classes of the datasets are compared with them first, as `BuildImages` does.

    Raises:
        NestForgeError: as `plan_quantization`; where the calibration images cannot be used, a convolution to skip
            does not exist, or a graph pass turns out not to be exact.
    """
    engine = get_engine(config.engine)
    height, width = source.height, source.width
    batch = source.classifier.fixed_batch or CALIBRATION_BATCH
    images = BuildImages(config, source.preprocess, (height, width), batch=batch, labels=labels)
    settings = Settings(batch=batch, height=height, width=width, threads=count_available_cores())
    original = serialize(source.model)
    kernel_macs = count_graph_macs(source.model, height, width)
    skip = find_convolutions(source.model, config.quantize.skip_convolutions)
    with progress("optimizing the graph", None):
        passes = apply_passes(source.model, without=choose_disabled_passes(config))
        _check_passes(source.model, original, images, engine, settings)
    plan = None
    if config.dtype == "int8":
        skip = frozenset(str(node.name) for node in source.model.graph if find_origin(str(node.name)) in skip)
        plan = plan_quantization(source.model, config.quantize, images, engine, settings, progress, skip=skip)
    return Prepared(
        config=config,
        source=source,
        original=original,
        kernel_macs=kernel_macs,
        passes=passes,
        images=images,
        engine=engine,
        settings=settings,
        plan=plan,
    )


def choose_disabled_passes(config: BuildConfig) -> frozenset[str]:
    """Return the passes that the build file, or what was measured, leaves out."""
    automatic = get_engine(config.engine).preferred_passes | ({"fold_pads"} if config.dtype == "int8" else set())
    wanted = config.passes.model_dump()
    return frozenset(name for name, want in wanted.items() if not (name in automatic if want == "auto" else want))


def _check_passes(model: ir.Model, original: bytes, images: BuildImages, engine: Engine, settings: Settings) -> None:
    """Run one batch through both graphs, so that a pass that is not exact is noticed."""
    batch = next(iter(images.load(settings.batch)))
    expected, found = (engine.open(graph, settings).run(batch) for graph in (original, serialize(model)))
    difference = float(np.abs(found - expected).max())
    if not difference <= MAX_PASS_DIFFERENCE * float(np.abs(expected).max()):
        raise ModelError(
            f"graph passes changed an output by {difference:.2g}; set passes.split_radix, "
            "passes.unfold_radix and passes.fold_pads to false, and report it"
        )


def plan_quantization(
    model: ir.Model,
    section: QuantizeSection,
    images: BuildImages,
    engine: Engine,
    settings: Settings,
    progress: Progress,
    *,
    skip: frozenset[str] = frozenset(),
) -> QuantizationPlan:
    """Measure the ranges of every activation that `model` quantizes on the calibration images.

    Raises:
        ModelError: there is nothing to quantize, or an activation is not finite.
        DataError: a calibration image cannot be read.
    """
    names = list(find_activations(model, skip=skip))
    if not names:
        raise ModelError("the model has no convolution or matrix product with constant weights to quantize")
    read = [str(node.inputs[0].name) for node in model.graph if is_weighted(node) and node.inputs[0] is not None]
    means = {name: ChannelMean() for name in read} if section.bias_correction else {}
    with progress("calibrating", len(images)) as advance:
        batches = advance_over(images.load(), advance)
        histograms = observe_activations(model, names, batches, engine=engine, settings=settings, means=means)
    return QuantizationPlan(
        histograms=histograms,
        ranges={name: histograms[name].find_range(section.mode, section.percentile) for name in names},
        skip=skip,
        per_channel=section.per_channel,
        avoid_saturation=section.saturation == "avoid"
        or (section.saturation == "auto" and not read_machine().has_int8_dot_product),
        means={name: observer.mean for name, observer in means.items()} if means else None,
    )
