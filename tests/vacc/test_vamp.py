"""vamp and vamp_eval: results, order, resuming, bad files; counts against an independent reading."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nestforge.artifact import artifact as artifact_module
from nestforge.data.preprocess import read_image
from nestforge.engines.base import Parallelism
from nestforge.errors import ConfigError, DataError
from nestforge.inference.topk import softmax
from nestforge.vacc.datalist import name_result, run_datalist
from nestforge.vacc.npz import convert_images, write_npz
from nestforge.vacc.vamp import VampSettings, measure_vamp, open_settings
from nestforge.vacc.vamp_eval import evaluate_results
from tests.support.onnx_models import build_artifact, make_classifier, run_artifact, save
from tests.support.vacc import make_vdsp


@pytest.fixture
def walk(labelled: Path, ten_artifact: Path, tmp_path: Path) -> VampSettings:
    """npz files with their list beside a vdsp file, and the settings that go with them."""
    convert_images(labelled, tmp_path / "npz", tmp_path / "list.txt")
    (tmp_path / "vdsp.json").write_text(json.dumps(make_vdsp(64)))
    return open_settings(ten_artifact, tmp_path / "vdsp.json", instances=2, batch=4)


def list_images(labelled: Path) -> list[Path]:
    return sorted(labelled.rglob("*.*"), key=lambda path: (path.parent.name, path.name))


def test_results_are_those_of_the_artifact_on_each_image(walk: VampSettings, labelled: Path, tmp_path: Path) -> None:
    result = run_datalist(walk, tmp_path / "list.txt", tmp_path / "out")
    assert (result.written, result.skipped, result.unreadable) == (30, 0, ())
    artifact = walk.artifact
    session = artifact.open_session(Parallelism(batch=4))
    outputs = sorted((tmp_path / "out").glob("*.npz"))
    assert len(outputs) == 30
    preprocess = artifact.manifest.preprocess
    for image, output in zip(list_images(labelled), outputs, strict=True):
        pixels = read_image(image, preprocess).astype(np.float32) / np.float32(255)
        normal = (pixels - np.float32(preprocess.mean)) / np.float32(preprocess.std)
        logits = session.run(normal.transpose(2, 0, 1)[None])
        with np.load(output) as loaded:
            scores = loaded["output_0"]
        assert scores.shape == (10,)
        assert scores.dtype == np.float32
        assert scores.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(scores, softmax(logits)[0], atol=1e-6)


@pytest.mark.parametrize("processes", [1, 2])
def test_resumes_after_a_kill(walk: VampSettings, tmp_path: Path, processes: int) -> None:
    settings = replace(walk, instances=1, processes=processes, batch=8)
    run_datalist(settings, tmp_path / "list.txt", tmp_path / "out")
    outputs = sorted((tmp_path / "out").glob("*.npz"))
    expected = [path.read_bytes() for path in outputs]
    for index in (2, 17, 29):
        outputs[index].unlink()
    (tmp_path / "out" / f".{outputs[2].name}.1.partial").write_bytes(b"half")
    again = run_datalist(settings, tmp_path / "list.txt", tmp_path / "out")
    assert (again.written, again.skipped) == (3, 27)
    found = [np.load(path)["output_0"] for path in outputs]
    for index, path in enumerate(outputs):
        (tmp_path / "check.npz").write_bytes(expected[index])
        np.testing.assert_allclose(found[index], np.load(tmp_path / "check.npz")["output_0"], atol=1e-6)
        assert path.is_file()


def test_corrupt_npz_are_skipped_and_the_rest_keeps_its_place(
    walk: VampSettings, tmp_path: Path, ten_labels: Path
) -> None:
    run_datalist(walk, tmp_path / "list.txt", tmp_path / "whole")
    listed = [Path(line) for line in (tmp_path / "list.txt").read_text().splitlines()]
    listed[5].write_bytes(b"PK broken")
    listed[9].unlink()
    result = run_datalist(walk, tmp_path / "list.txt", tmp_path / "out")
    assert [item.image for item in result.unreadable] == [str(listed[5]), str(listed[9])]
    names = sorted(path.name for path in (tmp_path / "out").glob("*.npz"))
    assert names == [name_result(index, 30) for index in range(30) if index not in (5, 9)]
    for name in names:
        a, b = (np.load(tmp_path / folder / name)["output_0"] for folder in ("whole", "out"))
        np.testing.assert_allclose(a, b, atol=1e-6)
    with pytest.raises(DataError, match=r"28 results but .* lists 30"):
        evaluate_results(tmp_path / "out", tmp_path / "list.txt", ten_labels, result_file=tmp_path / "r.txt")
    assert not (tmp_path / "r.txt").exists()


def test_an_output_folder_belongs_to_one_run(walk: VampSettings, tmp_path: Path) -> None:
    run_datalist(walk, tmp_path / "list.txt", tmp_path / "out")
    lines = (tmp_path / "list.txt").read_text().splitlines()
    (tmp_path / "short.txt").write_text("\n".join(lines[:7]))
    with pytest.raises(ConfigError, match="another artifact, vdsp file or list"):
        run_datalist(walk, tmp_path / "short.txt", tmp_path / "out")
    (tmp_path / "foreign").mkdir()
    write_npz(tmp_path / "foreign" / "x.npz", "output_0", np.zeros(3))
    with pytest.raises(ConfigError, match="something else"):
        run_datalist(walk, tmp_path / "list.txt", tmp_path / "foreign")


def test_warns_about_calibration_images(walk: VampSettings, tmp_path: Path) -> None:
    result = run_datalist(walk, tmp_path / "list.txt", tmp_path / "out")
    assert any("10 of the 30 listed images are calibration images" in warning for warning in result.warnings)


def test_counts_equal_an_independent_reading(walk: VampSettings, tmp_path: Path, ten_labels: Path) -> None:
    run_datalist(walk, tmp_path / "list.txt", tmp_path / "out")
    result = evaluate_results(tmp_path / "out", tmp_path / "list.txt", ten_labels, result_file=tmp_path / "r.txt")
    wnids = [line.split("\t")[0] for line in ten_labels.read_text().splitlines()]
    listed = (tmp_path / "list.txt").read_text().splitlines()
    hits = {1: 0, 5: 0}
    for line, output in zip(listed, sorted((tmp_path / "out").glob("*.npz")), strict=True):
        scores = np.load(output)["output_0"]
        better = int((scores > scores[wnids.index(line.split("/")[-2])]).sum())
        for k in hits:
            hits[k] += better < k
    assert (result.top1.correct, result.top5.correct, result.images) == (hits[1], hits[5], 30)
    assert hits[5] > 0
    lines = (tmp_path / "r.txt").read_text().splitlines()
    assert len(lines) == 150
    pattern = re.compile(r"^(.+): Relay top-([0-4]) id: (\d+), prob: (0\.\d{8}|1\.0{8}), class name: (.+)$")
    for index, line in enumerate(lines):
        match = pattern.match(line)
        assert match, line
        assert match[1] == listed[index // 5]
        assert int(match[2]) == index % 5
        assert ten_labels.read_text().splitlines()[int(match[3])].split("\t")[1] == match[5]


def test_label_files_that_do_not_fit(walk: VampSettings, tmp_path: Path, ten_labels: Path) -> None:
    run_datalist(walk, tmp_path / "list.txt", tmp_path / "out")

    def count(label: Path) -> None:
        evaluate_results(tmp_path / "out", tmp_path / "list.txt", label, result_file=tmp_path / "r.txt")

    lines = ten_labels.read_text().splitlines()
    bad = tmp_path / "bad.txt"
    bad.write_text("\n".join([*lines, "n00000001\tone more"]))
    with pytest.raises(DataError, match="has 11 lines"):
        count(bad)
    bad.write_text("\n".join(lines[:9]))
    with pytest.raises(DataError, match="match no label"):
        count(bad)
    imagenet = Path(__file__).parents[2] / "deploy/resnest/data/label/imagenet.txt"
    with pytest.raises(DataError, match="1000 lines"):
        count(imagenet)
    names = imagenet.read_text().splitlines()
    bad.write_text("\n".join(sorted(names)))
    with pytest.raises(DataError, match="not ImageNet's in its order"):
        count(bad)
    assert not (tmp_path / "r.txt").exists()


def test_results_of_another_list(walk: VampSettings, tmp_path: Path, ten_labels: Path) -> None:
    run_datalist(walk, tmp_path / "list.txt", tmp_path / "out")
    lines = (tmp_path / "list.txt").read_text().splitlines()
    (tmp_path / "turned.txt").write_text("\n".join(reversed(lines)))
    with pytest.raises(DataError, match="another list"):
        evaluate_results(tmp_path / "out", tmp_path / "turned.txt", ten_labels, result_file=tmp_path / "r.txt")


@pytest.mark.parametrize("processes", [1, 2])
def test_speed_adds_up(walk: VampSettings, processes: int) -> None:
    settings = replace(walk, processes=processes, batch=3)
    result = measure_vamp(settings, iterations=4)
    assert result.requests == 4 * 2 * processes
    latency = result.latency_ms
    assert 0 < latency.p50 <= latency.p90 <= latency.p99
    images = result.requests * 3
    assert result.throughput_fps >= 0.99 * images / result.seconds
    assert 0 < result.cpu_cores <= 2 * result.available_cores
    assert result.memory_bytes > 10**7
    assert result.preprocess_ms is not None


def test_measures_for_a_time(walk: VampSettings) -> None:
    settings = replace(walk, instances=1, batch=1, vdsp=None)
    result = measure_vamp(settings, seconds=0.3)
    assert result.seconds >= 0.3
    assert result.preprocess_ms is None


def test_what_does_not_fit_is_said(walk: VampSettings, tmp_path: Path) -> None:
    folder = walk.artifact.folder
    assert open_settings(folder, shape=(3, 64, 64)).vdsp is None
    with pytest.raises(ConfigError, match=r"\[3, 224, 224\] is not the artifact's input \[3, 64, 64\]"):
        open_settings(folder, shape=(3, 224, 224))
    (tmp_path / "other.json").write_text(json.dumps(make_vdsp(56)))
    with pytest.raises(ConfigError, match=r"56x56.*64x64"):
        open_settings(folder, tmp_path / "other.json")
    with pytest.raises(ConfigError, match="needs --vdsp_params"):
        run_datalist(open_settings(folder), tmp_path / "list.txt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    bad: list[dict[str, int]] = [{"instances": 0}, {"batch": 257}, {"processes": -1}]
    for numbers in bad:
        with pytest.raises(ConfigError, match="outside 1 to 256"):
            open_settings(folder, **numbers)


def test_the_model_is_hashed_once(walk: VampSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the flags to the results, every file of the artifact is read for its hash exactly once."""
    hashed: list[str] = []
    real = artifact_module.hash_file

    def count(path: Path) -> str:
        hashed.append(path.name)
        return real(path)

    monkeypatch.setattr(artifact_module, "hash_file", count)
    settings = open_settings(walk.artifact.folder, tmp_path / "vdsp.json", instances=2, batch=4)
    run_datalist(settings, tmp_path / "list.txt", tmp_path / "out")
    measure_vamp(settings, iterations=1)
    assert sorted(hashed) == sorted(walk.artifact.manifest.outputs)


