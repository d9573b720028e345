"""Reading and writing images and masks: any common format in, palette PNGs out, one clear error for a bad file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from patch2tissue.atomic import atomic_path
from patch2tissue.errors import DataError
from patch2tissue.tissues import IGNORE_INDEX, TissueSet

IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2"})
"""File extensions (lower case) taken for images."""

MAX_PIXELS = 2**30
"""Largest image that is read whole; larger ones are slides."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS

_BAD_FILE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, MemoryError)


def _open(path: Path) -> Image.Image:
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty (0 bytes). Copy it again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path)
    except Image.DecompressionBombWarning:
        raise DataError(f"{path}: has more than {MAX_PIXELS} pixels; cut it into patches first.") from None
    except _BAD_FILE as error:
        raise DataError(f"{path}: cannot be read as an image ({_reason(error)}).") from None


def _reason(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "unknown format" if "cannot identify image file" in text else text


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels as `read_image` gives them, from the header alone.

    Raises:
        DataError: if the file is no image.
    """
    with _open(path) as image:
        width, height = image.size
        # orientations 5 to 8 are quarter turns
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def read_image(path: Path) -> np.ndarray:
    """Read an image as RGB.

    EXIF orientation is applied, transparency is laid over white, 16-bit and float greys are scaled to 8 bits, CMYK and
    palettes are converted.

    Returns:
        uint8 [H, W, 3].

    Raises:
        DataError: if the file is missing, truncated or no image; the message names it.
    """
    with _open(path) as opened:
        try:
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("I", "I;16", "I;16L", "I;16B", "F"):
                image = Image.fromarray(_to_eight_bits(np.asarray(image)))
            if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa"):
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, (255, 255, 255, 255))
                image = Image.alpha_composite(white, image)
            return np.array(image.convert("RGB"))
        except _BAD_FILE as error:
            raise DataError(f"{path}: cannot be read as an image ({_reason(error)}).") from None


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    largest = values.max(initial=0.0)
    if largest > 255:
        values = values * (255.0 / 65535.0)
    elif largest <= 1.0 and not np.array_equal(values, np.rint(values)):
        values = values * 255.0
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def read_mask(path: Path, tissues: TissueSet) -> np.ndarray:
    """Read a mask as tissue indices.

    Palette and grey files are read by index; a palette file whose own colours are the set's at other indices, and a
    coloured (RGB) file, by colour.

    Returns:
        uint8 [H, W]: 0..K-1, or 255 for background and everything that is not scored.

    Raises:
        DataError: if the file is unreadable, or holds an index or a colour outside the tissue set.
    """
    with _open(path) as opened:
        try:
            if opened.mode in ("RGB", "RGBA"):
                indices = _from_colors(np.array(opened.convert("RGB")), path, tissues)
            elif opened.mode in ("P", "L", "1", "I", "I;16"):
                indices = np.array(opened)
                if opened.mode == "1":
                    indices = indices.astype(np.uint8)
                if opened.mode == "P" and _has_other_palette_order(opened, tissues):
                    indices = _from_colors(np.array(opened.convert("RGB")), path, tissues)
            else:
                raise DataError(f"{path}: a mask must be a palette, grey or RGB image, not mode {opened.mode}.")
        except _BAD_FILE as error:
            raise DataError(f"{path}: cannot be read as a mask ({_reason(error)}).") from None
    found = np.unique(indices)
    unknown = [int(v) for v in found if int(v) not in tissues.mask_values()]
    if unknown:
        raise DataError(
            f"{path}: holds the mask index {unknown[0]}, which the tissue set '{tissues.name}' does not have "
            f"(it has {_known(tissues)})."
        )
    mask = indices.astype(np.uint8)
    mask[mask >= len(tissues)] = IGNORE_INDEX
    return mask


def _known(tissues: TissueSet) -> str:
    return ", ".join(str(v) for v in sorted(tissues.mask_values()))


def _has_other_palette_order(image: Image.Image, tissues: TissueSet) -> bool:
    """Whether the file's palette holds all tissue colours, but at other indices than the set."""
    flat = image.getpalette("RGB") or []
    colors = [tuple(flat[i : i + 3]) for i in range(0, len(flat), 3)]
    ours = list(tissues.colors)
    return colors[: len(ours)] != ours and all(color in colors for color in ours)


def _from_colors(rgb: np.ndarray, path: Path, tissues: TissueSet) -> np.ndarray:
    codes = (rgb[..., 0].astype(np.int64) << 16) | (rgb[..., 1].astype(np.int64) << 8) | rgb[..., 2]
    table = {_code(color): k for k, color in enumerate(tissues.colors)}
    if tissues.background is not None:
        table[_code(tissues.background.color)] = tissues.background.index
    table.setdefault(_code((255, 255, 255)), IGNORE_INDEX)
    present = np.unique(codes)
    unknown = [int(c) for c in present if int(c) not in table]
    if unknown:
        red, green, blue = unknown[0] >> 16, (unknown[0] >> 8) & 255, unknown[0] & 255
        hint = (
            " So many colours mean that it was saved with loss (JPEG) or smoothed; save masks as PNG."
            if len(unknown) > 16
            else ""
        )
        raise DataError(
            f"{path}: holds the colour ({red}, {green}, {blue}), which the tissue set '{tissues.name}' does not have.{hint}"
        )
    indices = np.full(codes.shape, IGNORE_INDEX, dtype=np.uint8)
    for code in present:
        indices[codes == code] = table[int(code)]
    return indices


def _code(color: tuple[int, int, int]) -> int:
    return (color[0] << 16) | (color[1] << 8) | color[2]


def write_mask(path: Path, mask: np.ndarray, tissues: TissueSet) -> None:
    """Write a mask [H, W] uint8 as a palette PNG in the set's colours, atomically."""
    height, width = mask.shape
    image = Image.new("P", (width, height))
    image.putpalette(tissues.palette())
    image.frombytes(np.ascontiguousarray(mask, dtype=np.uint8).tobytes())
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")
