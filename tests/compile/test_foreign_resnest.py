"""ResNeSts as the authors and timm write them, from both of PyTorch's exporters: the same kernels as our own graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from nestforge.artifact.artifact import open_artifact
from nestforge.builder import build
from nestforge.compile.onnxfile import read_onnx, serialize
from nestforge.compile.passes import apply_passes
from nestforge.config import parse_config
from nestforge.engines import get_engine
from nestforge.engines.base import Settings
from nestforge.networks.graph import build_graph
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant
from tests.support.foreign_resnest import NETWORKS, export_foreign, make_foreign, torch
from tests.support.graphs import run_engine

SIZE = 56
EXPORTS = [
    (form, dynamo, batch) for form in NETWORKS for dynamo, batch in ((False, None), (False, 1), (True, None), (True, 1))
]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, bool, int | None], Path]]:
    folder = tmp_path_factory.mktemp("exports")
    variant = get_variant("resnest14_slim")
    weights = make_seeded_weights(variant, 0)
    with pytest.warns():  # both exporters warn of themselves
        yield {
            key: export_foreign(
                make_foreign(form, variant, weights),
                folder / f"{index}.onnx",
                size=SIZE,
                dynamo=dynamo,
                batch=batch,
            )
            for index, key in enumerate(EXPORTS)
            for form, dynamo, batch in [key]
        }


def make_own(batch: int | None) -> ir.Model:
    """Our own graph of the same network, for the same sizes as the exports."""
    variant = get_variant("resnest14_slim")
    model = build_graph(variant, make_seeded_weights(variant, 0))
    model.graph.inputs[0].shape = ir.Shape([batch or "batch", 3, SIZE, SIZE])
    return model


@pytest.mark.parametrize(("form", "dynamo", "batch"), EXPORTS)
def test_passes_make_the_same_graph(
    form: str, dynamo: bool, batch: int | None, exports: dict[tuple[str, bool, int | None], Path]
) -> None:
    own, foreign = make_own(batch), read_onnx(exports[form, dynamo, batch])
    images = torch.randn(batch or 3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).numpy()
    expected = run_engine("onnxruntime", own, images)
    places = [apply_passes(model) for model in (own, foreign)]
    assert places[0]["split_radix"] == places[1]["split_radix"] == 4
    assert Counter(node.op_type for node in own.graph) == Counter(node.op_type for node in foreign.graph)
    assert apply_passes(foreign) == {}
    found = run_engine("onnxruntime", foreign, images)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.fixture(scope="module")
def own_artifacts(slim_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Any], Path]:
    """Our own graph built for each engine and each batch."""
    folder = tmp_path_factory.mktemp("own")
    made = {}
    for engine in ("openvino", "onnxruntime"):
        for batch in (None, 1):
            path = folder / f"{engine}-{batch}"
            path.with_suffix(".onnx").write_bytes(serialize(make_own(batch)))
            made[engine, batch] = build_int8(path.with_suffix(".onnx"), engine, slim_config, path)
    return made


def build_int8(onnx: Path, engine: str, config: dict[str, Any], output: Path) -> Path:
    changes = {"model": {"onnx": str(onnx)}, "engine": engine, "output": str(output)}
    build(parse_config({**config, **changes}, source="test"))
    return output


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("form", "dynamo", "batch"), EXPORTS)
def test_int8_builds_run_the_same_kernels(
    form: str,
    dynamo: bool,
    batch: int | None,
    engine: str,
    exports: dict[tuple[str, bool, int | None], Path],
    own_artifacts: dict[tuple[str, Any], Path],
    slim_config: dict[str, Any],
    tmp_path: Path,
) -> None:
    own = open_artifact(own_artifacts[engine, batch])
    foreign = open_artifact(build_int8(exports[form, dynamo, batch], engine, slim_config, tmp_path / "foreign"))
    assert foreign.manifest.kernels == own.manifest.kernels
    assert len(foreign.manifest.warnings) == len(own.manifest.warnings)
    records = [artifact.manifest.quantization for artifact in (own, foreign)]
    counts = [(record.activations, record.weighted_layers) for record in records if record is not None]
    assert counts[0] == counts[1]
    assert foreign.manifest.parity.cosine == pytest.approx(own.manifest.parity.cosine, abs=1e-4)
    images = np.zeros((1, 3, SIZE, SIZE), np.float32)
    expected, found = (artifact.open_session().run(images) for artifact in (own, foreign))
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(("form", "dynamo"), [("authors", False), ("timm", False), ("timm", True)])
def test_the_graph_as_exported_can_be_observed(
    form: str, dynamo: bool, exports: dict[tuple[str, bool, int | None], Path]
) -> None:
    """Without our passes: a tensor of OpenVINO then has the names of several values."""
    proto = ir.to_proto(read_onnx(exports[form, dynamo, 1]))
    names = [
        name for node in proto.graph.node if node.op_type in ("Add", "Relu", "Conv", "Split") for name in node.output
    ]
    for name in names:
        proto.graph.output.add(name=name)
    session = get_engine("openvino").open(proto.SerializeToString(), Settings(height=SIZE, width=SIZE))
    assert set(session.run_all(np.zeros((1, 3, SIZE, SIZE), np.float32))) == {"output", *names}
