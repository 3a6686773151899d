"""From JPEG files to the five best classes: where the time goes, and against what one would write by hand.

    pip install -e '.[bench]'
    python benchmarks/pipeline.py PHOTOS [--rounds N] [--count N] [-o benchmarks/results/pipeline.json]

ResNeSt-50 at 224 with seeded weights, int8, calibrated on the photographs. Three tables:

- stages: milliseconds an image of every step alone, on one thread and on as many as there are cores
- arrangements: the whole pipeline with other batches, streams and workers
- contenders: the default against the usual script (Pillow, ONNX Runtime's static int8, one loop of batch 1) and
  against the same with decoding in threads; one process each, in turns, the same images

"Share of what is allowed" is the time the network alone and loading alone take with all cores, measured in turns with
the rest and added up, over the time of the pipeline (the median over rounds). Answers are compared with those of the
same model in a loop of one image after the other.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

import nestforge
from benchmarks.common.peers import quantize_with_onnxruntime
from nestforge.artifact.artifact import Artifact, open_artifact
from nestforge.commandline import run_command
from nestforge.compile.onnxfile import read_onnx, serialize
from nestforge.compile.passes.fold_batch_norm import fold_batch_norm
from nestforge.config import parse_config
from nestforge.data.imagefolder import choose_balanced, list_images
from nestforge.data.preprocess import ECenterCrop, load_image, make_reference_preprocess, normalize_images
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.files import write_json
from nestforge.inference.pipeline import Answer, Arrangement, choose_arrangement, classify_images, classify_in_session
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.progress import show_bars
from nestforge.tables.layout import make_grid

SIZE = 224
PEER_IMAGES = 16  # ranges hardly move the speed
PREPROCESS = make_reference_preprocess(SIZE)
Classify = Callable[[Sequence[Path]], list[tuple[int, ...]]]


def build_models(photos: Path, folder: Path) -> tuple[Path, Path]:
    """Build our int8 artifact and ONNX Runtime's int8 file, where they are not there yet; return both."""
    ours, peer = folder / "int8", folder / "onnxruntime-int8.onnx"
    common = {"model": {"name": "resnest50", "seed": 0}, "calibration": {"data": str(photos), "count": 32}}
    for dtype in ("fp32", "int8"):
        if not (folder / dtype).is_dir():
            nestforge.build(parse_config({**common, "dtype": dtype, "output": str(folder / dtype)}, source="pipeline"))
    if not peer.is_file():
        model = read_onnx(folder / "fp32" / "model.onnx")
        fold_batch_norm(model)
        fp32 = folder / "fp32.onnx"
        fp32.write_bytes(serialize(model))
        paths = choose_balanced(list_images(photos), PEER_IMAGES, seed=0)
        quantize_with_onnxruntime(fp32, [load_image(path, PREPROCESS)[None] for path in paths], peer)
    return ours, peer


def transform(path: Path) -> np.ndarray[Any, Any]:
    """Load as the usual script does: ECenterCrop, bicubic, ToTensor, Normalize, in numpy."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    side = SIZE / (SIZE + 32) * min(width, height)
    top, left = round((height - side) / 2), round((width - side) / 2)
    image = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    pixels = np.asarray(image).astype(np.float32) / np.float32(255)
    mean, std = np.array(PREPROCESS.mean, np.float32), np.array(PREPROCESS.std, np.float32)
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def open_usual_script(model: Path, workers: int) -> Classify:
    """Open ONNX Runtime with its defaults: one loop of batch 1; with `workers`, images are loaded in threads."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model)
    name = session.get_inputs()[0].name

    def best(image: np.ndarray[Any, Any]) -> tuple[int, ...]:
        logits = session.run(None, {name: image[None]})[0][0]
        return tuple(map(int, np.argsort(-logits, kind="stable")[:5]))

    def loop(paths: Sequence[Path]) -> list[tuple[int, ...]]:
        if not workers:
            return [best(transform(path)) for path in paths]
        with ThreadPoolExecutor(workers) as pool:
            return [best(image) for image in pool.map(transform, paths)]

    return loop


def open_pipeline(folder: Path, arrangement: Arrangement) -> Classify:
    """Open nestforge so arranged."""
    artifact = open_artifact(folder)
    session = artifact.open_session(batch=arrangement.batch, streams=arrangement.streams, threads=arrangement.threads)

    def run(paths: Sequence[Path]) -> list[tuple[int, ...]]:
        items = list(classify_in_session(artifact, session, paths, top=5, workers=arrangement.workers))
        assert all(isinstance(item, Answer) for item in items)
        return [item.classes for item in items if isinstance(item, Answer)]

    return run


