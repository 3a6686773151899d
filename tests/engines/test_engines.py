"""Both engines and the fake behind one protocol; padding, threads, refusals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nestforge.engines import get_engine
from nestforge.engines.base import Settings
from nestforge.engines.fake import FakeEngine
from nestforge.engines.machine import count_available_cores, read_cgroup_quota, read_machine
from nestforge.engines.torch import TorchSession
from nestforge.errors import EngineError
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant
from tests.support.onnx_models import make_classifier

IMAGES = np.random.default_rng(0).standard_normal((6, 3, 56, 56), np.float32)
ENGINES = ["openvino", "onnxruntime"]


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    variant = get_variant("resnest14_slim")
    return TorchSession(variant, make_seeded_weights(variant, 0), Settings(batch=6, height=56, width=56)).run(IMAGES)


@pytest.mark.parametrize("name", ENGINES)
def test_engine_equals_torch(name: str, slim_onnx: Path, reference: np.ndarray) -> None:
    for model in (slim_onnx, slim_onnx.read_bytes()):
        session = get_engine(name).open(model, Settings(batch=6, height=56, width=56))
        assert np.abs(session.run(IMAGES) - reference).max() < 1e-5 * np.abs(reference).max()


@pytest.mark.parametrize("name", ENGINES)
def test_partial_batches_are_cut(name: str, slim_onnx: Path, reference: np.ndarray) -> None:
    session = get_engine(name).open(slim_onnx, Settings(batch=4, height=56, width=56))
    found = session.run(IMAGES[:3])
    assert found.shape == (3, 10)
    assert np.abs(found - reference[:3]).max() < 1e-5 * np.abs(reference).max()
    for wrong in (IMAGES[:5], IMAGES[:0], IMAGES[:1, :, :30]):
        with pytest.raises(EngineError, match="session takes 1 to 4 images"):
            session.run(wrong)


@pytest.mark.parametrize("name", ENGINES)
def test_outputs_without_a_batch_stay_whole(name: str) -> None:
    """A full batch is not cut: a graph may also give a shape, or weights."""
    proto = make_classifier(after="s = Shape(x)", gives="float[N,10] y, int64[4] s")
    session = get_engine(name).open(proto.SerializeToString(), Settings(batch=2, height=16, width=16))
    values = session.run_all(IMAGES[:2, :, :16, :16])
    assert values["s"].tolist() == [2, 3, 16, 16]
    assert values["y"].shape == (2, 10)


@pytest.mark.parametrize("name", ENGINES)
def test_streams_give_every_thread_its_own_answer(name: str, slim_onnx: Path, reference: np.ndarray) -> None:
    session = get_engine(name).open(slim_onnx, Settings(height=56, width=56, streams=3, threads=2))
    order = [index % 6 for index in range(60)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda index: session.run(IMAGES[index : index + 1])[0], order))
    assert np.abs(np.stack(found) - reference[order]).max() < 1e-5 * np.abs(reference).max()


@pytest.mark.parametrize("name", ENGINES)
def test_rubbish_is_an_engine_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"rubbish" * 10)
    with pytest.raises(EngineError, match="cannot open the model"):
        get_engine(name).open(path, Settings())


def test_unknown_engine() -> None:
    with pytest.raises(EngineError, match="did you mean 'openvino'"):
        get_engine("open-vino")


def test_openvino_reports_its_kernels(slim_onnx: Path) -> None:
    kernels = get_engine("openvino").open(slim_onnx, Settings(height=56, width=56)).list_kernels()
    convolutions = [kernel for kernel in kernels if kernel.layer_type == "Convolution"]
    assert len(convolutions) == 3 + 4 * 6
    assert {kernel.precision for kernel in convolutions} == {"f32"}


def test_fake_engine_remembers_batches() -> None:
    engine = FakeEngine(lambda images: images.mean((2, 3)))
    session = engine.open(b"", Settings(batch=2, height=4, width=4))
    session.run(np.ones((1, 3, 4, 4), np.float32))
    assert session.run(np.ones((2, 3, 4, 4), np.float32)).shape == (2, 3)
    assert engine.batches == [1, 2]


def make_cgroup(folder: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "self").write_text(membership)
    return folder / "cgroup", folder / "self"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, None),
        ("4:cpu,cpuacct:/d\n", {"cpu/d/cpu.cfs_quota_us": "200000\n", "cpu/d/cpu.cfs_period_us": "100000\n"}, 2.0),
        ("4:cpu:/d\n", {"cpu/d/cpu.cfs_quota_us": "-1\n", "cpu/d/cpu.cfs_period_us": "100000\n"}, None),
        ("", {}, None),
    ],
)
def test_cgroup_quota(membership: str, files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    assert read_cgroup_quota(*make_cgroup(tmp_path, membership, files)) == quota


def test_cores_respect_affinity_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for quota, expected in ((None, 8), (3.5, 3), (0.5, 1), (100.0, 8)):
        monkeypatch.setattr("nestforge.engines.machine.read_cgroup_quota", lambda quota=quota: quota)
        assert count_available_cores() == expected


def test_machine_is_described() -> None:
    machine = read_machine()
    assert machine.cpu
    assert machine.available_cores >= 1
