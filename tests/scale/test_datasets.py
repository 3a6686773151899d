"""The same counts from lists, from shards with dots and links in their names, and from folders with more in them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nestforge.data.imagefolder import list_images
from nestforge.data.sources import open_source
from nestforge.errors import DataError
from nestforge.measure.evaluate import Evaluation, evaluate
from tests.support.data import CLASSES
from tests.support.images import write_files
from tests.support.shards import Member, make_link, write_shard

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

from nestforge.scale.predict import predict


def get_counts(result: Evaluation) -> tuple[int, int, int, int]:
    return result.images, result.unreadable, result.top1.correct, result.top5.correct


def get_reference(artifact: Path, dataset: Path) -> tuple[int, int, int, int]:
    return get_counts(evaluate(artifact, dataset))


@pytest.fixture
def lists(damaged: Path, tmp_path: Path) -> list[Path]:
    """The damaged data set as lists: of classes by index and by name, of Windows and of Caffe."""
    paths = sorted(damaged.rglob("*.png"))
    rows = [(str(path), path.parent.name, CLASSES.index(path.parent.name)) for path in paths]
    texts = {
        "index.csv": "path,label\n" + "".join(f"{path},{index}\n" for path, _, index in rows),
        "name.csv": "\ufefflabel;file\r\n" + "".join(f"{name};{path}\r\n" for path, name, _ in rows),
        "caffe.txt": "".join(f"{path} {index}\n" for path, _, index in rows),
        "mxnet.lst": "".join(f"{row}\t{index}.0\t{path}\n" for row, (path, _, index) in enumerate(rows)),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return [tmp_path / name for name in texts]


def test_lists_count_as_the_folder(artifacts: dict[str, Path], damaged: Path, lists: list[Path]) -> None:
    reference = get_reference(artifacts["fp32"], damaged)
    assert reference[:2] == (39, 2)
    for path in lists:
        assert get_reference(artifacts["fp32"], path) == reference
    output = lists[0].with_name("rows.parquet")
    assert predict(artifacts["fp32"], lists[0], output=output).images == 39
    rows = list_images(lists[0]).paths
    assert [prediction.image for prediction in predict(artifacts["fp32"], lists[0])] == list(map(str, rows))
    assert evaluate(artifacts["fp32"], lists[0], limit=10).images == 10


def test_shards_with_dots_and_links_count_as_the_folder(
    artifacts: dict[str, Path], damaged: Path, tmp_path: Path
) -> None:
    members: list[Member] = []
    for path in sorted(damaged.rglob("*.png")):
        stored = f"./store/{path.parent.name}.{path.stem}.bin"
        members += [
            (stored, path.read_bytes()),
            make_link(f"./{path.parent.name}/v1.{path.stem}.PNG", f"../{stored[2:]}"),
        ]
    stored_first = sorted(members, key=lambda member: not isinstance(member, tuple))
    write_shard(tmp_path / "a.tar", stored_first)
    images, unreadable, top1, top5 = get_reference(artifacts["fp32"], damaged)
    result = evaluate(artifacts["fp32"], tmp_path / "a.tar")
    assert get_counts(result)[0::2] == (images, top1)
    assert get_counts(result)[3] == top5
    assert result.unreadable == unreadable + len({path.parent for path in damaged.rglob("*.png")})  # of the store
    assert "no image file, such as bag.jpg" in " ".join(image.reason for image in result.unreadable_images)


def test_a_shard_that_begins_with_a_text_is_counted(artifacts: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    image = (dataset / "bag" / "0.png").read_bytes()
    write_shard(tmp_path / "a.tar", [("README.md", b"x"), ("bag/0.png", image)])
    result = evaluate(artifacts["fp32"], tmp_path / "a.tar")
    assert get_counts(result)[:2] == (1, 1)
    assert "README" in result.unreadable_images[0].reason


def test_what_lies_beside_the_images_changes_no_count(
    artifacts: dict[str, Path], damaged: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(damaged, copy)
    shutil.copytree(damaged / "bag", copy / ".ipynb_checkpoints")
    shutil.copytree(damaged / "bag", copy / "coat" / ".ipynb_checkpoints")
    write_files(copy, "Thumbs.db", "bag/.DS_Store")
    reference = get_reference(artifacts["fp32"], damaged)
    assert get_reference(artifacts["fp32"], copy) == reference
    write_files(copy, "bag/notes.txt")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"1 file ignored: 1 \.txt"):
            assert get_reference(artifacts["fp32"], copy) == reference


def test_classes_of_a_list_are_checked_before_any_work(
    artifacts: dict[str, Path], lists: list[Path], tmp_path: Path
) -> None:
    text = lists[0].read_text()
    (tmp_path / "bad.csv").write_text(text + f"{lists[0]}.png,10\n")
    with pytest.raises(DataError, match=r"class '10' is not one of"):
        evaluate(artifacts["fp32"], tmp_path / "bad.csv", output=tmp_path / "rows.parquet")
    assert not (tmp_path / "rows.parquet").exists()


def test_parquet_splits_beside_each_other_are_refused(parquet: Path, tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"):
        shutil.copy(parquet / "a.parquet", tmp_path / name)
    with pytest.raises(DataError, match=r"shards of test and train; name those to take, as in .*\*\.parquet"):
        open_source(tmp_path)
    assert open_source(tmp_path / "train-*.parquet").images == 40
