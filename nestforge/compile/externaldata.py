"""Weights that an ONNX file keeps in other files, as PyTorch's exporter writes `model.onnx.data`: read into the model.

The ONNX file alone says which files and which bytes. It is not trusted: only regular files in its own folder are read,
and only as many bytes as each tensor has by its type and dimensions.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import onnx
import onnx_ir as ir

from nestforge.errors import ModelError

_SHOWN = 100  # characters of a foreign name in a message


def read_external_data(proto: onnx.ModelProto, path: Path, *, limit_bytes: int) -> tuple[Path, ...]:
    """Read what `proto`, the content of `path`, keeps in other files into it; return those files, sorted.

    Raises:
        ModelError: a file is missing, not a regular file, or outside the folder of `path` (an absolute name, `..`, or
            a link that leads out); a tensor's bytes are not within its file; all together are over `limit_bytes`.
    """
    files: dict[Path, tuple[BinaryIO, int]] = {}
    total = 0
    with ExitStack() as stack:
        for tensor in list_tensors(proto):
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            entries = {entry.key: entry.value for entry in tensor.external_data}
            found = find_data_file(path, entries.get("location", ""))
            try:
                size = count_bytes(tensor)
            except ValueError as error:
                raise ModelError(
                    f"{path} keeps {_shorten(tensor.name)} elsewhere, and {error}; export it again"
                ) from error
            total += size
            if total > limit_bytes:
                raise ModelError(f"{path} and its data files hold over 2 GiB; export the model with smaller weights")
            if found not in files:
                files[found] = stack.enter_context(found.open("rb")), found.stat().st_size
            file, file_size = files[found]
            offset = _read_number(path, tensor, entries.get("offset", "0"))
            length = _read_number(path, tensor, entries.get("length", str(size)))
            if length != size or offset + size > file_size:
                raise ModelError(
                    f"{found} does not hold the {size:,} bytes of {_shorten(tensor.name)} at {offset:,} "
                    f"(it has {file_size:,} bytes); use the file that was exported with {path.name}"
                )
            file.seek(offset)
            tensor.raw_data = file.read(size)
            if len(tensor.raw_data) != size:
                raise ModelError(f"{found} changed while it was read; try again")
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return tuple(sorted(files))


def find_data_file(path: Path, location: str) -> Path:
    """Return the file that the ONNX file `path` calls `location`.

    Raises:
        ModelError: as `read_external_data`.
    """
    name = PurePosixPath(location)
    foreign = PureWindowsPath(location)
    shown = _shorten(location)
    if (
        not name.name
        or name.is_absolute()
        or foreign.anchor
        or "\\" in location
        or "\0" in location
        or ".." in (*name.parts, *foreign.parts)
    ):
        raise ModelError(f"{path} keeps weights in {shown}, which is not a file of its folder; export it again")
    folder, found = path.parent, path.parent / name
    try:
        status = found.stat()
    except OSError as error:
        raise ModelError(
            f"{path} keeps weights in {shown}, which is not beside it ({error.strerror}); copy that file there"
        ) from error
    if not found.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{path} keeps weights in {shown}, a link that leads out of its folder; copy the file itself")
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{path} keeps weights in {shown}, which is not a regular file; export it again")
    return found


def list_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a model: weights, and what nodes carry, in subgraphs and functions too."""
    graphs = [proto.graph]
    graphs += [graph for part in proto.training_info for graph in (part.initialization, part.algorithm)]
    nodes = [node for function in proto.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
            continue
        for attribute in nodes.pop().attribute:
            yield from attribute.tensors
            sparse_tensors = list(attribute.sparse_tensors)
            graphs += attribute.graphs
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                sparse_tensors.append(attribute.sparse_tensor)
            if attribute.HasField("g"):
                graphs.append(attribute.g)
            for sparse in sparse_tensors:
                yield from (sparse.values, sparse.indices)


def count_bytes(tensor: onnx.TensorProto) -> int:
    """Return the size of the bytes of a tensor by its type and dimensions.

    Raises:
        ValueError: its type has no size, or a dimension is negative.
    """
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (TypeError, ValueError) as error:
        raise ValueError("its type has no size") from error
    if any(dim < 0 for dim in tensor.dims):
        raise ValueError("a dimension is negative")
    size: int = (math.prod(tensor.dims) * bits + 7) // 8
    return size


def _read_number(path: Path, tensor: onnx.TensorProto, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ModelError(f"{path}: {_shorten(tensor.name)} is at no place in its file; export it again")
    return int(text)


def _shorten(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...")
