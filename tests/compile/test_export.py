"""Export always compares with torch in float64, and a difference beyond float32's own is an error and no file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from safetensors.numpy import save_file

from nestforge.compile import export as module
from nestforge.compile.export import export
from nestforge.errors import ModelError, NestForgeError
from nestforge.networks import graph
from nestforge.networks.layers import Weights, count_macs, make_seeded_weights
from nestforge.networks.zoo import Variant, get_variant
from tests.support.checkpoints import make_unstable_weights


def test_export_of_a_checkpoint(tmp_path: Path) -> None:
    weights = make_seeded_weights(get_variant("resnest14_slim"), 7, num_classes=6)
    torch.save({"state_dict": {f"module.{k}": torch.from_numpy(v) for k, v in weights.items()}}, tmp_path / "w.pth")
    result = export("resnest14_slim", weights=tmp_path / "w.pth", output=tmp_path / "m.onnx", size=64)
    assert (result.classes, result.size) == (6, 64)
    assert {(check.batch, check.size) for check in result.checks} == {(1, 64), (5, 64), (1, 49), (5, 49)}
    assert 0 < result.max_relative_difference < 1e-5
    assert 0 < result.max_torch_float32_difference < 1e-5
    assert result.notes == ()
    assert result.macs == count_macs(get_variant("resnest14_slim"), image_size=64, num_classes=6)
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


def spoil_export(monkeypatch: pytest.MonkeyPatch, name: str, amount: float) -> None:
    """Make the exported file wrong in one weight."""
    build = graph.build_graph

    def build_wrong(variant: Variant, weights: Weights) -> ir.Model:
        wrong = weights[name].copy()
        wrong.flat[0] += np.float32(amount)
        return build(variant, weights | {name: wrong})

    monkeypatch.setattr(graph, "build_graph", build_wrong)


def test_a_wrong_weight_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_export(monkeypatch, "layer2.0.conv1.weight", 0.1)
    with pytest.raises(ModelError, match=r"differs from torch in float64 by \S+ on .*limit 1\.0e-04"):
        export("resnest14_slim", seed=0, output=tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def unstable_checkpoint(tmp_path: Path) -> Path:
    weights = make_unstable_weights(get_variant("resnest14_slim"), signal=1e-6)
    path = tmp_path / "unstable.safetensors"
    save_file(weights, path)
    return path


def test_a_right_file_of_an_unstable_checkpoint_passes(unstable_checkpoint: Path) -> None:
    result = export("resnest14_slim", weights=unstable_checkpoint, output=unstable_checkpoint.with_name("m.onnx"))
    assert result.max_torch_float32_difference > 0.01
    assert 0.01 < result.max_relative_difference < 4 * result.max_torch_float32_difference
    (note,) = result.notes
    assert note.startswith("torch itself is unstable on ")
    assert "black at 56x56" in note


def test_a_wrong_weight_of_an_unstable_checkpoint_leaves_no_file(
    unstable_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_export(monkeypatch, "fc.bias", 100)
    with pytest.raises(
        ModelError, match=r"differs from torch in float64 by .*torch's own float32 by at most \d\.\de-0[12]"
    ):
        export("resnest14_slim", weights=unstable_checkpoint, output=unstable_checkpoint.with_name("m.onnx"))
    assert not unstable_checkpoint.with_name("m.onnx").exists()


def test_overflowing_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = make_seeded_weights(get_variant("resnest14_slim"), 0)
    weights["fc.weight"] *= np.float32(1e38)
    monkeypatch.setattr(module, "make_seeded_weights", lambda *_: weights)
    with pytest.raises(ModelError, match=r"not finite on the probe images, in torch itself \(float32\)"):
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
