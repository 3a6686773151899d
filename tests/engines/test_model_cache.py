"""The cache of compiled models: same answers, and whatever happens to its files, the model is compiled again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from nestforge.artifact.artifact import open_artifact
from nestforge.engines import model_cache
from nestforge.engines.base import Parallelism, Session

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 56, 56), np.float32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NESTFORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "compiled"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count what is really compiled: the model file is read for nothing else."""
    import openvino

    seen: list[str] = []
    read_model = openvino.Core.read_model

    def note(self: openvino.Core, model: str) -> openvino.Model:
        seen.append(model)
        return read_model(self, model)

    monkeypatch.setattr(openvino.Core, "read_model", note)
    return seen


def open_int8(artifacts: dict[str, Path], *, batch: int = 2) -> Session:
    return open_artifact(artifacts["int8"]).open_session(Parallelism(batch=batch))


def test_second_opening_compiles_nothing_and_answers_the_same(
    artifacts: dict[str, Path], cache: Path, compilations: list[str]
) -> None:
    first, second = open_int8(artifacts), open_int8(artifacts)
    assert len(compilations) == 1
    assert np.array_equal(first.run(IMAGES), second.run(IMAGES))
    kernels = [sorted((k.layer_type, k.precision) for k in session.list_kernels()) for session in (first, second)]
    assert kernels[0] == kernels[1]
    open_int8(artifacts, batch=1)
    assert len(compilations) == 2
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "rubbish"])
def test_damaged_file_is_compiled_again(
    damage: str, artifacts: dict[str, Path], cache: Path, compilations: list[str]
) -> None:
    expected = open_int8(artifacts).run(IMAGES)
    (path,) = cache.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(
        {"empty": b"", "cut": path.read_bytes()[:-9], "flipped": bytes(data), "rubbish": b"x" * 99}[damage]
    )
    assert np.array_equal(open_int8(artifacts).run(IMAGES), expected)
    open_int8(artifacts)
    assert len(compilations) == 2  # the file was replaced by a good one


def test_whole_file_that_the_engine_refuses_is_compiled_again(
    artifacts: dict[str, Path], cache: Path, compilations: list[str]
) -> None:
    expected = open_int8(artifacts).run(IMAGES)
    (path,) = cache.iterdir()
    model_cache.write_compiled(path, b"of another version")
    assert np.array_equal(open_int8(artifacts).run(IMAGES), expected)
    assert len(compilations) == 2


def test_unusable_folder_and_switch(
    artifacts: dict[str, Path], cache: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot keep anything in"):
        open_int8(artifacts)
    assert len(compilations) == 1
    cache.parent.unlink()
    monkeypatch.setenv(model_cache.ENV_VAR, "0")
    open_int8(artifacts)
    assert len(compilations) == 2
    assert not cache.exists()


def test_name_depends_on_everything(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {model_cache.name_compiled(model="a", batch=1), model_cache.name_compiled(model="a", batch=2)}
    monkeypatch.setattr("nestforge.engines.machine._read_cpuinfo", lambda: {"model name": "another", "flags": "avx2"})
    names |= {model_cache.name_compiled(model="a", batch=1), model_cache.name_compiled(model="b", batch=1)}
    assert len(names) == 4


def test_longest_unused_are_removed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_cache, "MAX_TOTAL_BYTES", 250)
    paths = [cache / f"{name}.blob" for name in "abc"]
    for age, path in zip((30, 20, 10), paths[:3], strict=True):
        model_cache.write_compiled(path, bytes(60))  # and 32 of the digest
        if path.exists():
            os.utime(path, (1_000_000_000 - age, 1_000_000_000 - age))
        if path == paths[1]:
            assert model_cache.read_compiled(paths[0]) == bytes(60)  # used: now the youngest
    assert [path.exists() for path in paths] == [True, False, True]
