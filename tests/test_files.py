"""Without a folder for a cache the work goes on, after one line; where there is one it is found as the user says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nestforge import files

NO_NAME = """
import pwd
def fail(user):
    raise KeyError(f"getpwuid(): uid not found: {user}")
pwd.getpwuid = fail
from nestforge.cli import main
main()
"""
UNUSABLE: dict[str, tuple[dict[str, str], str]] = {
    "no_home": ({}, "there is no home folder for a cache"),
    "home_is_a_device": ({"HOME": "/dev/null"}, "cannot keep anything in /dev/null/.cache/nestforge (Not a directory)"),
    "home_cannot_be_written": ({"HOME": "/proc"}, "cannot keep anything in /proc/.cache/nestforge ("),
    "cache_cannot_be_written": ({"NESTFORGE_CACHE": "/proc/cache"}, "cannot keep anything in /proc/cache ("),
}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
@pytest.mark.parametrize("name", UNUSABLE)
def test_commands_go_on_without_a_cache_after_one_line(name: str, artifacts: dict[str, Path], dataset: Path) -> None:
    """As in a container whose user has no entry in /etc/passwd."""
    variables, message = UNUSABLE[name]
    kept = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME", "NESTFORGE_CACHE")}
    command = [sys.executable, "-c", NO_NAME, "evaluate", str(artifacts["int8"]), str(dataset), "--json", "-"]
    done = subprocess.run(command, env=kept | variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 40
    [line] = done.stderr.splitlines()
    assert line.startswith(f"nestforge: warning: {message}")
    assert line.endswith("set NESTFORGE_CACHE to a folder that can be written")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NESTFORGE_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert files.cache_folder() == Path("/a")
    monkeypatch.delenv("NESTFORGE_CACHE")
    assert files.cache_folder() == Path("/b/nestforge")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == Path("/c/.cache/nestforge")
