"""The cost of int8 in each layer: every layer quantized alone, and every layer alone kept in float.

The network is cut into parts (`segments`), so that a choice costs only its own part and what follows; every part runs
on the engine's own kernels, exactly as a build would make them. The output error is always that of float32 around int8
layers, whatever `quantize.float_dtype` says; times are the build's own.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from nestforge.accuracy.segments import Segment, cut_graph, find_affected_segments, list_boundary_values, run_chain
from nestforge.artifact.artifact import open_artifact
from nestforge.compile.onnxfile import count_layer_macs, serialize
from nestforge.compile.plan import Prepared, QuantizationPlan, prepare
from nestforge.compile.quantize import find_activations, find_source, is_weighted
from nestforge.compile.source import load_source
from nestforge.compile.warnings import list_aliases
from nestforge.config import BuildConfig, read_config
from nestforge.engines.base import Images, Logits, Session, Settings
from nestforge.errors import ArtifactError, ConfigError
from nestforge.files import StrPath
from nestforge.journal import keep_journal
from nestforge.measure.kernels import measure_kernels
from nestforge.progress import Progress, no_progress

DEFAULT_IMAGES = 8
BATCH = 8
HIGHEST_SQNR_DB = 150.0  # float32's own


@dataclass(frozen=True, kw_only=True)
class OutputError:
    """The error of the logits: see `LayerSensitivity`."""

    sqnr_db: float
    flips: int


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """What quantizing one layer does to the predictions.

    `alone`: only this layer is quantized, its input and weights, and its output where a build would. `kept_in_float`:
    all others are. SQNR is in dB, the mean over images of 10 log10 of the power of the logits over that of their error;
    flips count changed top-1 answers. `range_low` to `range_high` is what the layer's input is quantized over, and
    `clipped_share` the fraction of its values outside. Shares are fractions of 1.
    """

    name: str
    kind: str
    macs: int
    macs_share: float
    time_share: float | None  # of the int8 model; None where the engine does not say
    alone_sqnr_db: float
    alone_flips: int
    kept_in_float_sqnr_db: float
    kept_in_float_flips: int
    range_low: float
    range_high: float
    clipped_share: float


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Layers, the largest error first; `complete` is false if the work was interrupted."""

    artifact_or_config: str
    images: int
    seconds: float
    complete: bool
    total_sqnr_db: float
    total_flips: int
    layers: tuple[LayerSensitivity, ...]


def sensitivity(
    artifact_or_config: StrPath, *, images: int = DEFAULT_IMAGES, progress: Progress = no_progress
) -> Sensitivity:
    """Rank the layers of an int8 artifact, or of the build a YAML file describes, by what quantizing them costs.

    `images` are the first of the calibration images. Ctrl-C ends it with the layers done so far; those are kept, also
    after a kill, and not measured again by the same call.

    Raises:
        ArtifactError: the files an artifact was built from have changed.
        ConfigError: no calibration images, or `images` below 1.
        NestForgeError: as `build`.
    """
    begin = time.perf_counter()
    if images < 1:
        raise ConfigError(f"images {images} is below 1; 8 are enough to rank layers")
    prepared = _prepare(Path(artifact_or_config), progress)
    layers, total, complete = measure_layers(prepared, images, progress)
    return Sensitivity(
        artifact_or_config=str(artifact_or_config),
        images=min(images, len(prepared.images)),
        seconds=time.perf_counter() - begin,
        complete=complete,
        total_sqnr_db=total.sqnr_db,
        total_flips=total.flips,
        layers=tuple(sorted(layers, key=lambda layer: layer.alone_sqnr_db)),
    )


def _prepare(path: Path, progress: Progress) -> Prepared:
    artifact = open_artifact(path) if path.is_dir() else None
    config = artifact.manifest.config if artifact else read_config(path)
    if config.calibration is None:
        raise ConfigError(
            f"{path} has no calibration images, whose predictions sensitivity compares; add 'calibration'"
        )
    config = BuildConfig.model_validate(config.model_dump() | {"dtype": "int8"})
    with progress("reading the model", None):
        source = load_source(config, progress)
    prepared = prepare(config, source, progress)
    if artifact:
        for name, record in (source.inputs | prepared.images.inputs).items():
            if artifact.manifest.inputs.get(name) != record:
                raise ArtifactError(f"{name} is not the file {path} was built from; build the artifact again")
    return prepared


