"""The machine's peak in multiply-accumulates a second: what a kernel's speed is a share of."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from nestforge.engines.base import Dtype
from nestforge.engines.machine import count_available_cores, read_machine

_SOURCE = Path(__file__).with_name("peak.c")
_SECONDS = 0.15
_RUNS = 6
_TILE_MACS = {"int8": 16 * 16 * 64, "bf16": 16 * 16 * 32}  # of one AMX instruction: more than a round of any other

Loop = Callable[[int], int]  # runs so many rounds and returns the multiply-accumulates that they did


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Best of a few short runs on `threads` threads; `method` is "register loop" or "GEMM"."""

    macs_per_second: float
    threads: int
    method: str


def measure_peak(dtype: Dtype, threads: int) -> Peak | None:
    """Measure the peak for `dtype` on `threads` threads.

    A register-only loop of the widest instruction, where a C compiler is installed that knows it. Without one, fp32 on
    all cores falls back to numpy's matrix product, which is below the true peak; everything else gives None.
    """
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    loop = compile_loop(compiler, dtype) if compiler else None
    if loop is not None and loop(1) >= _least_macs(dtype):
        return Peak(macs_per_second=_time_loop(loop, threads), threads=threads, method="register loop")
    if dtype == "fp32" and threads == count_available_cores():
        return Peak(macs_per_second=_time_gemm(), threads=threads, method="GEMM")
    return None


@cache  # a library that is loaded stays loaded
def compile_loop(
    compiler: str, dtype: Dtype, options: tuple[str, ...] = ("-march=native",), *, source: Path = _SOURCE
) -> Loop | None:
    """Compile the loop of the widest instruction for `dtype` that the compiler's `options` allow.

    None where the compiler fails. The loop returns 0 where there is no such instruction. It must not be called on a CPU
    without the instructions that `options` allow.
    """
    with tempfile.TemporaryDirectory(prefix="nestforge-") as folder:
        library = Path(folder) / "peak.so"
        command = [compiler, "-O2", *options, "-shared", "-fPIC", str(source), "-o", str(library)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        function = getattr(ctypes.CDLL(str(library)), f"run_{dtype}")
    function.argtypes, function.restype = [ctypes.c_int64], ctypes.c_int64
    loop: Loop = function
    return loop


def _least_macs(dtype: Dtype) -> int:
    """Return what one round does at least: where the CPU multiplies tiles, a loop without them is not the peak."""
    return _TILE_MACS.get(dtype, 1) if f"amx_{dtype}" in read_machine().flags else 1


def _time_loop(loop: Loop, threads: int) -> float:
    """Return the most multiply-accumulates a second of a few runs on `threads` threads."""
    rounds = 10_000
    while True:
        begin = time.perf_counter()
        loop(rounds)
        elapsed = time.perf_counter() - begin
        if elapsed > _SECONDS / 4:
            break
        rounds *= 4
    rounds = int(rounds * _SECONDS / elapsed)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_RUNS):
            begin = time.perf_counter()
            macs = sum(pool.map(loop, [rounds] * threads))
            best = max(best, macs / (time.perf_counter() - begin))
    return best


def _time_gemm(size: int = 1536) -> float:
    a = np.ones((size, size), np.float32)
    best = 0.0
    for _ in range(_RUNS):
        begin = time.perf_counter()
        np.matmul(a, a)
        best = max(best, size**3 / (time.perf_counter() - begin))
    return best
