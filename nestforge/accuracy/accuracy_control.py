"""Accuracy control: keep the fewest, cheapest layers in float that satisfy `quantize.max_drop`.

Layers are ranked by the noise they bring for the time they take (`sensitivity`). The first 0, 1, 2, 4, ... of them are
kept in float until the validation set proves the bound; a binary search then finds the smallest count. A choice passes
when the upper end of the one-sided 95% interval of its drop, paired with float32 image by image, is within the bound.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from nestforge.accuracy.sensitivity import DEFAULT_IMAGES, LayerSensitivity, measure_layers
from nestforge.artifact.manifest import AccuracyControlRecord, FrontierPoint, record_file
from nestforge.artifact.overlap import refuse_overlap
from nestforge.compile.labels import read_build_labels
from nestforge.compile.onnxfile import serialize
from nestforge.compile.plan import Prepared, QuantizationPlan
from nestforge.config import ValidationSection
from nestforge.data.imagefolder import choose_balanced, list_images, match_classes
from nestforge.data.loader import Unreadable
from nestforge.data.preprocess import load_image
from nestforge.engines.base import Session, Settings
from nestforge.engines.machine import count_available_cores
from nestforge.errors import DataError
from nestforge.files import fingerprint_file, hash_json
from nestforge.inference.pipeline import run_in_order
from nestforge.journal import Journal, keep_journal
from nestforge.measure.interleave import Run, run_interleaved
from nestforge.measure.statistics import bound_drop
from nestforge.progress import Progress
from nestforge.schema import parse

BATCH = 8
SPEED_ROUNDS, SPEED_SECONDS = 5, 1.5
LEAST_SHARE = 0.005  # of the time: below it layers count as equally cheap


@dataclass(frozen=True, kw_only=True)
class _Validation:
    paths: tuple[Path, ...]
    truth: npt.NDArray[np.int64]


def satisfy_max_drop(prepared: Prepared, progress: Progress) -> AccuracyControlRecord:
    """Find the layers to keep in float so that `quantize.max_drop` holds on the validation images.

    Everything measured is kept in a journal: an interrupted search continues when the same build is run again.

    Raises:
        DataError: the validation images cannot prove the bound, overlap with others, or cannot be read.
    """
    section = prepared.config.quantize
    assert section.max_drop is not None
    assert section.validation is not None
    bound = section.max_drop / 100
    validation = _read_validation(prepared, section.validation, bound)
    with keep_journal("accuracy-control", _fingerprint_search(prepared, validation)) as journal:
        search = _Search(prepared, validation, journal, progress)
        chosen = search.measure(0)
        if chosen.drop_high > bound:
            warn_of_few_images(chosen, len(validation.paths), bound)
            search.rank()
            chosen = find_smallest(search.measure, len(search.ranking), bound)
    return AccuracyControlRecord(
        kept_in_float=chosen.kept_in_float,
        max_drop_pp=section.max_drop,
        validation=section.validation.data,
        images=len(validation.paths),
        frontier=tuple(sorted(search.frontier, key=lambda point: len(point.kept_in_float))),
    )


class _Search:
    """What was measured so far, here or before an interruption: float32's predictions, the ranking, the frontier."""

    def __init__(self, prepared: Prepared, validation: _Validation, journal: Journal, progress: Progress) -> None:
        assert prepared.plan is not None
        self._prepared, self._plan, self._validation, self._progress = prepared, prepared.plan, validation, progress
        self._journal = journal
        self._expected: list[int] = []
        self.ranking: tuple[str, ...] = ()
        self.frontier: list[FrontierPoint] = []
        for kind, value in journal.records:
            if kind == "float32":
                self._expected = value
            elif kind == "ranking":
                self.ranking = tuple(value)
            else:
                self.frontier.append(parse(FrontierPoint, value, source="journal"))
        if not self._expected:
            session = prepared.engine.open(prepared.original, _choose_settings(prepared))
            self._expected = predict_classes(prepared, session, validation, progress, "float32").tolist()
            journal.append(["float32", self._expected])

    @cached_property
    def _baseline(self) -> Session:
        return open_candidate(self._prepared, self._plan, ())

    def measure(self, count: int) -> FrontierPoint:
        """Judge the build that keeps the first `count` layers of the ranking in float."""
        names = self.ranking[:count]
        found = next((point for point in self.frontier if point.kept_in_float == names), None)
        if found is None:
            session = open_candidate(self._prepared, self._plan, names) if names else self._baseline
            title = f"{count} layers kept in float"
            predictions = predict_classes(self._prepared, session, self._validation, self._progress, title)
            expected = np.array(self._expected)
            found = _judge(session, self._baseline, names, predictions, expected, self._validation.truth)
            self.frontier.append(found)
            self._journal.append(["point", found.model_dump(mode="json")])
        return found

    def rank(self) -> None:
        """Measure the sensitivity of all layers, unless that was done before."""
        if self.ranking:
            return
        layers, _, complete = measure_layers(self._prepared, DEFAULT_IMAGES, self._progress)
        if not complete:
            raise KeyboardInterrupt
        self.ranking = tuple(layer.name for layer in rank_layers(layers))
        self._journal.append(["ranking", self.ranking])


def warn_of_few_images(found: FrontierPoint, images: int, bound: float) -> None:
    """Say so where it is not the drop that is too large for the bound but the interval too wide."""
    if found.drop < bound < found.drop_high:
        needed = math.ceil(images * ((found.drop_high - found.drop) / (bound - found.drop)) ** 2)
        warnings.warn(
            f"the drop found is {100 * found.drop:.2f} percentage points, but {images:,} validation images cannot rule "
            f"out {100 * found.drop_high:.2f}: with about {needed:,} such images the bound of {100 * bound:g} could be "
            "proven without a layer in float",
            stacklevel=6,
        )


