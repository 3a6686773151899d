"""The list of variants, with all columns that can be computed from the table."""

from __future__ import annotations

from dataclasses import dataclass

from nestforge.networks.layers import convert_macs_to_vendor_gflops, count_kernel_macs, count_macs, count_parameters
from nestforge.networks.zoo import VARIANTS


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One variant as `models` lists it.

    `macs` follow the convention of published tables (thop 0.1.1: batch norm and average pools are counted).
    `kernel_macs` are those of convolutions and linear layers alone. `vendor_gflops` is "flops(G)" of the vendor
    guide, MACs x 2 / 0.9e9. `top1` is the top-1 in percent that `top1_source` published, or None.
    """

    name: str
    size: int
    classes: int
    params: int
    macs: int
    kernel_macs: int
    vendor_gflops: float
    top1: float | None
    top1_source: str | None
    sha256_prefix: str | None
    weights_url: str | None


def models() -> list[ModelRow]:
    """List every variant that can be exported."""
    return [
        ModelRow(
            name=variant.name,
            size=variant.image_size,
            classes=variant.num_classes,
            params=count_parameters(variant),
            macs=count_macs(variant),
            kernel_macs=count_kernel_macs(variant),
            vendor_gflops=round(convert_macs_to_vendor_gflops(count_macs(variant)), 3),
            top1=variant.published_top1,
            top1_source=variant.top1_source,
            sha256_prefix=variant.sha256_prefix,
            weights_url=variant.weights_url,
        )
        for variant in VARIANTS.values()
    ]
