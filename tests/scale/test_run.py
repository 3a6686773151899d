"""The same counts and answers from every kind of source as from the folder; every image once or not at all."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nestforge.artifact.artifact import open_artifact
from nestforge.data.images import EncodedImage, ImageFile
from nestforge.data.preprocess import make_reference_preprocess, read_image
from nestforge.data.sources import open_source
from nestforge.errors import ConfigError, DataError, NestForgeError
from nestforge.measure.evaluate import evaluate
from nestforge.progress import no_progress
from nestforge.scale import run as run_module
from nestforge.scale.predict import predict
from tests.support.commands import run
from tests.support.data import CLASSES, list_files, write_tar
from tests.support.scale import get_counts

pa = pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")
import pyarrow.parquet as pq  # noqa: E402

from nestforge.scale.arrow import rows_from_table, table_from_rows  # noqa: E402
from nestforge.scale.rows import Row  # noqa: E402
from nestforge.scale.samples import Request  # noqa: E402
from nestforge.scale.tally import Tally  # noqa: E402

evaluate_module = importlib.import_module("nestforge.measure.evaluate")


def test_bytes_are_decoded_as_the_file(dataset: Path) -> None:
    path = dataset / "bag" / "0.png"
    image: ImageFile = EncodedImage("shard/0", path.read_bytes())
    preprocess = make_reference_preprocess(56)
    assert (read_image(image, preprocess) == read_image(path, preprocess)).all()
    with pytest.raises(DataError, match=r"^shard/1: not a readable image"):
        read_image(EncodedImage("shard/1", b"x"), preprocess)


def test_counts_equal_the_folder_s(
    artifacts: dict[str, Path], damaged: Path, shards: Path, parquet: Path, memory_url: str, tmp_path: Path
) -> None:
    reference = get_counts(evaluate(artifacts["fp32"], damaged))
    assert reference[:2] == (39, 2)
    sources: list[Any] = [damaged, shards, f"{shards}/part-*.tar", f"file://{shards}", parquet, memory_url]
    for number, source in enumerate(sources):
        output = tmp_path / f"{number}.parquet"
        result = evaluate(artifacts["fp32"], source, output=output)
        assert get_counts(result) == reference, source
        assert result.repeated == 0
        rows = pq.read_table(output).to_pylist()
        assert len(rows) == len({row["key"] for row in rows}) == 41
        assert [bool(row["error"]) for row in rows].count(True) == 2
        assert sum(row["classes"][:1] == [row["truth"]] for row in rows) == reference[2]


def test_every_prediction_equals_predict_s(artifacts: dict[str, Path], damaged: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.parquet"
    result = predict(artifacts["int8"], damaged, output=output)
    assert (result.images, result.unreadable, len(result)) == (39, 2, 0)
    table = pq.read_table(output)
    metadata = json.loads(table.schema.metadata[b"nestforge"])
    assert metadata["labels"] == list(CLASSES)
    paths = [path for _, path in list_files(damaged)]
    for path, row, prediction in zip(paths, table.to_pylist(), predict(artifacts["int8"], paths), strict=True):
        assert row["key"] == f"{path.parent.name}/{path.name}"
        assert row["truth"] is None
        assert row["error"] == prediction.error
        assert row["classes"] == [entry.index for entry in prediction.top]
        assert row["probabilities"] == pytest.approx([entry.probability for entry in prediction.top], rel=1e-6)


def test_parts_cover_a_folder_once(dataset: Path, tmp_path: Path) -> None:
    for number in range(300):
        shutil.copy(dataset / "bag" / "0.png", tmp_path / f"{number}.png")
    source = open_source(tmp_path)
    assert source.images == 300
    assert len(source.parts) == 38
    keys = [sample.key for part in source.parts for sample in part.read()]
    assert len(keys) == len(set(keys)) == 300


def test_odd_shards(artifacts: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    image = (dataset / "bag" / "0.png").read_bytes()
    write_tar(tmp_path / "a.tar", {"1.png": image, "1.cls": b"0", "2.json": b"{}", "2.cls": b"0"})
    write_tar(tmp_path / "b.tar", {"1.png": image, "1.cls": b"10", "x/1.png": image, "2.png": image})
    result = evaluate(artifacts["fp32"], tmp_path)
    assert get_counts(result)[:2] == (1, 4)
    assert "no image file" in result.unreadable_images[0].reason
    assert "class 10 is outside the artifact's 10 classes" in result.unreadable_images[1].reason
    assert "class 'x' is none of the artifact's labels" in result.unreadable_images[2].reason
    assert "has no class" in result.unreadable_images[3].reason


def test_refusals_leave_nothing(artifacts: dict[str, Path], dataset: Path, shards: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "rows.parquet"
    output.parent.mkdir()
    bad = tmp_path / "bad"
    bad.mkdir()
    whole = (shards / "part-0.tar").read_bytes()
    (bad / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (bad / "empty.tar").write_bytes(b"")
    with tarfile.open(shards / "part-0.tar") as tar:
        (bad / "endless.tar").write_bytes(whole[: tar.getmembers()[-3].offset])  # cut between two samples
    (bad / "text.parquet").write_bytes(b"text")
    pq.write_table(pa.table({"caption": ["a"]}), bad / "words.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), bad / "none.parquet")
    image = (dataset / "bag" / "0.png").read_bytes()
    pq.write_table(pa.table({"image": [image]}), bad / "unlabelled.parquet")
    write_tar(bad / "unlabelled.tar", {"1.png": image})
    cases = {
        "cut.tar": "damaged after 7 samples",
        "endless.tar": "damaged after 13 samples .its end is missing",
        "empty.tar": "damaged after 0 samples",
        "text.parquet": "cannot read",
        "words.parquet": "no column with image bytes",
        "none.parquet": "has no rows",
        "unlabelled.parquet": "has no class",
        "unlabelled.tar": "has no class",
        "nothing.tar": "no shard",
        "no*.tar": "no .tar or .parquet file matches",
        ".": "has tar and Parquet shards",
    }
    for name, message in cases.items():
        with pytest.raises(DataError, match=message):
            evaluate(artifacts["fp32"], bad / name, output=output)
    for url, message in (("memory://nowhere", "nothing found at"), ("nothing://x", "cannot use")):
        with pytest.raises(NestForgeError, match=message):
            evaluate(artifacts["fp32"], url, output=output)
    with pytest.raises(ConfigError, match="workers are Ray's"):
        evaluate(artifacts["fp32"], shards, workers=2)
    with pytest.raises(ConfigError, match="threads 0"):
        evaluate(artifacts["fp32"], shards, threads=0)
    with pytest.raises(NestForgeError, match="no folder"):
        evaluate(artifacts["fp32"], shards, output=tmp_path / "none" / "x.parquet")
    assert list(output.parent.iterdir()) == []


def test_calibration_images_are_refused(artifacts: dict[str, Path], calibration_images: Path, tmp_path: Path) -> None:
    files = {f"bag/{number}.png": path.read_bytes() for number, path in enumerate(calibration_images.rglob("*.png"))}
    write_tar(tmp_path / "a.tar", files)
    for source in (calibration_images, tmp_path / "a.tar"):
        with pytest.raises(DataError, match="calibration image"):
            evaluate(artifacts["int8"], source)
        assert evaluate(artifacts["int8"], source, allow_overlap=True).images == 40
        assert predict(artifacts["int8"], source, output=tmp_path / "x.parquet").images == 40
        assert evaluate(artifacts["fp32"], source).images == 40


def test_a_folder_of_images_stays_one(dataset: Path, shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    shutil.copy(shards / "part-0.tar", copy)
    with pytest.warns(UserWarning, match=r"1 file ignored: 1 \.tar"):
        assert open_source(copy).kind == "folder"
    assert open_source(shards).kind == "tar"


def test_vs_on_shards_equals_vs_on_the_folder(
    artifacts: dict[str, Path], damaged: Path, shards: Path, parquet: Path
) -> None:
    expected = evaluate(artifacts["int8"], damaged, vs=artifacts["fp32"])
    assert expected.vs is not None
    assert expected.vs.changed
    for source in (shards, parquet):
        found = evaluate(artifacts["int8"], source, vs=artifacts["fp32"])
        assert found.vs is not None
        assert found.classes == expected.classes
        assert dataclasses.replace(found.vs, changed=()) == dataclasses.replace(expected.vs, changed=())
        assert [(row.truth, row.ours) for row in found.vs.changed] == [
            (row.truth, row.ours) for row in expected.vs.changed
        ]


def test_an_interrupted_evaluation_of_shards_continues(
    artifacts: dict[str, Path], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NESTFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluate_module, "CHUNK_SECONDS", 0)
    expected = evaluate(artifacts["fp32"], shards)
    real, keys = run_module.classify_samples, []

    def stop(*arguments: Any) -> Iterator[Row]:
        for count, row in enumerate(real(*arguments)):
            if count >= 25:
                raise KeyboardInterrupt
            yield row
            keys.append(row.key)

    monkeypatch.setattr(run_module, "classify_samples", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(artifacts["fp32"], shards)
    with pytest.warns(UserWarning, match="continuing an interrupted evaluation"):
        assert evaluate(artifacts["fp32"], shards) == expected
    readable = [key for key in keys if "9.png" not in key]
    assert 38 <= len(keys) <= 45
    assert len(set(keys)) >= len(keys) - 2  # only unreadable images are tried again
    assert readable


def test_a_reader_that_stops_in_the_middle_does_not_hang(artifacts: dict[str, Path], shards: Path) -> None:
    source, artifact = open_source(shards), open_artifact(artifacts["fp32"])
    request = Request(top=5, labelled=True, allow_overlap=True)
    with run_module.open_runner(None, workers=None, threads=None, verify=True, progress=no_progress) as runner:
        rows = runner.run(artifact, source, request, Tally(len(source.parts)))
        next(rows)
        rows.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pipeline")]


def test_predict_takes_any_mixture(artifacts: dict[str, Path], dataset: Path, shards: Path, parquet: Path) -> None:
    image = dataset / "bag" / "0.png"
    found = predict(artifacts["fp32"], [image, shards, image, dataset / "boot", parquet])
    counts = [len(predict(artifacts["fp32"], source)) for source in (shards, dataset / "boot", parquet)]
    assert len(found) == 2 + sum(counts)
    assert found[0] == found[1 + counts[0]]
    assert predict(artifacts["fp32"], image)[0] == found[0]
    assert predict(artifacts["fp32"], str(image))[0] == found[0]


def test_top_is_respected_in_files(artifacts: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    predict(artifacts["fp32"], dataset, top=1, output=tmp_path / "rows.parquet")
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert {len(row["classes"]) for row in rows} == {len(row["probabilities"]) for row in rows} == {1}


def make_rows(part: int, positions: list[int]) -> list[Row]:
    return [Row(part=part, position=position, key="", truth=1, classes=(1, 0)) for position in positions]


def test_a_row_that_comes_twice_counts_once() -> None:
    tally = Tally(2)
    tally.expect(1, 2)
    tally.expect(0, 3)
    assert [tally.add(row) for row in make_rows(1, [0, 1])] == [True, True]
    assert [tally.add(row) for row in make_rows(0, [0, 1, 1])] == [True, True, False]
    assert [tally.add(row) for row in make_rows(1, [0, 1])] == [False, False]
    assert (tally.images, tally.repeated) == (4, 3)
    with pytest.raises(DataError, match="1 of 2 parts did not come back whole"):
        tally.check_complete()
    assert [tally.add(row) for row in make_rows(0, [2])] == [True]
    tally.check_complete()
    with pytest.raises(DataError, match="2 of 2 parts"):
        Tally(2).check_complete()


def test_rows_travel_unchanged() -> None:
    rows = [
        Row(part=1, position=0, key="a", truth=2, classes=(2, 1), probabilities=(0.5, 0.25)),
        Row(part=1, position=1, key="b", error="b: broken"),
    ]
    assert list(rows_from_table(table_from_rows(rows, of=2))) == rows


def test_commands(artifacts: dict[str, Path], damaged: Path, shards: Path, tmp_path: Path) -> None:
    counted = json.loads(run("evaluate", artifacts["fp32"], shards, "--json", "-").stdout)
    assert (counted["images"], counted["unreadable"], counted["kind"]) == (39, 2, "tar")
    assert "2 unreadable" in run("evaluate", artifacts["fp32"], damaged, "-o", tmp_path / "rows.parquet").stdout
    run("predict", artifacts["fp32"], shards, "-o", tmp_path / "rows.parquet", code=1)
    for arguments in (
        ("evaluate", artifacts["fp32"], shards, "--limit", 3),
        ("evaluate", artifacts["fp32"], shards, "--workers", 3),
        ("evaluate", artifacts["fp32"], shards, "--ray", "127.0.0.1:1"),
        ("evaluate", artifacts["fp32"], shards, "--ray", "somewhere"),
        ("predict", artifacts["fp32"], shards, "--workers", 2),
    ):
        done = run(*arguments, code=2)
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]
