"""Fuzz one reader in this process, which libFuzzer ends; `fuzz` starts it.

    python -m tests.stress.fuzz_one onnx FOLDER [libFuzzer's flags]

FOLDER holds `corpus`, the bytes to begin with, and `files`, where the reader finds its file.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path

from benchmarks.common.extras import require
from benchmarks.common.report import make_parser
from nestforge.commandline import run_command
from tests.stress.fuzz_targets import TARGETS

INSTRUMENTED = ["nestforge", "PIL", "zipfile", "yaml", "json", "numpy.lib", "pydantic"]


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("folder", type=Path)
    args, flags = parser.parse_known_args()
    require("atheris")
    import atheris

    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=INSTRUMENTED):
        import nestforge.artifact.artifact
        import nestforge.compile.onnxfile
        import nestforge.networks.checkpoint
        import nestforge.vacc.datalist
        import nestforge.vacc.vamc
        import nestforge.vacc.vamp_eval  # noqa: F401
        from nestforge.errors import NestForgeError

    target = TARGETS[args.target]
    path = args.folder / "files" / target.name

    def try_bytes(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(NestForgeError):
            target.read(path)

    atheris.Setup([sys.argv[0], str(args.folder / "corpus"), *flags], try_bytes)
    atheris.Fuzz()


if __name__ == "__main__":
    run_command(main, name="fuzz_one")