def test_images_of_any_size_are_run(walk: VampSettings, tmp_path: Path) -> None:
    for index, size in enumerate([(1, 1), (300, 2), (2, 300)]):
        array = np.asarray(Image.new("RGB", size, (index, 9, 200))).transpose(2, 0, 1)
        write_npz(tmp_path / f"{index}.npz", "input_0", array)
    (tmp_path / "odd.txt").write_text("".join(f"{tmp_path}/{index}.npz\n" for index in range(3)))
    assert run_datalist(walk, tmp_path / "odd.txt", tmp_path / "out").written == 3


@pytest.mark.parametrize(("end", "add_up"), [("LogSoftmax", True), ("Softmax", True), ("Sigmoid", False)])
def test_results_are_the_model_s_own_probabilities(end: str, add_up: bool, labelled: Path, tmp_path: Path) -> None:
    """No softmax is taken of what is a probability, or its logarithm, already."""
    proto = make_classifier(scores="l", after=f"y = {end}(l)")
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a", side=64)
    convert_images(labelled, tmp_path / "npz", tmp_path / "list.txt")
    (tmp_path / "vdsp.json").write_text(json.dumps(make_vdsp(64)))
    settings = open_settings(artifact, tmp_path / "vdsp.json", batch=4)
    run_datalist(settings, tmp_path / "list.txt", tmp_path / "out")
    assert settings.vdsp is not None
    image = np.load(tmp_path / "npz" / (tmp_path / "list.txt").read_text().split("\n")[0])["input_0"]
    scores = run_artifact(artifact, settings.vdsp.apply(image)[None])[0]
    found = np.load(sorted((tmp_path / "out").glob("*.npz"))[0])["output_0"]
    np.testing.assert_allclose(found, np.exp(scores) if end == "LogSoftmax" else scores, atol=1e-6)
    assert (found.sum() == pytest.approx(1, abs=1e-4)) == add_up
