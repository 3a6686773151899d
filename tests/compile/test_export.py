"""Export always compares with torch, and a difference is an error that leaves no file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from nestforge.compile import export as module
from nestforge.compile.export import compute_relative_difference, export, make_probe_images
from nestforge.errors import ModelError, NestForgeError
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant


def test_export_of_a_checkpoint(tmp_path: Path) -> None:
    weights = make_seeded_weights(get_variant("resnest14_slim"), 7, num_classes=6)
    torch.save({"state_dict": {f"module.{k}": torch.from_numpy(v) for k, v in weights.items()}}, tmp_path / "w.pth")
    result = export("resnest14_slim", weights=tmp_path / "w.pth", output=tmp_path / "m.onnx", size=64)
    assert (result.classes, result.size) == (6, 64)
    assert {(check.batch, check.size) for check in result.checks} == {(1, 64), (5, 64), (1, 49), (5, 49)}
    assert 0 < result.max_relative_difference < 1e-5
    proto = onnx.load(tmp_path / "m.onnx")
    assert [dim.dim_param for dim in proto.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        "",
        "height",
        "width",
    ]
    exported = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert all(np.array_equal(exported[name], value) for name, value in weights.items())


def test_seed_is_reproducible(tmp_path: Path) -> None:
    first, again, other = (
        export("resnest14_slim", seed=seed, output=tmp_path / f"{i}.onnx") for i, seed in enumerate((3, 3, 4))
    )
    assert first.sha256 == again.sha256 != other.sha256


def test_a_difference_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.get_engine

    class Off:
        def open(self, *arguments: object) -> object:
            session = original("onnxruntime").open(*arguments)  # type: ignore[arg-type]
            run = session.run
            session.run = lambda images: run(images) * 1.001  # type: ignore[method-assign]
            return session

    monkeypatch.setattr(module, "get_engine", lambda name: Off())
    with pytest.raises(ModelError, match=r"differs from torch by 1\.\d+e-03"):
        export("resnest14_slim", seed=0, output=tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_relative_difference() -> None:
    a = np.array([[1.0, -4.0], [0.0, 0.0]], np.float32)
    assert compute_relative_difference(a, a) == 0
    assert compute_relative_difference(a + np.float32(1), a) == 1
    for value in (np.nan, np.inf):
        assert compute_relative_difference(np.full_like(a, value), a) == np.inf
        assert compute_relative_difference(a, np.full_like(a, value)) == np.inf


def test_overflowing_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = make_seeded_weights(get_variant("resnest14_slim"), 0)
    weights["fc.weight"] *= np.float32(1e38)
    monkeypatch.setattr(module, "make_seeded_weights", lambda *_: weights)
    with pytest.raises(ModelError, match="not finite on the probe images"):
        export("resnest14_slim", seed=0, output=tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="did you mean"):
        export("resnest_50", output=tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="not both"):
        export("resnest50", seed=0, weights=tmp_path / "w.pth", output=tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="outside 32 to 4096"):
        export("resnest50", seed=0, size=8, output=tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="negative"):
        export("resnest50", seed=-1, output=tmp_path / "m.onnx")
    with pytest.raises(NestForgeError, match="no folder"):
        export("resnest14_slim", seed=0, output=tmp_path / "none" / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_probes_hold_random_and_extreme_images() -> None:
    images = make_probe_images(40)
    assert images.shape == (5, 3, 40, 40)
    assert images.dtype == np.float32
    assert images[1].max() < -2
    assert images[2].min() > 2
    assert np.abs(images[4]).max() > 10
