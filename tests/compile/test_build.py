"""From build file to artifact: every key acts, bad input leaves nothing, the same build gives the same bytes."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from nestforge.artifact.artifact import inspect, open_artifact
from nestforge.artifact.manifest import QuantizationRecord
from nestforge.builder import build
from nestforge.compile.warnings import describe_layers, find_warnings
from nestforge.config import parse_config
from nestforge.engines import get_engine
from nestforge.engines.base import Parallelism, Settings
from nestforge.engines.machine import read_machine
from nestforge.errors import ArtifactError, ConfigError, DataError, ModelError, NestForgeError

Config = dict[str, Any]


def build_with(config: Config, output: Path, **changes: Any) -> dict[str, Any]:
    """Build and return the manifest."""
    build(parse_config({**config, "output": str(output), **changes}, source="test"))
    return inspect(output).model_dump(mode="json")


def test_int8_artifact(artifacts: dict[str, Path]) -> None:
    manifest = inspect(artifacts["int8"]).model_dump(mode="json")
    assert sorted(path.name for path in artifacts["int8"].iterdir()) == ["labels.txt", "manifest.json", "model.onnx"]
    assert manifest["kernels"]["Convolution"].keys() <= {"u8", "i8"}
    assert manifest["warnings"] == []
    assert manifest["parity"]["cosine"] > 0.98
    assert manifest["parity"]["data"] == "calibration"
    assert manifest["quantization"]["weighted_layers"] == 28 + 2 * manifest["passes"].get("split_radix", 0)
    assert manifest["quantization"]["saturation_avoided"] is not read_machine().has_int8_dot_product
    assert len(manifest["inputs"]) == 20 + 1  # the images and the labels
    assert all(len(record["sha256"]) == 64 for record in manifest["inputs"].values())
    artifact = open_artifact(artifacts["int8"])
    assert artifact.manifest.preprocess.sha256 == artifact.manifest.preprocess_sha256
    assert [label.name for label in artifact.labels[:2]] == ["bag", "boot"]


def test_fp32_artifact_equals_its_source(artifacts: dict[str, Path]) -> None:
    parity = inspect(artifacts["fp32"]).model_dump(mode="json")["parity"]
    assert parity["top1_agreement"] == 1
    assert parity["cosine"] > 1 - 1e-9
    assert parity["max_abs"] < 1e-3


def test_same_build_same_bytes(slim_config: Config, artifacts: dict[str, Path], tmp_path: Path) -> None:
    again = build_with(slim_config, tmp_path / "again")
    first = inspect(artifacts["int8"]).model_dump(mode="json")
    assert again["outputs"] == first["outputs"]
    assert again["inputs"] == first["inputs"]


CHANGES: list[tuple[str, Any]] = [
    ("model", {"name": "resnest14_slim", "seed": 1}),
    ("calibration.count", 5),
    ("calibration.seed", 1),
    ("quantize.mode", "max"),
    ("quantize.percentile", 90.0),
    ("quantize.per_channel", False),
    ("quantize.bias_correction", False),
    ("quantize.saturation", "ignore" if not read_machine().has_int8_dot_product else "avoid"),
    ("preprocess", {"ops": [{"op": "resize", "size": [56, 56]}]}),
]


@pytest.mark.parametrize(("key", "value"), CHANGES, ids=[key for key, _ in CHANGES])
@pytest.mark.filterwarnings("ignore:.*without protection from 16-bit overflow")
def test_every_key_changes_the_model(
    key: str, value: Any, slim_config: Config, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    section, _, leaf = key.partition(".")
    changed = {section: {**slim_config.get(section, {}), leaf: value} if leaf else value, "allow_poor_parity": True}
    manifest = build_with(slim_config, tmp_path / "changed", **changed)
    base = inspect(artifacts["int8"]).model_dump(mode="json")
    assert manifest["outputs"]["model.onnx"]["sha256"] != base["outputs"]["model.onnx"]["sha256"]


def test_other_keys_change_the_artifact(slim_config: Config, slim_onnx: Path, tmp_path: Path) -> None:
    manifest = build_with(slim_config, tmp_path / "ort", engine="onnxruntime")
    assert "onnxruntime" in manifest["versions"]
    assert set(manifest["kernels"]["QLinearConv"]) == {"u8"}
    assert manifest["weighted_types"] == ["Conv", "Gemm", "QLinearConv"]
    unlabelled = {key: value for key, value in slim_config.items() if key != "labels"}
    manifest = build_with(unlabelled, tmp_path / "unlabelled", dtype="fp32")
    assert list(manifest["outputs"]) == ["model.onnx"]
    assert open_artifact(tmp_path / "unlabelled").labels[3].name == "3"
    manifest = build_with(slim_config, tmp_path / "onnx", model={"onnx": str(slim_onnx)})
    assert str(slim_onnx) in manifest["inputs"]


def test_random_images_where_there_are_none(slim_config: Config, tmp_path: Path) -> None:
    config = {key: value for key, value in slim_config.items() if key != "calibration"}
    assert build_with(config, tmp_path / "a", dtype="fp32")["parity"]["data"] == "random"


def test_bf16_where_the_cpu_has_it(slim_config: Config, tmp_path: Path) -> None:
    if get_engine("openvino").supports("bf16"):
        assert build_with(slim_config, tmp_path / "a", dtype="bf16")["kernels"]["Convolution"].keys() == {"bf16"}
    else:
        with pytest.raises(ConfigError, match="has no bf16 on this CPU"):
            build_with(slim_config, tmp_path / "a", dtype="bf16")
    with pytest.raises(ConfigError, match="has no bf16"):
        build_with(slim_config, tmp_path / "b", dtype="bf16", engine="onnxruntime")


def test_bf16_is_executed_where_it_is_asked_for(slim_config: Config) -> None:
    def get_execution(dtype: str, float_dtype: str) -> str:
        changes = {"dtype": dtype, "quantize": {"float_dtype": float_dtype}, "output": "unused"}
        return parse_config({**slim_config, **changes}, source="test").execution_dtype

    dtypes = ("fp32", "bf16", "int8")
    assert [get_execution(dtype, "fp32") for dtype in dtypes] == ["fp32", "bf16", "int8"]
    assert [get_execution(dtype, "bf16") for dtype in dtypes] == ["fp32", "bf16", "bf16"]


def test_what_int8_leaves_in_float_is_computed_in_bf16(slim_config: Config, tmp_path: Path) -> None:
    quantize = {"float_dtype": "bf16"}
    if get_engine("openvino").supports("bf16"):
        kernels = build_with(slim_config, tmp_path / "a", quantize=quantize)["kernels"]
        assert kernels["Convolution"].keys() == {"u8"}
        assert "bf16" in {precision for counts in kernels.values() for precision in counts}
        executed = {kernel.precision for kernel in open_artifact(tmp_path / "a").open_session().list_kernels()}
        assert executed >= {"u8", "bf16"}
        assert "bf16" not in {
            kernel.precision
            for kernel in get_engine("openvino")
            .open(tmp_path / "a" / "model.onnx", Settings(height=56, width=56, dtype="int8"))
            .list_kernels()
        }
    else:
        with pytest.raises(ConfigError, match="has no bf16 on this CPU"):
            build_with(slim_config, tmp_path / "a", quantize=quantize)
    with pytest.raises(ConfigError, match=r"has no bf16 .* another quantize\.float_dtype or engine"):
        build_with(slim_config, tmp_path / "b", quantize=quantize, engine="onnxruntime")


def test_layers_left_in_float_are_warned_of(slim_config: Config, tmp_path: Path) -> None:
    manifest = build_with(slim_config, tmp_path / "a", quantize={"skip_convolutions": [1]})
    assert manifest["warnings"] == ["Conv conv1.3 runs in f32, not in int8: the build file leaves it in float"]


def test_layers_that_onnxruntime_executes_in_float_are_warned_of(slim_config: Config, tmp_path: Path) -> None:
    """Its int8 kernels write 8 bits: a layer whose result nothing reads in 8 bits runs in float."""
    names = [f"Conv layer{stage}.0.conv2.fc2" for stage in (1, 2, 3, 4)]
    names += ["Conv layer4.0.conv3", "Conv layer4.0.downsample.1", "Gemm fc"]
    manifest = build_with(slim_config, tmp_path / "a", engine="onnxruntime")
    assert sorted(manifest["warnings"]) == sorted(f"{name} runs in f32, not in int8" for name in names)


def test_a_silent_engine_s_layers_in_float_are_warned_of_too() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[n,3,8,8] x, float[4,3,1,1] k) => (float[n,4,8,8] y)
        <float[4,4,1,1] w, float[4,4,1,1] u> { a = Conv(x, k)  b = ConvTranspose(a, w)  y = Conv(b, u) }"""
    proto = onnx.parser.parse_model(text)
    for name in ("w", "u"):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), name))
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    model = ir.from_proto(proto)
    names = ("node_a", "node_b", "node_y")
    record = QuantizationRecord(activations=0, weighted_layers=0, float_weighted_layers=names, saturation_avoided=True)
    assert find_warnings(record, [], describe_layers(model), chosen={"node_y"}) == (
        "Conv node_a stays in float: its weights are not constant",
        "ConvTranspose node_b stays in float: ConvTranspose is not quantized",
        "Conv node_y stays in float: the build file leaves it in float",
    )


