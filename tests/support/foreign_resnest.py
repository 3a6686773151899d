"""Whole ResNeSts as the authors' code and as timm write them, with the weights of our own, and their exports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nestforge.engines.torch import load_module
from nestforge.networks.resnest import Bottleneck, ResNeSt, SplitAttention
from nestforge.networks.zoo import Variant
from tests.support.forms import ReshapeForm, SplitForm, torch

Tensor = torch.Tensor
functional = torch.nn.functional


class AuthorsResNeSt(ResNeSt):
    """The pooled map is viewed and flattened, with a dropout before the classifier."""

    attention = SplitForm

    def forward(self, images_nchw: Tensor) -> Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(images_nchw))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = functional.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)
        x = torch.flatten(x, 1)
        return self.fc(functional.dropout(x, 0.2, self.training))


class TimmResNeSt(ResNeSt):
    """A pool and a flatten as modules."""

    attention = ReshapeForm

    def forward(self, images_nchw: Tensor) -> Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(images_nchw))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.nn.Flatten(1)(torch.nn.AdaptiveAvgPool2d(1)(x)))


NETWORKS = {"authors": AuthorsResNeSt, "timm": TimmResNeSt}


def make_foreign(form: str, variant: Variant, weights: Mapping[str, npt.NDArray[np.float32]]) -> ResNeSt:
    """Return the network in the way of writing `form`, in evaluation mode."""
    network = load_module(variant, weights)
    network.__class__ = NETWORKS[form]
    for block in network.modules():
        if isinstance(block, Bottleneck):
            assert isinstance(block.conv2, SplitAttention)
            block.conv2.__class__ = NETWORKS[form].attention
    return network.eval()


def export_foreign(network: ResNeSt, path: Path, *, size: int, dynamo: bool, batch: int | None = None) -> Path:
    """Export with one of PyTorch's two exporters; the batch is dynamic unless it is given."""
    images = torch.zeros(batch or 2, 3, size, size)
    options: dict[str, object] = {"input_names": ["input"], "output_names": ["output"], "dynamo": dynamo}
    if dynamo:
        options |= {"external_data": False, "verbose": False, "opset_version": 18}
        if batch is None:
            options["dynamic_shapes"] = ({0: torch.export.Dim("batch", min=1, max=64)},)
    else:
        options["opset_version"] = 17
        if batch is None:
            options["dynamic_axes"] = {"input": {0: "batch"}, "output": {0: "batch"}}
    torch.onnx.export(network, (images,), path, **options)
    return path
