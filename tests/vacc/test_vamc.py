"""The vendor's build YAML: what it becomes, what is refused, and that any input is handled."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from nestforge.compile.onnxfile import serialize
from nestforge.config import read_config
from nestforge.data.preprocess import CenterCrop, ECenterCrop, Resize
from nestforge.errors import ConfigError, NestForgeError
from nestforge.networks.graph import build_graph
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant
from nestforge.vacc.vamc import check_assumed_preprocess, parse_vamc, plan_build, read_vamc
from nestforge.vacc.vdsp import read_vdsp

VACC = Path(__file__).parents[2] / "deploy/resnest/vacc_code"
BUILDS = sorted((VACC / "build").glob("*.yaml"))


def make_data() -> dict[str, Any]:
    """The vendor's example, with its own values."""
    text = """
name: resnest50
frontend: {shape: {input: [1, 3, 256, 256]}, type: onnx, checkpoint: resnest50.onnx, dtype: fp32}
backend:
  type: tvm_vacc
  dtype: int8
  compile: {cluster_mode: 0}
  quantize: {calibrate_mode: percentile, quantize_per_channel: true, skip_conv_layers: [0, 3], overflow_adaptive: 1,
             calibrate_chunk_by: -1, weight_scale: max}
graph: {extra_ops: {type: softmax}}
dataset:
  type: tvm
  path: calib
  sampler: {suffix: JPEG, get_data_num: 50}
  process_ops: [{type: DecodeImage}, {type: Resize, size: [333, 333]}, {type: CenterCrop, crop_size: [256, 256]},
                {type: Normalize, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}, {type: ToTensor}]
workspace: {path: ./deploy_weights/}
"""
    data: dict[str, Any] = yaml.safe_load(text)
    return data


def change(path: str, value: Any) -> dict[str, Any]:
    data = make_data()
    *parents, leaf = path.split(".")
    section = data
    for parent in parents:
        section = section[parent]
    section[leaf] = value
    return data


def test_the_vendors_example() -> None:
    plan = plan_build(parse_vamc(make_data(), source="t"), has_bf16=False)
    config = plan.config
    assert config.output == "deploy_weights/resnest50-int8-percentile-3_256_256-vacc/resnest50"
    assert (config.model.onnx, config.dtype, config.append_softmax) == ("resnest50.onnx", "int8", True)
    assert config.calibration is not None
    assert (config.calibration.data, config.calibration.count, config.calibration.suffix) == ("calib", 50, "JPEG")
    assert (config.quantize.mode, config.quantize.per_channel) == ("percentile", True)
    assert config.quantize.skip_convolutions == (0, 3)
    assert config.preprocess is not None
    assert config.preprocess.ops == (Resize(size=(333, 333)), CenterCrop(size=256))
    assert "this machine's engine" in plan.notes[0]
    nothing = [note.split(" ")[0] for note in plan.notes if "does nothing here" in note]
    assert nothing == ["backend.compile.cluster_mode"] + [
        f"backend.quantize.{key}" for key in ("calibrate_chunk_by", "overflow_adaptive", "weight_scale")
    ]


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, "bf16"), (False, "fp32")])
def test_fp16_is_the_nearest_and_says_so(has_bf16: bool, dtype: str) -> None:
    plan = plan_build(parse_vamc(change("backend.dtype", "fp16"), source="t"), has_bf16=has_bf16)
    assert plan.config.dtype == dtype
    assert plan.config.calibration is None
    assert any(f"fp16: built as {dtype}" in note for note in plan.notes)
    assert plan.config.output.endswith("resnest50-fp16-none-3_256_256-vacc/resnest50")


@pytest.mark.parametrize("mode", ["percentile", "max", "kl_divergence", "mse"])
def test_calibrate_modes(mode: str) -> None:
    plan = plan_build(parse_vamc(change("backend.quantize.calibrate_mode", mode), source="t"), has_bf16=False)
    assert plan.config.quantize.mode == mode
    assert f"-int8-{mode}-" in plan.config.output


def test_pytorch_checkpoint_is_a_variants() -> None:
    data = change("frontend.type", "pytorch")
    plan = plan_build(parse_vamc(data, source="t"), has_bf16=False)
    assert (plan.config.model.name, plan.config.model.weights) == ("resnest50", "resnest50.onnx")


def test_no_process_ops_takes_the_published_preprocessing() -> None:
    plan = plan_build(parse_vamc(change("dataset.process_ops", []), source="t"), has_bf16=False)
    assert plan.config.preprocess is not None
    assert plan.config.preprocess.ops == (ECenterCrop(size=256),)
    with pytest.raises(ConfigError, match="process_ops"):
        plan_build(parse_vamc(change("dataset.process_ops", []) | {"name": "other"}, source="t"), has_bf16=False)


@pytest.mark.parametrize("kind", ["onnx", "pytorch"])
def test_published_preprocessing_is_not_assumed_for_other_classes(kind: str, tmp_path: Path) -> None:
    for classes in (10, 7):
        weights = make_seeded_weights(get_variant("resnest14_slim"), 0, num_classes=classes)
        path = tmp_path / f"{classes}.safetensors"
        if kind == "onnx":
            path.write_bytes(serialize(build_graph(get_variant("resnest14_slim"), weights)))
        else:
            save_file(weights, path)
        data = change("dataset.process_ops", []) | {"name": "resnest14_slim"}
        data["frontend"] |= {"checkpoint": str(path), "type": kind}
        plan = plan_build(parse_vamc(data, source="t"), has_bf16=False)
        if classes == 10:
            check_assumed_preprocess(plan)
        else:
            with pytest.raises(
                ConfigError, match=r"has 7 classes but .* published with 10: write dataset\.process_ops"
            ):
                check_assumed_preprocess(plan)
    written = plan_build(parse_vamc(make_data(), source="t"), has_bf16=False)
    check_assumed_preprocess(written)  # reads no file


