"""Whatever a model takes, the artifact takes (B, 3, H, W) float32, and gives the same scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from PIL import Image

import nestforge
from nestforge.artifact.artifact import inspect
from nestforge.data.preprocess import normalize_images
from nestforge.errors import ConfigError, ModelError
from tests.support.onnx_models import (
    CONVOLUTION,
    SIDE,
    build_artifact,
    make_classifier,
    make_model,
    make_weights,
    run_artifact,
    run_reference,
    save,
)

Pixels = npt.NDArray[np.uint8]  # (B, H, W, 3)
TO_NCHW = "t = Transpose<perm = [0,3,1,2]>({image})  "
CAST = "q = Cast<to = 1>(x)  "
HALF = {"mean": [0.5] * 3, "std": [0.25] * 3}
BATCHED = "axis = Constant<value = int64[1] {0}>()  u = Unsqueeze(x, axis)  "
WITHOUT_BATCH = {"gives": "float[10] y", "scores": "l", "after": "y = Squeeze(l, axis)"}


@dataclass(frozen=True)
class Case:
    """A model, what it takes of pixels, and what is recorded of that."""

    options: dict[str, Any]
    convert: Callable[[Pixels], npt.NDArray[np.generic]]
    layout: str = "NCHW"
    dtype: str = "float32"
    channels: int = 3
    preprocess: dict[str, Any] = field(default_factory=dict)
    batch: int | None = None


def normalize(pixels: Pixels, mean: float = 0.5, std: float = 0.25) -> npt.NDArray[np.float32]:
    scaled: npt.NDArray[np.float32] = ((pixels.astype(np.float64) / 255 - mean) / std).astype(np.float32)
    return scaled


def first(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(B, ...) to (B, C, H, W)."""
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def grey(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """(B, H, W, 1), as Pillow makes them."""
    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels])[..., None]


