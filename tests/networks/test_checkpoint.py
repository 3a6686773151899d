"""Every usual wrapping loads; everything else is refused with a remedy."""

from __future__ import annotations

import hashlib
import pickle
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from nestforge.errors import ModelError
from nestforge.networks import checkpoint
from nestforge.networks.checkpoint import Checkpoint, fetch_checkpoint, find_weights, read_checkpoint
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


State = dict[str, torch.Tensor]


def rename(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def check_read(path: Path, weights: dict[str, np.ndarray]) -> Checkpoint:
    found = find_weights(path, VARIANT)
    assert set(found.weights) == set(weights)
    assert all(np.array_equal(found.weights[name], weights[name]) for name in weights)
    assert all(value.dtype == np.float32 and value.flags.c_contiguous for value in found.weights.values())
    return found


PREFIXES = [
    "module.",
    "_orig_mod.",
    "model.",
    "net.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "_orig_mod.module._orig_mod.module.",
    "model.net.module.",
    "net.model._orig_mod.",
    "model.model.",
    "backbone.",
    "encoder.",
    "lit_module.classifier_network.resnest.",
    "_fsdp_wrapped_module._checkpoint_wrapped_module.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(prefix: str, state: State, weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    for name, data in (("bare", rename(state, prefix)), ("wrapped", {"state_dict": rename(state, prefix)})):
        torch.save(data, tmp_path / f"{name}.pth")
        check_read(tmp_path / f"{name}.pth", weights)
    torch.save({"model": {"state_dict": rename(state, prefix)}, "epoch": 3}, tmp_path / "nested.pth")
    assert check_read(tmp_path / "nested.pth", weights).place.startswith("model > state_dict")


def compile_parts(state: State) -> State:
    """Stages that were compiled one by one, and a stem on several devices."""
    names = {
        name: name.replace("layer1.", "layer1._orig_mod.").replace("conv1.6.", "conv1.6.module.") for name in state
    }
    return {names[name]: value for name, value in state.items()}


def make_lightning(state: State) -> dict[str, object]:
    return {
        "epoch": 9,
        "global_step": 100,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {
            **rename(state, "model."),
            "criterion.weight": torch.ones(7),
            "loss_fn.projection.weight": torch.ones(7, 7),
            "val_acc.tp": torch.zeros(7),
            "class_weights": torch.ones(7),
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3, 3)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [{"last_epoch": 9}],
        "hyper_parameters": {"lr": 0.1, "root": Path("data")},
    }


def make_averaged_model(state: State) -> State:
    """As torch.optim.swa_utils.AveragedModel saves itself."""
    return {"n_averaged": torch.tensor(5), **rename(state, "module.")}


WRAPPINGS: dict[str, Callable[[State], object]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    "net": lambda state: {"net": state, "acc": 91.5},
    "unknown": lambda state: {"what_i_trained": {"deep": {"deeper": state}}},
    "list": lambda state: [state, {"epoch": 3}],
    "in a list": lambda state: {"models": [{"weights": state}]},
    "nested": lambda state: {"checkpoint": {"model": {"state_dict": rename(state, "module.")}}},
    "twice the same": lambda state: {"model": state, "last": {"model": rename(state, "module.")}},
    "lightning": make_lightning,
    "averaged model": make_averaged_model,
    "thop counters": lambda state: state | {"layer1.0.total_ops": torch.zeros(1), "total_params": torch.zeros(1)},
    "criterion": lambda state: state | {"criterion.weight": torch.ones(7), "ce_loss.pos_weight": torch.ones(7)},
    "parts compiled": compile_parts,
    "head apart": lambda state: {
        **rename({name: value for name, value in state.items() if not name.startswith("fc.")}, "backbone."),
        **rename({name: value for name, value in state.items() if name.startswith("fc.")}, "head."),
    },
    "head outside": lambda state: {(name if name.startswith("fc.") else f"0.{name}"): v for name, v in state.items()},
    "timm": lambda state: {
        "epoch": 1,
        "arch": "resnest14d",
        "state_dict": state,
        "args": Namespace(lr=0.1, output=Path("out")),
        "metric": np.float64(81.2),
        "version": 2,
    },
    "version": lambda state: {"model": state, "torch": torch.__version__, "means": np.zeros(3)},
    "order": lambda state: OrderedDict(reversed(state.items())),
    "parameters": lambda state: {name: torch.nn.Parameter(v, v.is_floating_point()) for name, v in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(wrapping: str, state: State, weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "w.pth")
    found = check_read(tmp_path / "w.pth", weights)
    assert not any("averaged" in note for note in found.notes) or wrapping == "averaged model"


def test_what_is_left_out_is_said(state: State, weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    torch.save(make_lightning(state), tmp_path / "w.ckpt")
    found = check_read(tmp_path / "w.ckpt", weights)
    assert found.place == "state_dict, names under 'model.'"
    assert found.notes == ("left out 3 tensors that are not the network's, such as 'criterion.weight'",)


AVERAGED: dict[str, Callable[[State, State], object]] = {
    "timm": lambda plain, ema: {"state_dict": plain, "state_dict_ema": ema},
    "torchvision": lambda plain, ema: {"model": plain, "model_ema": make_averaged_model(ema)},
    "ema": lambda plain, ema: {"ema": rename(ema, "module."), "net": plain},
    "ema_state_dict": lambda plain, ema: {"model_state_dict": plain, "ema_state_dict": ema},
    "averaged first": lambda plain, ema: {"averagedModel": ema, "model": plain},
    "n_averaged": lambda plain, ema: {"model": plain, "second": make_averaged_model(ema)},
    "one mapping": lambda plain, ema: {"state_dict": {**rename(plain, "model."), **rename(ema, "model_ema.module.")}},
    "ema_pytorch": lambda plain, ema: {**rename(plain, "online_model."), **rename(ema, "ema_model.")},
    "alone": lambda plain, ema: {"state_dict_ema": ema},
}


@pytest.mark.parametrize("layout", AVERAGED)
def test_averaged_weights_win_and_are_named(
    layout: str, state: State, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    plain = {name: value + 1 for name, value in state.items()}
    torch.save(AVERAGED[layout](plain, state), tmp_path / "w.pth")
    found = check_read(tmp_path / "w.pth", weights)
    assert found.notes[0].startswith("averaged (EMA) weights used: ")
    assert ("the plain ones" in found.notes[0]) == (layout != "alone")


def test_averaged_parameters_without_statistics_are_not_used(
    state: State, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    ema = {name: value + 1 for name, value in state.items() if "running" not in name}
    torch.save({"state_dict": state, "state_dict_ema": ema}, tmp_path / "w.pth")
    (note,) = check_read(tmp_path / "w.pth", weights).notes
    assert note.startswith("plain weights used: the averaged ones (state_dict_ema) lack 46 of 129 tensors")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a, b: {"student": a, "teacher": b}, "several different sets .* student and teacher"),
        (lambda a, b: {"model": a, "best_model": b}, "several different sets .* model and best_model"),
        (lambda a, b: rename(a, "teacher.") | rename(b, "student."), "several different sets"),
        (lambda a, b: a | rename(b, "module."), r"holds '.*' and 'module\..*', which differ"),
        (lambda a, b: rename(a, "backbone.") | {"head.weight": torch.ones(3, 7)}, r"more layers .*'head\.weight'"),
        (lambda a, b: a | {"layer1.1.conv1.weight": torch.ones(1)}, r"more layers .*'layer1\.1\.conv1\.weight'"),
        (lambda a, b: a | {"extra.weight": torch.ones(1)}, r"more layers .*'extra\.weight'"),
        (lambda a, b: {"state_dict": a | {"mean": torch.ones(3)}}, "more layers .*'mean'"),
        (lambda a, b: {"classes": ["a", "b"], "epoch": 3}, "holds no tensors by name"),
    ],
)
def test_what_is_not_clear_is_refused(
    make: Callable[[State, State], object], message: str, state: State, tmp_path: Path
) -> None:
    other = {name: value + 1 for name, value in state.items()}
    torch.save(make(state, other), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=message) as error:
        read_checkpoint(tmp_path / "w.pth", VARIANT)
    assert "\n" not in str(error.value)


def test_first_names_found_and_expected_are_shown(state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"features.0.weight": torch.ones(1), "features.0.bias": torch.ones(1)}, path)
    with pytest.raises(ModelError) as error:
        read_checkpoint(path, VARIANT)
    assert str(error.value) == (
        f"{path} is not a resnest14_slim checkpoint: it lacks 129 of 129 tensors, such as 'conv1.0.weight'; "
        "it has 'features.0.weight', 'features.0.bias'; "
        "expected: 'conv1.0.weight', 'conv1.1.weight', 'conv1.1.bias', ..."
    )
    torch.save(rename({name: value for name, value in state.items() if name != "bn1.weight"}, "net."), path)
    with pytest.raises(
        ModelError, match=r"lacks 1 of 129 tensors \(looking at names under 'net\.'\), such as 'bn1\.weight'"
    ):
        read_checkpoint(path, VARIANT)
    torch.save({f"\x1b[31m{'x' * 5000}": torch.ones(1)}, path)
    with pytest.raises(ModelError) as error:
        read_checkpoint(path, VARIANT)
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


def test_another_variant_is_named(tmp_path: Path) -> None:
    fast = make_seeded_weights(get_variant("resnest50_fast_4s2x40d"), 0, num_classes=3)
    save_file(fast, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"is not a resnest50 checkpoint: .*; it fits resnest50_fast_4s2x40d$"):
        read_checkpoint(tmp_path / "w.safetensors", get_variant("resnest50"))


DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.float32]


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_floating_point_type(dtype: torch.dtype, suffix: str, state: State, tmp_path: Path) -> None:
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    if suffix == "pth":
        torch.save({"model": cast}, tmp_path / "w.pth")
    else:
        save_torch_file(rename(cast, "model."), tmp_path / "w.safetensors")
    found = check_read(tmp_path / f"w.{suffix}", {name: v.float().numpy() for name, v in cast.items() if v.ndim})
    assert len(found.weights["fc.bias"]) == 7


def test_integer_weights_are_refused(state: State, tmp_path: Path) -> None:
    for wrong in (state["fc.weight"].to(torch.int8), state["fc.weight"].to_sparse()):
        torch.save(state | {"fc.weight": wrong}, tmp_path / "w.pth")
        with pytest.raises(ModelError, match=r"'fc\.weight' is \w+, not dense floating point"):
            read_checkpoint(tmp_path / "w.pth", VARIANT)
    save_torch_file({"fc.weight": torch.ones(2, 2).to(torch.float8_e4m3fn)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="tensors of type 'F8_E4M3', which are not supported"):
        read_checkpoint(tmp_path / "w.safetensors", VARIANT)


def test_safetensors(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    check_read(tmp_path / "w.safetensors", weights)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


def test_pickle_with_code_is_not_run(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, data in enumerate(({"fc.weight": _Bomb()}, {"state_dict": state, "args": Namespace(lr=_Bomb())})):
        torch.save(data, f"bomb{number}.pth")
        with pytest.raises(ModelError, match="would run code"):
            read_checkpoint(Path(f"bomb{number}.pth"), VARIANT)
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
    with pytest.raises(ModelError, match="is not a resnest50 checkpoint"):
        read_checkpoint(path, get_variant("resnest50"))
    torch.save(state | {"fc.weight": torch.ones(7)}, path)
    with pytest.raises(ModelError, match=r"classifier 'fc.weight' of shape \(7,\), not \(classes, channels\)"):
        read_checkpoint(path, VARIANT)
    torch.save(state | {"bn1.weight": torch.ones(7)}, path)
    with pytest.raises(ModelError, match=r"has 'bn1.weight' of shape \(7,\), not \(16,\)"):
        read_checkpoint(path, VARIANT)
    torch.save([1, 2], path)
    with pytest.raises(ModelError):
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
