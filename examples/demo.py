"""Build, evaluate and measure what the repository ships, and print one table.

    make demo

Builds the Fashion-MNIST network in fp32, bf16 (where the CPU has it) and int8, and ResNeSt-50 with seeded weights in
fp32 and int8. Artifacts and results.json are written to demo/.
"""

from __future__ import annotations

import sys
import time
import zipfile
from pathlib import Path

from rich.console import Console

import nestforge
from nestforge.config import read_config
from nestforge.engines import get_engine
from nestforge.engines.base import Dtype
from nestforge.engines.machine import read_machine
from nestforge.errors import NestForgeError
from nestforge.files import write_json
from nestforge.measure.benchmark import BenchmarkResult
from nestforge.measure.evaluate import Evaluation
from nestforge.progress import show_bars
from nestforge.tables.layout import format_rate, make_grid

DEMO = Path("demo")
SECONDS = 4.0
NETWORKS: dict[str, tuple[Path, tuple[Dtype, ...]]] = {  # name -> build file, dtypes
    "fashion": (Path("configs/fashion_mnist_int8.yaml"), ("fp32", "bf16", "int8")),
    "resnest50": (Path("configs/resnest50_seeded_int8.yaml"), ("fp32", "int8")),
}
NEXT = """Next:
  nestforge predict demo/artifacts/fashion-int8 demo/data/test/sneaker/00009.png --top 2
  nestforge evaluate demo/artifacts/fashion-int8 demo/data/test --vs demo/artifacts/fashion-fp32
  nestforge bench demo/artifacts/resnest50-int8 --batch 8 --vs demo/artifacts/resnest50-fp32
  nestforge report demo/artifacts/fashion-fp32 demo/artifacts/fashion-int8 --dataset demo/data/test
(run 'source .venv/bin/activate' first)"""


def build_all(console: Console) -> dict[str, dict[str, Path]]:
    """Build every artifact; return network -> dtype -> folder."""
    engine = get_engine("openvino")
    built: dict[str, dict[str, Path]] = {}
    for name, (config, dtypes) in NETWORKS.items():
        built[name] = {}
        for dtype in dtypes:
            if not engine.supports(dtype):
                console.print(f"  {name} {dtype}: left out, because this CPU has no {dtype} instructions")
                continue
            output = DEMO / "artifacts" / f"{name}-{dtype}"
            resolved = read_config(config, (f"dtype={dtype}", f"output={output}"))
            result = nestforge.build(resolved, overwrite=True, progress=show_bars)
            built[name][dtype] = output
            parity = result.parity
            console.print(
                f"  {name} {dtype}: {result.seconds:.1f} s, top-1 as its source on "
                f"{parity.top1_agreement:.1%} of {parity.images} {parity.data} images"
            )
            for warning in result.warnings:
                console.print(f"    warning: {warning}")
    return built


def measure_all(
    built: dict[str, dict[str, Path]],
) -> tuple[dict[str, Evaluation], dict[str, BenchmarkResult]]:
    """Evaluate the shipped network and measure the speed of all artifacts, each against fp32."""
    evaluations, benches = {}, {}
    for name, artifacts in built.items():
        for dtype, artifact in artifacts.items():
            key = f"{name}-{dtype}"
            vs = None if dtype == "fp32" else artifacts["fp32"]
            if name == "fashion":
                evaluations[key] = nestforge.evaluate(artifact, DEMO / "data" / "test", vs=vs, progress=show_bars)
            benches[key] = nestforge.bench(artifact, seconds=SECONDS, vs=vs, progress=show_bars)
    return evaluations, benches


def make_rows(evaluations: dict[str, Evaluation], benches: dict[str, BenchmarkResult]) -> list[tuple[str, ...]]:
    """Return one table row per artifact."""
    rows: list[tuple[str, ...]] = []
    for key, bench in benches.items():
        evaluation = evaluations.get(key)
        paired = evaluation.vs if evaluation else None
        difference = "-"
        if paired:
            difference = f"{100 * paired.difference:+.2f} [{100 * paired.low:+.2f}, {100 * paired.high:+.2f}]"
        size_bytes = nestforge.open_artifact(bench.artifact).size_bytes
        rows.append(
            (
                key,
                format_rate(evaluation.top1) if evaluation else "-",
                format_rate(evaluation.top5) if evaluation else "-",
                difference,
                f"{size_bytes / 1e6:.1f}",
                f"{bench.throughput_ips:.1f}",
                f"{bench.vs.ratio:.2f} [{bench.vs.low:.2f}, {bench.vs.high:.2f}]" if bench.vs else "1",
                f"{bench.latency_ms.p50:.2f}",
                f"{bench.latency_ms.p99:.2f}",
            )
        )
    return rows


def main() -> None:
    """Run the demo from the repository's root."""
    begin = time.perf_counter()
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    machine = read_machine()
    console.print(
        f"{machine.cpu}, {machine.available_cores} cores available, {' '.join(machine.flags) or 'flags unknown'}"
    )
    with zipfile.ZipFile("examples/fashion_mnist/sample.zip") as archive:
        archive.extractall(DEMO / "data")
    console.print("building")
    built = build_all(console)
    evaluations, benches = measure_all(built)

    columns = ("", "top-1 [95%]", "top-5 [95%]", "paired pp", "MB", "images/s", "x fp32", "p50 ms", "p99 ms")
    console.print(make_grid("", columns, make_rows(evaluations, benches)))
    images, threads = evaluations["fashion-fp32"].images, benches["fashion-fp32"].parallelism.threads
    console.print(
        f"fashion: {images:,} test images of Fashion-MNIST. resnest50: 224x224, seeded weights, so no accuracy.\n"
        f"Batch 1, {threads} threads. x fp32: from interleaved rounds, median and 95% interval."
    )
    results = {
        "machine": machine,
        "seconds": time.perf_counter() - begin,
        "evaluate": evaluations,
        "bench": benches,
    }
    write_json(results, str(DEMO / "results.json"))
    console.print(f"wrote {DEMO / 'results.json'} after {time.perf_counter() - begin:.0f} s\n{NEXT}")


if __name__ == "__main__":
    try:
        main()
    except NestForgeError as error:
        sys.exit(f"demo: {error}")
