"""Graph passes over the float32 graph: each exact, in the order in which they are applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from nestforge.compile.passes.fold_batch_norm import fold_batch_norm
from nestforge.compile.passes.fold_pads import fold_pads
from nestforge.compile.passes.fold_pool_pads import fold_pool_pads
from nestforge.compile.passes.fold_shapes import fold_shapes
from nestforge.compile.passes.remove_noops import remove_noops
from nestforge.compile.passes.split_radix import split_radix
from nestforge.compile.passes.unfold_radix import unfold_radix
from nestforge.compile.passes.unify_views import unify_views


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A graph pass: `rewrite` changes a graph in place and returns the number of matches."""

    name: str
    rewrite: Callable[[ir.Model], int]
    effect: str  # one line for people


PASSES = (
    Pass(name="remove_noops", rewrite=remove_noops, effect="operators that change nothing are removed"),
    Pass(name="fold_batch_norm", rewrite=fold_batch_norm, effect="batch norms become weights and biases"),
    Pass(name="fold_pool_pads", rewrite=fold_pool_pads, effect="max pools pad for themselves"),
    Pass(name="fold_pads", rewrite=fold_pads, effect="convolutions pad for themselves"),
    Pass(name="fold_shapes", rewrite=fold_shapes, effect="known sizes are not asked of activations"),
    Pass(name="unfold_radix", rewrite=unfold_radix, effect="sums over radix stay in four dimensions"),
    Pass(name="unify_views", rewrite=unify_views, effect="views and global means are written in one way"),
    Pass(name="split_radix", rewrite=split_radix, effect="radix parts are computed apart, not cut out"),
)


def apply_passes(model: ir.Model, *, without: frozenset[str] = frozenset()) -> dict[str, int]:
    """Apply every pass but those named, in place; return the number of matches by name, where there were any."""
    counts = {step.name: step.rewrite(model) for step in PASSES if step.name not in without}
    return {name: count for name, count in counts.items() if count}
