"""npz files."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from tests.hostile.corpus.case import EITHER, REFUSED, USED, Case, damage, put


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy_of(shape: tuple[int, ...], data: bytes, descr: str = "|u1", *, fortran: bool = False) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": descr, "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + data


class Bomb:
    """Leaves a trace when somebody unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pickle_was_run",)


def list_npz() -> Iterator[Case]:
    image = npy_of((3, 4, 5), bytes(60))

    def npz(content: bytes, key: str = "input_0", compression: int = zipfile.ZIP_DEFLATED) -> bytes:
        return zip_of({f"{key}.npy": content}, compression)

    good = {
        "plain": npz(image),
        "stored": npz(image, compression=zipfile.ZIP_STORED),
        "bzip2": npz(image, compression=zipfile.ZIP_BZIP2),
        "fortran": npz(npy_of((3, 4, 5), bytes(60), fortran=True)),
        "more_arrays": zip_of({"input_0.npy": image, "pickled.npy": pickle.dumps(Bomb())}),
        "behind_garbage": b"garbage" * 9 + npz(image),
        "one_pixel": npz(npy_of((3, 1, 1), bytes(3))),
    }
    for name, content in good.items():
        yield Case("npz", f"{name}.npz", USED, put(content))
    endless = zlib.compressobj(9, wbits=-15)
    bad = {
        "empty": b"",
        "text": b"no zip",
        "empty_zip": zip_of({}),
        "wrong_key": npz(image, key="image"),
        "no_npy": zip_of({"input_0": image}),
        "not_an_array": npz(b"no array"),
        "pickle": npz(pickle.dumps(Bomb())),
        "object_array": npz(npy_of((1,), pickle.dumps(np.array([Bomb()], object)), "|O")),
        "strings": npz(npy_of((3, 4, 5), bytes(60), "|S1")),
        "records": npz(npy_of((3, 4, 5), bytes(60), "|V1")),
        "floats": npz(npy_of((3, 4, 5), bytes(240), "<f4")),
        "complex": npz(npy_of((3, 4, 5), bytes(960), "<c16")),
        "signed": npz(npy_of((3, 4, 5), bytes(60), "|i1")),
        "channels_last": npz(npy_of((4, 5, 3), bytes(60))),
        "batch": npz(npy_of((1, 3, 4, 5), bytes(60))),
        "flat": npz(npy_of((60,), bytes(60))),
        "scalar": npz(npy_of((), bytes(1))),
        "no_pixels": npz(npy_of((3, 0, 5), b"")),
        "negative": npz(npy_of((3, -4, -5), bytes(60))),
        "too_short": npz(npy_of((3, 4, 5), bytes(59))),
        "too_long": npz(npy_of((3, 4, 5), bytes(61))),
        "promises_terabytes": npz(npy_of((3, 10**6, 10**6), b"")),
        "promises_gigabytes": npz(npy_of((3, 13_000, 13_000), bytes(100))),
        "overflow": npz(npy_of((3, 2**62, 4), b"")),
        "version3": npz(b"\x93NUMPY\x03\x00" + image[8:]),
        "version9": npz(b"\x93NUMPY\x09\x09" + image[8:]),
        "header_code": npz(b"\x93NUMPY\x01\x00" + struct.pack("<H", 30) + b"__import__('os').system('ls')\n"),
        "header_deep": npz(b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 8999 + b"\n"),
        "header_huge": npz(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{" * 100),
        "zip_bomb": npz(npy_of((3, 4, 5), bytes(1 << 27))),
        "zip_bomb_header": npz(b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 27) + b" " * (1 << 27)),
        "encrypted": npz(image)
        .replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01")
        .replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
        "deflate_of_nothing": npz(endless.flush()),
    }
    for name, content in bad.items():
        yield Case("npz", f"{name}.npz", REFUSED, put(content))
    for name, content in damage(npz(image), 8, seed=3):
        yield Case("npz", f"{name}.npz", EITHER, put(content))
    yield Case("npz", "pipe.npz", REFUSED, lambda path: os.mkfifo(path))
    yield Case("npz", "folder.npz", REFUSED, lambda path: path.mkdir())
    yield Case("npz", "endless.npz", REFUSED, lambda path: path.symlink_to("/dev/zero"))
