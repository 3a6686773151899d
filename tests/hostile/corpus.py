"""The corpus: how to make each bad or odd file, and what must become of it."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

USED, REFUSED, EITHER = "used", "refused", "either"  # either: damage that may hit bytes nobody looks at
Maker = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One file (or link, or pipe) called `name`; `outcome` is what the reader must do with it."""

    kind: str
    name: str
    outcome: str
    make: Maker


def put(content: bytes) -> Maker:
    return lambda path: path.write_bytes(content) and None


def damage(content: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` cut and `count` bit-flipped versions."""
    rng = random.Random(seed)
    for number in range(count):
        yield f"cut{number}", content[: rng.randrange(len(content))]
        flipped = bytearray(content)
        for _ in range(1 + number):
            flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        yield f"flipped{number}", bytes(flipped)


def list_cases(folder: Path) -> list[Case]:
    """Return every case; `folder` holds what valid files are made from: model.onnx, and an artifact in artifact/."""
    return [
        *list_images(),
        *list_places(),
        *list_npz(),
        *list_onnx((folder / "model.onnx").read_bytes()),
        *list_texts(),
        *list_checkpoints(),
        *list_artifacts(folder / "artifact"),
    ]


# Images ---------------------------------------------------------------------------------------------------------------


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_picture(width: int = 48, height: int = 40) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([rows * 5, columns * 5, rows * columns], -1).astype(np.uint8))


def make_png(
    width: int, height: int, *, bits: int = 8, colour: int = 2, data: bytes = b"", extra: bytes = b""
) -> bytes:
    """Write a PNG whose header may promise anything."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"zTXt", extra), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
        if body or name != b"zTXt"
    )


def list_images() -> Iterator[Case]:
    picture = make_picture()
    grey16 = Image.fromarray((np.arange(1920, dtype=np.uint16) * 34).reshape(40, 48))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = picture.quantize(16)
    jpeg, png, gif, webp = (encode(picture, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP"))
    frames = [make_picture(), picture.transpose(Image.Transpose.ROTATE_180)]
    animated: dict[str, Any] = {"save_all": True, "append_images": frames}
    good = {
        "plain.jpg": jpeg,
        "plain.png": png,
        "upper.JPG": jpeg,
        "progressive.jpg": encode(picture, "JPEG", progressive=True),
        "grey.jpg": encode(picture.convert("L"), "JPEG"),
        "cmyk.jpg": encode(picture.convert("CMYK"), "JPEG"),
        "adobe_inverted.jpg": invert_cmyk(encode(picture.convert("CMYK"), "JPEG")),
        "quality1.jpg": encode(picture, "JPEG", quality=1),
        "subsampled.jpg": encode(picture, "JPEG", subsampling=2),
        "icc.jpg": encode(picture, "JPEG", icc_profile=profile),
        "broken_icc.jpg": encode(picture, "JPEG", icc_profile=b"no profile at all"),
        "rotated.jpg": encode(picture, "JPEG", exif=exif),
        "broken_exif.jpg": encode(picture, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"),
        "trailing_garbage.jpg": jpeg + os.urandom(300),
        "comment.jpg": encode(picture, "JPEG", comment=b"\x1b[31m" * 100),
        "grey.png": encode(picture.convert("L"), "PNG"),
        "bilevel.png": encode(picture.convert("1"), "PNG"),
        "grey_alpha.png": encode(picture.convert("LA"), "PNG"),
        "alpha.png": encode(picture.convert("RGBA"), "PNG"),
        "grey16.png": encode(grey16, "PNG"),
        "palette.png": encode(palette, "PNG"),
        "palette_transparent.png": encode(palette, "PNG", transparency=3),
        "palette_alpha.png": encode(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        "interlaced_size.png": encode(make_picture(33, 17), "PNG", optimize=True),
        "icc.png": encode(picture, "PNG", icc_profile=profile),
        "animated.png": encode(picture, "PNG", **animated),
        "ztxt.png": make_png(2, 2, data=bytes(14), extra=b"k\0\0" + zlib.compress(bytes(1 << 16))),
        "gif.gif": gif,
        "animated.gif": encode(picture, "GIF", **animated),
        "gif_transparent.gif": encode(palette, "GIF", transparency=1),
        "lossy.webp": webp,
        "lossless.webp": encode(picture, "WEBP", lossless=True),
        "alpha.webp": encode(picture.convert("RGBA"), "WEBP"),
        "animated.webp": encode(picture, "WEBP", **animated),
        "bmp.bmp": encode(picture, "BMP"),
        "palette.bmp": encode(palette, "BMP"),
        "bilevel.bmp": encode(picture.convert("1"), "BMP"),
        "deflate.tiff": encode(picture, "TIFF", compression="tiff_deflate"),
        "lzw.tif": encode(picture, "TIFF", compression="tiff_lzw"),
        "fax.tif": encode(picture.convert("1"), "TIFF", compression="group4"),
        "grey16.tif": encode(grey16, "TIFF"),
        "cmyk.tif": encode(picture.convert("CMYK"), "TIFF"),
        "lab.tif": encode(picture.convert("LAB"), "TIFF"),
        "pages.tif": encode(picture, "TIFF", **animated),
        "ppm.ppm": encode(picture, "PPM"),
        "ascii.pgm": b"P2\n# a comment\n3 2\n255\n0 50 100 150 200 250\n",
        "deep.ppm": b"P6 2 2 65535 " + bytes(24),
        "one_pixel.png": encode(make_picture(1, 1), "PNG"),
        "one_pixel.jpg": encode(make_picture(1, 1), "JPEG"),
        "one_row.png": encode(make_picture(500, 1), "PNG"),
        "one_column.png": encode(make_picture(1, 500), "PNG"),
        "wide.png": encode(Image.new("RGB", (30_000, 20), (9, 90, 200)), "PNG"),
        "wide.jpg": encode(Image.new("RGB", (30_000, 8), (9, 90, 200)), "JPEG"),
        "tall.png": encode(Image.new("RGB", (20, 30_000), (9, 90, 200)), "PNG"),
        "large.png": encode(Image.new("1", (9000, 9000)), "PNG"),
        "png_called.jpg": png,
        "jpeg_called.png": jpeg,
        "gif_called.bmp": gif,
        "webp_called.jpeg": webp,
        "tiff_called.jpg": encode(picture, "TIFF"),
        "jpeg2000_called.png": encode(picture, "JPEG2000"),
        "ico_called.png": encode(picture, "ICO"),
    }
    for name, content in good.items():
        yield Case("images", name, USED, put(content))
    bad = {
        "empty.jpg": b"",
        "one_byte.png": b"\x89",
        "magic_only.jpg": b"\xff\xd8\xff",
        "magic_only.png": b"\x89PNG\r\n\x1a\n",
        "text.jpg": b"this is no image\n" * 40,
        "html.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "zeros.png": bytes(4096),
        "noise.jpg": random.Random(1).randbytes(4096),
        "pdf.png": b"%PDF-1.7\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "zip.jpg": zip_of({"a": b"b"}),
        "pickle.png": pickle.dumps({"a": 1}),
        "program.png": encode(picture, "EPS"),
        "program.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/tmp/x) (w) file closefile\n",
        "float.tif": encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
        "half.jpg": encode(make_picture(300, 300), "JPEG")[:900],
        "half.png": png[: len(png) // 2],
        "half.gif": gif[:100],
        "half.webp": webp[: len(webp) // 2],
        "half.bmp": encode(picture, "BMP")[:300],
        "half.tif": encode(picture, "TIFF", compression="tiff_lzw")[:200],
        "half.ppm": encode(picture, "PPM")[:200],
        "bomb.png": make_png(60_000, 60_000, data=bytes(1000)),
        "bomb_wide.png": make_png(2**31 - 1, 1, data=bytes(1000)),
        "bomb_max.png": make_png(2**31 - 1, 2**31 - 1),
        "bomb_no_size.png": make_png(0, 0),
        "bomb_just_over.png": make_png(13_378, 13_378, bits=1, colour=0, data=bytes(1000)),
        "bomb_text.png": make_png(2, 2, data=bytes(14), extra=b"k\0\0" + zlib.compress(bytes(1 << 26))),
        "bomb.gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(3) + b";",
        "bomb.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 99_999, 99_999, 1, 24, 0, 0, 0, 0, 0, 0),
        "bomb.ppm": b"P6 99999 99999 255\n" + bytes(100),
        "negative.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, -9, 9, 1, 24, 0, 0, 0, 0, 0, 0),
        "wrong_bits.png": make_png(2, 2, bits=3, data=bytes(14)),
        "wrong_crc.png": png[:29] + b"\0\0\0\0" + png[33:],
        "no_data.png": make_png(40, 40, data=bytes(5)),
    }
    for name, content in bad.items():
        yield Case("images", name, REFUSED, put(content))
    for kind, content in (("jpg", jpeg), ("png", png), ("gif", gif), ("webp", webp)):
        for number, (name, damaged) in enumerate(damage(content, 4, seed=number_of(kind))):
            yield Case("images", f"{name}_{number}.{kind}", EITHER, put(damaged))
    tiff = encode(picture, "TIFF", compression="tiff_deflate")
    for number, (name, damaged) in enumerate(damage(tiff, 4, seed=9)):
        yield Case("images", f"{name}_{number}.tif", EITHER, put(damaged))


def number_of(word: str) -> int:
    return zlib.crc32(word.encode())


def invert_cmyk(content: bytes) -> bytes:
    """Say in an Adobe segment that the inks are inverted, as Photoshop does (transform 0)."""
    segment = b"\xff\xee" + struct.pack(">H", 14) + b"Adobe" + bytes([0, 100, 0, 0, 0, 0, 0])
    return content[:2] + segment + content[2:]


def list_places() -> Iterator[Case]:
    """Yield what is odd about a name or a place, not about the bytes."""
    jpeg = encode(make_picture(), "JPEG")
    for name in (
        "ünïcödé.jpg",
        "日本語.jpg",
        "🦆.jpg",
        "spaces in it.jpg",
        "two.dots..jpg",
        "[bold]markup[red].jpg",
        "q'u\"o.jpg",
    ):
        yield Case("names", name, USED, put(jpeg))
    for name in ("%s%n.jpg", "$(touch x).jpg", "-rf.jpg", "e\u0301.jpg", "\u202egpj.jpg", "l" * 240 + ".jpg"):
        yield Case("names", name, USED, put(jpeg))
    for name in ("new\nline.jpg", "return\r.jpg", "\x1b[31mred.jpg", "tab\t.jpg", "bell\x07.jpg", "sep\u2028.jpg"):
        yield Case("names", name, USED, put(jpeg))
    yield Case("names", os.fsdecode(b"latin\xe9.jpg"), USED, put(jpeg))
    yield Case("names", "bad\n\x1b[2J.jpg", REFUSED, put(b"no image"))
    yield Case("names", os.fsdecode(b"bad\xff.jpg"), REFUSED, put(b"no image"))

    def link_to(target: str) -> Maker:
        return lambda path: path.symlink_to(target)

    yield Case("places", "pipe.jpg", REFUSED, lambda path: os.mkfifo(path))
    yield Case("places", "loop.jpg", REFUSED, link_to("loop.jpg"))
    yield Case("places", "to_nothing.jpg", REFUSED, link_to("nothing"))
    yield Case("places", "to_endless.jpg", REFUSED, link_to("/dev/zero"))
    yield Case("places", "to_random.png", REFUSED, link_to("/dev/urandom"))
    yield Case("places", "to_null.jpg", REFUSED, link_to("/dev/null"))
    yield Case("places", "to_memory.jpg", REFUSED, link_to("/proc/self/mem"))
    yield Case("places", "to_good.jpg", USED, link_to("../../good.jpg"))
    if os.geteuid() != 0:  # the super-user may read everything

        def make_unreadable(path: Path) -> None:
            path.write_bytes(jpeg)
            path.chmod(0)

        yield Case("places", "forbidden.jpg", REFUSED, make_unreadable)


# npz ------------------------------------------------------------------------------------------------------------------


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


# ONNX -----------------------------------------------------------------------------------------------------------------


def list_onnx(model: bytes) -> Iterator[Case]:
    """Yield damaged versions of `model`, and valid ONNX files that are no image classifiers."""
    import onnx
    from onnx import TensorProto, helper

    def graph(
        nodes: list[Any],
        *,
        shape: tuple[Any, ...] = ("n", 3, 8, 8),
        dtype: int = TensorProto.FLOAT,
        inputs: int = 1,
        outputs: tuple[str, ...] = ("y",),
        weights: tuple[Any, ...] = (),
        opset: int = 17,
    ) -> bytes:
        made = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x" * (i + 1), dtype, shape) for i in range(inputs)],
            [helper.make_tensor_value_info(name, dtype, ("n", "k")) for name in outputs],
            list(weights),
        )
        proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])
        data: bytes = proto.SerializeToString()
        return data

    flat = helper.make_node("Flatten", ["x"], ["y"])
    node = helper.make_node
    external = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
    external.ClearField("float_data")
    external.data_location = TensorProto.EXTERNAL
    entry = external.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"
    short = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
    short.dims[0] = 10**12
    negative = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
    negative.dims[0] = -4
    yield Case("onnx", "plain.onnx", USED, put(graph([flat])))
    yield Case("onnx", "model.onnx", USED, put(model))
    bad = {
        "empty": b"",
        "text": b"no model",
        "noise": random.Random(2).randbytes(2000),
        "png": encode(make_picture(), "PNG"),
        "no_graph": onnx.ModelProto(ir_version=8).SerializeToString(),
        "no_nodes": graph([]),
        "no_input": graph([flat], inputs=0),
        "two_inputs": graph([flat], inputs=2),
        "no_output": graph([flat], outputs=()),
        "wrong_output": graph([flat], outputs=("z",)),
        "one_channel": graph([flat], shape=("n", 1, 8, 8)),
        "channels_last": graph([flat], shape=("n", 8, 8, 3)),
        "rank_two": graph([flat], shape=("n", 192)),
        "scalar": graph([flat], shape=()),
        "integers": graph([flat], dtype=TensorProto.INT64),
        "strings": graph([flat], dtype=TensorProto.STRING),
        "half": graph([flat], dtype=TensorProto.FLOAT16),
        "one_class": graph([node("GlobalAveragePool", ["x"], ["p"]), node("ReduceMean", ["p"], ["y"], keepdims=0)]),
        "image_out": graph([node("Relu", ["x"], ["y"])]),
        "unknown_operator": graph([node("Explode", ["x"], ["y"])]),
        "unknown_domain": graph([node("Flatten", ["x"], ["y"], domain="com.nobody")]),
        "opset0": graph([flat], opset=0),
        "opset1": graph([flat], opset=1),
        "opset_future": graph([flat], opset=9999),
        "opset_negative": graph([flat], opset=-3),
        "cycle": graph([node("Relu", ["b"], ["a"]), node("Relu", ["a"], ["b"]), node("Flatten", ["b"], ["y"])]),
        "twice": graph([flat, flat]),
        "external": graph([flat, node("Relu", ["w"], ["z"])], weights=(external,)),
        "short_weights": graph([flat, node("Relu", ["w"], ["z"])], weights=(short,)),
        "negative_weights": graph([flat, node("Relu", ["w"], ["z"])], weights=(negative,)),
        "huge_sides": graph([flat], shape=("n", 3, 2**40, 2**40)),
        "huge_batch": graph([flat], shape=(2**62, 3, 8, 8)),
        "no_arguments": graph([node("Conv", [], ["y"])]),
    }
    for name, content in bad.items():
        either = name in ("opset_future", "huge_sides", "huge_batch", "opset1", "unknown_domain", "twice", "half")
        yield Case("onnx", f"{name}.onnx", EITHER if either else REFUSED, put(content))
    for name, content in damage(model[: len(model) // 8] if len(model) > 1 << 20 else model, 12, seed=4):
        yield Case("onnx", f"{name}.onnx", EITHER, put(content))
    yield Case("onnx", "pipe.onnx", REFUSED, lambda path: os.mkfifo(path))
    yield Case("onnx", "folder.onnx", REFUSED, lambda path: path.mkdir())


# YAML, JSON, labels, lists --------------------------------------------------------------------------------------------

BUILD = """model: {name: resnest50, seed: 0}
dtype: fp32
output: out
preprocess: {ops: [{op: ecenter_crop, size: 224}], mean: [0.5, 0.5, 0.5]}
"""
VDSP = {
    "OpType": "FUSION_OP_RGB_RESIZE_CVTCOLOR_NORM_TENSOR",
    "OpConfig": {
        "OimageWidth": 64,
        "OimageHeight": 64,
        "NormaType": "DIV255",
        "ResizeType": "BILINEAR_CV",
        "Std": [0.2, 0.2, 0.2],
    },
}


def list_texts() -> Iterator[Case]:
    laughs = "a: &a [x]\n" + "".join(
        f"{c}: &{c} [{f'*{p},' * 9}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    yaml = {
        "empty": b"",
        "scalar": b"42",
        "list": b"- a\n- b\n",
        "binary": bytes(range(256)),
        "utf16": BUILD.encode("utf-16"),
        "tabs": b"model:\n\t- a\n",
        "unclosed": b"model: {name: [",
        "python_tag": b"model: !!python/object/apply:os.system ['touch pickle_was_run']\n",
        "unknown_tag": b"model: !nothing 1\n",
        "bad_date": b"model: 2020-13-45\n",
        "laughs": laughs.encode(),
        "itself": b"model: &a [*a]\n",
        "deep": b"model: " + b"[" * 3000,
        "deep_map": b"{a: " * 3000,
        "twice": b"model: {name: a}\nmodel: {name: b}\n",
        "unknown_key": BUILD.replace("dtype", "dtyp").encode(),
        "wrong_type": BUILD.replace("224", "'224'").encode(),
        "huge_side": BUILD.replace("224", "9" * 400).encode(),
        "infinite": BUILD.replace("0.5", ".inf").encode(),
        "not_a_number": BUILD.replace("0.5", ".nan").encode(),
        "long_line": b"model: " + b"x" * (1 << 20),
        "null_byte": b"model: \0\n",
        "documents": f"{BUILD}---\n{BUILD}".encode(),
    }
    yield Case("yaml", "plain.yaml", USED, put(BUILD.encode()))
    for name, content in yaml.items():
        yield Case("yaml", f"{name}.yaml", REFUSED, put(content))
    for name, content in damage(BUILD.encode(), 6, seed=5):
        yield Case("yaml", f"{name}.yaml", EITHER, put(content))
    for name in ("plain", "deep", "laughs", "itself", "list", "binary", "python_tag"):  # as the vendor's
        yield Case("vamc", f"{name}.yaml", REFUSED, put(BUILD.encode() if name == "plain" else yaml[name]))
    valid = json.dumps(VDSP).encode()
    vdsp = {
        "empty": b"",
        "null": b"null",
        "list": b"[1, 2]",
        "number": b"1e999",
        "binary": bytes(range(256)),
        "deep": b"[" * 100_000,
        "deep_valid": b"[" * 600 + b"]" * 600,
        "deep_map": b'{"OpType": ' * 600 + b"1" + b"}" * 600,
        "huge_number": valid.replace(b"64", b"9" * 5000),
        "not_a_number": valid.replace(b"0.2", b"NaN"),
        "infinite": valid.replace(b"0.2", b"Infinity"),
        "zero_std": valid.replace(b"0.2", b"0"),
        "huge_image": valid.replace(b"64", b"100000"),
        "surrogate": valid.replace(b"DIV255", b"\\ud800"),
        "comment": valid + b" // yes",
        "unknown_key": valid.replace(b"OimageWidth", b"OimageWidht"),
        "over_the_limit": b" " * (1 << 20) + valid,
    }
    yield Case("vdsp", "plain.json", USED, put(valid))
    for name, content in vdsp.items():
        yield Case("vdsp", f"{name}.json", REFUSED, put(content))
    for name, content in damage(valid, 6, seed=6):
        yield Case("vdsp", f"{name}.json", EITHER, put(content))
    labels = {
        "empty": b"",
        "blank": b"\n \n\t\n",
        "binary": bytes(range(128, 256)),
        "utf16": "tench\n".encode("utf-16"),
    }
    for name, content in labels.items():
        yield Case("labels", f"{name}.txt", REFUSED, put(content))
        yield Case("lists", f"{name}.txt", REFUSED, put(content))
    yield Case("labels", "over_the_limit.txt", REFUSED, put(b"x\n" * (9 << 20)))
    yield Case("labels", "escapes.txt", USED, put(b"\x1b[31mred\nb\x07ell\n[bold]x[/]\n"))
    yield Case("labels", "marked.txt", USED, put(b"\xef\xbb\xbftench\r\nshark\r\n"))
    yield Case("lists", "twice.txt", REFUSED, put(b"/a/b.npz\n/a/b.npz\n"))
    yield Case("lists", "null_byte.txt", EITHER, put(b"/a/\0.npz\n"))
    for kind, suffix in (("yaml", "yaml"), ("vamc", "yaml"), ("vdsp", "json"), ("labels", "txt"), ("lists", "txt")):
        yield Case(kind, f"pipe.{suffix}", REFUSED, lambda path: os.mkfifo(path))
        yield Case(kind, f"folder.{suffix}", REFUSED, lambda path: path.mkdir())
        yield Case(kind, f"endless.{suffix}", REFUSED, lambda path: path.symlink_to("/dev/zero"))
        yield Case(kind, f"loop.{suffix}", REFUSED, lambda path: path.symlink_to(path.name))


# Checkpoints ----------------------------------------------------------------------------------------------------------


def list_checkpoints() -> Iterator[Case]:
    from safetensors.numpy import save

    def safetensors(header: bytes, data: bytes = b"", size: int | None = None) -> bytes:
        return struct.pack("<Q", len(header) if size is None else size) + header + data

    entry = b'{"fc.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}'
    valid = save({"fc.weight": np.zeros((2, 512), np.float32)})
    files = {
        "empty": b"",
        "text": b"no checkpoint",
        "other_network": valid,
        "no_tensors": save({}),
        "header_too_long": safetensors(entry, bytes(16), size=2**63),
        "header_gigabytes": safetensors(entry, bytes(16), size=2**31),
        "header_no_json": safetensors(b"{" * 50),
        "header_deep": safetensors(b"[" * 50_000),
        "data_missing": safetensors(entry, bytes(3)),
        "offsets_turned": safetensors(entry.replace(b"[0, 16]", b"[16, 0]"), bytes(16)),
        "offsets_beyond": safetensors(entry.replace(b"[0, 16]", b"[0, 999999]"), bytes(16)),
        "shape_overflow": safetensors(entry.replace(b"[2, 2]", b"[9223372036854775807, 9]"), bytes(16)),
        "shape_negative": safetensors(entry.replace(b"[2, 2]", b"[-2, -2]"), bytes(16)),
        "unknown_dtype": safetensors(entry.replace(b"F32", b"F99"), bytes(16)),
        "strange_dtype": safetensors(entry.replace(b"F32", b"F8_E4M3").replace(b"[0, 16]", b"[0, 4]"), bytes(4)),
        "huge_classes": safetensors(
            entry.replace(b"[2, 2]", b"[4611686018427387904, 0]").replace(b"[0, 16]", b"[0, 0]")
        ),
    }
    for name, content in files.items():
        yield Case("checkpoints", f"{name}.safetensors", REFUSED, put(content))
    for name, content in damage(valid[:400], 5, seed=7):
        yield Case("checkpoints", f"{name}.safetensors", REFUSED, put(content))
    code = b'cbuiltins\nexec\n(S\'open("pickle_was_run", "w")\'\ntR.'
    torch_zip = {"archive/data.pkl": pickle.dumps(Bomb(), protocol=2), "archive/version": b"3\n"}
    pickles = {
        "empty": b"",
        "text": b"no checkpoint",
        "system": pickle.dumps(Bomb()),
        "system_protocol0": pickle.dumps({"fc.weight": Bomb()}, protocol=0),
        "exec": code,
        "system_in_zip": zip_of(torch_zip),
        "exec_in_zip": zip_of({"archive/data.pkl": code, "archive/version": b"3\n"}),
        "no_pickle_in_zip": zip_of({"archive/version": b"3\n"}),
        "empty_zip": zip_of({}),
        "numbers": pickle.dumps([1, 2, 3], protocol=2),
        "no_tensors": pickle.dumps({"state_dict": {}}, protocol=2),
        "itself": b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01h\x00s.",
        "deep": b"\x80\x02" + b"(" * 100_000 + b".",
        "stack_underflow": b"\x80\x02....",
        "memo_bomb": b"\x80\x02r\xff\xff\xff\x7f.",
        "long_integer": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "persistent": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "jit": zip_of(
            {"archive/data.pkl": b"\x80\x02}.", "archive/constants.pkl": b"\x80\x02).", "archive/code/a.py": b""}
        ),
        "legacy_magic_only": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
    }
    for name, content in pickles.items():
        yield Case("checkpoints", f"{name}.pth", REFUSED, put(content))
    for name, content in damage(pickle.dumps({"fc.weight": [1.0] * 50}, protocol=2), 5, seed=8):
        yield Case("checkpoints", f"{name}.pth", REFUSED, put(content))
    yield Case("checkpoints", "pipe.pth", REFUSED, lambda path: os.mkfifo(path))
    yield Case("checkpoints", "folder.safetensors", REFUSED, lambda path: path.mkdir())


# Artifacts ------------------------------------------------------------------------------------------------------------


def list_artifacts(artifact: Path) -> Iterator[Case]:
    """Yield copies of an artifact with something wrong."""
    files = {path.name: path.read_bytes() for path in artifact.iterdir()}
    manifest = json.loads(files["manifest.json"])

    def copy(**changes: bytes | None) -> Maker:
        def make(path: Path) -> None:
            path.mkdir()
            for name, content in {**files, **{key.replace("_", "."): value for key, value in changes.items()}}.items():
                if content is not None:
                    (path / name).write_bytes(content)

        return make

    def alter(change: Callable[[dict[str, Any]], object]) -> Maker:
        altered = json.loads(files["manifest.json"])
        change(altered)
        return copy(manifest_json=json.dumps(altered).encode())

    yield Case("artifacts", "plain", USED, copy())
    cases = {
        "no_manifest": copy(manifest_json=None),
        "no_model": copy(model_onnx=None),
        "no_labels": copy(labels_txt=None),
        "empty_manifest": copy(manifest_json=b""),
        "null_manifest": copy(manifest_json=b"null"),
        "list_manifest": copy(manifest_json=b"[]"),
        "deep_manifest": copy(manifest_json=b"[" * 100_000),
        "deep_valid_manifest": copy(manifest_json=b"[" * 600 + b"]" * 600),
        "binary_manifest": copy(manifest_json=bytes(range(256))),
        "changed_model": copy(model_onnx=files["model.onnx"][:-1] + b"\x01"),
        "cut_model": copy(model_onnx=files["model.onnx"][:1000]),
        "empty_model": copy(model_onnx=b""),
        "changed_labels": copy(labels_txt=files["labels.txt"].swapcase()),
        "short_labels": copy(labels_txt=b"one\n"),
        "unknown_format": alter(lambda m: m.update(format=2)),
        "unknown_key": alter(lambda m: m.update(surprise=1)),
        "no_files": alter(lambda m: m.update(outputs={})),
        "other_folder": alter(lambda m: m["outputs"].update({"../model.onnx": m["outputs"]["model.onnx"]})),
        "absolute": alter(lambda m: m["outputs"].update({"/etc/passwd": m["outputs"]["model.onnx"]})),
        "wrong_hash": alter(lambda m: m["outputs"]["model.onnx"].update(sha256="0" * 64)),
        "no_hash": alter(lambda m: m["outputs"]["model.onnx"].update(sha256="")),
        "other_preprocess": alter(lambda m: m["preprocess"].update(mean=[0.1, 0.1, 0.1])),
        "no_std": alter(lambda m: m["preprocess"].update(std=[0, 0, 0])),
        "no_height": alter(lambda m: m.update(height=None)),
        "huge_height": alter(lambda m: m.update(height=10**9, width=10**9)),
        "more_classes": alter(lambda m: m.update(classes=999)),
        "no_classes": alter(lambda m: m.update(classes=0)),
        "other_engine": alter(lambda m: m["config"].update(engine="tensorrt")),
    }
    for name, make in cases.items():
        yield Case("artifacts", name, REFUSED, make)
    for name, content in damage(json.dumps(manifest).encode(), 8, seed=10):
        yield Case("artifacts", name, EITHER, copy(manifest_json=content))

    def link_model(path: Path) -> None:
        copy(model_onnx=None)(path)
        os.mkfifo(path / "model.onnx")

    yield Case("artifacts", "pipe_model", REFUSED, link_model)
    yield Case("artifacts", "file", REFUSED, put(b"no folder"))
    yield Case("artifacts", "loop", REFUSED, lambda path: path.symlink_to(path.name))