def open_network(folder: Path, arrangement: Arrangement) -> Classify:
    """Open the network alone, driven from one thread a stream with the same random images."""
    session = open_artifact(folder).open_session(
        batch=arrangement.batch, streams=arrangement.streams, threads=arrangement.threads
    )
    inputs = np.random.default_rng(0).standard_normal((arrangement.batch, 3, SIZE, SIZE), np.float32)
    pool = ThreadPoolExecutor(arrangement.streams)

    def run(paths: Sequence[Path]) -> list[tuple[int, ...]]:
        for _ in pool.map(lambda _: session.run(inputs), range(len(paths) // arrangement.batch)):
            pass
        return []

    return run


def open_loading(workers: int) -> Classify:
    """Open loading alone, in threads."""
    pool = ThreadPoolExecutor(workers)

    def run(paths: Sequence[Path]) -> list[tuple[int, ...]]:
        for _ in pool.map(lambda path: load_image(path, PREPROCESS), paths):
            pass
        return []

    return run


def serve(connection: Connection, make: Callable[..., Classify], arguments: tuple[Any, ...]) -> None:
    """Run in a contender's process: warm up, then time the list of images whenever asked."""
    classify = make(*arguments)
    while (paths := connection.recv()) is not None:
        begin = time.perf_counter()
        answers = classify(paths)
        connection.send((time.perf_counter() - begin, answers))


class Contender:
    """A process that classifies the images when it is told to."""

    def __init__(self, make: Callable[..., Classify], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        self.times_ms: list[float] = []

    def run(self, paths: Sequence[Path], *, record: bool = True) -> list[tuple[int, ...]]:
        self._connection.send(paths)
        seconds, answers = self._connection.recv()
        if record:
            self.times_ms.append(seconds / len(paths) * 1e3)
        return answers

    def close(self) -> None:
        self._connection.send(None)
        self._process.join()


def race(contenders: dict[str, Contender], paths: Sequence[Path], rounds: int) -> dict[str, list[tuple[int, ...]]]:
    """Run every contender once a round, in turned order; return their answers."""
    answers = {}
    with show_bars("classifying in turns", len(contenders) * (rounds + 1)) as advance:
        for name, contender in contenders.items():
            answers[name] = contender.run(paths, record=False)
            advance(1)
        for turn in range(rounds):
            names = list(contenders)[turn % len(contenders) :] + list(contenders)[: turn % len(contenders)]
            for name in names:
                contenders[name].run(paths)
                advance(1)
    for contender in contenders.values():
        contender.close()
    return answers


def list_stages(paths: Sequence[Path]) -> Iterator[tuple[str, Callable[[Any], Any], list[Any]]]:
    """Yield (name, function, its inputs) for every step, and for what else could take its place."""
    crop = ECenterCrop(size=SIZE)
    data = [path.read_bytes() for path in paths]
    images = [decode(item) for item in data]
    pixels = [np.asarray(crop.apply(image)) for image in images]
    yield "read the file", Path.read_bytes, list(paths)
    yield "decode (Pillow)", decode, data
    yield "convert to RGB", lambda image: image.convert("RGB"), images
    yield "crop and bicubic resize", crop.apply, images
    yield "to array, normalise", lambda image: normalize_images(image[None], PREPROCESS), pixels
    yield "all of these: load_image", lambda path: load_image(path, PREPROCESS), list(paths)
    yield "instead: Pillow's draft mode (other pixels)", draft, data
    yield "instead: resize(box=...) (other pixels)", resize_box, images
    try:
        import simplejpeg
    except ImportError:
        return
    same = sum(
        np.array_equal(simplejpeg.decode_jpeg(d), np.asarray(image)) for d, image in zip(data, images, strict=True)
    )
    yield f"instead: simplejpeg (equal on {same} of {len(data)})", simplejpeg.decode_jpeg, data
    arrays = [simplejpeg.decode_jpeg(item) for item in data]
    yield "and then: its array to a Pillow image", Image.fromarray, arrays


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


def time_stage(function: Callable[[Any], Any], items: Sequence[Any], threads: int, rounds: int) -> float:
    """Return the median milliseconds an item, of all `threads` together."""
    times = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            begin = time.perf_counter()
            if threads == 1:
                for item in items:
                    function(item)
            else:
                for _ in pool.map(function, items):
                    pass
            times.append((time.perf_counter() - begin) * 1e3 / len(items))
    return float(np.median(times))


def main() -> None:
    """Build, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=100, help="photographs a round")
    parser.add_argument("--models", type=Path, help="keep the built models here, and find them here")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/pipeline.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.models or Path(temporary)
        folder.mkdir(exist_ok=True)
        ours, peer = build_models(args.photos, folder)
        paths = choose_balanced(list_images(args.photos), args.count, seed=1)
        result = measure(ours, peer, paths, args.rounds)
    write_json(result, str(args.output))


def measure(ours: Path, peer: Path, paths: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Measure the three tables, print them, and return everything."""
    console = Console(width=120)
    cores = count_available_cores()
    artifact = open_artifact(ours)
    stages = {
        name: [time_stage(function, items, threads, 3) for threads in (1, cores)]
        for name, function, items in list_stages(paths)
    }
    rows = [(name, *(f"{value:.3f}" for value in values)) for name, values in stages.items()]
    console.print(make_grid("ms an image", ("stage", "1 thread", f"{cores} threads"), rows))
    default = choose_arrangement(artifact, len(paths))
    arrangements = {
        "default": default,
        **{
            f"batch {batch}, {streams} streams, {workers} workers": Arrangement(
                batch=batch, streams=streams, threads=cores, workers=workers
            )
            for batch, streams, workers in (
                (1, cores, cores),
                (4, cores, cores),
                (2, cores, cores + 1),
                (8, 1, 2),
            )
        },
    }
    contenders = {name: Contender(open_pipeline, ours, arrangement) for name, arrangement in arrangements.items()}
    contenders["usual script"] = Contender(open_usual_script, peer, 0)
    contenders["usual script, decoding in threads"] = Contender(open_usual_script, peer, cores)
    contenders["network alone"] = Contender(open_network, ours, default)
    contenders["loading alone"] = Contender(open_loading, cores)
    answers = race(contenders, paths, rounds)
    network_ms, loading_ms = (
        float(np.median(contenders[name].times_ms)) for name in ("network alone", "loading alone")
    )
    reference = [answer.classes for answer in one_by_one(artifact, paths)]
    loop = answers["usual script"]
    results = {}
    rows = []
    for name, contender in contenders.items():
        ratio, low, high = compute_ratio_interval(contender.times_ms, contenders["default"].times_ms)
        median = float(np.median(contender.times_ms))
        own = name in arrangements
        same = sum(mine == theirs for mine, theirs in zip(answers[name], reference if own else loop, strict=False))
        allowed = np.add(contenders["network alone"].times_ms, contenders["loading alone"].times_ms)
        share = float(np.median(allowed / np.array(contender.times_ms))) if own else None
        results[name] = {
            "arrangement": arrangements.get(name),
            "median_ms": median,
            "times_ms": contender.times_ms,
            "ratio_to_default": [ratio, low, high],
            "share_of_allowed": share,
            "same_top5_as_one_by_one": same if answers[name] else None,
        }
        rows.append(
            (
                name,
                f"{median:.2f} ({min(contender.times_ms):.2f} to {max(contender.times_ms):.2f})",
                f"{ratio:.3f} [{low:.3f}, {high:.3f}]",
                f"{share:.3f}" if share else "",
                f"{same} of {len(paths)}" if answers[name] else "",
            )
        )
    columns = ("contender", "ms an image", "x default [95%]", "share of allowed", "same top-5")
    console.print(make_grid(f"network {network_ms:.2f} + loading {loading_ms:.2f} ms", columns, rows))
    return {
        "command": f"python benchmarks/pipeline.py PHOTOS --rounds {rounds} --count {len(paths)}",
        "machine": read_machine(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("openvino", "onnxruntime", "pillow", "numpy")},
        "images": len(paths),
        "rounds": rounds,
        "stages_ms": stages,
        "network_ms": network_ms,
        "loading_ms": loading_ms,
        "results": results,
    }


def one_by_one(artifact: Artifact, paths: Sequence[Path]) -> Iterator[Answer]:
    """Yield the answers of a plain loop of one image after the other."""
    plain = Arrangement(batch=1, streams=1, threads=1, workers=1)
    for item in classify_images(artifact, paths, arrangement=plain):
        assert isinstance(item, Answer)
        yield item


if __name__ == "__main__":
    run_command(main, name="pipeline")
