"""Checkpoints in, state dicts out: local files of every usual wrapping, and the authors' downloads by hash."""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nestforge.errors import ModelError
from nestforge.files import cache_folder, hash_file, warn_of_no_cache
from nestforge.networks.layers import Weights, expected_shapes
from nestforge.networks.zoo import Variant
from nestforge.progress import Progress, no_progress

MAX_CHECKPOINT_BYTES = 4 << 30
_WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema")
_CHUNK_BYTES = 1 << 20


def read_checkpoint(path: Path, variant: Variant) -> Weights:
    """Read a local checkpoint of `variant` as a complete float32 state dict without ``num_batches_tracked``.

    Accepts ``.safetensors``, and torch files by the authors or by timm, bare or wrapped (``state_dict``, ``model``,
    ``module.`` prefixes). The number of classes is that of the file. Torch files are read with ``weights_only``.

    Raises:
        ModelError: missing, truncated, not a checkpoint, code in the pickle, or another network's.
    """
    if not path.is_file():
        raise ModelError(f"no checkpoint {path}; give a .pth or .safetensors file with --weights")
    if path.stat().st_size > MAX_CHECKPOINT_BYTES:
        raise ModelError(f"{path} is over {MAX_CHECKPOINT_BYTES >> 30} GiB; that is no ResNeSt checkpoint")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return _check_weights(_unwrap(tensors), variant, path)


def fetch_checkpoint(variant: Variant, *, progress: Progress = no_progress) -> Path:
    """Return the authors' checkpoint from the cache, downloading it first where it is missing.

    The cache is ``$NESTFORGE_CACHE`` or ``~/.cache/nestforge``; where it cannot be written, the checkpoint lies in a
    temporary folder until this process ends. The file's sha256 must begin with the published prefix.

    Raises:
        ModelError: no official weights, closed network, or a hash that does not match.
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
            raise ModelError(f"the download of {url} broke off; try again")
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


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}); fetch it again") from error


def _read_torch(path: Path) -> object:
    try:
        import torch
    except ImportError as error:
        raise ModelError(
            f"reading {path.name} needs torch: run \"pip install 'nestforge[torch]'\", or convert it to .safetensors"
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors (its pickle would run code) or is damaged; it was not loaded: "
            "save the bare state dict again"
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError ... by where the damage lies
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} is not a readable torch checkpoint ({reason}); fetch it again") from error


def _unwrap(data: object) -> Mapping[str, Any]:
    while isinstance(data, Mapping):
        inner = next((data[key] for key in _WRAPPERS if isinstance(data.get(key), Mapping)), None)
        if inner is None:
            return {str(name).removeprefix("module."): value for name, value in data.items()}
        data = inner
    return {}


def _check_weights(tensors: Mapping[str, Any], variant: Variant, path: Path) -> Weights:
    if "fc.weight" not in tensors or len(getattr(tensors["fc.weight"], "shape", ())) != 2:
        raise ModelError(f"{path} is no {variant.name}: it has no classifier 'fc.weight'")
    expected = expected_shapes(variant, num_classes=int(tensors["fc.weight"].shape[0]))
    weights: Weights = {}
    for name, shape in expected.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in tensors:
            raise ModelError(f"{path} is no {variant.name}: it lacks {name!r} (is it another variant?)")
        found = tuple(getattr(tensors[name], "shape", ()))
        if found != shape:
            raise ModelError(f"{path} is no {variant.name}: {name!r} has shape {found}, not {shape}")
        weights[name] = _to_float32(tensors[name])
        if not np.isfinite(weights[name]).all():
            raise ModelError(f"{path}: {name!r} has values that are not finite; the checkpoint is damaged")
    extra = sorted(name for name in tensors if name not in expected)
    if extra:
        raise ModelError(f"{path} is no {variant.name}: it has {len(extra)} more tensors, such as {extra[0]!r}")
    return weights


def _to_float32(tensor: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    if not isinstance(tensor, np.ndarray):
        tensor = tensor.detach().float().numpy()
    return np.ascontiguousarray(tensor, np.float32)
