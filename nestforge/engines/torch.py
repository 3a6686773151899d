"""The torch module as a session: the float32 reference for export, and a contender in the benchmarks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from nestforge.engines.base import Images, Kernel, Logits, Settings
from nestforge.networks.resnest import ResNeSt
from nestforge.networks.zoo import Variant


def load_module(variant: Variant, weights: Mapping[str, npt.NDArray[np.float32]]) -> ResNeSt:
    """Return the module with the given state dict, in evaluation mode.

    Raises:
        ValueError: the state dict is not complete.
    """
    module = ResNeSt(variant, num_classes=len(weights["fc.bias"])).eval()
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
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
