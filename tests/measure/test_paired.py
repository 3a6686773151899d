"""Changed answers and classes against counts made one image at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from nestforge.data.labels import Label
from nestforge.errors import DataError, NestForgeError
from nestforge.files import write_json
from nestforge.measure.evaluate import evaluate, evaluate_all
from nestforge.measure.paired import count_classes, pair_predictions, rank_classes, write_changes
from nestforge.measure.predictions import PredictionTable, PredictionTableBuilder
from nestforge.scale.predict import predict
from nestforge.scale.rows import Row
from tests.support.data import CLASSES

LABELS = [Label(name) for name in ("a", "b", "c")]


def make_table(*rows: tuple[int, float, float] | None, images: Sequence[str] = ()) -> PredictionTable:
    """One row per image: class, its probability, the second's; None for an unreadable image."""
    builder = PredictionTableBuilder(keep_images=True)
    for index, row in enumerate(rows):
        if row is not None:
            classes = (row[0], (row[0] + 1) % 3)
            name = images[index] if images else f"{index}.png"
            builder.add(
                Row(part=0, position=index, key="", truth=TRUTH[index], classes=classes, probabilities=row[1:]), name
            )
    return builder.finish()


TRUTH = (0, 0, 1, 1, 1)
OUR_ROWS = ((0, 0.9, 0.1), (1, 0.5, 0.4), None, (1, 0.6, 0.2), (2, 0.8, 0.1))
THEIR_ROWS = ((0, 0.8, 0.2), (0, 0.7, 0.1), None, (2, 0.5, 0.1), (0, 0.9, 0.05))
OURS, THEIRS = make_table(*OUR_ROWS), make_table(*THEIR_ROWS)


def test_changed_by_hand() -> None:
    paired = pair_predictions(Path("x"), OURS, THEIRS, LABELS)
    assert (paired.lost, paired.gained, paired.changed_predictions) == (1, 1, 3)
    assert paired.difference == 0
    kinds = {row.image: (row.kind, row.truth_label, row.ours.label, row.theirs.label) for row in paired.changed}
    assert kinds == {
        "1.png": ("lost", "a", "b", "a"),
        "3.png": ("gained", "b", "b", "c"),
        "4.png": ("both wrong", "b", "c", "a"),
    }
    margins = {row.image: (row.ours.margin, row.theirs.margin) for row in paired.changed}
    assert margins["1.png"] == pytest.approx((0.1, 0.6))
    assert [row.image for row in paired.changed] == ["4.png", "3.png", "1.png"]


def test_tables_of_other_images_are_refused() -> None:
    with pytest.raises(DataError, match="could not read the same images"):
        pair_predictions(Path("x"), OURS, make_table(None, *THEIR_ROWS[1:]), LABELS)


def test_a_table_is_sorted_whatever_order_its_rows_come_in() -> None:
    builder = PredictionTableBuilder(keep_images=True)
    for part, position in ((1, 0), (0, 1), (0, 0)):
        builder.add(Row(part=part, position=position, key="", truth=part, classes=(position,)), f"{part}/{position}")
    table = builder.finish()
    assert table.images == ("0/0", "0/1", "1/0")
    assert table.positions.tolist() == [[0, 0], [0, 1], [1, 0]]
    assert (table.truth.tolist(), table.classes[:, 0].tolist()) == ([0, 0, 1], [0, 1, 0])
    assert [hits.tolist() for hits in table.find_hits()] == [[True, False, False]] * 2


def test_classes_by_hand() -> None:
    first, second = count_classes(OURS, THEIRS, LABELS)
    assert (first.label, first.images, first.correct, first.vs_top1, first.difference, first.changed) == (
        "a",
        2,
        1,
        1.0,
        -0.5,
        1,
    )
    assert (second.label, second.images, second.correct, second.difference, second.changed) == ("b", 2, 1, 0.5, 2)
    assert [row.label for row in rank_classes([second, first])] == ["a", "b"]
    alone = count_classes(OURS, None, LABELS)
    assert [(row.vs_top1, row.difference, row.changed) for row in alone] == [(None, None, None)] * 2


def test_changed_answers_are_those_of_predict(artifacts: dict[str, Path], dataset: Path) -> None:
    result = evaluate(artifacts["int8"], dataset, vs=artifacts["fp32"])
    assert result.vs is not None
    paths = sorted(dataset.rglob("*.png"))
    ours, theirs = (predict(artifacts[dtype], paths, top=2) for dtype in ("int8", "fp32"))
    expected = {}
    for a, b in zip(ours, theirs, strict=True):
        if a.top[0].index != b.top[0].index:
            expected[a.image] = (a.top[0].index, b.top[0].index, a.top[0].probability - a.top[1].probability)
    found = {row.image: (row.ours.index, row.theirs.index, row.ours.margin) for row in result.vs.changed}
    assert {key: row[:2] for key, row in found.items()} == {key: row[:2] for key, row in expected.items()}
    for key, row in found.items():
        assert row[2] == pytest.approx(expected[key][2], abs=1e-3)
    assert result.vs.changed_predictions == len(expected)
    assert sum(row.changed or 0 for row in result.classes) == len(expected)
    assert [row.label for row in result.classes] == list(CLASSES)
    assert sum(row.correct for row in result.classes) == result.top1.correct


def test_evaluate_all_equals_one_at_a_time(artifacts: dict[str, Path], dataset: Path) -> None:
    both = evaluate_all([artifacts["fp32"], artifacts["int8"]], dataset, vs=artifacts["fp32"])
    assert both == [evaluate(artifacts[dtype], dataset, vs=artifacts["fp32"]) for dtype in ("fp32", "int8")]


def test_csv_and_json(tmp_path: Path) -> None:
    images = [f'{index} "x", é\udcff.png' for index in range(5)]
    ours, theirs = make_table(*OUR_ROWS, images=images), make_table(*THEIR_ROWS, images=images)
    paired = pair_predictions(Path("x"), ours, theirs, LABELS)
    write_changes(paired.changed, tmp_path / "changes.csv")
    with (tmp_path / "changes.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [row.image for row in paired.changed]
    assert rows[0]["kind"] == "both wrong"
    assert float(rows[0]["our_margin"]) == pytest.approx(0.7)
    write_json(paired, str(tmp_path / "p.json"))
    text = (tmp_path / "p.json").read_text(encoding="utf-8", errors="surrogateescape")
    assert json.loads(text)["changed"][0]["ours"] == {
        "index": 2,
        "label": "c",
        "probability": 0.8,
        "margin": pytest.approx(0.7),
    }
    with pytest.raises(NestForgeError, match="no folder"):
        write_changes(paired.changed, tmp_path / "none" / "x.csv")
