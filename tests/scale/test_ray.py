"""Over a Ray cluster: the same integers and rows on any number of workers, also when a node dies in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nestforge.errors import ConfigError, DataError
from nestforge.progress import Advance
from tests.support.commands import find_processes
from tests.support.data import write_tar

pytest.importorskip("pyarrow")
pytest.importorskip("ray")
import pyarrow.parquet as pq

from nestforge.measure.evaluate import Evaluation, evaluate
from nestforge.scale import cluster as nestforge_ray

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")  # of its own settings, by itself
REPEATS = 30


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster whose head runs no work: the test adds the nodes that do."""
    from ray.cluster_utils import Cluster

    config = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 128 << 20, "_system_config": config}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield made
    finally:
        made.shutdown()


def add_node(cluster: Any) -> Any:
    node = cluster.add_node(num_cpus=1, object_store_memory=128 << 20)
    cluster.wait_for_nodes()
    return node


@pytest.fixture(scope="module")
def many(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data set many times over, with some images that cannot be read."""
    root = tmp_path_factory.mktemp("many")
    for path in dataset.rglob("*.png"):
        (root / path.parent.name).mkdir(exist_ok=True)
        for number in range(REPEATS):
            shutil.copy(path, root / path.parent.name / f"{path.stem}-{number}.png")
    for number in (3, 17):
        (root / "coat" / f"1-{number}.png").write_bytes(b"gone")
    return root


def compare(result: Evaluation, reference: Evaluation) -> None:
    """The integers and every row are equal, and no image is there twice or missing."""
    assert (result.images, result.unreadable) == (reference.images, reference.unreadable) == (40 * REPEATS - 2, 2)
    assert (result.top1, result.top5) == (reference.top1, reference.top5)
    assert result.output is not None
    assert reference.output is not None
    ours, theirs = pq.read_table(result.output), pq.read_table(reference.output)
    assert ours.equals(theirs)
    assert len(set(ours["key"].to_pylist())) == len(ours) == 40 * REPEATS


def test_a_node_dies_and_nothing_is_lost(
    nodes: Any, artifacts: dict[str, Path], many: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reference = evaluate(artifacts["fp32"], many, output=tmp_path / "one.parquet")
    doomed = add_node(nodes)
    one = evaluate(artifacts["fp32"], many, ray=nodes.address, workers=1, output=tmp_path / "ray1.parquet")
    compare(one, reference)

    add_node(nodes)
    counted = killed_at = 0

    @contextmanager
    def kill_in_the_middle(description: str, total: int | None) -> Iterator[Advance]:
        def advance(steps: int) -> None:
            nonlocal counted, killed_at
            counted += steps
            if description.startswith("classifying") and not killed_at and counted >= 200:
                killed_at = counted
                nodes.remove_node(doomed, allow_graceful=False)

        yield advance

    two = evaluate(
        artifacts["fp32"],
        many,
        ray=nodes.address,
        workers=2,  # one on each node
        output=tmp_path / "ray2.parquet",
        progress=kill_in_the_middle,
    )
    assert 200 <= killed_at < 40 * REPEATS
    compare(two, reference)

    with pytest.raises(ConfigError, match=r"2 workers of 1 threads do not fit the cluster's 1 CPUs"):
        evaluate(artifacts["fp32"], many, ray=nodes.address, workers=2)
    image = next(many.rglob("*.png")).read_bytes()
    write_tar(tmp_path / "a.tar", {"bag/1.png": image, "bag/2.png": image})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: len(whole) // 2 - 600])
    with pytest.raises(DataError, match=r"b\.tar is damaged after"):
        evaluate(artifacts["fp32"], f"{tmp_path}/*.tar", ray=nodes.address, output=tmp_path / "none.parquet")
    assert not (tmp_path / "none.parquet").exists()


def test_ctrl_c_leaves_no_process(artifacts: dict[str, Path], many: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.parquet"
    program = (
        "import nestforge.scale.cluster as c, sys\n"
        "classify = c.classify_on_ray\n"
        "def announce(*a, **k):\n"
        "    for rows in classify(*a, **k):\n"
        "        print('rows', flush=True)\n"
        "        yield rows\n"
        "c.classify_on_ray = announce\n"
        "from nestforge.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "evaluate", artifacts["fp32"], many, "--ray", "local", "-o", output]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "NESTFORGE_TEST_MARK": str(tmp_path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "rows\n"
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 15
    while (left := find_processes(f"NESTFORGE_TEST_MARK={tmp_path}")) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left


def test_ray_reports_to_nobody() -> None:
    from ray._common.usage.usage_lib import usage_stats_enabled

    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert not usage_stats_enabled()
    assert nestforge_ray.LOCAL == "local"
