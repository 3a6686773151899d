"""From JPEG files to the five best classes: where the time goes, and against what one would write oneself.

    pip install -e '.[bench]'
    python -m benchmarks.speed.pipeline PHOTOS [--rounds N] [--count N] [-o benchmarks/results/pipeline.json]

ResNeSt-50 at 224 with seeded weights, int8, calibrated on the photographs. Three tables:

- stages: milliseconds per image of every step alone, on one thread and on as many as there are cores; simplejpeg's
  decoder too, where that package is installed
- parallelism: the whole pipeline with other batches and streams
- contenders: the default against the usual script (Pillow, ONNX Runtime's static int8, one loop of batch 1) and
  against the same with decoding in threads; one process each, interleaved, the same images

"Share of what is allowed" is the time the network alone and loading alone take with all cores, interleaved with the
rest and added up, over the time of the pipeline (the median over rounds). Predictions are compared with those of the
same model in a loop of one image after the other.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common.images import LazySamples
from benchmarks.common.inference import classify
from benchmarks.common.models import build_seeded, write_float32
from benchmarks.common.peers import quantize_with_onnxruntime
from benchmarks.common.processes import RemoteRun, interleave_processes
from benchmarks.common.report import (
    add_output,
    describe_command,
    format_interval,
    make_parser,
    show_table,
    write_report,
)
from benchmarks.common.stages import Stage, time_stages
from nestforge.artifact.artifact import open_artifact
from nestforge.commandline import run_command
from nestforge.data.imagefolder import choose_balanced, list_images
from nestforge.data.preprocess import ECenterCrop, load_image, make_reference_preprocess, normalize_images
from nestforge.engines.base import Images, Parallelism
from nestforge.engines.machine import count_available_cores
from nestforge.errors import NestForgeError
from nestforge.inference.classifier import Classifier
from nestforge.inference.pipeline import choose_parallelism
from nestforge.measure.interleave import TimedCall
from nestforge.measure.statistics import compute_ratio_interval

NETWORK = "resnest50"
SIZE = 224
CALIBRATION_IMAGES = 32
PEER_IMAGES = 16  # ranges hardly move the speed
PREPROCESS = make_reference_preprocess(SIZE)
PACKAGES = ("openvino", "onnxruntime", "pillow", "numpy")
Paths = Sequence[Path]
Predictions = list[tuple[int, ...]]


def build_models(photos: Path, folder: Path) -> tuple[Path, Path]:
    """Build nestforge's int8 artifact and ONNX Runtime's int8 file, where they are not there yet; return both."""
    artifact, peer = folder / "int8", folder / "onnxruntime-int8.onnx"
    build_seeded(NETWORK, artifact, photos=photos, count=CALIBRATION_IMAGES)
    given = write_float32(NETWORK, folder / "fp32.onnx")
    if not peer.is_file():
        paths = choose_balanced(list_images(photos), PEER_IMAGES, seed=0)
        quantize_with_onnxruntime(given, LazySamples(paths, PREPROCESS), peer)
    return artifact, peer


def transform(path: Path) -> Images:
    """Load as the usual script does: ECenterCrop, bicubic, ToTensor, Normalize, in numpy."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    side = SIZE / (SIZE + 32) * min(width, height)
    top, left = round((height - side) / 2), round((width - side) / 2)
    image = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    pixels = np.asarray(image).astype(np.float32) / np.float32(255)
    mean, std = np.array(PREPROCESS.mean, np.float32), np.array(PREPROCESS.std, np.float32)
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def open_usual_script(model: Path, workers: int, paths: Paths) -> TimedCall[Predictions]:
    """Open ONNX Runtime with its defaults: one loop of batch 1; with `workers`, images are loaded in threads."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model)
    name = session.get_inputs()[0].name

    def predict(image: Images) -> tuple[int, ...]:
        logits = session.run(None, {name: image[None]})[0][0]
        return tuple(map(int, np.argsort(-logits, kind="stable")[:5]))

    def loop() -> Predictions:
        if not workers:
            return [predict(transform(path)) for path in paths]
        with ThreadPoolExecutor(workers) as pool:
            return [predict(image) for image in pool.map(transform, paths)]

    return TimedCall(loop, images=len(paths))


def open_pipeline(folder: Path, parallelism: Parallelism, paths: Paths) -> TimedCall[Predictions]:
    """Open nestforge with this parallelism."""
    artifact = open_artifact(folder)
    return TimedCall(partial(classify, Classifier(artifact, parallelism), paths), images=len(paths))


def open_network(folder: Path, parallelism: Parallelism, paths: Paths) -> TimedCall[None]:
    """Open the network alone, driven from one thread per stream with the same random images."""
    session = open_artifact(folder).open_session(parallelism)
    inputs = np.random.default_rng(0).standard_normal((parallelism.batch, 3, SIZE, SIZE), np.float32)
    pool = ThreadPoolExecutor(parallelism.streams)
    requests = max(1, len(paths) // parallelism.batch)

    def run() -> None:
        for _ in pool.map(lambda _: session.run(inputs), range(requests)):
            pass

    return TimedCall(run, images=requests * parallelism.batch)


def open_loading(workers: int, paths: Paths) -> TimedCall[None]:
    """Open loading alone, in threads."""
    pool = ThreadPoolExecutor(workers)

    def run() -> None:
        for _ in pool.map(lambda path: load_image(path, PREPROCESS), paths):
            pass

    return TimedCall(run, images=len(paths))


def list_stages(paths: Paths) -> Iterator[tuple[str, Stage]]:
    """Yield the name of every step, and of what else could take its place, with its function and inputs."""
    crop = ECenterCrop(size=SIZE)
    data = [path.read_bytes() for path in paths]
    images = [decode(item) for item in data]
    pixels = [np.asarray(crop.apply(image)) for image in images]
    yield "read the file", (Path.read_bytes, paths)
    yield "decode (Pillow)", (decode, data)
    yield "convert to RGB", (lambda image: image.convert("RGB"), images)
    yield "crop and bicubic resize", (crop.apply, images)
    yield "to array, normalise", (lambda image: normalize_images(image[None], PREPROCESS), pixels)
    yield "all of these: load_image", (lambda path: load_image(path, PREPROCESS), paths)
    yield "instead: Pillow's draft mode (other pixels)", (draft, data)
    yield "instead: resize(box=...) (other pixels)", (resize_box, images)
    try:
        import simplejpeg
    except ImportError:
        return
    arrays = [simplejpeg.decode_jpeg(item) for item in data]
    same = sum(np.array_equal(array, np.asarray(image)) for array, image in zip(arrays, images, strict=True))
    yield f"instead: simplejpeg (equal on {same} of {len(data)})", (simplejpeg.decode_jpeg, data)
    yield "and then: its array to a Pillow image", (Image.fromarray, arrays)


def decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def draft(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (SIZE, SIZE))
    image.load()
    return image


def resize_box(image: Image.Image) -> Image.Image:
    side = SIZE / (SIZE + 32) * min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def list_parallelisms(default: Parallelism) -> dict[str, Parallelism]:
    """Return the default and what else could be chosen."""
    cores = count_available_cores()
    others = [Parallelism(batch=batch, streams=cores, threads=cores) for batch in (1, 4)]
    others.append(Parallelism(batch=8, streams=1, threads=cores))
    return {"default": default} | {f"batch {other.batch}, {other.streams} streams": other for other in others}


def compare(
    artifact: Path, peer: Path, parallelisms: Mapping[str, Parallelism], paths: Paths, rounds: int
) -> dict[str, RemoteRun]:
    """Interleave the pipeline in every parallelism, the usual scripts, the network alone and loading alone.

    Raises:
        NestForgeError: one of them cannot run.
    """
    cores = count_available_cores()
    runs = {name: RemoteRun(open_pipeline, artifact, chosen, paths) for name, chosen in parallelisms.items()}
    runs["usual script"] = RemoteRun(open_usual_script, peer, 0, paths)
    runs["usual script, decoding in threads"] = RemoteRun(open_usual_script, peer, cores, paths)
    runs["network alone"] = RemoteRun(open_network, artifact, parallelisms["default"], paths)
    runs["loading alone"] = RemoteRun(open_loading, cores, paths)
    interleave_processes(runs, seconds=0.0, rounds=rounds, warm_up_seconds=0.0, description="classifying")
    for name, run in runs.items():
        if run.failure is not None:
            raise NestForgeError(f"{name} failed: {run.failure}")
    return runs


def summarize(
    runs: Mapping[str, RemoteRun], parallelisms: Mapping[str, Parallelism], one_by_one: Predictions
) -> dict[str, dict[str, Any]]:
    """Return every contender's times, beside the default's, and how many of its predictions are as in a plain loop."""
    allowed = np.add(runs["network alone"].times_ms, runs["loading alone"].times_ms)
    results = {}
    for name, run in runs.items():
        own = name in parallelisms
        predictions = run.results[-1]
        reference = one_by_one if own else runs["usual script"].results[-1]
        results[name] = {
            "parallelism": parallelisms.get(name),
            "median_ms": float(np.median(run.times_ms)),
            "times_ms": run.times_ms,
            "ratio_to_default": compute_ratio_interval(run.times_ms, runs["default"].times_ms),
            "share_of_allowed": float(np.median(allowed / np.array(run.times_ms))) if own else None,
            "same_top5_as_one_by_one": predictions
            and sum(mine == theirs for mine, theirs in zip(predictions, reference, strict=True)),
        }
    return results


def format_result(result: Mapping[str, Any], images: int) -> list[str]:
    """Write a contender's row."""
    times_ms, share, same = result["times_ms"], result["share_of_allowed"], result["same_top5_as_one_by_one"]
    return [
        f"{result['median_ms']:.2f} ({min(times_ms):.2f} to {max(times_ms):.2f})",
        format_interval(result["ratio_to_default"]),
        "" if share is None else f"{share:.3f}",
        "" if same is None else f"{same} of {images}",
    ]


