"""Torch modules: ResNeSt as a session, and any module as the reference for exports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nestforge.engines.base import Images, Kernel, Logits, Settings
from nestforge.errors import EngineError
from nestforge.networks.resnest import ResNeSt
from nestforge.networks.zoo import Variant

MAX_FLOAT64_PIXELS = 5 * 224 * 224  # per run; torch's float64 convolutions copy each pixel many times


def load_module(variant: Variant, weights: Mapping[str, npt.NDArray[np.float32]]) -> ResNeSt:
    """Return the module with a complete state dict, for inference; its parameters share the memory of `weights`."""
    module = ResNeSt(variant, num_classes=len(weights["fc.bias"])).eval()
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    missing, unexpected = module.load_state_dict(state, strict=False, assign=True)
    wrong = [name for name in (*missing, *unexpected) if not name.endswith("num_batches_tracked")]
    if wrong:
        raise ValueError(f"not a complete state dict of {variant.name}: {wrong[0]}")
    return module


class TorchSession:
    """A ResNeSt with the given state dict, run eagerly in float32; see `Session`."""

    def __init__(self, variant: Variant, weights: Mapping[str, npt.NDArray[np.float32]], settings: Settings) -> None:
        self.settings = settings
        self._module = load_module(variant, weights)

    def run(self, images_nchw: Images) -> Logits:
        with torch.inference_mode():
            logits: Logits = self._module(torch.from_numpy(images_nchw)).numpy()
        return logits

    def run_all(self, images_nchw: Images) -> dict[str, npt.NDArray[np.float32]]:
        return {"output": self.run(images_nchw)}

    def list_kernels(self) -> list[Kernel]:
        return []


class TorchReference:
    """A module's logits in float64 and float32; `load` returns the module in float32, for inference.

    Only one module is held at a time, in one of the two types. In float64 large images run in small groups. So memory
    hardly grows beyond the weights in float64.
    """

    def __init__(self, load: Callable[[], nn.Module]) -> None:
        self._load = load
        self._module: nn.Module | None = None
        self._dtype = torch.float32

    def run_float64(self, images_nchw: Images) -> npt.NDArray[np.float64]:
        module = self._take(torch.float64)
        count = max(1, MAX_FLOAT64_PIXELS // (images_nchw.shape[2] * images_nchw.shape[3]))
        parts = (images_nchw[start : start + count] for start in range(0, len(images_nchw), count))
        return np.concatenate([_run(module, torch.from_numpy(part).double()) for part in parts])

    def run_float32(self, images_nchw: Images) -> npt.NDArray[np.float32]:
        return _run(self._take(torch.float32), torch.from_numpy(images_nchw))

    def run_float32_in_other_orders(self, images_nchw: Images) -> list[npt.NDArray[np.float32]]:
        """Return logits of the images one by one, moved by one unit in the last place, and with channels last."""
        module = self._take(torch.float32)
        images = torch.from_numpy(images_nchw)
        moved = torch.nextafter(images, torch.full_like(images, torch.inf))
        logits = [np.concatenate([_run(module, image[None]) for image in images]), _run(module, moved)]
        channels_last = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        logits.append(_run(channels_last, images.to(memory_format=torch.channels_last)))
        self._module = None  # its memory layout has changed
        return logits

    def _take(self, dtype: torch.dtype) -> nn.Module:
        if self._module is None or self._dtype != dtype:
            self._module = None  # frees its memory before the other is made
            self._module = self._load().to(dtype)
            self._dtype = dtype
        return self._module


def _run(module: nn.Module, images_nchw: torch.Tensor) -> npt.NDArray[Any]:
    try:
        with torch.inference_mode():
            logits: npt.NDArray[Any] = module(images_nchw).numpy()
    except (RuntimeError, TypeError) as error:
        dtype = str(images_nchw.dtype).removeprefix("torch.")
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineError(f"torch cannot run the module in {dtype} ({reason})") from error
    return logits
