"""The journal: what was appended comes back, torn and damaged ends do not, and only work with the same key finds it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nestforge import journal as module
from nestforge.journal import keep_journal

KEY = {"artifact": "a" * 64, "images": ["x.png", 3, 1.5]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NESTFORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class StoppedError(Exception):
    pass


def interrupt_after(records: list[object], key: dict[str, object] = KEY) -> None:
    with contextlib.suppress(StoppedError), keep_journal("work", key) as journal:
        for record in records:
            journal.append(record)
        raise StoppedError


def read_records(key: dict[str, object] = KEY) -> list[object]:
    """As a run that is interrupted at once."""
    found: list[object] = []
    with contextlib.suppress(StoppedError), keep_journal("work", key) as journal:
        found = journal.records
        raise StoppedError
    return found


def test_nothing_is_written_without_a_record(cache: Path) -> None:
    with keep_journal("work", KEY):
        pass
    assert not cache.exists()


def test_records_come_back_until_the_work_is_done(cache: Path) -> None:
    interrupt_after([1, {"b": [0.1, "é\n"]}])
    interrupt_after([None])
    assert read_records() == [1, {"b": [0.1, "é\n"]}, None]
    assert read_records({**KEY, "artifact": "b"}) == []
    with keep_journal("work", KEY) as journal:
        journal.append(4)
    assert read_records() == []
    assert list((cache / "journals").iterdir()) == []


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 200), st.integers(0, 255), st.booleans())
def test_a_torn_or_damaged_end_is_cut_off(cache: Path, place: int, value: int, cut: bool) -> None:
    records = [[index, "x" * index] for index in range(6)]
    interrupt_after(records)
    (path,) = (cache / "journals").iterdir()
    content = bytearray(path.read_bytes())
    place %= len(content)
    damaged = cut or content[place] != value
    content[place] = value
    path.write_bytes(content[:place] if cut else content)
    found = read_records()
    assert found == records[: len(found)]
    assert (len(found) < 6) == damaged
    interrupt_after(["more"])
    assert read_records() == [*records[: len(found)], "more"]
    path.unlink()


def test_a_kill_keeps_every_appended_record(cache: Path) -> None:
    code = (
        "import os\nfrom nestforge.journal import keep_journal\n"
        f"with keep_journal('work', {KEY!r}) as journal:\n"
        "    journal.append('kept')\n    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert read_records() == ["kept"]


def test_a_second_process_works_without_it(cache: Path) -> None:
    with keep_journal("work", KEY) as first:
        first.append("mine")
        with keep_journal("work", KEY) as second:
            assert second.records == []
            second.append("lost")
        first.append("mine too")
        (path,) = (cache / "journals").iterdir()
        assert b"lost" not in path.read_bytes()
        assert len(path.read_bytes().splitlines()) == 2


def test_where_nothing_can_be_kept_work_goes_on_after_one_warning(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text("a file where the folder should be")
    with keep_journal("work", KEY) as journal:
        with pytest.warns(
            UserWarning, match=r"cannot keep anything in .*: models are compiled again .* set NESTFORGE_CACHE"
        ):
            journal.append(1)
        journal.append(2)
    cache.unlink()

    def fill_disk(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    with keep_journal("work", KEY) as journal:
        journal.append(1)
        monkeypatch.setattr(module.os, "write", fill_disk)
        with pytest.warns(UserWarning, match="No space left"):
            journal.append(2)
        journal.append(3)


def test_abandoned_journals_are_removed(cache: Path) -> None:
    interrupt_after([1])
    (path,) = (cache / "journals").iterdir()
    old = time.time() - module.KEPT_SECONDS - 60
    os.utime(path, (old, old))
    assert read_records() == []
    assert not path.exists()
