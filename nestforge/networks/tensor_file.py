"""Read untrusted files of tensors: safetensors, and torch's pickles without running the code that they name."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nestforge.errors import ModelError

MAX_CHECKPOINT_BYTES = 4 << 30
_SAFETENSORS_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "?",
}
# Classes that trainers leave in checkpoints beside the tensors. Each is replaced by a stand-in that keeps nothing.
_ARGUMENT_CLASSES = (
    "argparse.Namespace",
    "datetime.datetime",
    "datetime.timedelta",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "torch.torch_version.TorchVersion",
)
_MAPPING_CLASSES = (
    "collections.defaultdict",
    "easydict.EasyDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)


class _StandIn:
    """A stand-in for an object that is not a tensor: accepts any arguments and state, and keeps none."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _MappingStandIn:
    """A stand-in for a class that is filled like a dict."""

    def __new__(cls, *arguments: object) -> Any:
        return {}


def read_tensor_file(path: Path) -> object:
    """Return the content of a ``.safetensors`` or torch file: numpy or torch tensors in mappings.

    Raises:
        ModelError: the file is missing, too large, truncated or of neither kind, or its pickle names more than tensors
            and plain values.
    """
    if not path.is_file():
        raise ModelError(f"no checkpoint {path}; give a .pth or .safetensors file with --weights")
    if path.stat().st_size > MAX_CHECKPOINT_BYTES:
        raise ModelError(
            f"{path} is over {MAX_CHECKPOINT_BYTES >> 30} GiB, too large for an image classifier; give another file"
        )
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def to_float32(tensor: Any, name: str) -> npt.NDArray[np.float32]:
    """Return a floating-point numpy or torch tensor as a contiguous float32 array; errors begin with `name`.

    Raises:
        ModelError: the tensor is not floating point, not dense, or not finite.
    """
    if isinstance(tensor, np.ndarray):
        is_float = tensor.dtype.kind == "f"
    else:
        is_float = tensor.is_floating_point() and str(tensor.layout) == "torch.strided" and tensor.device.type == "cpu"
    if not is_float:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(f"{name} is {kind}, not dense floating point; give the checkpoint from before quantization")
    values = tensor if isinstance(tensor, np.ndarray) else tensor.detach().float().numpy()
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(array).all():
        raise ModelError(f"{name} has values that are not finite in float32; the checkpoint is damaged")
    return array


def _read_safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError, deserialize

    try:
        views: list[tuple[str, dict[str, Any]]] = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
        return {name: _parse_tensor(view) for name, view in views}
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}); fetch it again") from error
    except KeyError as error:
        raise ModelError(f"{path} holds tensors of type {error}, which are not supported; save float32") from error


def _parse_tensor(view: Mapping[str, Any]) -> npt.NDArray[Any]:
    if view["dtype"] == "BF16":  # the upper half of float32
        bits = np.frombuffer(view["data"], "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(view["shape"])
    return np.frombuffer(view["data"], _SAFETENSORS_TYPES[view["dtype"]]).reshape(view["shape"])


def _read_torch(path: Path) -> object:
    try:
        import torch
    except ImportError as error:
        raise ModelError(
            f"reading {path.name} needs torch: run \"pip install 'nestforge[torch]'\", or convert it to .safetensors"
        ) from error
    stand_ins: list[Any] = [(_StandIn, name) for name in _ARGUMENT_CLASSES]
    stand_ins += [(_MappingStandIn, name) for name in _MAPPING_CLASSES]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors (its pickle would run code) or is damaged; it was not loaded: "
            "save the bare state dict again"
        ) from error
    except Exception as error:  # RuntimeError, EOFError, KeyError ..., depending on where the damage is
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} is not a readable torch checkpoint ({reason}); fetch it again") from error
