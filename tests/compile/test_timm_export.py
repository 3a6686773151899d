"""Classifiers of timm, exported, proven and built like the rest; skipped where timm is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from nestforge.artifact.artifact import open_artifact
from nestforge.builder import build
from nestforge.compile.export import export
from nestforge.compile.onnxfile import serialize
from nestforge.config import read_config
from nestforge.data.preprocess import Resize, load_image
from nestforge.engines import get_engine
from nestforge.engines.base import Parallelism, Settings
from nestforge.errors import ConfigError, ModelError
from nestforge.networks.checkpoint import read_checkpoint
from nestforge.networks.graph import build_graph
from nestforge.networks.zoo import get_variant
from tests.support.commands import run

timm = pytest.importorskip("timm", exc_type=ImportError)
timm_export = pytest.importorskip("nestforge.compile.timm_export")
pytestmark = pytest.mark.filterwarnings("ignore")

NAME = "resnet10t"  # 5 M parameters, 176 pixels
VIT = "test_vit.r160_in1k"  # 0.4 M parameters, 160 pixels, its size fixed


def make_state(name: str, **options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    module = timm.create_model(name, **options).eval()
    state: dict[str, torch.Tensor] = module.state_dict()
    return {key: torch.rand_like(value) + 0.5 if "running_var" in key else value for key, value in state.items()}


def check_file(path: Path, module: torch.nn.Module, side: int) -> None:
    """Compare an ONNX file with a module, at a batch that it was not traced with."""
    images = np.random.default_rng(0).standard_normal((3, 3, side, side), np.float32)
    found = get_engine("onnxruntime").open(path, Settings(batch=3, height=side, width=side)).run(images)
    with torch.inference_mode():
        expected = module(torch.from_numpy(images)).numpy()
    assert np.abs(expected).max() > 0
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_export_build_and_what_the_artifact_sees(
    tmp_path: Path, dataset: Path, calibration_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a name to an int8 artifact, whose images are timm's own to the bit and whose answers are the module's."""
    monkeypatch.chdir(tmp_path)
    state = make_state(NAME)
    save_file(state, "w.safetensors")
    result = export(f"timm:{NAME}", weights="w.safetensors")
    assert (result.path, result.build_file) == (Path("resnet10t.onnx"), Path("resnet10t.yaml"))
    assert (result.size, result.classes, result.exporter) == (176, 1000, "torch.export")
    assert result.notes == ()
    assert 0 < result.max_relative_difference < 1e-4
    assert {(check.batch, check.size) for check in result.checks} == {(1, 176), (5, 176)}
    assert result.kernel_macs == pytest.approx(0.69e9, rel=0.05)
    assert (result.macs, result.vendor_gflops) == (None, None)
    proto = onnx.load("resnet10t.onnx")
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim] == [0, 3, 176, 176]
    assert str(tmp_path).encode() not in Path("resnet10t.onnx").read_bytes()

    config = read_config(Path("resnet10t.yaml"))
    assert config.preprocess == result.preprocess
    assert config.labels == "imagenet"
    build(config)
    overrides = ["dtype=int8", f"calibration.data={calibration_images}", "output=int8"]
    int8 = build("resnet10t.yaml", overrides=overrides)
    assert int8.parity.cosine > 0.99

    module = timm.create_model(NAME).eval()
    module.load_state_dict(state)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module), is_training=False)
    artifact = open_artifact(Path(config.output))
    session = artifact.open_session(Parallelism(batch=1))
    for path in sorted(dataset.rglob("*.png"))[:5]:
        with Image.open(path) as image:
            expected = transform(image.convert("RGB"))
        seen = load_image(path, artifact.manifest.preprocess)
        assert np.array_equal(seen, expected.numpy())
        with torch.inference_mode():
            logits = module(expected[None]).numpy()
        assert np.abs(session.run(seen[None]) - logits).max() < 1e-4 * np.abs(logits).max()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {"state_dict": {name: value * 0 for name, value in state.items()}, "state_dict_ema": state},
        lambda state: {f"model._orig_mod.{name}": value.double() for name, value in state.items()},
    ],
)
def test_wrapped_checkpoints(wrap: Any, tmp_path: Path) -> None:
    state = make_state(VIT, num_classes=1000)
    torch.save(wrap(state), tmp_path / "w.pth")
    result = export(f"timm:{VIT}", weights=tmp_path / "w.pth", output=tmp_path / "m.onnx")
    assert result.params == sum(value.numel() for value in state.values())
    assert any("averaged" in note for note in result.notes) == ("(state_dict_ema)" in result.source)
    module = timm.create_model(VIT).eval()
    module.load_state_dict(state)
    check_file(tmp_path / "m.onnx", module, 160)


def test_other_classes_must_state_their_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(make_state(NAME, num_classes=7), "seven.safetensors")
    for _ in range(2):  # the second time, the build file is there and stays
        result = export(f"timm:{NAME}", weights="seven.safetensors", output="seven.onnx")
    assert result.classes == 7
    assert "state in seven.yaml how its images are prepared" in result.notes[0]
    with pytest.raises(ConfigError, match="needs a 'preprocess' section"):
        build("seven.yaml")
    text = Path("seven.yaml").read_text()
    choices = text.split("# preprocess:")[1:]
    assert len(choices) == 2
    for number, choice in enumerate(choices):
        lines = ["preprocess:", *(line.removeprefix("# ") for line in choice.splitlines() if line.startswith("#   "))]
        chosen = yaml.safe_load("\n".join(lines))
        build({**yaml.safe_load(text), **chosen, "output": str(number)})
    manifests = [open_artifact(tmp_path / str(number)).manifest for number in range(2)]
    assert manifests[0].preprocess == result.preprocess
    assert manifests[1].preprocess.ops == (Resize(size=(176, 176), interpolation="bicubic"),)


