"""Coverage-guided fuzzing of every reader of foreign bytes (needs the extra fuzz).

    python benchmarks/fuzz.py [--seconds 180] [--target npz onnx ...] [-o benchmarks/results/fuzz.json]

Each reader gets mutated bytes for `--seconds`. A finding is an exception that is no NestForgeError, a crash of the
process, an input that takes over 10 seconds, or over 2 GiB of memory; its bytes are left in `--findings`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS_EACH, MEMORY_MIB = 10, 2048
VARIANT = "resnest14_slim"
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)")


@dataclass(frozen=True)
class Target:
    """A reader of the file NAME in a folder, and bytes to begin with."""

    name: str
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]


def read_image(path: Path) -> None:
    from nestforge.data.preprocess import make_reference_preprocess, read_image

    read_image(path, make_reference_preprocess(56))


def make_images() -> list[bytes]:
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


def make_npz() -> list[bytes]:
    import numpy as np

    seeds = []
    for key, array in (
        ("input_0", np.zeros((3, 4, 5), np.uint8)),
        ("input_0", np.zeros((3, 1, 1), np.float64)),
        ("output_0", np.array([{}], object)),
    ):
        for save in (np.savez, np.savez_compressed):
            buffer = io.BytesIO()
            save(buffer, **{key: array})
            seeds.append(buffer.getvalue())
    return seeds


def read_build_file(path: Path) -> None:
    from nestforge.config import read_config

    read_config(path)


def read_vendor_file(path: Path) -> None:
    from nestforge.vacc.vamc import plan_build, read_vamc

    plan_build(read_vamc(path), has_bf16=False)


def make_yaml() -> list[bytes]:
    files = [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "deploy").rglob("*.yaml")]
    return [path.read_bytes() for path in files]


def read_vdsp(path: Path) -> None:
    from nestforge.vacc.vdsp import read_vdsp

    read_vdsp(path)


def make_json() -> list[bytes]:
    return [path.read_bytes() for path in (ROOT / "deploy").rglob("*.json")]


def read_manifest(path: Path) -> None:
    from nestforge.artifact.artifact import open_artifact

    open_artifact(path.parent)
    open_artifact(path.parent, verify=False)


def make_manifest() -> list[bytes]:
    import nestforge

    with tempfile.TemporaryDirectory() as folder:
        text = {
            "model": {"onnx": str(ROOT / "examples" / "fashion_mnist" / "resnest14_slim.onnx")},
            "dtype": "fp32",
            "preprocess": {"ops": [{"op": "resize", "size": [56, 56]}]},
            "output": str(Path(folder, "artifact")),
        }
        from nestforge.config import parse_config

        nestforge.build(parse_config(text, source="fuzz"))
        shutil.copy(Path(folder, "artifact", "model.onnx"), Path(os.environ["FUZZ_FOLDER"]))
        return [Path(folder, "artifact", "manifest.json").read_bytes()]


def read_onnx(path: Path) -> None:
    from nestforge.compile.onnxfile import append_softmax, count_graph_macs, inspect_classifier, read_onnx

    model = read_onnx(path)
    inspect_classifier(model)
    append_softmax(model)
    count_graph_macs(model, 32, 32)


def make_onnx() -> list[bytes]:
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


def make_safetensors() -> list[bytes]:
    import numpy as np
    from safetensors.numpy import save

    return [save({"fc.weight": np.zeros((2, 256), np.float32), "fc.bias": np.zeros(2, np.float16)}), save({})]


def make_torch() -> list[bytes]:
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
    from nestforge.vacc.vamp_eval import _read_scores

    _read_scores(path, 10, path)


def make_results() -> list[bytes]:
    return [content.replace(b"input_0", b"output_0") for content in make_npz()]


def read_marker(path: Path) -> None:
    from nestforge.vacc.datalist import _claim_output

    _claim_output(path.parent, {"model_sha256": "a"})


def read_journal(path: Path) -> None:
    from nestforge.journal import _format_line, _read_lines

    with path.open("rb") as file:
        records, size = _read_lines(file)
    if path.read_bytes()[:size] != b"".join(map(_format_line, records)):
        raise AssertionError(records)


def make_journals() -> list[bytes]:
    from nestforge.journal import _format_line

    return [_format_line([[1, 2.5], {"a": None}]) + _format_line("x")]


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
    "labels": Target("a.txt", read_labels, lambda: [b"n01440764\ttench, Tinca\n", b"a b\nc\n"]),
    "datalist": Target("a.txt", read_datalist, lambda: [b"/a/b/c.npz\n/a/b/d.npz\n"]),
    "result": Target("a.npz", read_result, make_results),
    "vamp.json": Target("vamp.json", read_marker, lambda: [b'{"model_sha256": "a"}', b"[]"]),
    "journal": Target("a.jsonl", read_journal, make_journals),
}


def run_child(name: str, flags: list[str]) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    import atheris

    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["nestforge", "PIL", "zipfile", "yaml", "json", "numpy.lib", "pydantic"]):
        import nestforge.artifact.artifact
        import nestforge.compile.onnxfile
        import nestforge.networks.checkpoint
        import nestforge.vacc.datalist
        import nestforge.vacc.vamc
        import nestforge.vacc.vamp_eval  # noqa: F401
        from nestforge.errors import NestForgeError

    target = TARGETS[name]
    path = Path(os.environ["FUZZ_FOLDER"]) / target.name

    def try_bytes(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(NestForgeError):
            target.read(path)

    atheris.Setup([sys.argv[0], *flags], try_bytes)
    atheris.Fuzz()


def fuzz(name: str, seconds: int, findings: Path) -> dict[str, Any]:
    """Fuzz one target; return executions and what was found."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        corpus, files = Path(folder, "corpus"), Path(folder, "files")
        corpus.mkdir()
        files.mkdir()
        os.environ["FUZZ_FOLDER"] = str(files)
        for number, seed in enumerate(TARGETS[name].seeds()):
            (corpus / str(number)).write_bytes(seed)
        prefix = findings / f"{name.replace(' ', '_')}-"
        flags = [
            str(corpus),
            *(f"-max_total_time={seconds}", f"-timeout={SECONDS_EACH}", f"-rss_limit_mb={MEMORY_MIB}"),
            *("-print_final_stats=1", f"-artifact_prefix={prefix}", "-max_len=65536"),
        ]
        done = subprocess.run(
            [sys.executable, __file__, "--child", name, *flags],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    executed = _EXECUTED.search(done.stderr)
    found = None
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        start = next((i for i, line in enumerate(lines) if "Uncaught Python exception" in line or "ERROR:" in line), -8)
        found = "\n".join(lines[start : start + 30])
    return {"executions": int(executed[1]) if executed else 0, "seconds": seconds, "finding": found}


def main() -> None:
    """Fuzz, print, write."""
    from rich.console import Console

    from nestforge.files import write_json
    from nestforge.tables.layout import make_grid

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=180, help="for each target")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS), help="default: all")
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="folder for bytes that broke something")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/fuzz.json"))
    args = parser.parse_args()
    args.findings.mkdir(exist_ok=True)
    results = {}
    for name in args.target:
        results[name] = fuzz(name, args.seconds, args.findings)
        print(json.dumps({name: results[name]}, indent=2), file=sys.stderr)
    rows = [
        (name, f"{row['executions']:,}", str(row["seconds"]), (row["finding"] or "none").splitlines()[0])
        for name, row in results.items()
    ]
    Console(width=120).print(make_grid("fuzzing", ("reader", "executions", "seconds", "finding"), rows))
    write_json({"command": f"python benchmarks/fuzz.py --seconds {args.seconds}", "targets": results}, str(args.output))
    if any(row["finding"] for row in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2], sys.argv[3:])
    else:
        main()
