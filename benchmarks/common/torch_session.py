"""PyTorch as a contender: eager, compiled, in bf16, or quantized by its PT2E flow (torchao, x86 inductor)."""

from __future__ import annotations

from typing import Any

import torch

from nestforge.engines.base import Images, Kernel, Logits, Settings
from nestforge.engines.torch import load_module
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant


class TorchSession:
    """A ResNeSt with seeded weights as a session; see `Session`."""

    def __init__(
        self, network: str, settings: Settings, *, compiled: bool, bf16: bool = False, int8: bool = False
    ) -> None:
        torch.set_num_threads(settings.threads)
        variant = get_variant(network)
        self.settings = settings
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        module: Any = load_module(variant, make_seeded_weights(variant, 0))
        module = module.to(memory_format=torch.channels_last)
        example = torch.randn(settings.batch, 3, settings.height, settings.width).to(memory_format=torch.channels_last)
        if int8:
            module = self._quantize(module, example)
        self._module = torch.compile(module) if compiled else module

    def _quantize(self, module: Any, example: Any) -> Any:
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(torch.export.export(module, (example,)).module(), quantizer)
        for _ in range(4):
            prepared(torch.randn_like(example))
        return convert_pt2e(prepared)

    def run(self, images_nchw: Images) -> Logits:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._dtype != torch.float32):
            images = torch.from_numpy(images_nchw).to(memory_format=torch.channels_last)
            logits: Logits = self._module(images).float().numpy()
        return logits

    def run_all(self, images_nchw: Images) -> dict[str, Logits]:
        return {"output": self.run(images_nchw)}

    def list_kernels(self) -> list[Kernel]:
        return []
