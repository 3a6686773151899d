"""What is known of values: what follows from the graph, and nothing that a file only states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from nestforge.compile.classifier import adapt_classifier
from nestforge.compile.onnxfile import read_onnx
from tests.support.onnx_models import build_artifact, make_classifier, make_images, run_artifact, run_reference, save

# flattened to a size that the graph asks of its input, as PyTorch's exporters write x.view(x.shape[0], -1)
ASKED = """sizes = Shape(x)  first = Constant<value = int64 {0}>()  n = Gather(sizes, first)
    axis = Constant<value = int64[1] {0}>()  u = Unsqueeze(n, axis)  eight = Constant<value = int64[1] {8}>()
    to = Concat<axis = 0>(u, eight)  f = Reshape(p, to)  """


def read_shapes(model: ir.Model) -> dict[str, str]:
    return {str(value.name): str(value.shape) for node in model.graph for value in node.outputs}


def test_the_batch_keeps_its_name_through_a_reshape(tmp_path: Path) -> None:
    model = read_onnx(save(make_classifier(flatten=ASKED), tmp_path / "m.onnx"))
    adapt_classifier(model, height=16, width=16)
    shapes = read_shapes(model)
    assert (shapes["f"], shapes["y"]) == ("[batch,8]", "[batch,10]")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("stated", [[1, 8], ["N", 8], [4, 8], ["other", "name"]])
def test_what_a_file_states_of_values_is_not_believed(stated: list[int | str], engine: str, tmp_path: Path) -> None:
    """As files say whose batch somebody made dynamic at the input alone."""
    proto = make_classifier(takes="float[N,3,N,N] x", flatten=ASKED)
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("f", 1, stated))
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    path = save(proto, tmp_path / "m.onnx")
    model = read_onnx(path)
    adapt_classifier(model, height=16, width=16)
    assert read_shapes(model)["f"] == "[batch,8]"
    images = make_images(3)
    artifact = build_artifact(path, tmp_path / "a", engine=engine)
    expected = run_reference(make_classifier(flatten=ASKED), {"x": images}, "y")
    np.testing.assert_allclose(run_artifact(artifact, images), expected, atol=1e-4)


def test_a_batch_that_is_fixed_inside_names_nothing(tmp_path: Path) -> None:
    proto = make_classifier(flatten="to = Constant<value = int64[2] {1, 8}>()  f = Reshape(p, to)  ")
    model = read_onnx(save(proto, tmp_path / "m.onnx"))
    adapt_classifier(model, height=16, width=16)
    assert read_shapes(model)["f"] == "[1,8]"