def test_colour_and_pixel_units() -> None:
    ops = [
        {"type": "DecodeImage"},
        {"type": "CvtColor", "code": "RGB2BGR"},
        {"type": "Resize", "size": 256},
        {"type": "CenterCrop", "crop_size": 256},
        {"type": "Normalize", "mean": [127.5, 0.0, 255], "std": [51, 51, 51]},
    ]
    preprocess = plan_build(
        parse_vamc(change("dataset.process_ops", ops), source="t"), has_bf16=False
    ).config.preprocess
    assert preprocess is not None
    assert (preprocess.channels, preprocess.mean, preprocess.std) == ("bgr", (0.5, 0.0, 1.0), (0.2, 0.2, 0.2))
    ops[4] |= {"mean": [0.0, 0.0, 0.0], "std": [255, 255, 255]}  # pixels as they are, without a mean
    plan = plan_build(parse_vamc(change("dataset.process_ops", ops), source="t"), has_bf16=False)
    assert plan.config.preprocess is not None
    assert (plan.config.preprocess.mean, plan.config.preprocess.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    ops[1]["code"] = "BGR2RGB"
    plan = plan_build(parse_vamc(change("dataset.process_ops", ops), source="t"), has_bf16=False)
    assert plan.config.preprocess is not None
    assert plan.config.preprocess.channels == "rgb"
    assert any("BGR2RGB" in note for note in plan.notes)


def test_a_scale_that_cannot_be_is_refused_in_one_line() -> None:
    ops: list[dict[str, Any]] = [{"type": "Resize", "size": [256, 256]}, {"type": "Normalize"}]
    for mean, std, message in (
        ([-0.5, 0.5, 0.5], [1.0, 1.0, 1.0], r"Normalize: mean \[-0\.5, 0\.5, 0\.5\] is negative"),
        ([0.229, 0.224, 0.225], [0.485, 0.456, 0.406], r"Normalize: mean .* are swapped"),
    ):
        ops[1] |= {"mean": mean, "std": std}
        with pytest.raises(ConfigError, match=message) as caught:
            plan_build(parse_vamc(change("dataset.process_ops", ops), source="t"), has_bf16=False)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("backend.quantize.calibrate_mod", "max", "did you mean 'calibrate_mode'"),
        ("backend.dtype", "int4", "backend.dtype"),
        ("backend.type", "cuda", "backend.type"),
        ("dataset.process_ops", [{"type": "Resize", "sise": 3}], "did you mean 'size'"),
        ("dataset.process_ops", [{"type": "Blur"}], "process_ops"),
        ("frontend.shape", {"a": [1, 3, 8, 8], "b": [1, 3, 8, 8]}, "2 inputs"),
        ("name", "../evil", "name"),
        ("dataset", None, "int8 needs a 'dataset'"),
        ("graph.extra_ops.type", "sigmoid", "extra_ops"),
        ("backend.quantize.skip_conv_layers", [-1], "skip_conv_layers"),
    ],
)
def test_wrong_files_are_explained_in_one_line(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_vamc(change(path, value), source="f.yaml")
    assert "\n" not in str(caught.value)


def test_ops_that_miss_the_models_input() -> None:
    with pytest.raises(ConfigError, match=r"256x256 but frontend\.shape is 224x224"):
        plan_build(parse_vamc(change("frontend.shape", {"input": [1, 3, 224, 224]}), source="t"), has_bf16=False)


def test_shipped_files_agree_with_the_vdsp_files() -> None:
    assert [path.stem for path in BUILDS] == ["official_resnest"] + [
        f"official_resnest{n}" for n in (101, 200, 269, 50)
    ]
    for path in BUILDS:
        file = read_vamc(path)
        preprocess = plan_build(file, has_bf16=False).config.preprocess
        vdsp = read_vdsp(VACC / f"vdsp_params/official-{file.name}-vdsp_params.json")
        assert preprocess is not None
        assert preprocess.ops == (Resize(size=vdsp.resize_hw), CenterCrop(size=vdsp.output_hw[0]))
        assert (preprocess.mean, preprocess.std) == (vdsp.OpConfig.Mean, vdsp.OpConfig.Std)
        assert file.chw == (3, *vdsp.output_hw)
    assert BUILDS[0].read_text() == BUILDS[4].read_text()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
PLACES = [
    *("name", "frontend", "frontend.shape", "frontend.checkpoint", "backend", "backend.dtype", "backend.quantize"),
    *("graph", "graph.extra_ops", "dataset", "dataset.path", "dataset.sampler", "dataset.process_ops", "workspace"),
]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_gives_a_plan_or_our_error(place: str, value: Any) -> None:
    try:
        plan_build(parse_vamc(copy.deepcopy(change(place, value)), source="test"), has_bf16=True)
    except NestForgeError as error:
        assert str(error)  # noqa: PT017


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60), st.text(max_size=60).map(str.encode), VALUES.map(lambda v: yaml.safe_dump(v).encode())
    )
)
def test_any_file_gives_our_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(NestForgeError):
        read_vamc(path)


LAUGHS = "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in ("ab", "bc", "cd", "de", "ef")
)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        f"a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n{LAUGHS}",
        "[" * 5000,
        "a: !!timestamp x",
        "a: !!bool x",
        "a: !!int ''",
        "!!python/object:os.system x",
    ],
)
def test_hostile_yaml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    for read in (read_vamc, read_config):
        with pytest.raises(ConfigError):
            read(path)
