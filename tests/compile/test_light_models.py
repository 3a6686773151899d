"""The light models of the onnx package: classifiers that others exported long ago, with weights filled with a number.

They are of IR version 3, opset 9, from Caffe2: every weight is an input too, batches are fixed to 1, and some give
(B, classes, 1, 1) or probabilities.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from nestforge.artifact.artifact import inspect
from nestforge.compile.classifier import adapt_classifier
from nestforge.compile.onnxfile import read_onnx, serialize
from tests.support.onnx_models import build_artifact, make_images, run_artifact, run_reference

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
LARGE = {"bvlc_alexnet", "vgg19", "zfnet512"}  # over 60 million weights: minutes and 4 GB in int8
SLOW = {"densenet121", "inception_v2"}  # half a minute in int8
LAYERS = {
    "bvlc_alexnet": 8,
    "densenet121": 121,
    "inception_v1": 58,
    "inception_v2": 70,
    "resnet50": 54,
    "shufflenet": 50,
    "squeezenet": 26,
    "vgg19": 19,
    "zfnet512": 8,
}  # with weights
FOUR_DIMENSIONS = {"densenet121", "squeezenet"}


def find_model(name: str, *, unless_asked: set[str] | None = None) -> Path:
    """Return the file; skip the test where there is none, or of the models `unless_asked`, as they take long."""
    if name in (unless_asked or ()) and not os.environ.get("NESTFORGE_TEST_SLOW"):
        pytest.skip("set NESTFORGE_TEST_SLOW=1 for models that take long")
    path = FOLDER / f"light_{name}.onnx"
    if not path.is_file():
        pytest.skip("this version of the onnx package has no such model")
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("light")
    (folder / "noise").mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        Image.fromarray(rng.integers(0, 256, (224, 224, 3), np.uint8)).save(folder / "noise" / f"{index}.png")
    return folder


def test_each_model_is_known() -> None:
    """A model that a newer package adds fails here, so that it is added to the table."""
    assert {path.stem.removeprefix("light_") for path in FOLDER.glob("*.onnx")} <= set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_read_as_it_is(name: str) -> None:
    path = find_model(name)
    model = read_onnx(path)
    classifier = adapt_classifier(model)
    assert (classifier.num_classes, classifier.fixed_batch) == (1000, 1)
    assert (classifier.fixed_height, classifier.fixed_width) == (224, 224)
    assert classifier.interface.output_shape == ((1, 1000, 1, 1) if name in FOUR_DIMENSIONS else (1, 1000))
    assert classifier.scores == (None if name == "densenet121" else "probabilities")
    source = onnx.load(path)
    inputs = {value.name for value in source.graph.input} - {tensor.name for tensor in source.graph.initializer}
    images = make_images(1, hw=(224, 224))
    found = run_reference(
        onnx.load_from_string(serialize(model)), {classifier.input_name: images}, str(model.graph.outputs[0].name)
    )
    expected = run_reference(source, {inputs.pop(): images}, source.graph.output[0].name)
    np.testing.assert_array_equal(found, expected.reshape(1, 1000))


@pytest.mark.parametrize("name", LAYERS)
def test_built_in_float(name: str, tmp_path: Path) -> None:
    artifact = build_artifact(find_model(name, unless_asked=LARGE), tmp_path / "artifact", side=224)
    manifest = inspect(artifact)
    assert (manifest.classes, manifest.fixed_batch, manifest.parity.top1_agreement) == (1000, 1, 1)
    assert manifest.kernel_macs > 1e8
    assert manifest.scores == ("logits" if name == "densenet121" else "probabilities")
    assert run_artifact(artifact, make_images(2, hw=(224, 224))).shape == (2, 1000)


@pytest.mark.parametrize("name", LAYERS)
def test_built_in_int8(name: str, images: Path, tmp_path: Path) -> None:
    path = find_model(name, unless_asked=LARGE | SLOW)
    calibration = {"data": str(images), "count": 2}
    artifact = build_artifact(path, tmp_path / "a", side=224, dtype="int8", calibration=calibration)
    quantization = inspect(artifact).quantization
    assert quantization is not None
    assert quantization.weighted_layers + len(quantization.float_weighted_layers) == LAYERS[name]
    assert run_artifact(artifact, make_images(1, hw=(224, 224))).shape == (1, 1000)