def main() -> None:
    """Build, measure, print, write."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=100, help="photographs per round")
    parser.add_argument("--models", type=Path, help="keep the built models here, and find them here")
    add_output(parser, "pipeline.json")
    args = parser.parse_args()
    cores = count_available_cores()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.models or Path(temporary)
        folder.mkdir(exist_ok=True)
        artifact, peer = build_models(args.photos, folder)
        opened = open_artifact(artifact)
        paths = choose_balanced(list_images(args.photos), args.count, seed=1)
        stages_ms = time_stages(dict(list_stages(paths)), threads=(1, cores), rounds=3)
        parallelisms = list_parallelisms(choose_parallelism(opened, len(paths)))
        one_by_one = classify(Classifier(opened, Parallelism()), paths)
        runs = compare(artifact, peer, parallelisms, paths, args.rounds)
    results = summarize(runs, parallelisms, one_by_one)
    network_ms, loading_ms = (results[name]["median_ms"] for name in ("network alone", "loading alone"))
    rows = [(name, *(f"{value:.3f}" for value in values)) for name, values in stages_ms.items()]
    show_table("ms per image", ("stage", "1 thread", f"{cores} threads"), rows)
    columns = ("contender", "ms per image", "x default [95%]", "share of allowed", "same top-5")
    title = f"network {network_ms:.2f} + loading {loading_ms:.2f} ms"
    show_table(title, columns, [(name, *format_result(result, len(paths))) for name, result in results.items()])
    write_report(
        args.output,
        command=describe_command(__file__, "PHOTOS", rounds=args.rounds, count=len(paths)),
        packages=PACKAGES,
        images=len(paths),
        rounds=args.rounds,
        stages_ms=stages_ms,
        network_ms=network_ms,
        loading_ms=loading_ms,
        results=results,
    )


if __name__ == "__main__":
    run_command(main, name="pipeline")