FOREIGN = """<ir_version: 9, opset_import: ["" : 17]> foreign (float[n,3,h,w] x) => (float[n,5] y)
    <float[8,3,3,3] w1, float[8,1,3,3] w2, float[8,5] w3, float[5] b = {1,2,3,4,5}>
    {
        low = Constant<value = float {0}>()
        high = Constant<value = float {6}>()
        a = Conv<pads = [1,1,1,1]>(x, w1)
        c = Clip(a, low, high)
        d = Conv<pads = [1,1,1,1], group = 8>(c, w2)
        e = Relu(d)
        f = Conv<pads = [1,1,1,1], group = 8>(e, w2)
        g = Add(f, e)
        p = GlobalAveragePool(g)
        l = Flatten(p)
        m = MatMul(l, w3)
        y = Add(m, b)
    }"""


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_foreign_network(engine: str, slim_config: Config, tmp_path: Path) -> None:
    """Nodes without names, weights read twice, depthwise, Clip, MatMul with a bias: nothing here is ours."""
    proto = onnx.parser.parse_model(FOREIGN)
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (8, 3, 3, 3)), ("w2", (8, 1, 3, 3)), ("w3", (8, 5))):
        weight = rng.standard_normal(shape).astype(np.float32) * 0.3
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
        for value in [value for value in proto.graph.input if value.name == name]:
            proto.graph.input.remove(value)
    onnx.save(proto, tmp_path / "foreign.onnx")
    config = {key: value for key, value in slim_config.items() if key != "labels"}
    changes = {"model": {"onnx": str(tmp_path / "foreign.onnx")}, "engine": engine}
    manifest = build_with(config, tmp_path / engine, **changes)
    assert manifest["quantization"]["weighted_layers"] == 4
    assert manifest["quantization"]["float_weighted_layers"] == []
    assert manifest["classes"] == 5
    assert manifest["parity"]["cosine"] > 0.99


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_both_engines_give_the_same_int8_answers(engine: str, slim_config: Config, tmp_path: Path) -> None:
    build_with(slim_config, tmp_path / engine, engine=engine)
    artifact = open_artifact(tmp_path / engine)
    images = np.random.default_rng(0).standard_normal((4, 3, 56, 56), np.float32)
    other = get_engine("onnxruntime" if engine == "openvino" else "openvino")
    session = artifact.open_session(Parallelism(batch=4))
    a = session.run(images)
    b = other.open(tmp_path / engine / "model.onnx", session.settings).run(images)
    assert np.abs(a - b).max() < 0.1 * np.abs(a).max()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"modle": {}}, ConfigError, "unknown key 'modle'; did you mean 'model'"),
        (
            {"quantize": {"per_chanel": True}},
            ConfigError,
            r"unknown key 'quantize\.per_chanel'; did you mean 'per_channel'",
        ),
        ({"dtype": "int4"}, ConfigError, "dtype: Input should be 'fp32', 'bf16' or 'int8'"),
        ({"calibration": {"data": "x", "count": "many"}}, ConfigError, r"calibration\.count"),
        ({"calibration": {"data": "x", "count": 0}}, ConfigError, r"calibration\.count"),
        ({"calibration": None}, ConfigError, "needs a 'calibration' section"),
        ({"model": {}}, ConfigError, "give either 'name'"),
        ({"model": {"name": "resnest50", "seed": 1, "weights": "x"}}, ConfigError, "not both"),
        ({"model": {"onnx": "x.onnx"}, "preprocess": None}, ConfigError, "needs a 'preprocess' section"),
        ({"preprocess": {"ops": [{"op": "resize", "size": 56}]}}, ConfigError, "must end in a fixed size"),
        (
            {"preprocess": {"ops": [{"op": "ecenter_crop", "size": 56, "interpolation": "cubic"}]}},
            ConfigError,
            "preprocess",
        ),
        (
            {"preprocess": {"ops": [{"op": "resize", "size": [56, 56]}], "mean": [123.675, 116.28, 103.53]}},
            ConfigError,
            r"preprocess: mean .* write mean \[0\.485, 0\.456, 0\.406\] and std \[0\.229, 0\.224, 0\.225\]",
        ),
        ({"model": {"name": "resnest51", "seed": 0}}, ModelError, "did you mean 'resnest50"),
        ({"model": {"onnx": "none.onnx"}}, ModelError, "no ONNX file"),
        ({"calibration": {"data": "no/where"}}, DataError, "no dataset folder"),
        ({"labels": "none.txt"}, DataError, "cannot read label file"),
        ({"labels": "imagenet"}, DataError, "has 1000 names but the model has 10 classes"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    changes: Config, error: type[NestForgeError], message: str, slim_config: Config, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        build_with(slim_config, tmp_path / "out", **changes)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_unreadable_calibration_image(slim_config: Config, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"calibration image .*x\.png"):
        build_with(slim_config, tmp_path / "out", calibration={"data": str(tmp_path / "images")})
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_existing_output(slim_config: Config, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_with(slim_config, out, dtype="fp32")
    with pytest.raises(ArtifactError, match="--overwrite"):
        build_with(slim_config, out)
    config = parse_config({**slim_config, "output": str(out)}, source="test")
    build(config, overwrite=True)
    assert inspect(out).model_dump(mode="json")["config"]["dtype"] == "int8"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="is not an artifact"):
        build(config.model_copy(update={"output": str(precious)}), overwrite=True)
    assert (precious / "thesis.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "precious"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_full_disk_or_interruption_leaves_nothing(
    failure: BaseException, slim_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr("nestforge.compile.build.write_manifest", fail)
    with pytest.raises((NestForgeError, KeyboardInterrupt)) as caught:
        build_with(slim_config, tmp_path / "out", dtype="fp32")
    if isinstance(failure, OSError):
        assert "the disk is full" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_changed_artifact_is_refused(slim_config: Config, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_with(slim_config, out, dtype="fp32")
    manifest = (out / "manifest.json").read_text()
    labels = (out / "labels.txt").read_text()
    (out / "labels.txt").write_text(labels.replace("bag", "bug"))
    with pytest.raises(ArtifactError, match="its sha256 differs"):
        open_artifact(out)
    (out / "labels.txt").unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        open_artifact(out)
    (out / "labels.txt").write_text(labels)
    open_artifact(out)
    for text in ("", "{", "[]", manifest[:-100], manifest.replace('"format": 1', '"format": 9'), "9" * 5000):
        (out / "manifest.json").write_text(text)
        with pytest.raises(ArtifactError, match=r"is damaged|is not valid JSON"):
            open_artifact(out)
    (out / "manifest.json").write_text(manifest.replace('"model.onnx"', '"../model.onnx"'))
    with pytest.raises(ArtifactError):
        open_artifact(out)
    with pytest.raises(ArtifactError, match="is not a nestforge artifact"):
        open_artifact(tmp_path / "none")


def test_changed_manifest_is_refused(slim_config: Config, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_with(slim_config, out, dtype="fp32")
    manifest = json.loads((out / "manifest.json").read_text())
    assert str(slim_config["labels"]) in manifest["inputs"]
    for change in ({"outputs": {}}, {"preprocess": {**manifest["preprocess"], "exif_orientation": True}}):
        (out / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(ArtifactError, match="was changed"):
            open_artifact(out)


@pytest.mark.skipif(read_machine().has_int8_dot_product, reason="nothing overflows on this CPU")
def test_ignored_saturation_is_said_aloud(slim_config: Config, tmp_path: Path) -> None:
    config = {**slim_config, "quantize": {"saturation": "ignore"}, "output": str(tmp_path / "out")}
    result = build(parse_config(config, source="test"))
    assert "overflows 16-bit sums" in result.warnings[0]
    with pytest.warns(UserWarning, match="its answers are wrong here"):
        open_artifact(tmp_path / "out")


def test_interrupted_replacement_keeps_the_old_artifact(
    slim_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build_with(slim_config, out, dtype="fp32")
    rename = Path.rename

    def interrupt(source: Path, target: Path) -> Path:
        if source.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", interrupt)
    config = parse_config({**slim_config, "output": str(out)}, source="test")
    with pytest.raises(KeyboardInterrupt):
        build(config, overwrite=True)
    assert inspect(out).model_dump(mode="json")["config"]["dtype"] == "fp32"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
