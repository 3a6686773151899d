"""ResNeSt-50 in int8: ours against the best combination one can make by hand, all executed by OpenVINO.

    pip install -e '.[bench]'
    python benchmarks/handmade.py --images FOLDER [-o benchmarks/results/handmade.json]

Contenders, from the same float32 ONNX file (seeded weights, batch norm folded) and the same calibration images:

- fp32: the file itself
- ours: nestforge's default int8 build
- nncf-onnx: `nncf.quantize` on the ONNX model (NNCF's ONNX backend)
- ort-qdq: ONNX Runtime's `quantize_static`, QDQ, per-channel weights
- nncf-openvino: `nncf.quantize` on the OpenVINO model, as NNCF's documentation shows it

One process, sessions opened beforehand, rounds interleaved and their order turned; medians, and the interval of the
median ratio to ours. NNCF and ONNX Runtime are not told that a CPU may saturate 16-bit sums: their speed is
comparable, their answers on such a CPU are not (docs/results.md).
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from peers import quantize_with_nncf, quantize_with_nncf_openvino, quantize_with_onnxruntime
from rich.console import Console
from rich.progress import track

import nestforge
from nestforge.compile.onnxfile import read_onnx, serialize
from nestforge.compile.passes.fold_batch_norm import fold_batch_norm
from nestforge.config import parse_config
from nestforge.data.imagefolder import choose_balanced, list_images
from nestforge.data.loader import Batch, load_batches
from nestforge.data.preprocess import make_reference_preprocess
from nestforge.engines import get_engine
from nestforge.engines.base import Session, Settings
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.files import write_json
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.tables.layout import make_grid

SIZE = 224
PEER_IMAGES = 16  # ranges hardly move the speed; NNCF and ONNX Runtime are slow and hungry beyond that


def make_contenders(images: Path, folder: Path) -> dict[str, Path]:
    """Build every contender's model file."""
    common = {"model": {"name": "resnest50", "seed": 0}, "calibration": {"data": str(images), "count": 32}}
    for dtype in ("fp32", "int8"):
        config = {**common, "dtype": dtype, "output": str(folder / dtype)}
        nestforge.build(parse_config(config, source="handmade"), overwrite=True)
    fp32 = folder / "fp32.onnx"
    model = read_onnx(folder / "fp32" / "model.onnx")
    fold_batch_norm(model)
    fp32.write_bytes(serialize(model))
    paths = choose_balanced(list_images(images), PEER_IMAGES, seed=0)
    samples = [
        item.images_nchw
        for item in load_batches(paths, make_reference_preprocess(SIZE), batch=1, workers=2)
        if isinstance(item, Batch)
    ]
    return {
        "fp32": fp32,
        "ours": folder / "int8" / "model.onnx",
        "nncf-onnx": quantize_with_nncf(fp32, samples, folder / "nncf.onnx"),
        "ort-qdq": quantize_with_onnxruntime(fp32, samples, folder / "ort.onnx"),
        "nncf-openvino": quantize_with_nncf_openvino(fp32, samples, folder / "nncf.xml"),
    }


def race(sessions: dict[str, Session], rounds: int) -> dict[str, list[float]]:
    """Run every session once a round; return milliseconds an image."""
    times_ms: dict[str, list[float]] = {name: [] for name in sessions}
    settings = next(iter(sessions.values())).settings
    images = np.random.default_rng(0).standard_normal((settings.batch, 3, SIZE, SIZE), np.float32)
    for session in sessions.values():
        for _ in range(3):
            session.run(images)
    for turn in track(range(rounds), description=f"batch {settings.batch}"):
        names = list(sessions)[turn % len(sessions) :] + list(sessions)[: turn % len(sessions)]
        for name in names:
            begin = time.perf_counter()
            sessions[name].run(images)
            times_ms[name].append((time.perf_counter() - begin) * 1e3 / settings.batch)
    return times_ms


def main() -> None:
    """Build, race, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs to calibrate on")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/handmade.json"))
    args = parser.parse_args()
    engine = get_engine("openvino")
    threads = count_available_cores()
    rows, results = [], {}
    with tempfile.TemporaryDirectory() as folder:
        contenders = make_contenders(args.images, Path(folder))
        for batch in (1, 8):
            settings = Settings(batch=batch, height=SIZE, width=SIZE, threads=threads)
            sessions = {name: engine.open(path, settings) for name, path in contenders.items()}
            floats = {
                name: [k.name for k in session.list_kernels() if k.layer_type == "Convolution" and k.precision == "f32"]
                for name, session in sessions.items()
            }
            times_ms = race(sessions, args.rounds)
            for name, values in times_ms.items():
                ratio, low, high = compute_ratio_interval(values, times_ms["ours"])
                results[f"{name}, batch {batch}"] = {
                    "median_ms": float(np.median(values)),
                    "times_ms": values,
                    "ratio_to_ours": [ratio, low, high],
                    "float_convolutions": len(floats[name]),
                }
                rows.append(
                    (
                        name,
                        str(batch),
                        f"{np.median(values):.2f}",
                        f"{ratio:.3f} [{low:.3f}, {high:.3f}]",
                        str(len(floats[name])),
                    )
                )
    columns = ("contender", "batch", "ms an image", "x ours [95%]", "float convolutions")
    Console(width=120).print(make_grid("resnest50, 224x224, executed by OpenVINO", columns, rows))
    versions = {package: version(package) for package in ("openvino", "onnxruntime", "nncf", "onnx", "numpy")}
    write_json(
        {
            "command": "python benchmarks/handmade.py --images FOLDER",
            "machine": read_machine(),
            "python": platform.python_version(),
            "versions": versions,
            "threads": threads,
            "rounds": args.rounds,
            "results": results,
        },
        str(args.output),
    )


if __name__ == "__main__":
    main()
