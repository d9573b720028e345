"""Reading and writing images and masks: any common format in, palette PNGs out, one clear error for a bad file."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from patch2tissue.atomic import atomic_path
from patch2tissue.data.mask_values import from_colors, from_palette, values_in
from patch2tissue.errors import DataError
from patch2tissue.tissues import IGNORE_INDEX, TissueSet

IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2"})
"""File extensions (lower case) taken for images."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "JPEG2000", "GIF")
"""What Pillow may take a file's content for, whatever its name; EPS, for one, would be run as a program."""

MAX_PIXELS = 2**30
"""Largest image that is read whole; larger ones are slides."""

# Pillow warns above this and refuses above twice this; ours is the check in _open
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

_LOSSY = frozenset({"JPEG", "MPO"})
_SIXTEEN_BIT = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
_GREY_STEP = {"L;2": 85, "L;4": 17}  # Pillow spreads greys of 2 and 4 bits over 0..255
_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)


def _open(path: Path, content: bytes | None = None) -> Image.Image:
    """Open an image and read its header; from its bytes, where these are at hand."""
    path = Path(path)
    if content is None and not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    if (path.stat().st_size if content is None else len(content)) == 0:
        raise DataError(f"{path}: is empty (0 bytes). Copy it again.")
    try:
        image = Image.open(path if content is None else io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except Exception as error:
        raise _unreadable(path, error) from None
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _too_large(path)
    return image


def _too_large(path: Path) -> DataError:
    return DataError(f"{path}: has more than {MAX_PIXELS:,} pixels; cut it into smaller images first.")


def _unreadable(path: Path, error: Exception) -> DataError:
    """Error for a file that no decoder understands; decoders raise every kind of exception on damaged files."""
    if isinstance(error, UnidentifiedImageError):
        reason = "it is damaged or of a format that is not known; save it as PNG, JPEG or TIFF"
    elif isinstance(error, PermissionError):
        reason = "you may not read it; ask for leave to"
    elif isinstance(error, MemoryError):
        reason = "there is not enough memory for it"
    else:
        told = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        reason = f"{told}; it is damaged or cut short, copy it again"
    return DataError(f"{path}: cannot be read as an image ({reason}).")


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels as `read_image` gives them, from the header alone.

    Raises:
        DataError: if the file is no image.
    """
    with _open(path) as image:
        width, height = image.size
        try:
            turned = image.getexif().get(_ORIENTATION, 1) in _QUARTER_TURNS
        except Exception as error:
            raise _unreadable(path, error) from None
    return (width, height) if turned else (height, width)


def pixel_count(path: Path) -> int:
    """Pixels of an image from its header; faster than `image_size`, which looks through all of a PNG for its turn.

    Raises:
        DataError: if the file is no image.
    """
    with _open(path) as image:
        return int(image.width * image.height)


def read_image(path: Path, content: bytes | None = None) -> np.ndarray:
    """Read an image as RGB.

    EXIF orientation is applied, transparency is laid over white, 16-bit and float greys are scaled to 8 bits, CMYK and
    palettes are converted. Of a file with several pages the first is read.

    Args:
        path: the file.
        content: its bytes, where they were read already.

    Returns:
        uint8 [H, W, 3], writable.

    Raises:
        DataError: if the file is missing, truncated, larger than `MAX_PIXELS` or no image; the message names it.
    """
    with _open(path, content) as opened:
        try:
            image = ImageOps.exif_transpose(opened)
            if image.mode in _SIXTEEN_BIT:
                image = Image.fromarray(_to_eight_bits(np.asarray(image)))
            elif "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
            return np.array(image.convert("RGB"))
        except Exception as error:
            raise _unreadable(path, error) from None


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale greys to 0..255: from 0..65535 if any exceeds 255, from 0..1 if they are fractions."""
    values = np.nan_to_num(values.astype(np.float64), posinf=65535.0, neginf=0.0)
    largest = values.max(initial=0.0)
    if largest > 255:
        values = values * (255.0 / 65535.0)
    elif largest <= 1.0 and not np.array_equal(values, np.rint(values)):
        values = values * 255.0
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def read_mask(path: Path, tissues: TissueSet, content: bytes | None = None) -> np.ndarray:
    """Read a mask as tissue indices.

    Grey and palette files are read by index, a coloured (RGB) file by colour; so is a palette file whose own palette
    holds the set's colours at other indices. Pixels that are wholly transparent are not scored.

    Args:
        path: the file.
        tissues: the tissue set.
        content: its bytes, where they were read already.

    Returns:
        uint8 [H, W], writable: 0..K-1, or 255 for background and everything that is not scored.

    Raises:
        DataError: if the file is unreadable, saved with loss, or holds an index or a colour outside the tissue set.
    """
    with _open(path, content) as opened:
        if opened.format in _LOSSY:
            raise DataError(
                f"{path}: is a JPEG, which blurs the values of a mask into each other. Save masks as PNG, from the "
                "original and not from the JPEG."
            )
        try:
            # taken now, since loading forgets how the pixels were stored
            step = max((_GREY_STEP.get(_raw_mode(tile), 1) for tile in getattr(opened, "tile", [])), default=1)
            opened.load()
            image = ImageOps.exif_transpose(opened)
        except Exception as error:
            raise _unreadable(path, error) from None
    if image.mode in ("RGB", "RGBA"):
        indices = from_colors(np.asarray(image.convert("RGB")), path, tissues, _transparent(image))
    elif image.mode == "P":
        indices = from_palette(np.asarray(image), image.getpalette("RGB") or [], path, tissues)
    elif image.mode in ("L", "1", "I", "I;16", "I;16B"):
        indices = np.asarray(image)
        indices = indices.astype(np.uint8) if indices.dtype == bool else indices // step
    else:
        raise DataError(f"{path}: a mask must be a palette, grey or RGB image, not mode {image.mode}. Save it as PNG.")
    return check_mask_values(indices, path, tissues)


def _raw_mode(tile: object) -> str:
    arguments = getattr(tile, "args", "")
    return str(arguments[0]) if isinstance(arguments, tuple) and arguments else str(arguments)


def _transparent(image: Image.Image) -> np.ndarray | None:
    return np.asarray(image.getchannel("A")) == 0 if image.mode == "RGBA" else None


def check_mask_values(indices: np.ndarray, path: Path, tissues: TissueSet) -> np.ndarray:
    """Refuse values outside the set; background becomes 255.

    Args:
        indices: integers [H, W].
        path: file they came from, for messages.
        tissues: the set.

    Returns:
        uint8 [H, W], a copy.

    Raises:
        DataError: if a value is not the set's.
    """
    allowed = tissues.mask_values()
    unknown = [value for value in values_in(indices) if value not in allowed]
    if unknown:
        known = ", ".join(str(value) for value in sorted(allowed))
        found = ", ".join(map(str, unknown[:4])) + (", …" if len(unknown) > 4 else "")
        raise DataError(
            f"{path}: holds the mask index {found}, which the tissue set '{tissues.name}' does not have "
            f"(it has {known})."
        )
    mask = indices.astype(np.uint8)
    mask[mask >= len(tissues)] = IGNORE_INDEX
    return mask


def palette_image(mask: np.ndarray, tissues: TissueSet) -> Image.Image:
    """Mask [H, W] uint8 as a `P` mode image in the set's colours."""
    height, width = mask.shape
    image = Image.new("P", (width, height))
    image.putpalette(tissues.palette())
    image.frombytes(np.ascontiguousarray(mask, dtype=np.uint8).tobytes())
    return image


_FACTS = "patch2tissue"


def write_mask(path: Path, mask: np.ndarray, tissues: TissueSet, facts: dict[str, float] | None = None) -> None:
    """Write a mask [H, W] uint8 (0..K-1, 255 where not scored) as a palette PNG in the set's colours, atomically.

    Args:
        path: the file.
        mask: see above.
        tissues: gives the colours.
        facts: numbers about the image, kept in the file so that `read_facts` finds them.
    """
    text = PngInfo()
    if facts is not None:
        text.add_text(_FACTS, json.dumps(facts))
    with atomic_path(path) as temporary:
        palette_image(mask, tissues).save(temporary, format="PNG", pnginfo=text)


def read_facts(path: Path) -> dict[str, float]:
    """The numbers that `write_mask` put into a file; empty if there are none."""
    try:
        with _open(path) as image:
            found = json.loads(getattr(image, "text", {}).get(_FACTS, "{}"))
        return {str(name): float(value) for name, value in found.items()}
    except (DataError, OSError, ValueError, TypeError, AttributeError):
        return {}
