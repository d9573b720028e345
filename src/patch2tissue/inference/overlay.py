"""A tissue map laid over its image, with a legend: what a person looks at."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from patch2tissue.tissues import TissueSet

OPACITY = 0.35
"""Share of a tissue's colour in an overlay."""

_ROWS = 512


def blend(image: np.ndarray, mask: np.ndarray, tissues: TissueSet, opacity: float = OPACITY) -> np.ndarray:
    """Colour an image by tissue and draw the outlines.

    Args:
        image: uint8 RGB [H, W, 3].
        mask: uint8 [H, W]; pixels without a tissue keep the image's colour.
        tissues: gives the colours.
        opacity: share of the tissue's colour, 0..1.

    Returns:
        uint8 RGB [H, W, 3].
    """
    table = _mixtures(tuple(tissues.colors), opacity)
    outlines = _outlines(mask)
    channels = 256 * np.arange(3, dtype=np.int32)
    result = np.empty_like(image)
    # by rows, so that the numbers of a large image are never there all at once
    for start in range(0, len(image), _ROWS):
        rows = slice(start, start + _ROWS)
        kind = 2 * np.minimum(mask[rows], len(tissues)).astype(np.int32) + outlines[rows]
        np.take(table, (3 * 256 * kind)[..., None] + channels + image[rows], out=result[rows])
    return result


@lru_cache(maxsize=16)
def _mixtures(colors: tuple[tuple[int, int, int], ...], opacity: float) -> np.ndarray:
    """What becomes of each value of red, green and blue: uint8 [K + 1, 2, 3, 256], flat.

    The first axis is the tissue, the last of it none; the second says whether the pixel is on an outline.
    """
    values, color = np.arange(256, dtype=np.uint8), np.array(colors, dtype=np.float32)[..., None]
    table = np.empty((len(colors) + 1, 2, 3, 256), np.uint8)
    table[-1] = values
    mixed = (1 - opacity) * values + opacity * color
    for outline, mixture in enumerate((mixed, 0.25 * mixed + 0.75 * color)):
        table[:-1, outline] = np.clip(np.rint(mixture), 0, 255)
    return table.ravel()


def _outlines(mask: np.ndarray) -> np.ndarray:
    """Pixels of which one of the four neighbours holds another value, bool [H, W]."""
    found = np.zeros(mask.shape, dtype=bool)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def overlay_picture(image: np.ndarray, mask: np.ndarray, tissues: TissueSet, *, of_tissue: bool = False) -> Image.Image:
    """The blended image with a legend strip of the tissues that occur, and their shares, below it.

    Args:
        image: uint8 RGB [H, W, 3].
        mask: uint8 [H, W].
        tissues: gives names and colours.
        of_tissue: give shares of all pixels with a tissue; otherwise of the image.
    """
    picture = Image.fromarray(blend(image, mask, tissues))
    counts = np.bincount(mask.ravel(), minlength=256)[: len(tissues)]
    shares = counts / max(1, counts.sum() if of_tissue else mask.size)
    size = int(np.clip(picture.width / 28, 11, 22))
    font = _font(size)
    present = [(tissue, _percent(share)) for tissue, share in zip(tissues.tissues, shares, strict=True) if share > 0]
    entries = [(tissue.color, f"{tissue.name} {share}") for tissue, share in present]
    if any(_entry_width(text, font, size) > picture.width for _, text in entries):
        entries = [(tissue.color, f"{tissue.abbreviation} {share}") for tissue, share in present]
    line = round(size * 1.6)
    rows = _rows(entries, font, size, picture.width)
    canvas = Image.new("RGB", (picture.width, picture.height + line * max(1, len(rows)) + size // 2), (255, 255, 255))
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for number, row in enumerate(rows):
        x, y = size // 2, picture.height + size // 2 + number * line
        for color, text in row:
            draw.rectangle((x, y, x + size, y + size), fill=color, outline=(60, 60, 60))
            draw.text((x + size * 1.4, y - size * 0.12), text, fill=(20, 20, 20), font=font)
            x += _entry_width(text, font, size)
    return canvas


_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


_font = lru_cache(maxsize=16)(ImageFont.load_default)


@lru_cache(maxsize=4096)
def _entry_width(text: str, font: _Font, size: int) -> int:
    return round(size * 2.4 + font.getlength(text))


def _percent(share: float) -> str:
    return "<1%" if share < 0.005 else f"{share:.0%}"


def _rows(
    entries: list[tuple[tuple[int, int, int], str]], font: _Font, size: int, width: int
) -> list[list[tuple[tuple[int, int, int], str]]]:
    rows: list[list[tuple[tuple[int, int, int], str]]] = []
    used = width + 1
    for color, text in entries:
        needed = _entry_width(text, font, size)
        if used + needed > width or not rows:
            rows.append([])
            used = size // 2
        rows[-1].append((color, text))
        used += needed
    return rows
