"""The variants of ResNeSt: one table, and what can be computed from a row.

Structure: Zhang et al., "ResNeSt: Split-Attention Networks", arXiv:2004.08955, and the authors' published
code and checkpoints. Weights: the release ``weights_step1`` of the authors' repository. The eight hex digits in a
file name are the first of its sha256.
"""

from __future__ import annotations

from dataclasses import dataclass

from nestforge.checks import suggest_nearest
from nestforge.errors import ModelError

WEIGHTS_URL = "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1/{name}-{sha256_prefix}.pth"
EXPANSION = 4

_PAPER = "authors' published result: centre crop S/(S+32), bicubic"
_FAST = "authors' published result (torch), 224, centre crop S/(S+32), bicubic"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table: the structure of a ResNeSt, and where its weights come from."""

    name: str
    depths: tuple[int, int, int, int]
    stem_width: int
    image_size: int
    radix: int = 2
    cardinality: int = 1
    bottleneck_width: int = 64
    avd_first: bool = False
    planes: tuple[int, int, int, int] = (64, 128, 256, 512)
    num_classes: int = 1000
    sha256_prefix: str | None = None
    published_top1: float | None = None
    top1_source: str | None = None

    @property
    def weights_url(self) -> str | None:
        """Address of the official checkpoint, or None if there is none."""
        if self.sha256_prefix is None:
            return None
        return WEIGHTS_URL.format(name=self.name, sha256_prefix=self.sha256_prefix)


@dataclass(frozen=True, kw_only=True)
class Block:
    """The sizes of one bottleneck block."""

    name: str  # "layer1.0"
    in_channels: int
    group_width: int  # channels inside the block, cardinality included
    attention_width: int  # channels between fc1 and fc2
    out_channels: int
    stride: int  # of the shortcut, and of the avd pool if there is one
    avd: bool  # a 3x3 average pool does the striding (the authors' "avd")
    downsample: bool  # the shortcut has a convolution


def _fast(name: str, radix: int, cardinality: int, width: int, sha256_prefix: str, top1: float) -> Variant:
    return Variant(
        name=f"resnest50_fast_{name}",
        depths=(3, 4, 6, 3),
        stem_width=32,
        image_size=224,
        radix=radix,
        cardinality=cardinality,
        bottleneck_width=width,
        avd_first=True,
        sha256_prefix=sha256_prefix,
        published_top1=top1,
        top1_source=_FAST,
    )


def _main(
    name: str, depths: tuple[int, int, int, int], stem: int, size: int, sha256_prefix: str, top1: float
) -> Variant:
    return Variant(
        name=name,
        depths=depths,
        stem_width=stem,
        image_size=size,
        sha256_prefix=sha256_prefix,
        published_top1=top1,
        top1_source=_PAPER,
    )


_ROWS = (
    Variant(
        name="resnest14_slim",
        depths=(1, 1, 1, 1),
        stem_width=8,
        image_size=56,
        planes=(16, 32, 64, 96),
        num_classes=10,
    ),
    Variant(
        name="resnest14",
        depths=(1, 1, 1, 1),
        stem_width=32,
        image_size=224,
        published_top1=75.516,
        top1_source="NNCF's reference data for timm's resnest14d, fp32",
    ),
    Variant(name="resnest26", depths=(2, 2, 2, 2), stem_width=32, image_size=224),
    _main("resnest50", (3, 4, 6, 3), 32, 224, "528c19ca", 81.03),
    _main("resnest101", (3, 4, 23, 3), 64, 256, "22405ba7", 82.83),
    _main("resnest200", (3, 24, 36, 3), 64, 320, "75117900", 83.84),
    _main("resnest269", (3, 30, 48, 8), 64, 416, "0cc87c48", 84.54),
    _fast("1s1x64d", 1, 1, 64, "d8fbf808", 80.33),
    _fast("2s1x64d", 2, 1, 64, "44938639", 80.53),
    _fast("4s1x64d", 4, 1, 64, "f74f3fc3", 80.76),
    _fast("1s2x40d", 1, 2, 40, "32830b84", 80.59),
    _fast("2s2x40d", 2, 2, 40, "9d126481", 80.61),
    _fast("4s2x40d", 4, 2, 40, "41d14ed0", 81.14),
    _fast("1s4x24d", 1, 4, 24, "d4a4f76f", 80.99),
)

VARIANTS: dict[str, Variant] = {row.name: row for row in _ROWS}


def get_variant(name: str) -> Variant:
    """Return the variant called `name`.

    Raises:
        ModelError: unknown name; the nearest known ones are in the message.
    """
    try:
        return VARIANTS[name]
    except KeyError:
        hint = suggest_nearest(name, VARIANTS)
        raise ModelError(f"unknown model {name!r}{hint} ('nestforge models' lists all)") from None


def list_blocks(variant: Variant) -> list[Block]:
    """Return the bottleneck blocks of `variant` from input to output."""
    blocks = []
    in_channels = variant.stem_width * 2
    for stage, (depth, planes) in enumerate(zip(variant.depths, variant.planes, strict=True), start=1):
        group_width = int(planes * (variant.bottleneck_width / 64.0)) * variant.cardinality
        for index in range(depth):
            stride = 2 if stage > 1 and index == 0 else 1
            blocks.append(
                Block(
                    name=f"layer{stage}.{index}",
                    in_channels=in_channels,
                    group_width=group_width,
                    attention_width=max(group_width * variant.radix // 4, 32),
                    out_channels=planes * EXPANSION,
                    stride=stride,
                    avd=stride > 1,
                    downsample=index == 0,
                )
            )
            in_channels = planes * EXPANSION
    return blocks