def test_timms_resnest_is_ours(tmp_path: Path) -> None:
    """The same checkpoint through timm's module and through our graph."""
    state = make_state("resnest14d")
    save_file(state, tmp_path / "w.safetensors")
    variant = get_variant("resnest14")
    export("timm:resnest14d", weights=tmp_path / "w.safetensors", output=tmp_path / "m.onnx", size=64)
    weights = read_checkpoint(tmp_path / "w.safetensors", variant)
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    settings = Settings(batch=2, height=64, width=64)
    ours = get_engine("onnxruntime").open(serialize(build_graph(variant, weights)), settings).run(images)
    theirs = get_engine("onnxruntime").open(tmp_path / "m.onnx", settings).run(images)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(ours).max()


def test_size(tmp_path: Path) -> None:
    for name in (NAME, VIT):
        result = export(f"timm:{name}", seed=0, size=96, output=tmp_path / "m.onnx")
        assert result.preprocess is not None
        assert (result.size, result.preprocess.output_hw) == (96, (96, 96))
        (tmp_path / "m.yaml").unlink()
    with pytest.raises(ModelError, match=r"test_vit\S* does not take images of 100x100 pixels"):
        export(f"timm:{VIT}", seed=0, size=100, output=tmp_path / "n.onnx")


def test_seed_is_reproducible(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (
        export(f"timm:{VIT}", seed=seed, output=tmp_path / f"{i}.onnx") for i, seed in enumerate((3, 3, 4))
    )
    assert first.sha256 == again.sha256 != other.sha256
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_build_file_that_was_changed_is_kept_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export(f"timm:{VIT}", seed=0, output="m.onnx")
    path = Path("m.yaml")
    kept = path.read_text().replace("output: artifacts/m", "output: elsewhere")
    path.write_text(kept)
    export(f"timm:{VIT}", seed=1, output="m.onnx")
    assert path.read_text() == kept
    before = Path("m.onnx").read_bytes()
    for text in (
        "my notes",
        kept.replace("interpolation: bicubic", "interpolation: box"),
        kept.replace("m.onnx", "other.onnx"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"m\.yaml exists and does not describe m\.onnx"):
            export(f"timm:{VIT}", seed=0, output="m.onnx")
        assert (path.read_text(), Path("m.onnx").read_bytes()) == (text, before)


def test_a_wrong_file_of_either_exporter_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make_wrong(write: Any) -> Any:
        def write_wrong(module: torch.nn.Module, images_nchw: torch.Tensor, path: Path) -> None:
            bias = module.head.bias
            with torch.no_grad():
                bias[0] += 1
                write(module, images_nchw, path)
                bias[0] -= 1

        return write_wrong

    right = dict(timm_export.EXPORTERS)
    for name, write in right.items():
        monkeypatch.setitem(timm_export.EXPORTERS, name, make_wrong(write))
    with pytest.raises(ModelError, match=r"torch\.export: .* differs .*torch\.jit\.trace: .* differs") as error:
        export(f"timm:{VIT}", seed=0, output=tmp_path / "m.onnx")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(timm_export.EXPORTERS, "torch.jit.trace", right["torch.jit.trace"])
    result = export(f"timm:{VIT}", seed=0, output=tmp_path / "m.onnx")
    assert result.exporter == "torch.jit.trace"
    assert "the file of torch.export: the exported file differs" in result.notes[0]


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "w.pth")
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *_, **__: (_ for _ in ()).throw(OSError("closed"))
    )
    for name, options, message in (
        ("resnet51", {"seed": 0}, "timm has no model 'resnet51'; did you mean"),
        ("resnet18.nothing", {"seed": 0}, r"timm cannot make resnet18\.nothing \(Invalid pretrained tag"),
        ("resnet18", {}, r"cannot get timm's pretrained weights of resnet18 \(closed\); give --weights FILE or --seed"),
        ("resnet18", {"weights": tmp_path / "w.pth"}, "w.pth is no resnet18: it lacks .* tensors, such as 'conv1"),
        ("resnet18", {"weights": tmp_path / "none.pth"}, "no checkpoint"),
        ("resnet18", {"seed": 0, "weights": tmp_path / "w.pth"}, "not both"),
        ("resnet18", {"seed": -1}, "negative"),
        ("resnet18", {"seed": 0, "size": 8}, "outside 32 to 4096"),
        ("vit_small_patch14_dinov2", {"seed": 0}, "is no classifier"),
        ("", {"seed": 0}, "timm has no model|write timm:NAME"),
        ("hf-hub:", {"seed": 0}, "timm has no model|timm cannot make|write timm:NAME"),
    ):
        with pytest.raises(ModelError, match=message) as error:
            export(f"timm:{name}", output=tmp_path / "m.onnx", **options)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="is to be an ONNX file"):
        export("timm:resnet18", seed=0, output=tmp_path / "m.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_command(tmp_path: Path) -> None:
    done = run("export", f"timm:{VIT}", "--seed", 0, "--json", "-", cwd=tmp_path)
    assert yaml.safe_load(done.stdout)["build_file"] == "test_vit.r160_in1k.yaml"
    table = run("export", f"timm:{VIT}", "--seed", 0, cwd=tmp_path).stdout
    for word in ("torch.export", "preprocessing", "nestforge build test_vit.r160_in1k.yaml"):
        assert word in table
    run("build", "test_vit.r160_in1k.yaml", cwd=tmp_path)
