"""Every usual wrapping loads; everything else is refused with a remedy."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from nestforge.errors import ModelError
from nestforge.networks import checkpoint
from nestforge.networks.checkpoint import fetch_checkpoint, read_checkpoint
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import Variant, get_variant

VARIANT = get_variant("resnest14_slim")


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return make_seeded_weights(VARIANT, 5, num_classes=7)


@pytest.fixture(scope="module")
def state(weights: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    return state | {"bn1.num_batches_tracked": torch.tensor(9)}


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "model", "module", "nested"])
def test_wrappings(wrap: str, state: dict[str, torch.Tensor], weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    prefixed = {f"module.{name}": value for name, value in state.items()}
    data = {
        "bare": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "model": {"model": state},
        "module": prefixed,
        "nested": {"model": {"state_dict": prefixed}},
    }[wrap]
    torch.save(data, tmp_path / "w.pth")
    read = read_checkpoint(tmp_path / "w.pth", VARIANT)
    assert set(read) == set(weights)
    assert all(np.array_equal(read[name], weights[name]) for name in weights)
    assert len(read["fc.bias"]) == 7


def test_safetensors(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    read = read_checkpoint(tmp_path / "w.safetensors", VARIANT)
    assert all(np.array_equal(read[name], weights[name]) for name in weights)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


def test_pickle_with_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": _Bomb()}, "bomb.pth")
    with pytest.raises(ModelError, match="would run code"):
        read_checkpoint(Path("bomb.pth"), VARIANT)
    Path("raw.pth").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(ModelError):
        read_checkpoint(Path("raw.pth"), VARIANT)
    assert not Path("exploded").exists()


def test_refusals(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with pytest.raises(ModelError, match="no checkpoint"):
        read_checkpoint(path, VARIANT)
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ModelError, match="not a readable torch checkpoint"):
        read_checkpoint(path, VARIANT)
    path.write_bytes(b"")
    with pytest.raises(ModelError):
        read_checkpoint(path, VARIANT)
    torch.save(state, path)
    with pytest.raises(ModelError, match="is no resnest50"):
        read_checkpoint(path, get_variant("resnest50"))
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(ModelError, match=r"no classifier 'fc.weight'"):
        read_checkpoint(path, VARIANT)
    torch.save([1, 2], path)
    with pytest.raises(ModelError):
        read_checkpoint(path, VARIANT)
    torch.save(state | {"extra.weight": torch.ones(1)}, path)
    with pytest.raises(ModelError, match=r"extra\.weight"):
        read_checkpoint(path, VARIANT)
    torch.save(state | {"bn1.weight": torch.full((16,), torch.nan)}, path)
    with pytest.raises(ModelError, match="not finite"):
        read_checkpoint(path, VARIANT)
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match="safetensors"):
        read_checkpoint(tmp_path / "w.safetensors", VARIANT)


def make_downloadable(
    payload: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch, prefix: str | None = None
) -> Variant:
    """A variant whose official weights lie in a folder and whose cache is another."""
    variant = get_variant("resnest50")
    served = folder / "served"
    served.mkdir(exist_ok=True)
    name = f"{variant.name}-{variant.sha256_prefix}.pth"
    (served / name).write_bytes(payload)
    monkeypatch.setattr("nestforge.networks.zoo.WEIGHTS_URL", served.as_uri() + "/{name}-{sha256_prefix}.pth")
    monkeypatch.setenv("NESTFORGE_CACHE", str(folder / "cache"))
    return variant


def test_download_is_checked_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a payload whose hash begins as published cannot be made, so the published prefix is replaced by its hash's
    payload = b"weights" * 1000
    variant = make_downloadable(payload, tmp_path, monkeypatch)
    with pytest.raises(ModelError, match="not 528c19ca"):
        fetch_checkpoint(variant)
    digest = hashlib.sha256(payload).hexdigest()[:8]
    monkeypatch.setattr(Variant, "sha256_prefix", property(lambda self: digest), raising=False)
    cached = tmp_path / "cache" / f"resnest50-{digest}.pth"
    (tmp_path / "served" / cached.name).write_bytes(payload)
    assert fetch_checkpoint(variant) == cached
    (tmp_path / "served" / cached.name).unlink()
    assert fetch_checkpoint(variant).read_bytes() == payload
    assert not list((tmp_path / "cache").glob("*.part"))


@pytest.mark.parametrize("place", ["file", "no_home"])
def test_download_goes_on_without_a_cache(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = b"weights" * 1000
    variant = make_downloadable(payload, tmp_path, monkeypatch)
    digest = hashlib.sha256(payload).hexdigest()[:8]
    monkeypatch.setattr(Variant, "sha256_prefix", property(lambda self: digest), raising=False)
    (tmp_path / "served" / f"resnest50-{digest}.pth").write_bytes(payload)
    if place == "file":
        (tmp_path / "cache").write_text("a file where the folder should be")
        with pytest.warns(UserWarning, match=rf"cannot keep anything in {tmp_path}/cache \(File exists\)"):
            path = fetch_checkpoint(variant)
    else:
        monkeypatch.setattr(checkpoint, "cache_folder", lambda: None)
        path = fetch_checkpoint(variant)
    assert path.read_bytes() == payload
    assert not path.is_relative_to(tmp_path / "cache")
    path.unlink()


def test_closed_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nestforge.networks.zoo.WEIGHTS_URL", "http://127.0.0.1:9/{name}-{sha256_prefix}.pth")
    monkeypatch.setenv("NESTFORGE_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"cannot download .*--weights FILE, or use --seed"):
        fetch_checkpoint(get_variant("resnest50"))
    assert not list(tmp_path.iterdir())
    assert checkpoint.cache_folder() == tmp_path


def test_no_official_weights() -> None:
    with pytest.raises(ModelError, match="has no official weights"):
        fetch_checkpoint(VARIANT)


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'resnest50'"):
        get_variant("resnet50")
