"""The table of variants on a terminal of the usual width."""

from __future__ import annotations

import io

from rich.console import Console

from nestforge.networks.catalog import models
from nestforge.tables.networks import show_models


def test_models_fit_80_columns_uncut() -> None:
    console = Console(file=io.StringIO(), width=80)
    show_models(models(), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    for row in models():
        assert f"{row.vendor_gflops:.3f}" in text
        assert (row.sha256_prefix or "-") in text
