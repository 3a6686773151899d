"""Images: every encoding, and what is no image."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from tests.hostile.corpus.case import EITHER, REFUSED, USED, Case, damage, put
from tests.hostile.corpus.npz import zip_of


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