def rank_layers(layers: Iterable[LayerSensitivity]) -> list[LayerSensitivity]:
    """Order layers by the noise they bring for their share of the time (of the MACs, where times are not known)."""

    def gain(layer: LayerSensitivity) -> float:
        share = layer.macs_share if layer.time_share is None else layer.time_share
        return float(10 ** (-layer.alone_sqnr_db / 10)) / max(share, LEAST_SHARE)

    return sorted(layers, key=gain, reverse=True)


def find_smallest(measure: Callable[[int], FrontierPoint], most: int, bound: float) -> FrontierPoint:
    """Return the passing choice with the fewest layers, given that the choice without any does not pass."""
    failing, passing = 0, 1
    while measure(passing).drop_high > bound:
        if passing == most:
            raise DataError(
                f"even with all {most} layers in float the bound of {100 * bound:g} percentage points is not proven; "
                "raise max_drop or give more validation images"
            )
        failing, passing = passing, min(2 * passing, most)
    while passing - failing > 1:
        middle = (failing + passing) // 2
        if measure(middle).drop_high > bound:
            failing = middle
        else:
            passing = middle
    return measure(passing)


def _read_validation(prepared: Prepared, section: ValidationSection, bound: float) -> _Validation:
    labels = read_build_labels(prepared.config, prepared.source.classifier.num_classes)
    folder = list_images(Path(section.data))
    truth_of = dict(zip(folder.paths, match_classes(folder, labels), strict=True))
    paths = folder.paths if section.count is None else choose_balanced(folder, section.count, section.seed)
    assert prepared.config.calibration is not None  # BuildConfig checks it
    if not prepared.config.calibration.allow_overlap:
        _refuse_overlaps(prepared, paths, prepared.config.calibration.evaluation)
    least = bound_drop(0, 0, len(paths))
    if least > bound:
        needed = next(count for count in range(len(paths), 10**9) if bound_drop(0, 0, count) <= bound)
        raise DataError(
            f"{len(paths)} validation images cannot prove a drop of at most {100 * bound:g} percentage points: without "
            f"one changed answer it could still be {100 * least:.2f}; give at least {needed:,} images or raise max_drop"
        )
    return _Validation(paths=paths, truth=np.array([truth_of[path] for path in paths]))


def _refuse_overlaps(prepared: Prepared, paths: Sequence[Path], evaluation: str | None) -> None:
    override = "calibration.allow_overlap: true"
    refuse_overlap(prepared.images.inputs, paths, override=override)
    if evaluation is not None:
        tested = list_images(Path(evaluation)).paths
        sizes = {path.stat().st_size for path in tested}
        records = {str(path): record_file(path) for path in paths if path.stat().st_size in sizes}
        refuse_overlap(records, tested, override=override, kind="validation")


def _fingerprint_search(prepared: Prepared, validation: _Validation) -> dict[str, object]:
    files = [[str(path), *fingerprint_file(path)] for path in validation.paths]
    return {**prepared.fingerprint(), "validation_sha256": hash_json(files)}


def _choose_settings(prepared: Prepared) -> Settings:
    return Settings(
        batch=prepared.source.classifier.fixed_batch or BATCH,
        height=prepared.source.height,
        width=prepared.source.width,
        threads=count_available_cores(),
    )


def open_candidate(prepared: Prepared, plan: QuantizationPlan, kept_in_float: tuple[str, ...]) -> Session:
    model = ir.from_proto(ir.to_proto(prepared.source.model))
    plan.apply(model, kept_in_float=kept_in_float)
    settings = replace(_choose_settings(prepared), dtype=prepared.config.execution_dtype)
    return prepared.engine.open(serialize(model), settings)


def predict_classes(
    prepared: Prepared, session: Session, validation: _Validation, progress: Progress, description: str
) -> npt.NDArray[np.int64]:
    """Return the most probable class of every validation image."""
    predictions = np.empty(len(validation.paths), np.int64)
    preprocess = prepared.source.preprocess
    with progress(f"validating, {description}", len(predictions)) as advance:
        workers = count_available_cores()
        for item in run_in_order(session, validation.paths, lambda path: load_image(path, preprocess), workers=workers):
            if isinstance(item, Unreadable):
                raise DataError(f"validation image {item.reason}; remove it and build again")
            predictions[list(item.indices)] = item.logits.argmax(1)
            advance(len(item.indices))
    return predictions


def _judge(
    session: Session,
    baseline: Session,
    kept_in_float: tuple[str, ...],
    predictions: npt.NDArray[np.int64],
    expected: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
) -> FrontierPoint:
    lost = int(((expected == truth) & (predictions != truth)).sum())
    gained = int(((expected != truth) & (predictions == truth)).sum())
    runs = [Run(session), Run(baseline)]
    run_interleaved(runs, seconds=SPEED_SECONDS, rounds=SPEED_ROUNDS, warm_up_seconds=SPEED_SECONDS / SPEED_ROUNDS)
    ours, theirs = (np.array(run.throughputs) for run in runs)
    return FrontierPoint(
        kept_in_float=kept_in_float,
        drop=(lost - gained) / len(truth),
        drop_high=bound_drop(lost, gained, len(truth)),
        lost=lost,
        gained=gained,
        changed_predictions=int((predictions != expected).sum()),
        throughput_ips=float(np.median(ours)),
        kept_speed=float(np.median(ours / theirs)) if kept_in_float else 1.0,
    )
