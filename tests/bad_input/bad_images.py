"""Pictures and masks that are broken, hostile or strange."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, PngImagePlugin
from tests.bad_input.faults import Fault, Maker, content

SIDE = 32
PICTURE = np.random.default_rng(5).integers(60, 220, (SIDE, SIDE, 3), dtype=np.uint8)
SMOOTH = np.array(Image.fromarray(PICTURE[:4, :4]).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def encoded(form: str, picture: np.ndarray = PICTURE, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes, kind: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def _bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def _tiff_with(tag: int, value: int) -> Maker:
    """A TIFF of strips, one of whose tags lies."""

    def make(path: Path) -> None:
        tifffile.imwrite(path, PICTURE, photometric="rgb", rowsperstrip=8)
        with tifffile.TiffFile(path) as file:
            where = file.pages.first.tags[tag].valueoffset
        raw = bytearray(path.read_bytes())
        raw[where : where + 4] = struct.pack("<I", value)
        path.write_bytes(bytes(raw))

    return make


def _text_bomb(path: Path) -> None:
    """A PNG whose text unpacks to 256 MB."""
    packed = zlib.compressobj()
    zeros = b"".join(packed.compress(bytes(2**20)) for _ in range(256)) + packed.flush()
    body = chunk(b"zTXt", b"Comment\0\0" + zeros)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PICTURE))
    path.write_bytes(png(SIDE, SIDE, body, chunk(b"IDAT", rows)))


def _exif(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PICTURE).save(path, exif=exif)


def _animated(path: Path) -> None:
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    frames[0].save(path, format="PNG", save_all=True, append_images=frames[1:])


def _pages(path: Path) -> None:
    tifffile.imwrite(path, np.stack([PICTURE, 255 - PICTURE]), photometric="rgb")


def _much_text(path: Path) -> None:
    told = PngImagePlugin.PngInfo()
    told.add_text("Comment", "x" * 500_000)
    Image.fromarray(PICTURE).save(path, pnginfo=told)


def _alpha(path: Path) -> None:
    alpha = np.full((SIDE, SIDE, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([PICTURE, alpha], axis=2)).save(path)


def _half(form: str) -> Maker:
    whole = encoded(form)
    return content(whole[: len(whole) // 2])


def _rgb16(path: Path) -> None:
    tifffile.imwrite(path, PICTURE.astype(np.uint16) * 257, photometric="rgb")


_COPY = "copy it again"
_SAVE = "save it as PNG, JPEG or TIFF"
_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n(canary) (w) file closefile\nshowpage\n"
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"><script>alert(1)</script></svg>'


def _image(name: str, file: str, make: Maker, *says: str, accepted: bool = False) -> Fault:
    return Fault("images", name, file, make, says, accepted)


IMAGES = [
    *(
        _image(f"{form} without a byte", f"empty-{form}.{ending}", content(b""), "is empty (0 bytes)", "Copy it again")
        for form, ending in (("png", "png"), ("jpeg", "jpg"), ("tiff", "tif"), ("bmp", "bmp"), ("webp", "webp"))
    ),
    *(
        _image(f"{form} cut in half", f"half-{form}.{ending}", _half(form), "cannot be read as an image", _COPY)
        for form, ending in (("PNG", "png"), ("JPEG", "jpg"), ("TIFF", "tif"), ("BMP", "bmp"))
    ),
    _image("WEBP cut in half", "half-webp.webp", _half("WEBP"), "cannot be read as an image", "again"),
    _image("JPEG 2000 cut in half", "half-jp2.jp2", _half("JPEG2000"), "cannot be read as an image", "again"),
    _image("text called .png", "text.png", content(b"this is no picture"), _SAVE),
    _image("SVG called .png", "drawing.png", content(_SVG), _SAVE),
    _image("EPS called .png", "program.png", content(_EPS), _SAVE),
    _image("HTML of a failed download", "login.jpg", content(b"<!DOCTYPE html><title>Log in</title>"), _SAVE),
    _image("PNG of 1.6 gigapixels", "bomb.png", content(png(40_000, 40_000)), "cut it into smaller images"),
    _image("PNG of 4 exapixels", "exa.png", content(png(2**31 - 1, 2**31 - 1)), "cut it into smaller images"),
    _image("PNG that holds less than it says", "lies.png", content(png(20_000, 20_000, chunk(b"IDAT", b""))), _COPY),
    _image("text of 256 MB in a PNG", "text-bomb.png", _text_bomb, "cannot be read as an image", "again"),
    _image("PNG without width", "flat.png", content(png(0, 32)), "cannot be read as an image", _SAVE),
    _image("BMP without width", "flat-bmp.bmp", content(_bmp(0, 32)), "cannot be read as an image", _SAVE),
    _image("TIFF whose strips lie beyond its end", "offsets.tif", _tiff_with(273, 2**30), _COPY),
    _image("TIFF that says it is a billion high", "high.tif", _tiff_with(257, 10**9), "smaller images"),
    _image("16 bits per colour", "deep.tif", _rgb16, accepted=True),
    _image("grey", "grey.png", content(encoded("PNG", PICTURE[..., 0])), accepted=True),
    _image("alpha channel", "alpha.png", _alpha, accepted=True),
    _image("CMYK", "print.jpg", lambda p: Image.fromarray(SMOOTH).convert("CMYK").save(p, quality=95), accepted=True),
    _image("turned by EXIF", "turned.png", _exif, accepted=True),
    _image("animated PNG", "moves.png", _animated, accepted=True),
    _image("TIFF of several pages", "pages.tif", _pages, accepted=True),
    _image("text of 500 kB in a PNG", "long-text.png", _much_text, accepted=True),
    _image("GIF called .png", "other.png", content(encoded("GIF", PICTURE[..., 0])), accepted=True),
    _image("name with spaces and a line end", "a  b\nc.png", content(encoded("PNG")), accepted=True),
]


def _mask(name: str, file: str, make: Maker, *says: str, accepted: bool = False) -> Fault:
    return Fault("masks", name, file, make, says, accepted)


def _grey(values: np.ndarray) -> Maker:
    return lambda path: Image.fromarray(values).save(path)


INDICES = np.repeat(np.arange(4, dtype=np.uint8), SIDE * SIDE // 4).reshape(SIDE, SIDE)
_COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (153, 0, 255)], np.uint8)

MASKS = [
    _mask("mask as JPEG", "m.jpg", lambda p: Image.fromarray(_COLOURS[INDICES]).save(p), "Save masks as PNG"),
    _mask("index of no tissue", "m.png", _grey(INDICES + 5), "the mask index 5, 6, 7", "(it has 0, 1, 2, 3, 4, 255)"),
    _mask("colour of no tissue", "m.png", _grey(_COLOURS[INDICES] // 2), "holds the colour", "It has (255, 0, 0)"),
    _mask("smoothed colours", "m.png", _grey(PICTURE), "unknown colours", "make it again as PNG"),
    _mask("mask of another size", "m.png", _grey(INDICES[:16]), "is 32×16 px", "32×32 px"),
    _mask(
        "mask of fractions", "m.tif", lambda p: tifffile.imwrite(p, INDICES / np.float32(3)), "mode F", "Save it as PNG"
    ),
    _mask("mask without a byte", "m.png", content(b""), "is empty", "Copy it again"),
    _mask("mask cut in half", "m.png", content(encoded("PNG")[:400]), "cannot be read", _COPY),
    _mask(
        "mask of 32 bits below zero", "m.tif", lambda p: tifffile.imwrite(p, INDICES.astype(np.int32) - 1), "-1", "has"
    ),
    _mask("mask of 16 bits", "m.tif", lambda p: tifffile.imwrite(p, INDICES.astype(np.uint16)), accepted=True),
    _mask("mask in colours", "m.png", _grey(_COLOURS[INDICES]), accepted=True),
]
