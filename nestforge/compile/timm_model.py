"""A classifier of timm as a torch module, with its weights and what its pretrained configuration says of its images."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from nestforge.checks import suggest_nearest
from nestforge.data.preprocess import Preprocess
from nestforge.data.timm_preprocess import make_timm_preprocess
from nestforge.errors import ModelError
from nestforge.networks.state_dict import FoundState, find_state
from nestforge.networks.tensor_file import read_tensor_file, to_float32


@dataclass(frozen=True, kw_only=True)
class TimmModel:
    """A module in float32 for inference. `preprocess` is timm's; `is_published` is False where classes are others."""

    module: nn.Module
    preprocess: Preprocess
    size_hw: tuple[int, int]
    classes: int
    published_classes: int
    labels: str | None  # "imagenet" where the classes are ImageNet-1k's in the usual order
    source: str
    notes: tuple[str, ...]

    @property
    def is_published(self) -> bool:
        return self.classes == self.published_classes


def load_timm_model(
    name: str, *, weights: Path | None = None, seed: int | None = None, size: int | None = None
) -> TimmModel:
    """Make timm's model `name` with weights of a file, random ones of a seed, or (with neither) the pretrained ones.

    `size` is a square input in place of the pretrained one.

    Raises:
        ModelError: unknown name, no weights to be had, a checkpoint of another model, not an image classifier, or a
            size it does not take.
    """
    _check_name(name)
    notes: tuple[str, ...] = ()
    if weights is not None:
        module, place, notes = _load_checkpoint(name, weights)
        source = f"{weights} ({place})" if place else str(weights)
    elif seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = _create(name)
        source = f"seed {seed}"
    else:
        module = _create(name, pretrained=True)
        source = "timm's pretrained weights"
    config = _get_config(module)
    published_classes = int(config.get("num_classes") or 0)
    if size is not None:
        _set_size(module, name, size)
    from timm.data import resolve_data_config

    data_config = resolve_data_config({"img_size": size} if size is not None else {}, model=module)
    try:
        preprocess = make_timm_preprocess(data_config)
    except ModelError as error:
        raise ModelError(f"timm's {name} cannot be exported: {error}") from error
    assert preprocess.output_hw is not None
    is_imagenet = str(config.get("tag") or "").endswith("in1k") and published_classes == 1000
    module = module.eval().float()
    classes = _count_classes(module, name, preprocess.output_hw)
    return TimmModel(
        module=module,
        preprocess=preprocess,
        size_hw=preprocess.output_hw,
        classes=classes,
        published_classes=published_classes if weights is not None else classes,
        labels="imagenet" if is_imagenet and classes == 1000 else None,
        source=source,
        notes=notes,
    )


def _check_name(name: str) -> None:
    """Refuse a name that timm does not have; one with a source, such as ``hf-hub:``, is left to timm."""
    if ":" not in name and not timm.is_model(name.split(".")[0]):
        raise ModelError(f"timm has no model {name!r}{suggest_nearest(name.split('.')[0], timm.list_models())}")


def _create(name: str, **options: Any) -> nn.Module:
    try:
        with keep_quiet():
            module: nn.Module = timm.create_model(name, exportable=True, **options)
    except Exception as error:  # timm and its hub each have their own, and a closed network has many
        reason = shorten_error(error)
        if options.get("pretrained") and "pretrained_cfg_overlay" not in options:
            raise ModelError(
                f"cannot get timm's pretrained weights of {name} ({reason}); give --weights FILE or --seed N"
            ) from error
        raise ModelError(f"timm cannot make {name} ({reason})") from error
    return module


