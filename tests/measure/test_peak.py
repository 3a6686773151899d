"""The loop that measures the peak: what the compiler makes of it, and what it counts. Not how fast it is."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nestforge.engines.base import Dtype
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.measure import peak
from nestforge.measure.peak import compile_loop, measure_peak
from tests.support.assembly import knows_options, list_loops

SOURCE = Path(peak.__file__).with_name("peak.c")
FMA, VNNI, BF16 = ("vfmadd231ps",), ("vpdpbusd",), ("vdpbf16ps",)
WITHOUT_VNNI = ("vpmaddwd", "vpmaddubsw", "vpaddd")
# A CPU, a dtype, the instructions of its loop and their registers, and how many of the first must not wait for each
# other: the highest latency of a CPU with it, times the units that execute it. With fewer a unit has nothing to do.
LOOPS: list[tuple[str, Dtype, tuple[str, ...], str, int]] = [
    ("haswell", "fp32", FMA, "ymm", 5 * 2),
    ("znver3", "fp32", FMA, "ymm", 5 * 2),
    ("skylake-avx512", "fp32", FMA, "zmm", 5 * 2),
    ("sapphirerapids", "fp32", FMA, "zmm", 5 * 2),
    ("haswell", "int8", WITHOUT_VNNI, "ymm", 5 * 2),
    ("znver3", "int8", WITHOUT_VNNI, "ymm", 5 * 2),
    ("knl", "int8", WITHOUT_VNNI, "ymm", 5 * 2),  # AVX-512 without its instructions on bytes
    ("skylake-avx512", "int8", WITHOUT_VNNI, "zmm", 5 * 2),
    ("alderlake", "int8", VNNI, "ymm", 5 * 2),
    ("cascadelake", "int8", VNNI, "zmm", 5 * 2),
    ("sapphirerapids", "int8", VNNI, "zmm", 5 * 2),
    ("cooperlake", "bf16", BF16, "zmm", 6 * 2),
    ("sapphirerapids", "bf16", BF16, "zmm", 6 * 2),
    ("sapphirerapids", "int8", ("tdpbusd",), "tmm", 4),  # latency 52, one each 16 cycles
    ("sapphirerapids", "bf16", ("tdpbf16ps",), "tmm", 4),
]
# The instructions that the compiler may use, what a CPU calls them, and the multiply-accumulates of one of the loop's.
COUNTS: list[tuple[tuple[str, ...], tuple[str, ...], Dtype, str, int]] = [
    (("-mavx2", "-mfma"), ("avx2",), "fp32", "vfmadd231ps", 8),
    (("-mavx512f",), ("avx512f",), "fp32", "vfmadd231ps", 16),
    (("-mavx2",), ("avx2",), "int8", "vpmaddwd", 32),
    (("-mavxvnni",), ("avx_vnni",), "int8", "vpdpbusd", 32),
    (("-mavx512bw",), ("avx512f", "avx512_vnni"), "int8", "vpmaddwd", 64),  # every CPU with the second has bw
    (("-mavx512vnni",), ("avx512_vnni",), "int8", "vpdpbusd", 64),
    (("-mavx512bf16",), ("avx512_bf16",), "bf16", "vdpbf16ps", 32),
    (("-mamx-tile", "-mamx-int8"), ("amx_int8",), "int8", "tdpbusd", 16 * 16 * 64),
    (("-mamx-tile", "-mamx-bf16"), ("amx_bf16",), "bf16", "tdpbf16ps", 16 * 16 * 32),
]
WIDEST = {"amx_int8": 16384, "avx512_vnni": 64, "avx_vnni": 32, "avx2": 32}  # int8, of one instruction


@pytest.fixture(params=["gcc", "clang"])
def compiler(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


def require_options(compiler: str, *options: str) -> None:
    if not knows_options(compiler, *options):
        pytest.skip(f"this {compiler} does not know {' '.join(options)}")


@pytest.mark.parametrize("case", LOOPS, ids=lambda case: "-".join((case[0], case[1], case[2][0])))
def test_the_loop_keeps_the_units_busy(case: tuple[str, Dtype, tuple[str, ...], str, int], compiler: str) -> None:
    """Enough operations that do not wait for each other, each as often as any other, and nothing else in the loop."""
    cpu, dtype, instructions, registers, least = case
    require_options(compiler, f"-march={cpu}")
    found = list_loops(compiler, SOURCE, f"run_{dtype}", f"-march={cpu}")
    loops = [loop for loop in found if instructions[0] in {one.name for one in loop}]
    assert loops
    for loop in loops:
        assert all(operand.startswith(f"%{registers}") for one in loop for operand in one.operands), "leaves registers"
        names = Counter(one.name for one in loop)
        assert names.keys() == set(instructions), "something else takes time"
        assert len(set(names.values())) == 1
        destinations = Counter(one.destination for one in loop if one.name == instructions[0])
        assert len(destinations) >= least
        assert len(set(destinations.values())) == 1


@pytest.mark.parametrize("case", COUNTS, ids=lambda case: "".join(case[0]) + "-" + case[2])
def test_the_loop_counts_what_it_does(
    case: tuple[tuple[str, ...], tuple[str, ...], Dtype, str, int], compiler: str
) -> None:
    options, flags, dtype, instruction, macs = case
    require_options(compiler, *options)
    if not set(flags) <= set(read_machine().flags):
        pytest.skip(f"this CPU does not have {' '.join(flags)}")
    loop = compile_loop(compiler, dtype, options)
    assert loop is not None
    if instruction.startswith("tdp") and loop(1) == 0:
        pytest.skip("Linux gives no tiles here")
    loops = list_loops(compiler, SOURCE, f"run_{dtype}", *options)
    in_a_round = {one.destination for body in loops for one in body if one.name == instruction}
    assert [loop(rounds) for rounds in (0, 1, 7)] == [rounds * len(in_a_round) * macs for rounds in (0, 1, 7)]


def test_without_instructions_there_is_no_loop(compiler: str) -> None:
    require_options(compiler, "-march=x86-64")
    for dtype in ("fp32", "bf16", "int8"):
        loop = compile_loop(compiler, dtype, ("-march=x86-64",))
        assert loop is not None
        assert loop(1) == 0
    assert compile_loop(compiler, "fp32", ("--no-such-option",)) is None


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    found = measure_peak("fp32", count_available_cores())
    assert found is not None
    assert found.method == "GEMM"
    assert found.macs_per_second > 1e8
    assert measure_peak("int8", 1) is None
    assert measure_peak("fp32", 1000) is None


def make_loop(macs: int) -> Callable[[int], int]:
    """Return a loop of `macs` a round that takes 40 ms however many rounds it runs."""

    def loop(rounds: int) -> int:
        time.sleep(0.04)
        return rounds * macs

    return loop


@pytest.mark.parametrize("dtype", ["int8", "bf16"])
def test_where_tiles_cannot_be_used_there_is_no_peak(monkeypatch: pytest.MonkeyPatch, dtype: Dtype) -> None:
    """A share of less than the true peak would be optimistic."""
    with_tiles = replace(read_machine(), flags=(f"amx_{dtype}",))
    monkeypatch.setattr("nestforge.measure.peak.read_machine", lambda: with_tiles)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("nestforge.measure.peak.compile_loop", lambda compiler, dtype: make_loop(24 * 64))
    assert measure_peak(dtype, 1) is None
    of_tiles = {"int8": 16 * 16 * 64, "bf16": 16 * 16 * 32}[dtype]
    monkeypatch.setattr("nestforge.measure.peak.compile_loop", lambda compiler, dtype: make_loop(of_tiles))
    assert measure_peak(dtype, 1) is not None


def test_the_peak_is_what_all_threads_did_by_time_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nestforge.measure.peak.read_machine", lambda: replace(read_machine(), flags=()))
    monkeypatch.setattr("shutil.which", lambda name: name)
    rounds_of_runs: list[int] = []

    def loop(rounds: int) -> int:
        rounds_of_runs.append(rounds)
        return make_loop(100)(rounds)

    monkeypatch.setattr("nestforge.measure.peak.compile_loop", lambda compiler, dtype: loop)
    found = measure_peak("int8", 3)
    assert found is not None
    assert (found.threads, found.method) == (3, "register loop")
    assert 0 < found.macs_per_second <= 3 * max(rounds_of_runs) * 100 / 0.04


@pytest.mark.skipif(shutil.which("cc") is None or not set(WIDEST) & set(read_machine().flags), reason="no loop for it")
def test_the_loop_takes_the_widest_instruction() -> None:
    widest = next(macs for flag, macs in WIDEST.items() if flag in read_machine().flags)
    loop = compile_loop("cc", "int8")
    assert loop is not None
    if loop(1) % widest or not loop(1):
        assert widest == WIDEST["amx_int8"]  # a compiler or system that does not know tiles
        assert measure_peak("int8", 1) is None


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_loop_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each library that is loaded stays in memory: a process that measures all day must not load one each time."""
    assert measure_peak("fp32", 1) is not None
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("compiled again"))
    assert measure_peak("fp32", 1) is not None
