"""vamp -p N: a worker that is killed is an error, and a parent that is killed leaves no worker; both go on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from nestforge.vacc.npz import convert_images
from tests.support.processes import list_all, run, start
from tests.support.vacc import make_vdsp

VAMP = "from nestforge.vacc.commands import vamp; vamp()"


def list_children(pid: int) -> list[int]:
    """Return the worker processes of vamp."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("victim", ["worker", "parent"])
def test_vamp_with_a_killed_process(victim: str, ten_artifact: Path, labelled: Path, tmp_path: Path) -> None:
    convert_images(labelled, tmp_path / "npz", tmp_path / "list.txt")
    (tmp_path / "vdsp.json").write_text(json.dumps(make_vdsp(64)))
    flags = (
        "-m",
        ten_artifact,
        "--vdsp_params",
        tmp_path / "vdsp.json",
        "-p",
        "2",
        "--datalist",
        tmp_path / "list.txt",
    )
    process = start(VAMP, *flags, "--path_output", tmp_path / "out")
    while len(list_children(process.pid)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    workers = list_children(process.pid)
    os.kill(workers[1] if victim == "worker" else process.pid, signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    if victim == "worker":
        assert process.returncode == 2
        assert "a worker process died" in stderr
        assert "Traceback" not in stderr
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)
    run(VAMP, *flags, "--path_output", tmp_path / "out", code=0)
    run(VAMP, *flags, "--path_output", tmp_path / "whole", code=0)
    assert list_all(tmp_path / "out") == list_all(tmp_path / "whole")
    for name in list_all(tmp_path / "whole"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
