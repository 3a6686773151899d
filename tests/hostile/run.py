"""Put every file of the corpus before its reader, in one process a kind, and say what became of it.

    python -m tests.hostile.run        # the table in docs/reliability.md

As a child, ``KIND FOLDER``: one line of JSON a file, so that it is known at which one a process died.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nestforge.errors import NestForgeError
from tests.hostile.corpus import list_cases
from tests.hostile.corpus.case import EITHER, REFUSED, USED, Case
from tests.hostile.corpus.images import make_picture

SECONDS_EACH = 10.0
RESIDENT_BYTES = 2 << 30
ADDRESS_SPACE = 8 << 30  # engines map far more than they use; what is resident is measured
KIND_SECONDS = 120


def read_image(path: Path) -> None:
    from nestforge.data.preprocess import make_reference_preprocess, read_image

    read_image(path, make_reference_preprocess(56))


def read_npz(path: Path) -> None:
    from nestforge.vacc.npz import read_image_npz

    read_image_npz(path)


def read_onnx(path: Path) -> None:
    from nestforge.compile.classifier import adapt_classifier
    from nestforge.compile.onnxfile import count_graph_macs, read_onnx
    from nestforge.compile.scorekind import append_softmax

    model = read_onnx(path)
    adapt_classifier(model)
    append_softmax(model)
    count_graph_macs(model, 56, 56)


def read_yaml(path: Path) -> None:
    from nestforge.config import read_config

    read_config(path)


def read_vamc(path: Path) -> None:
    from nestforge.vacc.vamc import plan_build, read_vamc

    plan_build(read_vamc(path), has_bf16=False)


def read_vdsp(path: Path) -> None:
    from nestforge.vacc.vdsp import read_vdsp

    read_vdsp(path)


def read_labels(path: Path) -> None:
    from nestforge.data.labelfiles import read_labels

    read_labels(path)


def read_list(path: Path) -> None:
    from nestforge.vacc.npz import read_datalist

    read_datalist(path)


def read_checkpoint(path: Path) -> None:
    from nestforge.networks.checkpoint import read_checkpoint
    from nestforge.networks.zoo import get_variant

    read_checkpoint(path, get_variant("resnest14_slim"))


def use_artifact(path: Path) -> None:
    """Insist, too: without verification there is an answer or a plain error, and nothing else."""
    from nestforge.scale.predict import predict

    image = path.parent / "good.jpg"
    try:
        predict(path, [image], verify=False)
    except NestForgeError as error:
        check_line(error)
    predict(path, [image])


READERS: dict[str, Callable[[Path], None]] = {
    "images": read_image,
    "names": read_image,
    "places": read_image,
    "npz": read_npz,
    "onnx": read_onnx,
    "yaml": read_yaml,
    "vamc": read_vamc,
    "vdsp": read_vdsp,
    "labels": read_labels,
    "lists": read_list,
    "checkpoints": read_checkpoint,
    "artifacts": use_artifact,
}


def check_line(error: NestForgeError) -> None:
    if not 10 < len(str(error)) < 2000:
        raise AssertionError(f"no message for people: {str(error)[:100]!r}")


def read_all(folder: Path, kind: str) -> None:
    """Read every file of one kind and print a line of JSON for each."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    warnings.simplefilter("ignore")
    os.chdir(folder)
    for name in json.loads((folder / "names.json").read_text()):
        print(json.dumps({"name": name, "outcome": "started"}), flush=True)
        begin = time.monotonic()
        try:
            READERS[kind](folder / name)
            outcome, message = USED, ""
        except NestForgeError as error:
            check_line(error)
            outcome, message = REFUSED, str(error)
        row = {
            "name": name,
            "outcome": outcome,
            "seconds": time.monotonic() - begin,
            "rss_bytes": read_peak_bytes(),
            "message": message,
        }
        print(json.dumps(row), flush=True)