def _load_checkpoint(name: str, path: Path) -> tuple[nn.Module, str, tuple[str, ...]]:
    """Return the module with a file's weights, where in the file they were, and notes."""
    data = read_tensor_file(path)
    module = _create(name)
    classifiers = _list_classifiers(module)
    try:
        heads = [f"{classifier}.{leaf}" for classifier in classifiers for leaf in ("weight", "bias")]
        found = find_state(data, list(module.state_dict()), classifier=heads)
        classes = {int(found.tensors[f"{classifier}.weight"].shape[0]) for classifier in classifiers}
        if len(classes) == 1 and classes != {getattr(module, "num_classes", None)}:
            module = _create(name, num_classes=classes.pop())
        _check_shapes(found, module)
    except ModelError as error:
        # layouts of other authors, which timm knows how to read
        try:
            module = _create(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
        except ModelError:
            raise ModelError(f"{path} is no {name}: it {error}") from error
        return module, "", (f"{path} was read by timm, which knows its layout; as it stands it {error}",)
    state = {tensor: _to_torch(value, f"{path}: {tensor!r}") for tensor, value in found.tensors.items()}
    module.load_state_dict(state, strict=False)
    return module, found.place, found.notes


def _get_config(module: nn.Module) -> Mapping[str, Any]:
    config: Any = module.pretrained_cfg
    return dict(config)


def _list_classifiers(module: nn.Module) -> list[str]:
    """Return the names of the layers whose rows are the classes."""
    named = _get_config(module).get("classifier") or ()
    names = [named] if isinstance(named, str) else list(named)
    own = module.state_dict()
    return [name for name in names if f"{name}.weight" in own]


def _check_shapes(found: FoundState, module: nn.Module) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name, tensor in found.tensors.items():
        if tuple(tensor.shape) != expected[name]:
            raise ModelError(f"has {name!r} of shape {tuple(tensor.shape)}, not {expected[name]}")


def _to_torch(tensor: Any, name: str) -> torch.Tensor:
    is_float = tensor.dtype.kind == "f" if isinstance(tensor, np.ndarray) else tensor.is_floating_point()
    if is_float:
        return torch.from_numpy(to_float32(tensor, name).copy())
    return torch.from_numpy(tensor.copy()) if isinstance(tensor, np.ndarray) else tensor.detach()


def _set_size(module: nn.Module, name: str, size: int) -> None:
    """Give a network another input size than its own; convolutional ones take any."""
    own = tuple(_get_config(module)["input_size"][1:])
    if own == (size, size):
        return
    change: Any = getattr(module, "set_input_size", None)
    try:
        if change is not None:
            change(img_size=(size, size))
        elif _get_config(module).get("fixed_input_size"):
            raise ValueError("its input size is fixed")
    except Exception as error:  # each of timm's networks checks in its own way
        raise ModelError(
            f"timm's {name} takes {own[0]}x{own[1]} pixels, not {size}x{size} ({shorten_error(error)})"
        ) from error


def _count_classes(module: nn.Module, name: str, size_hw: tuple[int, int]) -> int:
    try:
        with torch.inference_mode():
            logits = module(torch.zeros(1, 3, *size_hw))
    except Exception as error:  # each of timm's networks fails in its own way on a size it does not take
        raise ModelError(
            f"timm's {name} does not take images of {size_hw[0]}x{size_hw[1]} pixels ({shorten_error(error)})"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or getattr(module, "num_classes", 0) < 2:
        raise ModelError(f"timm's {name} is no classifier: it gives no (B, classes); choose one with a head")
    return int(logits.shape[1])


@contextlib.contextmanager
def keep_quiet() -> Iterator[None]:
    """Keep what timm, its hub and torch's exporters print, log and warn of themselves off the terminal."""
    disabled = logging.root.manager.disable
    sys.stdout.flush()
    descriptor = os.dup(1)  # torch's tracer prints a graph that it fails on from C++
    logging.disable(logging.WARNING)
    try:
        with (
            Path(os.devnull).open("w") as nowhere,
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            os.dup2(nowhere.fileno(), 1)
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(descriptor, 1)
        os.close(descriptor)
        logging.disable(disabled)


def shorten_error(error: Exception) -> str:
    """Return the first sentence of an error that is not ours."""
    text = str(error).strip()
    return text.splitlines()[0].split(". ")[0][:200] if text else type(error).__name__
