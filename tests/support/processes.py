"""Commands in processes of their own, and what they leave in a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NESTFORGE = "from nestforge.cli import main; main()"
IMAGE2NPZ = "from nestforge.vacc.commands import image2npz; image2npz()"


def start(program: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]


def run(program: str, *arguments: object, code: int, **options: object) -> str:
    """Return stderr."""
    process = start(program, *arguments, **options)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    return stderr


def list_all(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
