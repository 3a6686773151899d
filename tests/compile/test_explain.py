"""What a build's rewritings bought: measured, recorded, and only where the graph has a place for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nestforge.artifact.artifact import open_artifact
from nestforge.compile.explain import explain_build, time_kernels


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_each_rewriting_is_measured_against_its_absence(dtype: str, artifacts: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(artifacts[dtype], tmp_path / "copy")
    result = explain_build(copy, seconds=0.3)
    (gain,) = result.passes  # the graph has no fifth dimension to unfold
    assert (gain.name, gain.matches) == ("split_radix", 4)
    assert gain.applied
    assert gain.low <= gain.ratio <= gain.high
    assert min(gain.latency_ms, gain.other_latency_ms) > 0
    convolutions = sum(kernel.count for kernel in result.kernels if kernel.layer_type == "Convolution")
    assert convolutions == open_artifact(copy).manifest.kernels["Convolution"].get("f32", 0) + open_artifact(
        copy
    ).manifest.kernels["Convolution"].get("u8", 0)
    assert open_artifact(copy).manifest.explanation == result


def test_kernels_are_timed_only_where_asked(artifacts: dict[str, Path]) -> None:
    opened = open_artifact(artifacts["int8"])
    assert time_kernels(opened.open_session()) == ()
    rows = time_kernels(opened.open_session(profile=True))
    assert [row.time_ms for row in rows] == sorted((row.time_ms for row in rows), reverse=True)
    assert rows[0].time_ms > 0