def read_peak_bytes() -> int:
    """Return the most that this program had resident; getrusage would count its parent's before exec."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def make_files(cases: list[Case], folder: Path) -> None:
    """Write the files of one kind, and a good image beside them."""
    folder.mkdir()
    for case in cases:
        case.make(folder / case.name)
    (folder / "names.json").write_text(json.dumps([case.name for case in cases]))
    make_picture().save(folder / "good.jpg")  # what artifacts are tried with
    make_picture().save(folder.parent.parent / "good.jpg")  # what a good link leads to


def try_kind(kind: str, cases: list[Case], root: Path) -> list[dict[str, Any]]:
    """Return a row for each case, with `problem` where it is not as it must be."""
    folder = root / "kinds" / kind
    folder.parent.mkdir(exist_ok=True)
    make_files(cases, folder)
    command = [sys.executable, "-m", "tests.hostile.run", kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=KIND_SECONDS, check=False)
    lines = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    rows = []
    for case in cases:
        row = lines.get(case.name, {"outcome": "not reached"})
        problem = None
        if row["outcome"] not in (USED, REFUSED):
            problem = f"{row['outcome']}: exit {done.returncode}, {done.stderr[-1500:]}"
        elif case.outcome not in (EITHER, row["outcome"]):
            problem = f"{row['outcome']} but must be {case.outcome}: {row['message']}"
        elif row["seconds"] > SECONDS_EACH:
            problem = f"took {row['seconds']:.1f} s"
        elif row["rss_bytes"] > RESIDENT_BYTES:
            problem = f"{row['rss_bytes'] / 1e6:.0f} MB resident"
        rows.append({**row, "kind": kind, "name": case.name, "expected": case.outcome, "problem": problem})
    if (folder / "pickle_was_run").exists():
        rows[0]["problem"] = "a pickle was run"
    return rows


def prepare(root: Path) -> None:
    """Make what valid files are made from: a small model, and an artifact of it."""
    import nestforge
    from nestforge.compile.onnxfile import serialize
    from nestforge.config import parse_config
    from nestforge.networks.graph import build_graph
    from nestforge.networks.layers import make_seeded_weights
    from nestforge.networks.zoo import get_variant

    variant = get_variant("resnest14_slim")
    (root / "model.onnx").write_bytes(serialize(build_graph(variant, make_seeded_weights(variant, 0))))
    (root / "labels.txt").write_text("".join(f"class {index}\n" for index in range(10)))
    config = {
        "model": {"onnx": str(root / "model.onnx")},
        "dtype": "fp32",
        "preprocess": {"ops": [{"op": "ecenter_crop", "size": 56}]},
        "labels": str(root / "labels.txt"),
        "output": str(root / "artifact"),
    }
    nestforge.build(parse_config(config, source="hostile"))


def run_corpus(root: Path) -> list[dict[str, Any]]:
    """Make everything in `root` and read it; return the rows of all kinds."""
    prepare(root)
    cases = list_cases(root)
    rows = []
    for kind in READERS:
        rows += try_kind(kind, [case for case in cases if case.kind == kind], root)
    return rows


def main() -> None:
    root = Path(tempfile.mkdtemp())
    try:
        rows = run_corpus(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print("| kind | files | used | refused | slowest, s | resident at most, MB |\n|---|---|---|---|---|---|")
    for kind in READERS:
        mine = [row for row in rows if row["kind"] == kind]
        used, refused = (sum(row["outcome"] == outcome for row in mine) for outcome in (USED, REFUSED))
        slowest = max(row.get("seconds", 0) for row in mine)
        most = max(row.get("rss_bytes", 0) for row in mine) / 1e6
        print(f"| {kind} | {len(mine)} | {used} | {refused} | {slowest:.1f} | {most:.0f} |")
    print(f"{len(rows)} files, {sum(row['problem'] is not None for row in rows)} problems")
    for row in rows:
        if row["problem"]:
            print(f"{row['kind']}/{row['name']!r}: {row['problem']}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        read_all(Path(sys.argv[2]), sys.argv[1])
    else:
        main()
