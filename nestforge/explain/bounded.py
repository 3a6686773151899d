"""A build within a bound: the fewest, cheapest layers stay in float that keep top-1 within `quantize.max_drop`.

Layers are ranked by the noise they bring for the time they take (`sensitivity`). The first 0, 1, 2, 4, ... of them are
spared until the validation set proves the bound, and the count is then halved back. A choice passes when the upper
end of the one-sided 95% interval of its drop, paired with float32 image by image, is within the bound.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, ValidationError

from nestforge.compile import build as compiled
from nestforge.compile.artifact import BoundRecord, FrontierPoint, record_file
from nestforge.compile.build import BuildResult, read_label_lines
from nestforge.compile.images import refuse_overlap
from nestforge.compile.onnxfile import serialize
from nestforge.compile.plan import Prepared, QuantizationPlan
from nestforge.config import BuildConfig, ValidationSection, read_config, tuples_from_lists
from nestforge.data.imagefolder import choose_balanced, list_images, match_classes, parse_label
from nestforge.data.loader import Unreadable
from nestforge.data.preprocess import load_image
from nestforge.engines.base import Session, Settings
from nestforge.engines.machine import count_available_cores
from nestforge.errors import ConfigError, DataError
from nestforge.explain.sensitivity import DEFAULT_IMAGES, LayerSensitivity, measure_layers
from nestforge.files import StrPath, claim_output_folder, write_file_aside
from nestforge.measure.benchmark import Run, run_in_turns
from nestforge.measure.classify import run_in_order
from nestforge.measure.statistics import bound_drop
from nestforge.progress import Progress, silent

BATCH = 8
SPEED_ROUNDS, SPEED_SECONDS = 5, 1.5
LEAST_SHARE = 0.005  # of the time: below it layers count as equally cheap
MAX_STATE_BYTES = 64 << 20


def build(
    config: StrPath | BuildConfig,
    *,
    overrides: Iterable[str] = (),
    overwrite: bool = False,
    progress: Progress = silent,
) -> BuildResult:
    """Build the artifact that a YAML file or a `BuildConfig` describes.

    `overrides` are ``key.path=value`` strings applied to a file. The same config, inputs and CPU give the same
    model file, byte for byte; with `quantize.max_drop`, as far as measured times rank layers the same. A build with
    `max_drop` that is interrupted goes on where it was when it is run again.

    Raises:
        NestForgeError: anything wrong with config, model, data, engine or output; nothing is left behind but what a
            build with `max_drop` has measured.
    """
    resolved = config if isinstance(config, BuildConfig) else read_config(Path(config), overrides)
    if resolved.quantize.max_drop is None or resolved.dtype != "int8":
        return compiled.build(resolved, overwrite=overwrite, progress=progress)
    output = Path(resolved.output)
    claim_output_folder(output, overwrite=overwrite)
    state = output.with_name(f".{output.name}.bound.json")
    try:
        result = compiled.build(
            resolved, overwrite=overwrite, progress=progress, bound=lambda prepared: _hold(prepared, state, progress)
        )
    except KeyboardInterrupt:
        if state.is_file():
            warnings.warn(f"what was measured is kept in {state}; the same build goes on from there", stacklevel=2)
        raise
    state.unlink(missing_ok=True)
    return result


class _State(BaseModel):
    """What was measured so far, and of what."""

    model_config = ConfigDict(extra="forbid")

    key: str
    float_answers: tuple[int, ...] | None = None
    ranking: tuple[str, ...] | None = None
    frontier: tuple[FrontierPoint, ...] = ()

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_file_aside(path) as partial:
            partial.write_text(self.model_dump_json(), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class _Validation:
    paths: tuple[Path, ...]
    truth: npt.NDArray[np.int64]


def _hold(prepared: Prepared, path: Path, progress: Progress) -> BoundRecord:
    """Find the layers to spare."""
    plan, section = prepared.plan, prepared.config.quantize
    assert plan is not None
    assert section.max_drop is not None
    assert section.validation is not None
    validation = _read_validation(prepared, section.validation, section.max_drop / 100)
    state = _load_state(path, _hash_inputs(prepared, validation))
    if state.float_answers is None:
        session = prepared.engine.open(prepared.original, _choose_settings(prepared))
        answers = _answer(prepared, session, validation, progress, "float32")
        state.float_answers = tuple(answers.tolist())
        state.save(path)
    baseline = _open(prepared, plan, ())

    def measure(count: int) -> FrontierPoint:
        spared = state.ranking[:count] if state.ranking else ()
        found = next((point for point in state.frontier if point.spared == spared), None)
        if found is None:
            session = _open(prepared, plan, spared) if spared else baseline
            answers = _answer(prepared, session, validation, progress, f"{count} layers spared")
            found = _judge(session, baseline, spared, answers, np.array(state.float_answers), validation.truth)
            state.frontier = (*state.frontier, found)
            state.save(path)
        return found

    bound = section.max_drop / 100
    chosen = measure(0)
    if chosen.drop_high > bound:
        _warn_of_few_images(chosen, len(validation.paths), bound)
        if state.ranking is None:
            layers, _, complete = measure_layers(prepared, DEFAULT_IMAGES, progress)
            if not complete:
                raise KeyboardInterrupt
            state.ranking = tuple(layer.name for layer in rank_layers(layers))
            state.save(path)
        chosen = _search(measure, len(state.ranking), bound)
    return BoundRecord(
        spared=chosen.spared,
        max_drop_pp=section.max_drop,
        validation=section.validation.data,
        images=len(validation.paths),
        frontier=tuple(sorted(state.frontier, key=lambda point: len(point.spared))),
    )


def _warn_of_few_images(found: FrontierPoint, images: int, bound: float) -> None:
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


def _search(measure: Callable[[int], FrontierPoint], most: int, bound: float) -> FrontierPoint:
    """Return the passing choice with the fewest layers, given that none spared does not pass."""
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
    if prepared.config.labels is None:
        raise ConfigError("max_drop needs 'labels', which say what class each validation folder is")
    labels = [parse_label(line) for line in read_label_lines(prepared.config, prepared.source.classifier.num_classes)]
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
    insist = "calibration.allow_overlap: true"
    refuse_overlap(prepared.images.inputs, paths, insist=insist)
    if evaluation is not None:
        tested = list_images(Path(evaluation)).paths
        sizes = {path.stat().st_size for path in tested}
        records = {str(path): record_file(path) for path in paths if path.stat().st_size in sizes}
        refuse_overlap(records, tested, insist=insist, kind="validation")


def _load_state(path: Path, key: str) -> _State:
    """Read what an interrupted build of the same inputs has measured, or begin anew."""
    with suppress(OSError, ValueError, ValidationError):
        if path.stat().st_size <= MAX_STATE_BYTES:
            state = _State.model_validate(tuples_from_lists(json.loads(path.read_text(encoding="utf-8"))))
            if state.key == key:
                return state
    return _State(key=key)


def _hash_inputs(prepared: Prepared, validation: _Validation) -> str:
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in validation.paths]
    text = json.dumps([prepared.identify(), files], sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _choose_settings(prepared: Prepared) -> Settings:
    return Settings(
        batch=prepared.source.classifier.fixed_batch or BATCH,
        height=prepared.source.height,
        width=prepared.source.width,
        threads=count_available_cores(),
    )


def _open(prepared: Prepared, plan: QuantizationPlan, spared: tuple[str, ...]) -> Session:
    model = ir.from_proto(ir.to_proto(prepared.source.model))
    plan.apply(model, spared=spared)
    settings = replace(_choose_settings(prepared), dtype=prepared.config.execution_dtype)
    return prepared.engine.open(serialize(model), settings)


def _answer(
    prepared: Prepared, session: Session, validation: _Validation, progress: Progress, description: str
) -> npt.NDArray[np.int64]:
    """Return the best class of every validation image."""
    answers = np.empty(len(validation.paths), np.int64)
    preprocess = prepared.source.preprocess
    with progress(f"validating, {description}", len(answers)) as advance:
        workers = count_available_cores()
        for item in run_in_order(session, validation.paths, lambda path: load_image(path, preprocess), workers=workers):
            if isinstance(item, Unreadable):
                raise DataError(f"validation image {item.reason}; remove it and build again")
            answers[list(item.indices)] = item.logits.argmax(1)
            advance(len(item.indices))
    return answers


def _judge(
    session: Session,
    baseline: Session,
    spared: tuple[str, ...],
    answers: npt.NDArray[np.int64],
    expected: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
) -> FrontierPoint:
    lost = int(((expected == truth) & (answers != truth)).sum())
    gained = int(((expected != truth) & (answers == truth)).sum())
    runs = [Run(session), Run(baseline)]
    run_in_turns(runs, seconds=SPEED_SECONDS, rounds=SPEED_ROUNDS, warm_up_seconds=SPEED_SECONDS / SPEED_ROUNDS)
    ours, theirs = (np.array(run.throughputs) for run in runs)
    return FrontierPoint(
        spared=spared,
        drop=(lost - gained) / len(truth),
        drop_high=bound_drop(lost, gained, len(truth)),
        lost=lost,
        gained=gained,
        answers_changed=int((answers != expected).sum()),
        throughput_ips=float(np.median(ours)),
        kept_speed=float(np.median(ours / theirs)) if spared else 1.0,
    )
