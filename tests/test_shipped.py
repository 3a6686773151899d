"""The shipped network and images are what their page says, and the demo's numbers can be trusted."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

from nestforge.builder import build
from nestforge.config import read_config
from nestforge.measure.evaluate import evaluate
from nestforge.networks.checkpoint import read_checkpoint
from nestforge.networks.layers import count_parameters
from nestforge.networks.zoo import get_variant

SHIPPED = Path(__file__).parents[1] / "examples" / "fashion_mnist"


def test_sizes() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 6_000_000
    assert count_parameters(get_variant("resnest14_slim")) == 400_914 <= 1_500_000


def test_onnx_holds_the_shipped_weights() -> None:
    weights = read_checkpoint(SHIPPED / "resnest14_slim.safetensors", get_variant("resnest14_slim"))
    tensors = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(SHIPPED / "resnest14_slim.onnx").graph.initializer
    }
    assert all(np.array_equal(tensors[name], value) for name, value in weights.items())
    assert len(load_file(SHIPPED / "resnest14_slim.safetensors")) > len(weights)  # the counters of batches too


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    with zipfile.ZipFile(SHIPPED / "sample.zip") as archive:
        archive.extractall(folder)
    return folder


def test_sample_is_labelled_and_balanced(sample: Path) -> None:
    names = (SHIPPED / "labels.txt").read_text().split()
    for split, count in (("test", 200), ("calibration", 50)):
        assert sorted(path.name for path in (sample / split).iterdir()) == sorted(names)
        assert {len(list((sample / split / name).iterdir())) for name in names} == {count}
    assert "Zalando" in (sample / "LICENSE").read_text()


def test_int8_keeps_the_accuracy_of_the_shipped_network(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole product on real images: drift of accuracy, either way, is noticed."""
    monkeypatch.chdir(SHIPPED.parents[1])
    config = SHIPPED.parents[1] / "configs" / "fashion_mnist_int8.yaml"
    for dtype in ("fp32", "int8"):
        build(
            read_config(
                config, [f"dtype={dtype}", f"output={sample / dtype}", f"calibration.data={sample / 'calibration'}"]
            )
        )
    result = evaluate(sample / "int8", sample / "test", vs=sample / "fp32")
    assert result.vs is not None
    assert result.images == 2000
    assert result.vs.top1.correct == pytest.approx(1888, abs=2)  # measured: 94.40%
    assert abs(result.top1.correct - result.vs.top1.correct) <= 8
    assert result.vs.changed_predictions <= 40
