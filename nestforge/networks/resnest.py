"""ResNeSt as a torch module: the reference for every exported graph.

Zhang et al., "ResNeSt: Split-Attention Networks", arXiv:2004.08955. Parameter names are those of the authors'
checkpoints (timm uses the same). Letters: B batch, C channels, H, W, R radix, K cardinality.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestforge.networks.zoo import Block, Variant, list_blocks


class SplitAttention(nn.Module):
    """Grouped 3x3 convolution into R splits, recombined by per-channel attention (paper, section 3)."""

    def __init__(self, channels: int, attention_width: int, *, radix: int, cardinality: int, stride: int) -> None:
        super().__init__()
        self.radix = radix
        self.cardinality = cardinality
        splits = channels * radix
        self.conv = nn.Conv2d(channels, splits, 3, stride, 1, groups=radix * cardinality, bias=False)
        self.bn0 = nn.BatchNorm2d(splits)
        self.fc1 = nn.Conv2d(channels, attention_width, 1, groups=cardinality)
        self.bn1 = nn.BatchNorm2d(attention_width)
        self.fc2 = nn.Conv2d(attention_width, splits, 1, groups=cardinality)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H', W')."""
        u = functional.relu(self.bn0(self.conv(x)))
        u = u.view(u.shape[0], self.radix, -1, *u.shape[2:])  # (B, R*C, H, W) -> (B, R, C, H, W), radix-major
        gap = u.sum(1).mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        z: Tensor = self.fc2(functional.relu(self.bn1(self.fc1(gap))))  # (B, K*R*C/K, 1, 1), cardinality-major
        if self.radix == 1:
            return torch.sigmoid(z) * u[:, 0]
        z = z.view(z.shape[0], self.cardinality, self.radix, -1).transpose(1, 2)  # (B, R, K, C/K)
        attention = z.softmax(1).flatten(2)[..., None, None]  # (B, R, C, 1, 1)
        return (attention * u).sum(1)  # (B, C, H, W)


class Bottleneck(nn.Module):
    """1x1, split attention, 1x1, and a shortcut; an average pool (avd) does the striding instead of the 3x3."""

    def __init__(self, block: Block, variant: Variant) -> None:
        super().__init__()
        width = block.group_width
        self.conv1 = nn.Conv2d(block.in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        pool = nn.AvgPool2d(3, block.stride, 1) if block.avd else nn.Identity()
        self.avd_before = pool if variant.avd_first else nn.Identity()
        self.conv2 = SplitAttention(
            width,
            block.attention_width,
            radix=variant.radix,
            cardinality=variant.cardinality,
            stride=1 if block.avd else block.stride,
        )
        self.avd_after = nn.Identity() if variant.avd_first else pool
        self.conv3 = nn.Conv2d(width, block.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(block.out_channels)
        self.downsample = (
            nn.Sequential(
                nn.AvgPool2d(block.stride, block.stride, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(block.in_channels, block.out_channels, 1, bias=False),
                nn.BatchNorm2d(block.out_channels),
            )
            if block.downsample
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H/stride, W/stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.avd_after(self.conv2(self.avd_before(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNeSt(nn.Module):
    """The classifier: deep stem, four stages, global average pool, linear layer."""

    def __init__(self, variant: Variant, *, num_classes: int | None = None) -> None:
        super().__init__()
        stem = variant.stem_width
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, stem, 3, 2, 1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
            nn.Conv2d(stem, stem, 3, 1, 1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
            nn.Conv2d(stem, stem * 2, 3, 1, 1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(stem * 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        blocks = list_blocks(variant)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*(Bottleneck(block, variant) for block in blocks if block.name.startswith(f"layer{stage}.")))
            for stage in range(1, 5)
        )
        self.fc = nn.Linear(blocks[-1].out_channels, variant.num_classes if num_classes is None else num_classes)

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W), float32, to logits (B, classes)."""
        x = self.maxpool(functional.relu(self.bn1(self.conv1(images_nchw))))  # (B, 2*stem, H/4, W/4)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, C, H/32, W/32)
        logits: Tensor = self.fc(x.mean((2, 3)))  # (B, C) -> (B, classes)
        return logits
