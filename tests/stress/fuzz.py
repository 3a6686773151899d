"""Coverage-guided fuzzing of every reader of foreign bytes.

    pip install -e '.[fuzz]'
    python -m tests.stress.fuzz [--seconds 180] [--target npz onnx ...] [-o benchmarks/results/fuzz.json]

Each reader gets mutated bytes for `--seconds`. A finding is an exception that is no NestForgeError, a crash of the
process, an input that takes over 10 seconds, or over 2 GiB of memory; its bytes are left in `--findings`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common.extras import require
from benchmarks.common.report import ROOT, add_output, describe_command, make_parser, show_table, write_report
from nestforge.commandline import run_command
from tests.stress.fuzz_targets import TARGETS

SECONDS_EACH, MEMORY_MIB = 10, 2048
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)")


def fuzz(name: str, seconds: int, findings: Path) -> dict[str, Any]:
    """Fuzz one target; return executions and what was found."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        folder = Path(temporary)
        (folder / "corpus").mkdir()
        (folder / "files").mkdir()
        for number, seed in enumerate(TARGETS[name].make_seeds(folder / "files")):
            (folder / "corpus" / str(number)).write_bytes(seed)
        prefix = findings.absolute() / f"{name.replace(' ', '_')}-"
        flags = [
            *(f"-max_total_time={seconds}", f"-timeout={SECONDS_EACH}", f"-rss_limit_mb={MEMORY_MIB}"),
            *("-print_final_stats=1", f"-artifact_prefix={prefix}", "-max_len=65536"),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "tests.stress.fuzz_one", name, str(folder), *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    executed = _EXECUTED.search(done.stderr)
    found = None
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        start = next((i for i, line in enumerate(lines) if "Uncaught Python exception" in line or "ERROR:" in line), -8)
        found = "\n".join(lines[start:][:30])
    return {"executions": int(executed[1]) if executed else 0, "seconds": seconds, "finding": found}


def main() -> None:
    """Fuzz, print, write."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--seconds", type=int, default=180, help="for each target")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS), help="default: all")
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="folder for bytes that broke something")
    add_output(parser, "fuzz.json")
    args = parser.parse_args()
    require("atheris")
    args.findings.mkdir(exist_ok=True)
    results = {}
    for name in args.target:
        results[name] = fuzz(name, args.seconds, args.findings)
        print(json.dumps({name: results[name]}, indent=2), file=sys.stderr)
    rows = [
        (name, f"{row['executions']:,}", str(row["seconds"]), (row["finding"] or "none").splitlines()[0])
        for name, row in results.items()
    ]
    show_table("fuzzing", ("reader", "executions", "seconds", "finding"), rows)
    target = None if len(args.target) == len(TARGETS) else args.target
    command = describe_command(__file__, seconds=args.seconds, target=target)
    write_report(args.output, command=command, packages=("atheris", "nestforge"), targets=results)
    if any(row["finding"] for row in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main, name="fuzz")
