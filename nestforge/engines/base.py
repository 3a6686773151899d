"""The protocol of inference engines: `Engine.open` returns a `Session`, `Session.run` returns logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from nestforge.checks import check_range
from nestforge.engines.machine import count_available_cores
from nestforge.errors import EngineError

Images = npt.NDArray[np.float32]  # (B, 3, H, W), normalised
Logits = npt.NDArray[np.float32]  # (B, classes)
Dtype = Literal["fp32", "bf16", "int8"]
MAX_PARALLELISM = 4096  # the limit for each of batch, streams and threads


@dataclass(frozen=True, kw_only=True)
class Parallelism:
    """How requests share the machine: `streams` requests of `batch` images run at the same time on `threads` threads.

    The threads are shared by all streams. Predictions do not depend on any of the three.
    """

    batch: int = 1
    streams: int = 1
    threads: int = 1

    @classmethod
    def make(cls, *, batch: int = 1, streams: int = 1, threads: int | None = None) -> Parallelism:
        """Check the numbers; `threads` defaults to the cores this process may use.

        Raises:
            ConfigError: a number outside 1 to 4096.
        """
        made = cls(batch=batch, streams=streams, threads=count_available_cores() if threads is None else threads)
        for name in ("batch", "streams", "threads"):
            check_range(name, getattr(made, name), 1, MAX_PARALLELISM)
        return made


@dataclass(frozen=True, kw_only=True)
class Settings(Parallelism):
    """How a model is opened.

    `channels` is 3, except when only a part of a network is opened. With `profile`, kernels are timed, which makes them
    slightly slower.
    """

    channels: int = 3
    height: int = 224
    width: int = 224
    dtype: Dtype = "fp32"
    profile: bool = False


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One executed layer, as the engine reports it."""

    name: str
    layer_type: str  # the engine's own name, such as "Convolution"
    precision: str  # in which it runs, such as "u8" or "f32"
    is_weighted: bool = False  # a convolution or a matrix product
    is_int8: bool = False  # runs in 8-bit integers
    implementation: str = ""
    layers: tuple[
        str, ...
    ] = ()  # nodes of the ONNX graph fused into it; a node that gives an output may have the output's name
    time_ms: float | None = None  # of the last run, if the session was opened with `profile`


class Session(Protocol):
    """A model opened for inference; `run` and `run_all` may be called from `settings.streams` threads at once."""

    @property
    def settings(self) -> Settings: ...

    def run(self, images_nchw: Images) -> Logits:
        """Return the logits (B, classes) of 1 to `settings.batch` images."""
        ...

    def run_all(self, images_nchw: Images) -> dict[str, npt.NDArray[np.float32]]:
        """Return every graph output by name."""
        ...

    def list_kernels(self) -> list[Kernel]:
        """Return the executed layers, or an empty list if the engine does not report them."""
        ...


class Engine(Protocol):
    """A way to execute ONNX files."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def preferred_passes(self) -> frozenset[str]:
        """The optional graph passes with a measured gain on this engine; see `nestforge.compile.passes`."""
        ...

    def supports(self, dtype: Dtype) -> bool:
        """Tell whether this machine executes `dtype` natively."""
        ...

    def open(self, model: Path | bytes, settings: Settings, *, sha256: str | None = None) -> Session:
        """Open an ONNX file or its bytes. If its hash is given, the engine may cache the compiled model.

        Raises:
            EngineError: the engine cannot execute the model, or not in this dtype on this machine.
        """
        ...


def run_padded(
    images_nchw: Images, settings: Settings, infer: Callable[[Images], dict[str, npt.NDArray[np.float32]]]
) -> dict[str, npt.NDArray[np.float32]]:
    """Run 1 to B images in a session compiled for exactly B: pad the batch, and cut the outputs to the images given.

    Where B are given, outputs that do not begin with a batch, such as shapes, stay whole.
    """
    count = len(images_nchw)
    expected = (settings.channels, settings.height, settings.width)
    if not 1 <= count <= settings.batch or images_nchw.shape[1:] != expected:
        raise EngineError(f"session takes 1 to {settings.batch} images of {expected}, not {images_nchw.shape}")
    if count == settings.batch:
        return infer(images_nchw)
    padding = np.zeros((settings.batch - count, *expected), np.float32)
    outputs = infer(np.concatenate([images_nchw, padding]))
    return {name: value[:count] if value.ndim else value for name, value in outputs.items()}