def halves(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    return array.astype(np.float16)


GREY_WEIGHTS = make_weights(1)
CASES = {
    "channels first": Case({}, lambda p: first(normalize(p)), preprocess=HALF),
    "one name for all sides": Case({"takes": "float[N,N,N,N] x"}, lambda p: first(normalize(p)), preprocess=HALF),
    "all sides by name": Case(
        {"takes": "float[batch,num_channels,height,width] x", "gives": "float[batch,k] y"},
        lambda p: first(normalize(p)),
        preprocess=HALF,
    ),
    "channels last": Case(
        {"takes": "float[N,16,16,3] x", "before": TO_NCHW.format(image="x"), "image": "t"},
        normalize,
        layout="NHWC",
        preprocess=HALF,
    ),
    "channels last, all sides by name": Case(
        {
            "takes": "float[N,H,W,C] x",
            "before": "s = Sub(x, x1)  " + TO_NCHW.format(image="s"),
            "image": "t",
            "weights": {**make_weights(), "x1": np.ones(3, np.float32)},
        },
        normalize,
        layout="NHWC",
        preprocess=HALF,
    ),
    "uint8": Case({"takes": "uint8[N,3,H,W] x", "before": CAST, "image": "q"}, first, dtype="uint8"),
    "uint8, channels last": Case(
        {"takes": "uint8[N,H,W,3] x", "before": CAST + TO_NCHW.format(image="q"), "image": "t"},
        lambda p: p,
        layout="NHWC",
        dtype="uint8",
    ),
    "uint8, transposed before it is cast": Case(
        {"takes": "uint8[N,H,W,3] x", "before": TO_NCHW.format(image="x") + "q = Cast<to = 1>(t)  ", "image": "q"},
        lambda p: p,
        layout="NHWC",
        dtype="uint8",
    ),
    "int8 around 0": Case(
        {"takes": "int8[N,3,H,W] x", "before": CAST, "image": "q"},
        lambda p: (first(p).astype(np.int16) - 128).astype(np.int8),
        dtype="int8",
        preprocess={"mean": [0.50196078] * 3, "std": [0.00392157] * 3},
    ),
    "int32": Case(
        {"takes": "int32[N,3,H,W] x", "before": CAST, "image": "q"}, lambda p: first(p).astype(np.int32), dtype="int32"
    ),
    "float64": Case(
        {
            "takes": "double[N,3,H,W] x",
            "gives": "double[N,10] y",
            "weights": {k: v.astype(np.float64) for k, v in make_weights().items()},
        },
        lambda p: first(normalize(p)).astype(np.float64),
        dtype="float64",
        preprocess=HALF,
    ),
    "grey": Case(
        {"takes": "float[N,1,H,W] x", "weights": GREY_WEIGHTS},
        lambda p: first(normalize(grey(p))),
        channels=1,
        preprocess=HALF,
    ),
    "grey uint8, channels last": Case(
        {
            "takes": "uint8[N,H,W,1] x",
            "before": CAST + TO_NCHW.format(image="q"),
            "image": "t",
            "weights": GREY_WEIGHTS,
        },
        grey,
        layout="NHWC",
        dtype="uint8",
        channels=1,
    ),
    "no batch axis": Case(
        {"takes": "float[3,16,16] x", "before": BATCHED, "image": "u", **WITHOUT_BATCH},
        lambda p: first(normalize(p))[0],
        layout="CHW",
        preprocess=HALF,
        batch=1,
    ),
    "no batch axis, channels last": Case(
        {"takes": "float[16,16,3] x", "before": BATCHED + TO_NCHW.format(image="u"), "image": "t", **WITHOUT_BATCH},
        lambda p: normalize(p)[0],
        layout="HWC",
        preprocess=HALF,
        batch=1,
    ),
    "an input that nothing reads": Case(
        {"takes": "float[N,3,H,W] x, float[N,7] rest"}, lambda p: first(normalize(p)), preprocess=HALF
    ),
}


def make_pixels(count: int) -> Pixels:
    return np.random.default_rng(2).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def feed(proto: onnx.ModelProto, images: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the values of all inputs of a model: those besides the first do not matter."""
    extra = {value.name: np.zeros((1, 7), np.float32) for value in proto.graph.input[1:]}
    return {proto.graph.input[0].name: images, **extra}


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_artifact_gives_what_the_model_gives(case: Case, engine: str, tmp_path: Path) -> None:
    proto = make_classifier(**case.options)
    preprocess = case.preprocess
    path = save(proto, tmp_path / "m.onnx")
    artifact = build_artifact(path, tmp_path / "a", preprocess=preprocess, engine=engine)
    manifest = inspect(artifact)
    interface = manifest.interface
    assert (interface.input_layout, interface.input_dtype, interface.input_channels) == (
        case.layout,
        case.dtype,
        case.channels,
    )
    assert manifest.fixed_batch == case.batch
    built = onnx.load(artifact / "model.onnx").graph
    assert [(value.name, value.type.tensor_type.elem_type) for value in built.input] == [("x", onnx.TensorProto.FLOAT)]
    pixels = make_pixels(case.batch or 3)
    found = run_artifact(artifact, normalize_images(pixels, manifest.preprocess))
    expected = run_reference(proto, feed(proto, case.convert(pixels)), "y").reshape(len(pixels), -1)
    # Pillow's grey levels are rounded to whole ones, ours are not
    np.testing.assert_allclose(found, expected, atol=(2e-2 if case.channels == 1 else 1e-4) * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_int8_of_each(case: Case, calibration_images: Path, tmp_path: Path) -> None:
    """The border has no weights; convolution and linear layer are quantized as those of any model."""
    path = save(make_classifier(**case.options), tmp_path / "m.onnx")
    artifact = build_artifact(
        path,
        tmp_path / "a",
        dtype="int8",
        preprocess=case.preprocess,
        calibration={"data": str(calibration_images), "count": 20},
    )
    manifest = inspect(artifact)
    assert manifest.quantization is not None
    assert (manifest.quantization.weighted_layers, manifest.quantization.float_weighted_layers) == (2, ())
    assert manifest.parity.cosine > 0.99
    assert manifest.kernels["Convolution"].keys() <= {"u8", "i8"}


def test_a_transpose_of_the_model_meets_none_of_ours(tmp_path: Path) -> None:
    path = save(make_classifier(**CASES["uint8, transposed before it is cast"].options), tmp_path / "m.onnx")
    artifact = build_artifact(path, tmp_path / "a")
    operators = [node.op_type for node in onnx.load(artifact / "model.onnx").graph.node]
    assert "Transpose" not in operators
    assert operators[:3] == ["Round", "Clip", "Cast"]


def test_predict_feeds_pixels_to_a_uint8_model(tmp_path: Path) -> None:
    """From a file to probabilities: the same as by hand, with no mean and std in the build file."""
    case = CASES["uint8, channels last"]
    proto = make_classifier(**case.options)
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a")
    pixels = make_pixels(1)
    Image.fromarray(pixels[0]).save(tmp_path / "image.png")
    scores = run_reference(proto, {"x": pixels}, "y")[0].astype(np.float64)
    expected = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    with nestforge.load(artifact) as classify:
        best = classify(tmp_path / "image.png").top[0]
    assert best.index == expected.argmax()
    assert best.probability == pytest.approx(expected.max(), abs=1e-4)
    assert inspect(artifact).preprocess.mean == (0, 0, 0)


def test_bgr_reaches_a_grey_model_as_grey(tmp_path: Path) -> None:
    case = CASES["grey"]
    proto = make_classifier(**case.options)
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a", preprocess={**HALF, "channels": "bgr"})
    pixels = make_pixels(2)
    found = run_artifact(artifact, normalize_images(pixels, inspect(artifact).preprocess))
    expected = run_reference(proto, {"x": case.convert(pixels)}, "y")
    np.testing.assert_allclose(found, expected, atol=2e-2 * np.abs(expected).max())


@pytest.mark.parametrize(("height", "width"), [(17, 23), (227, 227), (1, 5)])
def test_images_of_odd_sizes(height: int, width: int, tmp_path: Path) -> None:
    proto = make_classifier(takes=f"float[1,3,{height},{width}] x")
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a", side=(height, width))
    images = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)
    np.testing.assert_allclose(run_artifact(artifact, images), run_reference(proto, {"x": images}, "y"), atol=1e-4)
    with pytest.raises(ConfigError, match=f"gives 16x16 pixels but the model takes {height}x{width}"):
        build_artifact(tmp_path / "m.onnx", tmp_path / "b")


RESIZED = """none = Constant<value = float[0] {}>()  all = Shape(x)  begin = Constant<value = int64[1] {0}>()
    end = Constant<value = int64[1] {2}>()  kept = Slice(all, begin, end)  hw = Constant<value = int64[2] {12, 12}>()
    size = Concat<axis = 0>(kept, hw)  s = Resize<mode = "linear">(x, none, none, size)  """


def test_preprocessing_inside_the_model(tmp_path: Path) -> None:
    """Images of any size, resized by the graph: `preprocess` says which size it is built for."""
    proto = make_classifier(
        takes="uint8[N,H,W,3] x", before=CAST + TO_NCHW.format(image="q") + RESIZED.replace("(x", "(t"), image="s"
    )
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a", side=(20, 18))
    pixels = np.random.default_rng(2).integers(0, 256, (2, 20, 18, 3), np.uint8)
    found = run_artifact(artifact, normalize_images(pixels, inspect(artifact).preprocess))
    np.testing.assert_allclose(found, run_reference(proto, {"x": pixels}, "y"), atol=1e-2)


def test_no_rank_and_no_shape_at_all(tmp_path: Path) -> None:
    """The first convolution tells how many dimensions there are, and which holds the channels."""
    proto = make_classifier()
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.ClearField("shape")
    images = np.random.default_rng(0).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a")
    np.testing.assert_allclose(run_artifact(artifact, images), run_reference(proto, {"x": images}, "y"), atol=1e-4)


TWO = {"takes": "float[N,3,H,W] left, uint8[N,H,W,3] right", "image": "left", "after": "z = Identity(right)"}
REFUSED = {
    "two images": (
        TWO,
        r"has 2 inputs: 'left' \(\?, 3, \?, \?\) float32, 'right' \(\?, \?, \?, 3\) uint8; .* as constants",
    ),
    "five channels": (
        {"takes": "float[N,5,H,W] x", "weights": make_weights(5)},
        r"'x' \(\?, 5, .* neither 3 channels nor 1",
    ),
    "five channels that only the convolution tells": (
        {"takes": "float[N,C,H,W] x", "weights": make_weights(5)},
        "its first convolution reads 5 channels",
    ),
    "truth values": (
        {"takes": "bool[N,3,H,W] x", "before": CAST, "image": "q"},
        "'x' .* bool is not a batch of images",
    ),
    "flat images": ({"takes": "float[N,768] x"}, r"'x' \(\?, 768\) float32 is not a batch of images"),
    "videos": ({"takes": "float[N,3,8,16,16] x"}, r"'x' \(\?, 3, 8, 16, 16\) float32 is not"),
    "points": ({"takes": "float[N,3,1024] x"}, r"'x' \(\?, 3, 1024\) float32 is not"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_other_inputs_are_refused_by_name(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = save(make_classifier(**options), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=message):
        build_artifact(path, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_no_input_and_no_node_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has 0 inputs"):
        build_artifact(save(make_model("y = Identity(fw)", takes=""), tmp_path / "m.onnx"), tmp_path / "a")
    empty = make_model("", takes="float[N,3,16,16] x", gives="float[N,3,16,16] x")
    with pytest.raises(ModelError, match=r"'x' \(1, 3, 16, 16\) float32: not \(B, classes\)"):
        build_artifact(save(empty, tmp_path / "e.onnx"), tmp_path / "a")


def test_normalised_images_are_nothing_for_integers(tmp_path: Path) -> None:
    path = save(make_classifier(**CASES["uint8"].options), tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match=r"takes uint8 pixels, .* give -2 to 2; leave both out for 0 to 255"):
        build_artifact(path, tmp_path / "a", preprocess=HALF)
    path = save(make_classifier(**CASES["int8 around 0"].options), tmp_path / "m8.onnx")
    with pytest.raises(ConfigError, match=r"give 0 to 255; .* give mean 0\.50196078 \(128/255\)"):
        build_artifact(path, tmp_path / "a")


def test_grey_needs_one_mean(tmp_path: Path) -> None:
    path = save(make_classifier(**CASES["grey"].options), tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match=r"takes grey images, .* each one number three times, not \[0\.485,"):
        build_artifact(path, tmp_path / "a")


def test_pooled_features_are_classes_where_they_are_the_output(tmp_path: Path) -> None:
    """Fully convolutional networks give (B, classes, 1, 1), TensorFlow's (B, 1, 1, classes)."""
    images = np.random.default_rng(0).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    squeezed = {
        "y = Identity(p)": (1, 8, 1, 1),
        "y = Transpose<perm = [0,2,3,1]>(p)": (1, 1, 1, 8),
        "axes = Constant<value = int64[1] {3}>()  y = Squeeze(p, axes)": (1, 8, 1),
        "y = Squeeze(p)": (8,),  # without axes: the batch goes too where it is one image
    }
    for index, (after, shape) in enumerate(squeezed.items()):
        proto = make_model(CONVOLUTION.format(image="x") + after, gives="float y")
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        artifact = build_artifact(save(proto, tmp_path / f"{index}.onnx"), tmp_path / f"a{index}")
        assert inspect(artifact).interface.output_shape == shape
        assert inspect(artifact).fixed_batch is None
        expected = run_reference(proto, {"x": images}, "y").reshape(2, 8)
        np.testing.assert_allclose(run_artifact(artifact, images), expected, atol=1e-4)


VIEW = """q = Abs(x)  c = Conv<pads = [1,1,1,1]>(q, w, b)  r = Relu(c)  sizes = Shape(q)
    two = Constant<value = int64[1] {2}>()  three = Constant<value = int64[1] {3}>()  h = Gather(sizes, two)
    v = Gather(sizes, three)  front = Constant<value = int64[2] {-1, 8}>()  to = Concat<axis = 0>(front, v, h)
    t = Reshape(r, to)  m = ReduceMean<axes = [2], keepdims = 0>(t)  f = ReduceMax<axes = [2], keepdims = 0>(m)
    y = Gemm<transB = 1>(f, fw, fb)"""


def test_one_name_for_all_sides_of_images_that_are_not_square(tmp_path: Path) -> None:
    """The graph asks for its height: by name that is the batch as well, in truth it is not."""
    images = np.random.default_rng(0).standard_normal((2, 3, 20, 14)).astype(np.float32)
    proto = make_model(VIEW, takes="float[N,3,N,N] x", gives="float[N,10] y")
    expected = run_reference(make_model(VIEW), {"x": images}, "y")
    artifact = build_artifact(save(proto, tmp_path / "m.onnx"), tmp_path / "a", side=(20, 14))
    np.testing.assert_allclose(run_artifact(artifact, images), expected, atol=1e-4)
