"""Read checkpoints as state dicts: local files in every usual wrapping, and the authors' files, checked by hash."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestforge.errors import ModelError
from nestforge.files import cache_folder, hash_file, warn_of_no_cache
from nestforge.networks.layers import Weights, expected_shapes
from nestforge.networks.state_dict import find_state
from nestforge.networks.tensor_file import MAX_CHECKPOINT_BYTES, read_tensor_file, to_float32
from nestforge.networks.zoo import VARIANTS, Variant
from nestforge.progress import Progress, no_progress

_CLASSIFIER = ("fc.weight", "fc.bias")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete float32 state dict without ``num_batches_tracked``, and where in the file it was.

    `place` is empty for a bare state dict. `notes` name what else the file holds, such as plain weights beside averaged
    (EMA) ones.
    """

    weights: Weights
    place: str
    notes: tuple[str, ...]


def read_checkpoint(path: Path, variant: Variant) -> Weights:
    """Return only the weights that `find_weights` finds.

    Raises:
        ModelError: as `find_weights`.
    """
    return find_weights(path, variant).weights


def find_weights(path: Path, variant: Variant) -> Checkpoint:
    """Read a local checkpoint of `variant`.

    Accepts ``.safetensors`` and torch files, by the authors, by timm or by trainers such as Lightning: in any mapping,
    under any prefix, in any floating-point type (`find_state` says what is used). The number of classes is that of
    the file. Torch files are read with ``weights_only``.

    Raises:
        ModelError: the file is missing, truncated, not a checkpoint, of another network, or its pickle holds code.
    """
    data = read_tensor_file(path)
    try:
        found = find_state(data, expected_shapes(variant), classifier=_CLASSIFIER)
        shapes = expected_shapes(variant, num_classes=_count_classes(found.tensors))
        wrong = next((name for name, tensor in found.tensors.items() if tuple(tensor.shape) != shapes[name]), None)
        if wrong is not None:
            raise ModelError(f"has {wrong!r} of shape {tuple(found.tensors[wrong].shape)}, not {shapes[wrong]}")
    except ModelError as error:
        raise ModelError(f"{path} is not a {variant.name} checkpoint: it {error}{_suggest_variant(data)}") from error
    names = [name for name in shapes if not name.endswith("num_batches_tracked")]
    weights = {name: to_float32(found.tensors[name], f"{path}: {name!r}") for name in names}
    return Checkpoint(weights=weights, place=found.place, notes=found.notes)


def _count_classes(tensors: Mapping[str, Any]) -> int:
    shape = tuple(tensors["fc.weight"].shape)
    if len(shape) != 2:
        raise ModelError(f"has a classifier 'fc.weight' of shape {shape}, not (classes, channels)")
    return int(shape[0])


def _suggest_variant(data: object) -> str:
    """Return ``"; it fits NAME"`` for the variants whose tensors a file holds, or ``""``."""
    names = []
    for variant in VARIANTS.values():
        try:
            tensors = find_state(data, expected_shapes(variant), classifier=_CLASSIFIER).tensors
            shapes = expected_shapes(variant, num_classes=_count_classes(tensors))
        except ModelError:
            continue
        if all(tuple(tensor.shape) == shapes[name] for name, tensor in tensors.items()):
            names.append(variant.name)
    return f"; it fits {' or '.join(names)}" if names else ""


def fetch_checkpoint(variant: Variant, *, progress: Progress = no_progress) -> Path:
    """Return the path of the authors' checkpoint in the cache; download it first if it is missing.

    The cache is ``$NESTFORGE_CACHE`` or ``~/.cache/nestforge``; where it cannot be written, the checkpoint lies in a
    temporary folder until this process ends. The file's sha256 must begin with the published prefix.

    Raises:
        ModelError: no official weights, no network access, or a hash that does not match.
    """
    url = variant.weights_url
    if url is None:
        raise ModelError(f"{variant.name} has no official weights; give --weights FILE or --seed N")
    name = url.rsplit("/", 1)[1]
    folder = cache_folder()
    if folder is None or not os.path.isfile(folder / name):  # noqa: PTH113 (Path.is_file raises where it may not look)
        folder = _choose_download_folder(folder)
    path = folder / name
    if not path.is_file():
        _download(url, path, progress)
    found = hash_file(path)
    if not found.startswith(str(variant.sha256_prefix)):
        raise ModelError(f"{path} has sha256 {found[:8]}..., not {variant.sha256_prefix}...; delete it and try again")
    return path


def _choose_download_folder(cache: Path | None) -> Path:
    """Return the cache, or a temporary folder where nothing can be written to it."""
    if cache is not None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=cache):
                return cache
        except OSError as error:
            warn_of_no_cache(error)
    return _make_temporary_folder()


@functools.cache
def _make_temporary_folder() -> Path:
    """Return the temporary folder of this process, which goes away with it."""
    folder = Path(tempfile.mkdtemp(prefix="nestforge-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _download(url: str, path: Path, progress: Progress) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=30) as response, partial.open("wb") as file:
            size = int(response.headers.get("Content-Length") or 0)
            with progress(f"downloading {path.name}", size or None) as advance:
                while chunk := response.read(_CHUNK_BYTES):
                    file.write(chunk)
                    advance(len(chunk))
                    if file.tell() > MAX_CHECKPOINT_BYTES:
                        raise ModelError(f"{url} is larger than any ResNeSt checkpoint; give --weights FILE")
        if size and partial.stat().st_size != size:
            raise ModelError(f"the download of {url} was interrupted; try again")
        partial.replace(path)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise ModelError(
            f"cannot download {url} ({reason}); fetch it elsewhere and give --weights FILE, or use --seed N"
        ) from error
    except OSError as error:
        raise ModelError(f"cannot write {partial}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
