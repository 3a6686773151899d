"""Access to local files, and to files at any URL that fsspec knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nestforge.errors import NestForgeError

EXTRA = "pip install 'nestforge[scale]'"


def is_remote(url: str) -> bool:
    """Tell a URL from a path on this machine."""
    return "://" in url


def ask_filesystem(url: str, question: Callable[[Any, str], Any]) -> Any:
    """Call `question` with the file system of a URL and the path on it, and return the result.

    Raises:
        NestForgeError: a package is not installed, the URL is not understood, or the file system refuses access.
    """
    try:
        import fsspec.core
    except ImportError as error:
        raise NestForgeError(f"{url} needs fsspec; run {EXTRA}") from error
    try:
        return question(*fsspec.core.url_to_fs(url))
    except NestForgeError:
        raise
    except Exception as error:  # each file system raises what its own library raises
        raise NestForgeError(f"cannot use {url}: {describe_error(error)}") from error


@contextmanager
def open_file(url: str) -> Iterator[Any]:
    """Open a file for reading."""
    if is_remote(url):
        with ask_filesystem(url, lambda system, path: system.open(path, "rb")) as file:
            yield file
    else:
        with Path(url).open("rb") as file:
            yield file


def describe_error(error: BaseException) -> str:
    """Return the first line of an error's message, or else its type."""
    return (str(error).strip().splitlines() or [""])[0] or type(error).__name__