def measure_layers(
    prepared: Prepared, images: int, progress: Progress
) -> tuple[list[LayerSensitivity], OutputError, bool]:
    """Return the layers in graph order, what the whole int8 model costs, and whether all layers were done."""
    plan, model = prepared.plan, prepared.source.model
    assert plan is not None
    # one stream a core: parts are compiled on one while others run
    workers = prepared.settings.threads
    batch = prepared.source.classifier.fixed_batch or min(BATCH, images)
    settings = replace(prepared.settings, batch=batch, streams=workers)
    batches = list(prepared.images.load(images, batch=settings.batch))
    nodes = {str(node.name): node for node in model.graph if is_weighted(node) and node.name not in plan.skip}
    macs = count_layer_macs(model, settings.height, settings.width)
    with progress("opening the network in parts", None):
        probe = _Probe(prepared, plan, settings, batches)
        shares = _share_time(prepared, plan, settings, batches[0], list(nodes.values()))
    measured, complete = _measure(prepared, probe, list(nodes), images, progress)
    layers = []
    for name, (alone, kept_in_float) in measured.items():
        value = nodes[name].inputs[0]
        assert value is not None  # is_weighted
        source = str(find_source(value).name)
        bounds = plan.ranges[source]
        layers.append(
            LayerSensitivity(
                name=name,
                kind=nodes[name].op_type,
                macs=macs.get(name, 0),
                macs_share=macs.get(name, 0) / max(sum(macs.values()), 1),
                time_share=shares.get(name),
                alone_sqnr_db=alone.sqnr_db,
                alone_flips=alone.flips,
                kept_in_float_sqnr_db=kept_in_float.sqnr_db,
                kept_in_float_flips=kept_in_float.flips,
                range_low=bounds.low,
                range_high=bounds.high,
                clipped_share=plan.histograms[source].share_outside(bounds),
            )
        )
    return layers, probe.total, complete


def _measure(
    prepared: Prepared, probe: _Probe, names: list[str], images: int, progress: Progress
) -> tuple[dict[str, tuple[OutputError, OutputError]], bool]:
    """Return the output error by layer, alone and kept in float, and whether it is complete (no Ctrl-C).

    Each layer is kept in a journal until all are done.
    """
    measured: dict[str, tuple[OutputError, OutputError]] = {}
    try:
        with keep_journal("sensitivity", {**prepared.fingerprint(), "images": images}) as journal:
            for name, alone, kept_in_float in journal.records:
                measured[name] = OutputError(**alone), OutputError(**kept_in_float)
            if measured:
                done = f"{len(measured)} of {len(names)} layers were done"
                warnings.warn(f"continuing an interrupted measurement: {done}", stacklevel=4)
            todo = [name for name in names if name not in measured]
            # closed before anything else: an engine must not be torn down while a request runs
            with progress("measuring layers", len(names)) as advance, closing(probe.visit(todo)) as visited:
                advance(len(measured))
                for name, alone, kept_in_float in visited:
                    measured[name] = alone, kept_in_float
                    journal.append([name, asdict(alone), asdict(kept_in_float)])
                    advance(1)
    except KeyboardInterrupt:
        return measured, False
    return measured, True


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """A layer to keep in float: the parts that change with it, and the values that are then quantized."""

    name: str
    parts: range
    activations: frozenset[str]


