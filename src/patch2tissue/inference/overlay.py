"""A tissue map laid over its image, with a legend: what a person looks at."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from patch2tissue.tissues import IGNORE_INDEX, TissueSet

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
    palette = np.zeros((256, 3), dtype=np.float32)
    palette[: len(tissues)] = np.array(tissues.colors, dtype=np.float32)
    # the default background of `find_boundaries` is 0, which is a tissue here
    outlines = find_boundaries(mask, mode="inner", background=IGNORE_INDEX)
    result = np.empty_like(image)
    # by rows, so that the floats of a large image are never there all at once
    for start in range(0, len(image), _ROWS):
        rows = slice(start, start + _ROWS)
        is_tissue, colors = (mask[rows] < len(tissues))[..., None], palette[mask[rows]]
        mixed = np.where(is_tissue, (1 - opacity) * image[rows] + opacity * colors, image[rows])
        outline = outlines[rows] & is_tissue[..., 0]
        mixed[outline] = 0.25 * mixed[outline] + 0.75 * colors[outline]
        result[rows] = np.clip(np.rint(mixed), 0, 255)
    return result


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
    font = ImageFont.load_default(size)
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
