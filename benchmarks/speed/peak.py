"""The loop that measures the CPU's peak, by the number of accumulators, for every instruction set of this CPU.

    python -m benchmarks.speed.peak [--compiler gcc] [--rounds N] [--old FILE] [-o benchmarks/results/peak.json]

GMAC/s of one core: the best of N runs of a millisecond, interleaved, so that other work on the machine does not count.
`--old FILE` adds the loop of an earlier peak.c, with 8 accumulators and 8 operations in a step:

    git show a28ab28:nestforge/measure/peak.c > old_peak.c
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.report import add_output, describe_command, make_parser, show_table, write_report
from nestforge.commandline import run_command
from nestforge.engines.base import Dtype
from nestforge.engines.machine import read_machine
from nestforge.errors import NestForgeError
from nestforge.measure.peak import Loop, compile_loop
from nestforge.progress import show_bars

ROUNDS = 300
RUN_SECONDS = 0.001
OLD_OPERATIONS = 8  # in a step of the old loop, which returned the multiply-accumulates of one operation
OLD, DEFAULT = "old loop", "default"
AVX2 = ("-mavx2", "-mfma")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw")


@dataclass(frozen=True)
class InstructionSet:
    """What the compiler may use, the CPU's flag for it, and the setting of peak.c that says how many accumulators."""

    name: str
    dtype: Dtype
    options: tuple[str, ...]
    flag: str
    setting: str
    counts: tuple[int, ...]


INSTRUCTION_SETS = [
    InstructionSet("AVX2 FMA", "fp32", AVX2, "avx2", "ACCUMULATORS_256", (4, 8, 12)),
    InstructionSet("AVX2 without VNNI", "int8", AVX2, "avx2", "PRODUCTS", (4, 8, 12)),
    InstructionSet("AVX-VNNI", "int8", (*AVX2, "-mavxvnni"), "avx_vnni", "ACCUMULATORS_256", (4, 8, 12)),
    InstructionSet("AVX-512 FMA", "fp32", AVX512, "avx512f", "ACCUMULATORS_512", (4, 8, 12, 16, 24)),
    InstructionSet(  # avx512_vnni stands for avx512bw, which every CPU with it has
        "AVX-512 without VNNI", "int8", AVX512, "avx512_vnni", "PRODUCTS", (4, 8, 12, 16, 24)
    ),
    InstructionSet(
        "AVX-512 VNNI", "int8", (*AVX512, "-mavx512vnni"), "avx512_vnni", "ACCUMULATORS_512", (4, 8, 12, 16, 24)
    ),
    InstructionSet(
        "AVX-512 BF16", "bf16", (*AVX512, "-mavx512bf16"), "avx512_bf16", "ACCUMULATORS_512", (4, 8, 12, 16, 24)
    ),
    InstructionSet("AMX INT8", "int8", ("-mamx-tile", "-mamx-int8"), "amx_int8", "ACCUMULATORS_TILE", (4, 6)),
    InstructionSet("AMX BF16", "bf16", ("-mamx-tile", "-mamx-bf16"), "amx_bf16", "ACCUMULATORS_TILE", (4, 6)),
]


def compile_loops(kind: InstructionSet, compiler: str, old: Path | None) -> Iterator[tuple[str, Loop]]:
    """Yield the loop as it is, with every number of accumulators, and as it was, by what the table calls them."""
    for name, options in (
        (DEFAULT, kind.options),
        *((str(count), (*kind.options, f"-D{kind.setting}={count}")) for count in kind.counts),
    ):
        loop = compile_loop(compiler, kind.dtype, options)
        if loop is not None and loop(1):
            yield name, loop
    before = None if old is None else compile_loop(compiler, kind.dtype, kind.options, source=old)
    if before is not None and before(1):
        yield OLD, lambda steps: OLD_OPERATIONS * steps * before(steps)


def find_rounds(loop: Loop) -> int:
    """Return how many rounds of a loop take about a millisecond."""
    rounds = 100
    while True:
        begin = time.perf_counter()
        loop(rounds)
        if time.perf_counter() - begin > RUN_SECONDS / 2:
            return rounds
        rounds *= 2


def measure(loops: dict[str, Loop], rounds: int, description: str) -> dict[str, float]:
    """Return the most GMAC/s of every loop, over interleaved runs."""
    best = dict.fromkeys(loops, 0.0)
    sizes = {name: find_rounds(loop) for name, loop in loops.items()}
    with show_bars(description, rounds) as advance:
        for _ in range(rounds):
            for name, loop in loops.items():
                begin = time.perf_counter()
                macs = loop(sizes[name])
                best[name] = max(best[name], macs / (time.perf_counter() - begin) / 1e9)
            advance(1)
    return best


def main() -> None:
    """Measure, print, write."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--compiler", default="gcc", help="C compiler (default gcc)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"runs of every loop (default {ROUNDS})")
    parser.add_argument("--old", type=Path, help="an earlier peak.c to compare with")
    add_output(parser, "peak.json")
    args = parser.parse_args()
    if args.old is not None and not args.old.is_file():
        raise NestForgeError(f"--old {args.old} is not a file; write one with the command that --help shows")
    rows: dict[str, dict[str, float]] = {}
    for kind in INSTRUCTION_SETS:
        if kind.flag in read_machine().flags and (loops := dict(compile_loops(kind, args.compiler, args.old))):
            rows[f"{kind.name}, {kind.dtype}"] = measure(loops, args.rounds, kind.name)
    if not rows:
        raise NestForgeError(f"{args.compiler} compiles no loop for this CPU; try another compiler with --compiler")
    columns = [OLD] * (args.old is not None) + ["4", "6", "8", "12", "16", "24", DEFAULT]
    table = [
        (name, *(f"{row[column]:,.1f}" if column in row else "" for column in columns)) for name, row in rows.items()
    ]
    show_table("GMAC/s of one core by accumulators", ("instruction set", *columns), table)
    command = describe_command(__file__, compiler=args.compiler, rounds=args.rounds, old=args.old and args.old.name)
    write_report(args.output, command=command, gmacs_a_second=rows)


if __name__ == "__main__":
    run_command(main, name="peak")