class _Probe:
    """The network in parts, each open in float32 and in int8, and what comes of changing one layer."""

    def __init__(self, prepared: Prepared, plan: QuantizationPlan, settings: Settings, batches: list[Images]) -> None:
        self._engine, self._plan, self._model = prepared.engine, plan, prepared.source.model
        self._segments = cut_graph(self._model, self._engine, settings)
        self._layers = {str(node.name) for node in self._model.graph if is_weighted(node)}
        self._requested = find_activations(self._model, skip=plan.skip)
        self._boundary_values = list_boundary_values(self._segments, self._model, self._requested, skip=plan.skip)
        self._in_float = [segment.open(self._engine) for segment in self._segments]
        self._in_int8 = [
            self._open(segment, self._requested.keys() - boundary_values, kept_in_float=())
            for segment, boundary_values in zip(self._segments, self._boundary_values, strict=True)
        ]
        self._batches = batches
        self._expected = np.concatenate(run_chain(self._in_float, batches))
        self.total = self._compare(self._in_int8, batches)

    def visit(self, names: Collection[str]) -> Generator[tuple[str, OutputError, OutputError], None, None]:
        """Yield (name, error of it alone, error with it kept in float) for each layer, in the order of the graph."""
        todo = [
            [self._choose(name, place) for name in names if name in segment.nodes]
            for place, segment in enumerate(self._segments)
        ]
        float_batches = self._batches
        int8_batches = {0: self._batches}  # what each part reads, as far back as one has to be compiled again
        pool = ThreadPoolExecutor(self._segments[0].settings.streams, thread_name_prefix="layer")
        try:
            for place, choices in enumerate(todo):
                measure = partial(self._measure, place, float_batches, int8_batches)
                for choice, (alone, kept_in_float) in zip(choices, pool.map(measure, choices), strict=True):
                    yield choice.name, alone, kept_in_float
                float_batches = run_chain([self._in_float[place]], float_batches)
                int8_batches[place + 1] = run_chain([self._in_int8[place]], int8_batches[place])
                first = min([place + 1, *(choice.parts.start for later in todo[place + 1 :] for choice in later)])
                int8_batches = {index: batches for index, batches in int8_batches.items() if index >= first}
        finally:  # an engine must not be torn down while a request runs
            pool.shutdown(cancel_futures=True)

    def _choose(self, name: str, place: int) -> _Choice:
        requested = find_activations(self._model, skip=self._plan.skip | {name}).keys()
        parts = find_affected_segments(self._segments, self._boundary_values, requested ^ self._requested.keys(), place)
        return _Choice(name=name, parts=parts, activations=frozenset(requested))

    def _measure(
        self, place: int, float_batches: list[Images], int8_batches: dict[int, list[Images]], choice: _Choice
    ) -> tuple[OutputError, OutputError]:
        own = _list_own(self._model.graph.node(choice.name)) & self._requested.keys()
        alone = self._open(self._segments[place], own, kept_in_float=self._layers - {choice.name})
        kept_in_float = [
            self._open(
                self._segments[part], choice.activations - self._boundary_values[part], kept_in_float={choice.name}
            )
            for part in choice.parts
        ]
        return (
            self._compare([alone, *self._in_float[place + 1 :]], float_batches),
            self._compare([*kept_in_float, *self._in_int8[choice.parts.stop :]], int8_batches[choice.parts.start]),
        )

    def _open(self, segment: Segment, activations: Collection[str], *, kept_in_float: Collection[str]) -> Session:
        return segment.open_quantized(self._engine, self._plan, activations, kept_in_float=kept_in_float)

    def _compare(self, sessions: list[Session], batches: list[Images]) -> OutputError:
        found = np.concatenate(run_chain(sessions, batches))
        return compare_logits(self._expected, found)


def compare_logits(expected: Logits, found: Logits) -> OutputError:
    """Return the error of the logits (B, classes)."""
    power = (expected.astype(np.float64) ** 2).sum(1)
    error = ((expected.astype(np.float64) - found) ** 2).sum(1)
    ratio = power / np.maximum(error, power * 10 ** (-HIGHEST_SQNR_DB / 10) + np.finfo(float).tiny)
    return OutputError(
        sqnr_db=float(np.mean(10 * np.log10(np.maximum(ratio, np.finfo(float).tiny)))),
        flips=int((expected.argmax(1) != found.argmax(1)).sum()),
    )


def _list_own(layer: ir.Node) -> set[str]:
    """Return the values that are a layer's own to quantize: what it reads, and what it and its activation put out."""
    source, result = layer.inputs[0], layer.outputs[0]
    assert source is not None  # is_weighted
    rectified = [use.node.outputs[0] for use in result.uses() if use.node.op_type == "Relu"]
    return {str(value.name) for value in (find_source(source), result, *rectified)}


def _share_time(
    prepared: Prepared, plan: QuantizationPlan, settings: Settings, batch: Images, nodes: list[ir.Node]
) -> dict[str, float]:
    """Return each layer's share of the int8 model's time: the medians of its kernels over some runs."""
    model = ir.from_proto(ir.to_proto(prepared.source.model))
    plan.apply(model)
    settings = replace(settings, streams=1, profile=True, dtype=prepared.config.execution_dtype)
    session = prepared.engine.open(serialize(model), settings)
    kernels = measure_kernels(session, batch)
    total_ms = sum(kernel.time_ms or 0.0 for kernel in kernels)
    if not total_ms:
        return {}
    return {
        str(node.name): sum(
            kernel.time_ms or 0.0 for kernel in kernels if not set(list_aliases(node)).isdisjoint(kernel.layers)
        )
        / total_ms
        for node in nodes
    }
