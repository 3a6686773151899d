"""What a C compiler makes of a source: the instructions of its loops."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_COUNTING = re.compile(r"(inc|dec|add|sub|cmp|test|lea|j)[a-z]*")  # what counts the rounds and goes back


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction in AT&T syntax: the destination is the last operand."""

    name: str
    operands: tuple[str, ...]

    @property
    def destination(self) -> str:
        """The register that it writes."""
        return self.operands[-1]


def knows_options(compiler: str, *options: str) -> bool:
    """Return whether a compiler takes these options at all, whatever it compiles."""
    command = [compiler, *options, "-xc", "-c", "-o", "/dev/null", "/dev/null"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def list_loops(compiler: str, source: Path, function: str, *options: str) -> list[list[Instruction]]:
    """Compile, and return the innermost loops of a function, without the instructions that count their rounds."""
    command = [compiler, "-O2", *options, "-S", "-o", "-", str(source)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line.endswith(":") or (line and not line.startswith("."))]
    begin = lines.index(f"{function}:")
    labels: dict[str, int] = {}
    loops = []
    for place, line in enumerate(lines[begin + 1 :], begin + 1):
        if re.match(r"run_\w+:$", line):
            break
        if line.endswith(":"):
            labels[line[:-1]] = place
        elif (jump := re.match(r"j\w+\s+(\S+)$", line)) and jump[1] in labels:
            body = [one for one in lines[labels[jump[1]] : place] if not one.endswith(":")]
            loops.append([one for one in map(_parse, body) if not _COUNTING.fullmatch(one.name)])
            labels.clear()  # a loop around this one is not innermost
    return loops


def _parse(line: str) -> Instruction:
    name, _, operands = line.removeprefix("{vex}").strip().partition("\t")
    return Instruction(name=name, operands=tuple(re.split(r",\s*(?![^(]*\))", operands.strip())))
