"""Tuning: what is measured is remembered, and used on this machine only."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import nestforge
from nestforge.artifact import artifact as artifact_module
from nestforge.artifact.artifact import open_artifact, update_manifest
from nestforge.artifact.manifest import TunedParallelism, TuningRecord
from nestforge.engines.base import Parallelism
from nestforge.engines.machine import Machine, count_available_cores, read_machine
from nestforge.errors import ConfigError
from nestforge.inference.pipeline import choose_parallelism
from nestforge.vacc.vamp import open_settings


@pytest.fixture
def copy(artifacts: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifacts["int8"], tmp_path / "copy"))


def make_record(**changes: object) -> TuningRecord:
    one = TunedParallelism(parallelism=Parallelism(), throughput_ips=1.0, latency_ms=1.0)
    many = one.model_copy(update={"parallelism": Parallelism(batch=16, streams=3)})
    known = {"cpu": read_machine().cpu, "cores": count_available_cores(), "engine_version": "?"}
    return TuningRecord.model_validate({**known, "latency": one, "throughput": many, **changes})


def test_tune_measures_and_remembers(copy: Path) -> None:
    result = nestforge.tune(copy, budget_seconds=5)
    cores = count_available_cores()
    assert {row.parallelism.threads for row in result.measured} <= set(range(1, cores + 1))
    assert {row.parallelism.batch for row in result.measured} == {1, 2, 4, 8, 16}
    assert result.latency.parallelism.batch == result.latency.parallelism.streams == 1
    assert result.latency.latency_ms == min(
        row.latency_ms for row in result.measured[: len({row.parallelism.threads for row in result.measured})]
    )
    assert all(row.throughput_ips > 0 and row.latency_ms > 0 for row in result.measured)
    opened = open_artifact(copy)  # the files still match their hashes
    tuning = opened.find_tuning()
    assert tuning is not None
    assert (tuning.latency, tuning.throughput) == (result.latency, result.throughput)


def test_answers_do_not_depend_on_tuning(copy: Path, dataset: Path) -> None:
    images = sorted(dataset.rglob("*.png"))
    before = nestforge.predict(copy, images)
    opened = open_artifact(copy)
    engine = opened.manifest.versions["openvino"]
    update_manifest(opened, tuning=make_record(engine_version=engine))
    chosen = choose_parallelism(open_artifact(copy), len(images))
    assert (chosen.batch, chosen.streams, chosen.threads) == (len(images) // 3, 3, 1)
    assert nestforge.predict(copy, images) == before


def test_vamp_takes_what_was_tuned_unless_told(copy: Path) -> None:
    opened = open_artifact(copy)
    plain = open_settings(copy)
    assert (plain.instances, plain.batch) == (1, 1)
    update_manifest(opened, tuning=make_record(engine_version=opened.manifest.versions["openvino"]))
    tuned = open_settings(copy)
    assert (tuned.instances, tuned.batch) == (3, 16)
    told = open_settings(copy, instances=2)
    assert (told.instances, told.batch) == (2, 1)


def test_tuning_is_for_one_machine(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_artifact(copy)
    engine = opened.manifest.versions["openvino"]
    plain = choose_parallelism(opened, 100)
    for changes in ({"cpu": "another"}, {"cores": 4096}, {"engine_version": "0"}):
        update_manifest(opened, tuning=make_record(**{"engine_version": engine, **changes}))
        assert open_artifact(copy).find_tuning() is None
        assert choose_parallelism(open_artifact(copy), 100) == plain
    update_manifest(opened, tuning=make_record(engine_version=engine))
    assert open_artifact(copy).find_tuning() is not None
    machine = read_machine()
    other = Machine(**{**vars(machine), "cpu": "another"})
    monkeypatch.setattr(artifact_module, "read_machine", lambda: other)
    assert open_artifact(copy).find_tuning() is None


def test_a_budget_out_of_range_is_refused(copy: Path) -> None:
    with pytest.raises(ConfigError, match="budget"):
        nestforge.tune(copy, budget_seconds=1)
