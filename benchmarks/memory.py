"""Peak memory of an int8 build of ResNeSt-50 against the number of calibration images; and start-up times.

    python benchmarks/memory.py --images FOLDER [-o benchmarks/results/memory.json]

Every figure is a fresh process. Start-up: median of ten.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rich.console import Console

from nestforge.engines.machine import read_machine
from nestforge.files import write_json
from nestforge.tables.layout import make_grid

COUNTS = (10, 50, 150, 300)


def build_once(images: Path, count: int, folder: Path) -> dict[str, float]:
    """Build in a fresh process; return its own report."""
    config = {
        "model": {"name": "resnest50", "seed": 0},
        "calibration": {"data": str(images), "count": count},
        "output": str(folder / str(count)),
    }
    (folder / "c.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-c", "from nestforge.cli import main; main()", "build", str(folder / "c.yaml")]
    done = subprocess.run([*command, "--json", "-"], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    return {"peak_rss_bytes": report["peak_rss_bytes"], "seconds": report["seconds"]}


def time_start(code: str, *arguments: str) -> float:
    """Return the median seconds of ten fresh processes."""
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True)
        times.append(time.perf_counter() - begin)
    return median(times)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of at least 300 photographs")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/memory.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        builds = {count: build_once(args.images, count, Path(folder)) for count in COUNTS}
    starts = {
        "python -c pass": time_start("pass"),
        "import nestforge": time_start("import nestforge"),
        "nestforge --help": time_start("from nestforge.cli import main; main()", "--help"),
    }
    rows = [(str(c), f"{b['peak_rss_bytes'] / 1e9:.2f}", f"{b['seconds']:.1f}") for c, b in builds.items()]
    console = Console(width=120)
    console.print(make_grid("int8 build of resnest50, 224x224", ("images", "peak GB", "seconds"), rows))
    console.print(make_grid("start-up", ("command", "ms"), [(n, f"{t * 1e3:.0f}") for n, t in starts.items()]))
    write_json(
        {
            "command": "python benchmarks/memory.py --images FOLDER",
            "machine": read_machine(),
            "builds": builds,
            "start_seconds": starts,
        },
        str(args.output),
    )


if __name__ == "__main__":
    main()
