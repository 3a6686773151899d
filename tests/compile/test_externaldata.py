"""Weights beside an ONNX file: read, recorded, and followed nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from nestforge.artifact.artifact import inspect
from nestforge.artifact.manifest import record_file
from nestforge.compile.externaldata import list_tensors
from nestforge.compile.onnxfile import read_onnx, read_onnx_file, serialize
from nestforge.errors import ModelError
from tests.support.onnx_models import build_artifact, make_classifier, save

Change = Callable[[onnx.ModelProto], None]


def save_apart(proto: onnx.ModelProto, path: Path, location: str = "model.onnx.data") -> onnx.ModelProto:
    """Save with every weight in the file `location`, and return the model that is in `path`."""
    onnx.save(
        proto, path, save_as_external_data=True, all_tensors_to_one_file=True, location=location, size_threshold=0
    )
    return onnx.load(path, load_external_data=False)


def list_entries(proto: onnx.ModelProto) -> list[onnx.StringStringEntryProto]:
    return [entry for tensor in list_tensors(proto) for entry in tensor.external_data]


def change_entries(key: str, value: str) -> Change:
    def change(proto: onnx.ModelProto) -> None:
        for entry in list_entries(proto):
            if entry.key == key:
                entry.value = value

    return change


def read_weights(path: Path) -> dict[str, bytes]:
    return {str(name): value.const_value.tobytes() for name, value in read_onnx(path).graph.initializers.items()}


@pytest.mark.parametrize("location", ["model.onnx.data", "weights/all.bin", "with space.bin"])
def test_weights_in_another_file_are_read(location: str, tmp_path: Path) -> None:
    inside = save(make_classifier(), tmp_path / "inside.onnx")
    (tmp_path / "weights").mkdir()
    save_apart(make_classifier(), tmp_path / "model.onnx", location)
    assert not any(
        tensor.raw_data for tensor in onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.initializer
    )
    file = read_onnx_file(tmp_path / "model.onnx")
    assert file.data_files == (tmp_path / location,)
    assert read_weights(tmp_path / "model.onnx") == read_weights(inside)
    assert "external" not in str(onnx.load_from_string(serialize(file.model)))


def test_a_file_for_each_weight(tmp_path: Path) -> None:
    inside = save(make_classifier(), tmp_path / "inside.onnx")
    proto = make_classifier()
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    assert [path.name for path in read_onnx_file(tmp_path / "m.onnx").data_files] == ["b", "fb", "fw", "w"]
    assert read_weights(tmp_path / "m.onnx") == read_weights(inside)


@pytest.mark.filterwarnings("ignore")
def test_what_torch_exports_by_default_is_built_and_recorded(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    layers = torch.nn
    torch.manual_seed(0)
    net = layers.Sequential(
        layers.Conv2d(3, 64, 3), layers.ReLU(), layers.AdaptiveAvgPool2d(1), layers.Flatten(), layers.Linear(64, 10)
    ).eval()
    images = torch.randn(1, 3, 16, 16)
    path = tmp_path / "model.onnx"
    torch.onnx.export(net, (images,), path, verbose=False)
    assert (tmp_path / "model.onnx.data").is_file()
    artifact = build_artifact(path, tmp_path / "artifact")
    assert sorted(file.name for file in artifact.iterdir()) == ["manifest.json", "model.onnx"]
    manifest = inspect(artifact)
    assert manifest.inputs[str(path)] == record_file(path)
    assert manifest.inputs[str(tmp_path / "model.onnx.data")] == record_file(tmp_path / "model.onnx.data")
    (tmp_path / "model.onnx.data").unlink()  # the artifact does not need it
    import onnxruntime

    session = onnxruntime.InferenceSession(artifact / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(
            session.run(None, {session.get_inputs()[0].name: images.numpy()})[0], net(images).numpy(), atol=1e-5
        )


@pytest.mark.parametrize(
    "location", ["sub", "../outside.bin", "/etc/passwd", "a/../../outside.bin", "..", ".", "", "a\0b"]
)
def test_other_places_are_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    proto = save_apart(make_classifier(), folder / "m.onnx")
    (tmp_path / "outside.bin").write_bytes((folder / "model.onnx.data").read_bytes())
    change_entries("location", location)(proto)
    save(proto, folder / "m.onnx")
    with pytest.raises(ModelError, match=r"keeps weights in|is not a valid"):
        read_onnx(folder / "m.onnx")


@pytest.mark.parametrize("location", [r"C:\weights.bin", "C:/weights.bin", r"..\weights.bin", r"a\b.bin"])
def test_windows_places_are_refused(location: str, tmp_path: Path) -> None:
    proto = save_apart(make_classifier(), tmp_path / "m.onnx")
    change_entries("location", location)(proto)
    save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="not a file of its folder"):
        read_onnx(tmp_path / "m.onnx")


def test_links_may_not_lead_out(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_apart(make_classifier(), folder / "m.onnx")
    data = folder / "model.onnx.data"
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="a link that leads out of its folder; copy the file itself"):
        read_onnx(folder / "m.onnx")
    data.unlink()
    (tmp_path / "elsewhere").rename(folder / "blob")
    data.symlink_to(folder / "blob")
    assert read_onnx_file(folder / "m.onnx").data_files == (data,)
    (tmp_path / "linked").symlink_to(folder)  # the folder itself may be reached by a link
    assert len(read_onnx(tmp_path / "linked" / "m.onnx").graph.initializers) == 4


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    save_apart(make_classifier(), tmp_path / "m.onnx")
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(ModelError, match=r"'model\.onnx\.data', which is not beside it .* copy that file there"):
        read_onnx(tmp_path / "m.onnx")
    os.mkfifo(tmp_path / "model.onnx.data")  # would be waited for
    with pytest.raises(ModelError, match="not a regular file"):
        read_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("offset", "999999999"),
        ("offset", "-4"),
        ("offset", "0x0"),
        ("length", "3"),
        ("length", "9" * 30),
        ("offset", "\N{ARABIC-INDIC DIGIT ONE}"),
    ],
)
def test_bytes_must_be_within_the_file(key: str, value: str, tmp_path: Path) -> None:
    proto = save_apart(make_classifier(), tmp_path / "m.onnx")
    change_entries(key, value)(proto)
    save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"does not hold the .* bytes of|is at no place in its file"):
        read_onnx(tmp_path / "m.onnx")


def test_a_short_file_is_another_file(tmp_path: Path) -> None:
    save_apart(make_classifier(), tmp_path / "m.onnx")
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"does not hold the .* use the file that was exported with m\.onnx"):
        read_onnx(tmp_path / "m.onnx")


def test_length_may_be_left_out(tmp_path: Path) -> None:
    """ONNX says that data then go to the end of the file; the tensor itself says how many bytes it has."""
    inside = save(make_classifier(), tmp_path / "inside.onnx")
    proto = save_apart(make_classifier(), tmp_path / "m.onnx")
    for tensor in list_tensors(proto):
        entries = [entry for entry in tensor.external_data if entry.key != "length"]
        del tensor.external_data[:]
        tensor.external_data.extend(entries)
    save(proto, tmp_path / "m.onnx")
    assert read_weights(tmp_path / "m.onnx") == read_weights(inside)


def test_the_same_bytes_many_times_are_counted_each_time(tmp_path: Path) -> None:
    """A small file cannot stand for more weights than a model may have: nothing of that size is read."""
    proto = save_apart(make_classifier(), tmp_path / "m.onnx")
    with (tmp_path / "model.onnx.data").open("r+b") as file:
        file.truncate(1 << 30)  # sparse
    weight = proto.graph.initializer[0]
    weight.dims[:] = [1 << 28]
    del weight.external_data[:]
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "model.onnx.data"
    for index in range(3):
        proto.graph.initializer.add().CopyFrom(weight)
        proto.graph.initializer[-1].name = f"again{index}"
    save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="over 2 GiB"):
        read_onnx(tmp_path / "m.onnx")


def test_tensors_that_nodes_carry_are_found(tmp_path: Path) -> None:
    """In constants, in subgraphs and in functions."""
    proto = make_classifier(before="k = Constant<value = float[4] {1, 2, 3, 4}>() ")
    inner = onnx.helper.make_graph([onnx.NodeProto()], "inner", [], [])
    inner.node[0].CopyFrom(proto.graph.node[0])
    proto.graph.node.append(onnx.helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))
    proto.functions.add().node.add().CopyFrom(proto.graph.node[0])
    assert sum(list(tensor.dims) == [4] for tensor in list_tensors(proto)) == 4


def test_strings_in_another_file_are_refused(tmp_path: Path) -> None:
    proto = save_apart(make_classifier(), tmp_path / "m.onnx")
    proto.graph.initializer[0].data_type = onnx.TensorProto.STRING
    save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="has no size"):
        read_onnx(tmp_path / "m.onnx")
