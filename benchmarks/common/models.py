"""ResNeSts with seeded weights, as nestforge builds them and as other quantizers are given them."""

from __future__ import annotations

from pathlib import Path

import nestforge
from nestforge.compile.onnxfile import serialize
from nestforge.compile.passes.fold_batch_norm import fold_batch_norm
from nestforge.files import atomic_write
from nestforge.networks.graph import build_graph
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant
from nestforge.progress import show_bars


def build_seeded(network: str, output: Path, *, photos: Path, count: int, **sections: object) -> Path:
    """Build an artifact calibrated on `count` photographs, where it is not there yet; return its folder."""
    if not output.is_dir():
        calibration = {"data": str(photos), "count": count}
        config = {"model": {"name": network, "seed": 0}, "calibration": calibration, "output": str(output)}
        nestforge.build(config | sections, progress=show_bars)
    return output


def write_float32(network: str, path: Path) -> Path:
    """Write the float32 graph that peers are given, where it is not there yet: batch norms folded, no other pass."""
    if not path.is_file():
        model = build_graph(get_variant(network), make_seeded_weights(get_variant(network), 0))
        fold_batch_norm(model)
        with atomic_write(path) as partial:
            partial.write_bytes(serialize(model))
    return path
