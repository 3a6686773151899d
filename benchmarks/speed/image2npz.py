"""image2npz against the loop it replaces: one process, OpenCV, numpy.savez. Both in one run, in turns.

    python benchmarks/image2npz.py DATASET [--rounds N]

Needs opencv-python-headless. Images a second of each round, the medians, and the median ratio with its interval.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from nestforge.data.imagefolder import list_images
from nestforge.measure.statistics import compute_ratio_interval
from nestforge.vacc.npz import convert_images


def convert_with_opencv(dataset: Path, target: Path, datalist: Path) -> None:
    """Read, BGR to RGB, HWC to CHW, numpy.savez; one image after the other."""
    with datalist.open("w") as file:
        for path in list_images(dataset).paths:
            image_hwc = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            output = target / path.parent.name / f"{path.stem}.npz"
            output.parent.mkdir(parents=True, exist_ok=True)
            np.savez(output, input_0=image_hwc.transpose(2, 0, 1))
            file.write(f"{output.absolute()}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    count = len(list_images(arguments.dataset).paths)
    speeds: dict[str, list[float]] = {"nestforge": [], "OpenCV + numpy.savez": []}
    with tempfile.TemporaryDirectory() as folder:
        target, datalist = Path(folder) / "npz", Path(folder) / "list.txt"
        for turn in range(arguments.rounds + 1):
            for name in speeds if turn % 2 else reversed(speeds):
                convert = convert_images if name == "nestforge" else convert_with_opencv
                begin = time.perf_counter()
                convert(arguments.dataset, target, datalist)
                if turn:  # the first round warms the file cache
                    speeds[name].append(count / (time.perf_counter() - begin))
                shutil.rmtree(target)
    for name, rates in speeds.items():
        print(f"{name}: {np.median(rates):.0f} images/s (rounds: {', '.join(f'{rate:.0f}' for rate in rates)})")
    ratio, low, high = compute_ratio_interval(*speeds.values())
    print(f"ratio: {ratio:.2f} [{low:.2f}, {high:.2f}] over {arguments.rounds} rounds of {count} images")


if __name__ == "__main__":
    main()
