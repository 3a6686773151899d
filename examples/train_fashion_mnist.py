"""Train the network that nestforge ships: a slim ResNeSt-14 on Fashion-MNIST.

    pip install 'nestforge[torch]'
    python examples/train_fashion_mnist.py --data /usr/share/datasets/fashion-mnist -o resnest14_slim.safetensors

`--data` is a folder with the four IDX files of Fashion-MNIST (MIT licence, Zalando SE; on Debian the package
dataset-fashion-mnist). Training uses SGD with Nesterov momentum, one warm-up and a cosine schedule, label smoothing,
flips, shifts and erased patches. The test images are used once, at the end.
"""

from __future__ import annotations

import argparse
import gzip
import math
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from nestforge.networks.resnest import ResNeSt
from nestforge.networks.zoo import get_variant

MEAN, STD = 0.286, 0.353  # of the training pixels, scaled to 0 to 1


def read_idx(path: Path) -> np.ndarray:
    """Read one gzipped IDX file of bytes (format: two zero bytes, type 8, number of dimensions, sizes, data)."""
    raw = gzip.decompress(path.read_bytes())
    zero, kind, ndim = struct.unpack_from(">HBB", raw)
    if zero or kind != 8:
        raise SystemExit(f"{path} is not an IDX file of bytes")
    shape = struct.unpack_from(f">{ndim}I", raw, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def read_split(folder: Path, split: str, size: int) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, size, size) uint8, resized by Pillow's bilinear filter, and labels (N,) int64."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    resized = np.stack(
        [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)) for image in images]
    )
    return torch.from_numpy(resized)[:, None], torch.from_numpy(labels.astype(np.int64))


def normalise(images: Tensor) -> Tensor:
    """Map (B, 1, H, W) uint8 to (B, 3, H, W) float32."""
    return ((images.float() / 255 - MEAN) / STD).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the images, shift all by up to 4 pixels, erase a patch of up to 16x16 in half of them."""
    batch, _, height, width = images.shape

    def draw(low: int, high: int) -> list[int]:
        return torch.randint(low, high, (batch,), generator=generator).tolist()

    padded = functional.pad(images, (4, 4, 4, 4))
    out = torch.empty_like(images)
    rows = zip(
        draw(0, 2), draw(0, 9), draw(0, 9), draw(0, 2), draw(0, height), draw(0, width), draw(4, 17), strict=True
    )
    for index, (flip, top, left, erase, y, x, side) in enumerate(rows):
        image = padded[index, :, top : top + height, left : left + width]
        out[index] = image.flip(-1) if flip else image
        if erase:
            out[index, :, max(y - side // 2, 0) : y + side // 2, max(x - side // 2, 0) : x + side // 2] = 0
    return out


@torch.no_grad()
def count_correct(model: ResNeSt, images: Tensor, labels: Tensor) -> int:
    """Return the number of images that the model classifies correctly."""
    model.eval()
    pairs = zip(images.split(500), labels.split(500), strict=True)
    return sum(int((model(normalise(part)).argmax(1) == truth).sum()) for part, truth in pairs)


def train(model: ResNeSt, images: Tensor, labels: Tensor, *, epochs: int, seed: int) -> None:
    """Train the model in place; print the mean loss of every epoch."""
    batch_size, peak_rate = 128, 0.1
    generator = torch.Generator().manual_seed(seed)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 5e-4}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=peak_rate, momentum=0.9, nesterov=True)
    steps = epochs * (len(images) // batch_size)
    step = 0
    for epoch in range(epochs):
        model.train()
        order = torch.randperm(len(images), generator=generator)
        losses = []
        for chosen in track(order.split(batch_size)[: steps // epochs], description=f"epoch {epoch + 1}/{epochs}"):
            warm = min(1.0, (step + 1) / (0.05 * steps))
            rate = peak_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            logits = model(normalise(augment(images[chosen], generator)))
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
        print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.4f}", flush=True)


def main() -> None:
    """Train and test the network, and save its weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the IDX files")
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("resnest14_slim.safetensors"))
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    variant = get_variant("resnest14_slim")
    model = ResNeSt(variant).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = read_split(args.data, "train", variant.image_size)
    train(model, images, labels, epochs=args.epochs, seed=args.seed)

    test_images, test_labels = read_split(args.data, "t10k", variant.image_size)
    correct = count_correct(model, test_images, test_labels)
    print(f"top-1 on the test images: {correct} of {len(test_labels)} = {correct / len(test_labels):.2%}")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
