"""image2npz against the loop it replaces: one process, OpenCV, numpy.savez. Both in one run, interleaved.

    pip install -e '.[bench]'
    python -m benchmarks.speed.image2npz DATASET [--rounds N]

Images per second of each round, the medians, and the median ratio with its interval.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common.extras import require
from benchmarks.common.report import format_ratio, make_parser, show_table
from nestforge.commandline import run_command
from nestforge.data.imagefolder import list_images
from nestforge.errors import DataError
from nestforge.measure.interleave import TimedCall, run_interleaved
from nestforge.progress import show_bars
from nestforge.vacc.npz import convert_images


def convert_with_opencv(dataset: Path, target: Path, datalist: Path) -> None:
    """Read, BGR to RGB, HWC to CHW, numpy.savez; one image after the other."""
    import cv2

    with datalist.open("w") as file:
        for path in list_images(dataset).paths:
            image_bgr = cv2.imread(str(path))
            if image_bgr is None:
                raise DataError(f"OpenCV cannot read {path}; take it out of the folder")
            image_hwc = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)
            output = target / path.parent.name / f"{path.stem}.npz"
            output.parent.mkdir(parents=True, exist_ok=True)
            np.savez(output, input_0=image_hwc.transpose(2, 0, 1))
            file.write(f"{output.absolute()}\n")


def main() -> None:
    """Convert, measure, print."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("dataset", type=Path, help="folder of photographs")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    require("cv2")
    count = len(list_images(args.dataset).paths)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "npz"
        clear = partial(shutil.rmtree, target, ignore_errors=True)
        runs = {
            name: TimedCall(
                partial(convert, args.dataset, target, Path(folder) / "list.txt"), images=count, prepare=clear
            )
            for name, convert in (("nestforge", convert_images), ("OpenCV + numpy.savez", convert_with_opencv))
        }
        # the warm-up fills the file cache
        run_interleaved(list(runs.values()), seconds=0.0, rounds=args.rounds, warm_up_seconds=0.0, progress=show_bars)
    rows = [
        (
            name,
            f"{np.median(run.throughputs):.0f}",
            ", ".join(f"{rate:.0f}" for rate in run.throughputs),
            format_ratio(run.throughputs, runs["OpenCV + numpy.savez"].throughputs, digits=2),
        )
        for name, run in runs.items()
    ]
    show_table(f"{count} images", ("converter", "images per second", "rounds", "speedup [95%]"), rows)


if __name__ == "__main__":
    run_command(main, name="image2npz")
