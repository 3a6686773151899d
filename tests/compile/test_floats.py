"""Models in half or double precision are built as any other: in float32, and in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from nestforge.artifact.artifact import inspect
from nestforge.compile.classifier import adapt_classifier
from nestforge.compile.onnxfile import read_onnx
from tests.support.onnx_models import (
    build_artifact,
    make_classifier,
    make_images,
    make_weights,
    run_artifact,
    run_reference,
    save,
)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("keep_io_types", [True, False])
@pytest.mark.parametrize("block", [[], ["GlobalAveragePool"], ["Gemm", "Softmax"]])
def test_what_onnx_runtime_converts_to_float16(
    keep_io_types: bool, dtype: str, block: list[str], calibration_images: Path, tmp_path: Path
) -> None:
    float16 = pytest.importorskip("onnxruntime.transformers.float16")
    proto = make_classifier(scores="l", after="y = Softmax<axis = 1>(l)")
    images = make_images(2)
    expected = run_reference(proto, {"x": images}, "y")
    half = float16.convert_float_to_float16(proto, keep_io_types=keep_io_types, op_block_list=block)
    path = save(half, tmp_path / "m.onnx")
    calibration = {"data": str(calibration_images), "count": 10}
    artifact = build_artifact(path, tmp_path / "a", dtype=dtype, calibration=calibration)
    manifest = inspect(artifact)
    assert manifest.interface.widened == ("float16",)
    assert manifest.interface.input_dtype == ("float32" if keep_io_types else "float16")
    built = onnx.load(artifact / "model.onnx").graph
    types = {tensor.data_type for tensor in built.initializer}
    assert onnx.TensorProto.FLOAT16 not in types
    assert "Cast" not in {node.op_type for node in built.node}
    if manifest.quantization is not None:
        assert (manifest.quantization.weighted_layers, manifest.quantization.float_weighted_layers) == (2, ())
    np.testing.assert_allclose(run_artifact(artifact, images), expected, atol=5e-3 if dtype == "fp32" else 0.1)


def test_double_precision_in_int8(calibration_images: Path, tmp_path: Path) -> None:
    weights = {name: array.astype(np.float64) for name, array in make_weights().items()}
    body = {"after": "two = Constant<value = double {2.0}>()  y = Mul(l, two)", "scores": "l"}
    proto = make_classifier(takes="double[N,3,H,W] x", gives="double[N,10] y", weights=weights, **body)
    images = make_images(2)
    expected = run_reference(proto, {"x": images.astype(np.float64)}, "y")
    calibration = {"data": str(calibration_images), "count": 10}
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a", dtype="int8", calibration=calibration)
    quantization = inspect(artifact).quantization
    assert quantization is not None
    assert quantization.weighted_layers == 2
    np.testing.assert_allclose(run_artifact(artifact, images), expected, atol=0.2 * np.abs(expected).max())


def test_bfloat16_weights(tmp_path: Path) -> None:
    """Weights in 16 bits, cast to 32 by the graph itself: they are constants of 32 bits, and nothing is widened."""
    proto = make_classifier(before="w = Cast<to = 1>(w16)  ", weights=make_weights() | {"w": np.zeros(0, np.float32)})
    del proto.graph.initializer[next(i for i, tensor in enumerate(proto.graph.initializer) if tensor.name == "w")]
    weight = make_weights()["w"]
    proto.graph.initializer.append(onnx.helper.make_tensor("w16", 16, weight.shape, weight.ravel()))
    images = make_images(2)
    expected = run_reference(make_classifier(), {"x": images}, "y")
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a")
    assert inspect(artifact).interface.widened == ()
    np.testing.assert_allclose(run_artifact(artifact, images), expected, atol=0.05 * np.abs(expected).max())


def test_float32_stays_as_it_is(slim_onnx: Path) -> None:
    model = read_onnx(slim_onnx)
    names = [node.name for node in model.graph]
    assert adapt_classifier(model).interface.widened == ()
    assert [node.name for node in model.graph] == names
