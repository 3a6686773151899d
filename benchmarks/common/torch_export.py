"""PyTorch's own exporter, for networks that come in as its users would bring them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


def export_module(module: Any, path: Path, *, size: int) -> Path:
    """Export a torch module that takes images (B, 3, size, size), with B left open."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, 3, size, size),),
            path,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    return path
