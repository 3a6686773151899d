"""Every reader of foreign bytes, through the public function that reads them, and bytes to begin with.

A reader may raise a `NestForgeError` and nothing else.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.report import ROOT
from tests.support.vacc import make_vdsp

VARIANT = "resnest14_slim"


@dataclass(frozen=True)
class Target:
    """A reader of the file `name` in a folder of its own.

    `make_seeds` returns bytes to begin with, and puts beside the file what else the reader needs.
    """

    name: str
    read: Callable[[Path], object]
    make_seeds: Callable[[Path], list[bytes]]


def read_image(path: Path) -> None:
    from nestforge.data.preprocess import make_reference_preprocess, read_image

    read_image(path, make_reference_preprocess(56))


def make_images(folder: Path) -> list[bytes]:
    from PIL import Image

    seeds = []
    image = Image.effect_noise((9, 7), 60).convert("RGB")
    for kind, mode in (
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "I;16"),
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("WEBP", "RGB"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("TIFF", "RGB"),
        ("PPM", "RGB"),
        ("JPEG2000", "RGB"),
        ("ICO", "RGB"),
        ("TGA", "RGB"),
        ("PCX", "RGB"),
        ("EPS", "RGB"),
    ):
        buffer = io.BytesIO()
        (image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)).save(buffer, kind)
        seeds.append(buffer.getvalue())
    return seeds


def read_npz(path: Path) -> None:
    from nestforge.vacc.npz import read_image_npz

    read_image_npz(path)


def make_npz(folder: Path) -> list[bytes]:
    import numpy as np

    seeds = []
    for key, array in (
        ("input_0", np.zeros((3, 4, 5), np.uint8)),
        ("input_0", np.zeros((3, 1, 1), np.float64)),
        ("output_0", np.array([{}], object)),
    ):
        for save in (np.savez, np.savez_compressed):
            buffer = io.BytesIO()
            save(buffer, allow_pickle=True, **{key: array})
            seeds.append(buffer.getvalue())
    return seeds


def read_build_file(path: Path) -> None:
    from nestforge.config import read_config

    read_config(path)


def read_vendor_file(path: Path) -> None:
    from nestforge.vacc.vamc import plan_build, read_vamc

    plan_build(read_vamc(path), has_bf16=False)


def make_yaml(folder: Path) -> list[bytes]:
    files = [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "deploy").rglob("*.yaml")]
    return [path.read_bytes() for path in files]


def read_vdsp(path: Path) -> None:
    from nestforge.vacc.vdsp import read_vdsp

    read_vdsp(path)


def make_json(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in (ROOT / "deploy").rglob("*.json")]


def read_manifest(path: Path) -> None:
    from nestforge.artifact.artifact import open_artifact

    open_artifact(path.parent)
    open_artifact(path.parent, verify=False)


def build_artifact(output: Path) -> None:
    import nestforge

    config = {
        "model": {"onnx": str(ROOT / "examples" / "fashion_mnist" / "resnest14_slim.onnx")},
        "dtype": "fp32",
        "preprocess": {"ops": [{"op": "resize", "size": [56, 56]}]},
        "output": str(output),
    }
    nestforge.build(config)


def make_manifest(folder: Path) -> list[bytes]:
    build_artifact(folder / "built")
    (folder / "built" / "model.onnx").rename(folder / "model.onnx")
    return [(folder / "built" / "manifest.json").read_bytes()]


def read_onnx(path: Path) -> None:
    from nestforge.compile.classifier import adapt_classifier
    from nestforge.compile.onnxfile import count_graph_macs, read_onnx
    from nestforge.compile.scorekind import append_softmax

    model = read_onnx(path)
    adapt_classifier(model)
    append_softmax(model)
    count_graph_macs(model, 32, 32)


def make_onnx(folder: Path) -> list[bytes]:
    import onnx
    from onnx import TensorProto, helper

    seeds = []
    for opset in (11, 13, 17):
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("Gemm", ["f", "v"], ["y"]),
        ]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
            [
                helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 3, 3], [0.5] * 108),
                helper.make_tensor("v", TensorProto.FLOAT, [4, 2], [0.5] * 8),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        onnx.checker.check_model(model)
        seeds.append(model.SerializeToString())
    return seeds


def read_checkpoint(path: Path) -> None:
    from nestforge.networks.checkpoint import read_checkpoint
    from nestforge.networks.zoo import get_variant

    read_checkpoint(path, get_variant(VARIANT))


def make_safetensors(folder: Path) -> list[bytes]:
    import numpy as np
    from safetensors.numpy import save

    return [save({"fc.weight": np.zeros((2, 256), np.float32), "fc.bias": np.zeros(2, np.float16)}), save({})]


def make_torch(folder: Path) -> list[bytes]:
    import torch

    seeds = []
    for value in ({"state_dict": {"fc.weight": torch.zeros(2, 3)}}, {"module.fc.weight": torch.zeros(2)}, [1, "a"]):
        for modern in (True, False):
            buffer = io.BytesIO()
            torch.save(value, buffer, _use_new_zipfile_serialization=modern)
            seeds.append(buffer.getvalue())
    return [*seeds, pickle.dumps({"fc.weight": 1})]


def read_labels(path: Path) -> None:
    from nestforge.data.imagefolder import ImageFolder, match_classes
    from nestforge.data.labelfiles import read_labels
    from nestforge.data.labels import format_label, parse_label
    from nestforge.errors import DataError

    labels = read_labels(path)
    for label in labels:
        if parse_label(format_label(label)) != label:
            raise AssertionError(label)
    folders = tuple(label.aliases[0] for label in labels)
    try:
        match_classes(ImageFolder(root=path, paths=(path,) * len(folders), folders=folders), labels)
    except DataError:
        return


def read_datalist(path: Path) -> None:
    from nestforge.vacc.npz import hash_list, read_datalist

    hash_list(read_datalist(path).paths)


def read_result(path: Path) -> None:
    from nestforge.vacc.vamp_eval import evaluate_results

    side = path.parent / "side"
    evaluate_results(path.parent, side / "list.txt", side / "labels.txt", result_file=side / "out.txt")


def make_results(folder: Path) -> list[bytes]:
    side = folder / "side"
    side.mkdir()
    (side / "list.txt").write_text("/data/a/image.npz\n")
    (side / "labels.txt").write_text("a\nb\n")
    import numpy as np

    seeds = []
    for scores in (np.array([0.25, 0.75], np.float32), np.array([[np.inf, 0.0]], np.float32)):
        buffer = io.BytesIO()
        np.savez(buffer, output_0=scores)
        seeds.append(buffer.getvalue())
    return [*seeds, *(content.replace(b"input_0", b"output_0") for content in make_npz(folder))]


def read_marker(path: Path) -> None:
    from nestforge.vacc.datalist import run_datalist
    from nestforge.vacc.vamp import open_settings

    side = path.parent / "side"
    settings = open_settings(side / "artifact", side / "vdsp.json")
    run_datalist(settings, side / "list.txt", path.parent)


def make_markers(folder: Path) -> list[bytes]:
    side = folder / "side"
    build_artifact(side / "artifact")
    (side / "vdsp.json").write_text(json.dumps(make_vdsp(56)))
    (side / "list.txt").write_text("/data/a/missing.npz\n")
    marker = folder / "vamp.json"
    read_marker(marker)
    return [marker.read_bytes(), b"[]"]


def read_journal(path: Path) -> None:
    """What is read and written again are the same bytes."""
    from nestforge.journal import Journal

    journal = Journal(path)
    journal.close()
    again = path.with_name("again.jsonl")
    again.unlink(missing_ok=True)
    copy = Journal(again)
    for record in journal.records:
        copy.append(record)
    copy.close()
    kept = again.read_bytes() if again.exists() else b""
    if path.read_bytes() != kept:
        raise AssertionError(journal.records)


def make_journals(folder: Path) -> list[bytes]:
    from nestforge.journal import Journal

    path = folder / "seed.jsonl"
    journal = Journal(path)
    for record in ([[1, 2.5], {"a": None}], "x"):
        journal.append(record)
    journal.close()
    return [path.read_bytes()]


TARGETS = {
    "image": Target("a.png", read_image, make_images),
    "npz": Target("a.npz", read_npz, make_npz),
    "build file": Target("a.yaml", read_build_file, make_yaml),
    "vendor's build file": Target("a.yaml", read_vendor_file, make_yaml),
    "vdsp_params": Target("a.json", read_vdsp, make_json),
    "manifest": Target("manifest.json", read_manifest, make_manifest),
    "onnx": Target("a.onnx", read_onnx, make_onnx),
    "safetensors": Target("a.safetensors", read_checkpoint, make_safetensors),
    "torch": Target("a.pth", read_checkpoint, make_torch),
    "labels": Target("a.txt", read_labels, lambda folder: [b"n01440764\ttench, Tinca\n", b"a b\nc\n"]),
    "datalist": Target("a.txt", read_datalist, lambda folder: [b"/a/b/c.npz\n/a/b/d.npz\n"]),
    "result": Target("a.npz", read_result, make_results),
    "vamp.json": Target("vamp.json", read_marker, make_markers),
    "journal": Target("a.jsonl", read_journal, make_journals),
}
