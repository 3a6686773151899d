"""Pack the labelled sample of Fashion-MNIST that nestforge ships: 2,000 test and 500 training images.

    python examples/pack_fashion_mnist.py --data /usr/share/datasets/fashion-mnist -o examples/fashion_mnist/sample.zip

The first 200 test and the first 50 training images of every class, as 28x28 grey PNG files in ``test/CLASS/`` and
``calibration/CLASS/``. File names are the images' indices in the original files. The archive is reproducible.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from train_fashion_mnist import read_idx

HERE = Path(__file__).parent


def main() -> None:
    """Read the IDX files and write the archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the IDX files")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    names = (HERE / "fashion_mnist" / "labels.txt").read_text().split()
    with zipfile.ZipFile(args.output, "w", zipfile.ZIP_STORED) as archive:
        for folder, split, per_class in (("test", "t10k", 200), ("calibration", "train", 50)):
            images = read_idx(args.data / f"{split}-images-idx3-ubyte.gz")
            labels = read_idx(args.data / f"{split}-labels-idx1-ubyte.gz")
            for index, name in enumerate(names):
                for position in np.flatnonzero(labels == index)[:per_class]:
                    data = io.BytesIO()
                    Image.fromarray(images[position]).save(data, "PNG", optimize=True)
                    info = zipfile.ZipInfo(f"{folder}/{name}/{position:05d}.png", (2017, 8, 25, 0, 0, 0))
                    archive.writestr(info, data.getvalue())
        info = zipfile.ZipInfo("LICENSE", (2017, 8, 25, 0, 0, 0))
        archive.writestr(info, (HERE / "fashion_mnist" / "LICENSE").read_text())
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
