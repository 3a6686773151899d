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
_ROUNDS = 6
_TILE_MACS = {"int8": 16 * 16 * 64, "bf16": 16 * 16 * 32}  # of one AMX instruction


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
    loop = _compile_loop(compiler, dtype) if compiler else None
    if loop is not None:
        return Peak(macs_per_second=_time_loop(loop, threads), threads=threads, method="register loop")
    if dtype == "fp32" and threads == count_available_cores():
        return Peak(macs_per_second=_time_gemm(), threads=threads, method="GEMM")
    return None


@cache  # a library that is loaded stays loaded
def _compile_loop(compiler: str, dtype: Dtype) -> Callable[[int], int] | None:
    """Return the C function ``steps -> MACs of one operation``, or None without the instruction.

    None as well where the CPU multiplies tiles and the compiler does not know how: a smaller peak would flatter.
    """
    with tempfile.TemporaryDirectory(prefix="nestforge-") as folder:
        library = Path(folder) / "peak.so"
        command = [compiler, "-O2", "-march=native", "-shared", "-fPIC", str(_SOURCE), "-o", str(library)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        function = getattr(ctypes.CDLL(str(library)), f"run_{dtype}")
    function.argtypes, function.restype = [ctypes.c_int64], ctypes.c_int64
    loop: Callable[[int], int] = function
    least = _TILE_MACS.get(dtype, 1) if f"amx_{dtype}" in read_machine().flags else 1
    return loop if loop(1) >= least else None


def _time_loop(loop: Callable[[int], int], threads: int) -> float:
    steps = 10_000
    while True:
        begin = time.perf_counter()
        macs_per_operation = loop(steps)
        elapsed = time.perf_counter() - begin
        if elapsed > _SECONDS / 4:
            break
        steps *= 4
    steps = int(steps * _SECONDS / elapsed)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_ROUNDS):
            begin = time.perf_counter()
            list(pool.map(loop, [steps] * threads))
            best = max(best, threads * 8 * steps * macs_per_operation / (time.perf_counter() - begin))
    return best


def _time_gemm(size: int = 1536) -> float:
    a = np.ones((size, size), np.float32)
    best = 0.0
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        np.matmul(a, a)
        best = max(best, size**3 / (time.perf_counter() - begin))
    return best
