"""int8 of a trained network against its float32 on the same labelled images: ours in every mode, and the peers.

    pip install -e '.[bench,torch]'
    python benchmarks/accuracy.py --config BUILD.yaml --dataset LABELLED_FOLDER [-o benchmarks/results/accuracy.json]

BUILD.yaml is an int8 build file with a checkpoint and calibration images. Every contender gets the same calibration
images and is executed by OpenVINO; all are compared with the float32 artifact, image by image.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path

from peers import Quantizer, quantize_with_nncf, quantize_with_onnxruntime
from rich.console import Console

import nestforge
from nestforge.config import BuildConfig, read_config
from nestforge.data.imagefolder import choose_balanced, list_images
from nestforge.data.loader import Batch, load_batches
from nestforge.engines.machine import read_machine
from nestforge.files import write_json
from nestforge.measure.evaluate import Evaluation
from nestforge.progress import show_bars
from nestforge.tables.layout import make_grid

OURS = {
    "ours, percentile (default)": (),
    "ours, max": ("quantize.mode=max",),
    "ours, percentile 99.99": ("quantize.percentile=99.99",),
    "ours, per tensor": ("quantize.per_channel=false",),
    "ours, saturation ignored": ("quantize.saturation=ignore",),
}
PEERS: dict[str, Quantizer] = {
    "NNCF, ONNX backend": quantize_with_nncf,
    "ONNX Runtime, min-max": quantize_with_onnxruntime,
    "ONNX Runtime, percentile": partial(quantize_with_onnxruntime, method="Percentile"),
    "ONNX Runtime, min-max, reduce_range": partial(quantize_with_onnxruntime, reduce_range=True),
}


def build_peer(quantize: Quantizer, fp32: Path, config: BuildConfig, folder: Path) -> Path:
    """Quantize the float32 artifact's model with a peer, and wrap the result as an artifact."""
    assert config.calibration is not None
    paths = choose_balanced(
        list_images(Path(config.calibration.data)), config.calibration.count, config.calibration.seed
    )
    preprocess = nestforge.open_artifact(fp32).manifest.preprocess
    items = load_batches(paths, preprocess, batch=1, workers=2)
    samples = [item.images_nchw for item in items if isinstance(item, Batch)]
    model = quantize(fp32 / "model.onnx", samples, folder / "peer.onnx")
    data = config.model_dump(exclude_none=True)
    data |= {"model": {"onnx": str(model)}, "dtype": "fp32", "preprocess": preprocess, "output": str(folder / "peer")}
    nestforge.build(BuildConfig.model_validate(data), overwrite=True)
    return folder / "peer"


def main() -> None:
    """Build, evaluate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="int8 build file")
    parser.add_argument("--dataset", type=Path, required=True, help="labelled folder that calibration never saw")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/accuracy.json"))
    args = parser.parse_args()
    results: dict[str, Evaluation] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fp32 = folder / "fp32"
        nestforge.build(read_config(args.config, ("dtype=fp32", f"output={fp32}")), progress=show_bars)
        for contender in (*OURS, *PEERS):
            if contender in OURS:
                artifact = folder / "ours"
                config = read_config(args.config, (*OURS[contender], f"output={artifact}"))
                nestforge.build(config, overwrite=True, progress=show_bars)
            else:
                artifact = build_peer(PEERS[contender], fp32, read_config(args.config), folder)
            results[contender] = nestforge.evaluate(artifact, args.dataset, vs=fp32, progress=show_bars)
    rows = []
    for contender, result in results.items():
        vs = result.vs
        assert vs is not None
        rows.append(
            (
                contender,
                f"{result.top1.rate:.2%}",
                f"{100 * vs.difference:+.2f} [{100 * vs.low:+.2f}, {100 * vs.high:+.2f}]",
                f"{vs.lost} / {vs.gained}",
                f"{vs.mcnemar_p:.2g}",
                str(vs.answers_changed),
            )
        )
    columns = ("contender", "top-1", "difference pp [95%]", "lost / gained", "McNemar p", "answers changed")
    first = next(iter(results.values()))
    assert first.vs is not None
    title = f"{first.images:,} images, fp32 top-1 {first.vs.top1.rate:.2%}"
    Console(width=140).print(make_grid(title, columns, rows))
    versions = {package: version(package) for package in ("openvino", "onnxruntime", "nncf", "onnx", "numpy")}
    command = "python benchmarks/accuracy.py --config BUILD.yaml --dataset LABELLED_FOLDER"
    compact = {}
    for name, r in results.items():
        vs = {key: value for key, value in vars(r.vs).items() if key != "changed"} | {"artifact": "fp32"}
        compact[name] = {"images": r.images, "top1": r.top1, "top5": r.top5, "vs": vs}
    write_json(
        {"command": command, "machine": read_machine(), "versions": versions, "results": compact}, str(args.output)
    )


if __name__ == "__main__":
    main()
