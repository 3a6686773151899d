"""Few layers are spared, the bound is proven or refused, and an interrupted build goes on."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestforge.accuracy import accuracy_control as control
from nestforge.accuracy.accuracy_control import rank_layers
from nestforge.accuracy.sensitivity import LayerSensitivity
from nestforge.artifact.artifact import inspect
from nestforge.artifact.manifest import FrontierPoint
from nestforge.builder import build
from nestforge.compile.build import build_artifact
from nestforge.compile.plan import prepare
from nestforge.compile.source import load_source
from nestforge.config import parse_config
from nestforge.errors import ConfigError, DataError
from nestforge.journal import has_unfinished_work
from nestforge.measure.statistics import bound_drop
from nestforge.progress import no_progress


@pytest.fixture(autouse=True)
def measure_speed_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "SPEED_SECONDS", 0.01)


def make_config(slim_config: dict[str, Any], dataset: Path, output: Path, **quantize: Any) -> dict[str, Any]:
    section = {"max_drop": 20.0, "validation": {"data": str(dataset)}, **quantize}
    return {**slim_config, "quantize": section, "output": str(output)}


def make_point(count: int, drop_high: float) -> FrontierPoint:
    return FrontierPoint(
        kept_in_float=tuple(str(index) for index in range(count)),
        drop=0.0,
        drop_high=drop_high,
        lost=0,
        gained=0,
        changed_predictions=0,
        throughput_ips=1.0,
        kept_speed=1.0,
    )


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 9, 20])
def test_search_finds_the_fewest(needed: int) -> None:
    requested = []

    def measure(count: int) -> FrontierPoint:
        requested.append(count)
        return make_point(count, 0.0 if count >= needed else 1.0)

    assert len(control.find_smallest(measure, 20, 0.5).kept_in_float) == needed
    assert len(set(requested)) <= 10


def test_search_ends_where_nothing_helps() -> None:
    with pytest.raises(DataError, match="even with all 3 layers in float"):
        control.find_smallest(lambda count: make_point(count, 1.0), 3, 0.5)


def test_too_few_images_are_named_as_the_reason() -> None:
    """One of 150 answers lost: 2.19 points cannot be ruled out; at the same rate 300 images prove 2."""
    found = make_point(0, bound_drop(1, 0, 150)).model_copy(update={"drop": 1 / 150, "lost": 1})
    with pytest.warns(UserWarning, match=r"is 0\.67 .* 150 validation images cannot rule out 2\.19: with about 195 "):
        control.warn_of_few_images(found, 150, 0.02)
    assert bound_drop(2, 0, 300) < 0.02
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        control.warn_of_few_images(found, 150, 0.005)  # the drop itself is too large
        control.warn_of_few_images(found, 150, 0.03)  # proven


@pytest.mark.parametrize(("float_dtype", "executed"), [("fp32", "int8"), ("bf16", "bf16")])
def test_candidates_are_executed_as_the_artifact_is(
    float_dtype: str, executed: str, slim_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize = {"quantize": {"float_dtype": float_dtype}}
    config = parse_config({**slim_config, **quantize, "output": "unused"}, source="test")
    prepared = prepare(config, load_source(config, no_progress), no_progress)
    assert prepared.plan is not None
    opened: list[str] = []
    monkeypatch.setattr(type(prepared.engine), "open", lambda _, model, settings: opened.append(settings.dtype))
    control.open_candidate(prepared, prepared.plan, ())
    assert opened == [executed]


def test_layers_are_ranked_by_noise_for_time() -> None:
    def make(name: str, sqnr_db: float, time_share: float | None) -> LayerSensitivity:
        return LayerSensitivity(
            name=name,
            kind="Conv",
            macs=1,
            macs_share=0.5,
            time_share=time_share,
            alone_sqnr_db=sqnr_db,
            alone_flips=0,
            kept_in_float_sqnr_db=0,
            kept_in_float_flips=0,
            range_low=0,
            range_high=1,
            clipped_share=0,
        )

    layers = [make("dear", 20, 0.5), make("cheap", 23, 0.05), make("free", 39, 0.0), make("unknown", 10, None)]
    assert [layer.name for layer in rank_layers(layers)] == ["unknown", "cheap", "free", "dear"]


def test_bound_drop_is_one_sided() -> None:
    assert bound_drop(0, 0, 1645) == pytest.approx(0.001, rel=0.01)
    assert bound_drop(30, 10, 1000) > 0.02
    assert bound_drop(10, 30, 1000) < 0


def test_nothing_is_spared_without_need(slim_config: dict[str, Any], dataset: Path, tmp_path: Path) -> None:
    result = build(parse_config(make_config(slim_config, dataset, tmp_path / "a", max_drop=90.0), source="test"))
    assert result.accuracy_control is not None
    assert result.accuracy_control.kept_in_float == ()
    assert [point.kept_speed for point in result.accuracy_control.frontier] == [1.0]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_layers_are_spared_and_recorded(slim_config: dict[str, Any], dataset: Path, tmp_path: Path) -> None:
    """Ranges cut at percentile 70 ruin the answers; sparing layers brings them back."""
    config = make_config(slim_config, dataset, tmp_path / "a", percentile=70.0, max_drop=6.0)
    result = build(parse_config(config, source="test"))
    manifest = inspect(tmp_path / "a").model_dump(mode="json")
    kept_in_float = manifest["accuracy_control"]["kept_in_float"]
    assert result.accuracy_control is not None
    assert 0 < len(kept_in_float) <= 28
    assert set(kept_in_float) == set(manifest["quantization"]["float_weighted_layers"])
    frontier = manifest["accuracy_control"]["frontier"]
    assert frontier[0]["kept_in_float"] == []
    assert frontier[0]["drop_high"] > 0.06
    chosen = next(point for point in frontier if point["kept_in_float"] == kept_in_float)
    assert chosen["drop_high"] <= 0.06
    assert all(point["drop_high"] > 0.06 for point in frontier if len(point["kept_in_float"]) < len(kept_in_float))


def test_an_interrupted_build_goes_on(
    slim_config: dict[str, Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(make_config(slim_config, dataset, tmp_path / "a", percentile=70.0, max_drop=6.0), source="t")
    answer, requested = control.predict_classes, []

    def interrupt(*arguments: Any) -> np.ndarray:
        requested.append(arguments[-1])
        if len(requested) == 4:
            raise KeyboardInterrupt
        return answer(*arguments)

    monkeypatch.setattr(control, "predict_classes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(config)
    assert list(tmp_path.iterdir()) == []
    assert has_unfinished_work()
    first = list(requested)
    monkeypatch.setattr(control, "measure_layers", None)  # the ranking is kept as well
    result = build(config)
    assert not set(first[:3]) & set(requested[4:])
    assert requested[4] == first[3]
    assert result.accuracy_control is not None
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_refusals(slim_config: dict[str, Any], dataset: Path, tmp_path: Path) -> None:
    def attempt(changes: dict[str, Any] | None = None, **quantize: Any) -> None:
        config = {**make_config(slim_config, dataset, tmp_path / "a", **quantize), **(changes or {})}
        build(parse_config(config, source="test"))

    with pytest.raises(DataError, match=r"cannot prove a drop of at most 0\.1"):
        attempt(max_drop=0.1)
    with pytest.raises(ConfigError, match="go together"):
        attempt(validation=None)
    with pytest.raises(ConfigError, match="needs 'labels'"):
        attempt({"labels": None})
    with pytest.raises(ConfigError, match=r"needs nestforge\.build"):
        build_artifact(parse_config(make_config(slim_config, dataset, tmp_path / "a"), source="test"))
    mixed = tmp_path / "mixed"
    shutil.copytree(dataset, mixed)
    source = sorted(Path(slim_config["calibration"]["data"]).rglob("*.png"))
    for path in source:
        shutil.copy(path, mixed / "bag" / f"{path.parent.name}-{path.name}")
    with pytest.raises(DataError, match="20 of these 80 images are also calibration images"):
        attempt(validation={"data": str(mixed)})
    calibration = {**slim_config["calibration"], "evaluation": str(dataset)}
    with pytest.raises(DataError, match="40 of these 40 images are also validation images"):
        attempt({"calibration": calibration})
    assert [path.name for path in tmp_path.iterdir()] == ["mixed"]
