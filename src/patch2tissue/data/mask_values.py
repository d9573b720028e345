"""From the colours of a mask to tissue indices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from patch2tissue.errors import DataError
from patch2tissue.tissues import IGNORE_INDEX, Color, TissueSet

_WHITE: Color = (255, 255, 255)
_MANY = 16  # more unknown colours than anyone's palette of tissues has: the file was saved with loss or smoothed


def values_in(indices: np.ndarray) -> list[int]:
    """Values that occur in an array of integers, in order."""
    if indices.dtype == np.uint8:
        # many times faster than np.unique, and masks are read for every training patch
        return [int(value) for value in np.flatnonzero(np.bincount(indices.ravel(), minlength=256))]
    return [int(value) for value in np.unique(indices)]


def color_table(tissues: TissueSet) -> dict[Color, int]:
    """Mask value of each colour; white means not scored unless a tissue is white."""
    table = {color: k for k, color in enumerate(tissues.colors)}
    if tissues.background is not None:
        table[tissues.background.color] = tissues.background.index
    table.setdefault(_WHITE, IGNORE_INDEX)
    return table


def from_colors(rgb: np.ndarray, path: Path, tissues: TissueSet, transparent: np.ndarray | None = None) -> np.ndarray:
    """Indices of a coloured mask.

    A file whose three channels are equal and hold valid indices (as some programs write grey masks) is read by index.

    Args:
        rgb: uint8 [H, W, 3].
        path: file it came from, for messages.
        tissues: the set.
        transparent: bool [H, W] of pixels that are not scored whatever their colour, or None.

    Returns:
        uint8 [H, W] of mask values, background as the set's background index.

    Raises:
        DataError: if a colour is not the set's.
    """
    codes = (rgb[..., 0].astype(np.int32) << 16) | (rgb[..., 1].astype(np.int32) << 8) | rgb[..., 2]
    seen = codes if transparent is None else codes[~transparent]
    table = {_code(color): value for color, value in color_table(tissues).items()}
    unknown = [code for code in values_in(seen) if code not in table]
    indices = np.full(codes.shape, IGNORE_INDEX, dtype=np.uint8)
    if unknown:
        grey = seen & 255
        if np.array_equal(seen, grey * 0x010101) and set(values_in(grey)) <= tissues.mask_values():
            indices = rgb[..., 0].copy()
        else:
            raise _unknown_colors(unknown, path, tissues)
    else:
        for code, value in table.items():
            indices[codes == code] = value
    if transparent is not None:
        indices[transparent] = IGNORE_INDEX
    return indices


def from_palette(indices: np.ndarray, palette: list[int], path: Path, tissues: TissueSet) -> np.ndarray:
    """Indices of a palette mask, by index unless its palette says that they mean something else.

    Args:
        indices: uint8 [H, W] as stored.
        palette: the file's palette as a flat list of RGB values.
        path: file it came from, for messages.
        tissues: the set.

    Returns:
        uint8 [H, W] of mask values, background as the set's background index.

    Raises:
        DataError: if some colours in use are the set's at other indices and others are not the set's at all.
    """
    colors: list[Color] = [(palette[i], palette[i + 1], palette[i + 2]) for i in range(0, len(palette) - 2, 3)]
    table = color_table(tissues)
    used = values_in(indices)
    meant = {index: table.get(colors[index]) if index < len(colors) else None for index in used}
    if tuple(colors[: len(tissues)]) == tissues.colors and IGNORE_INDEX in meant:
        # our own palette, in which 255 is white even where a tissue is white too
        meant[IGNORE_INDEX] = IGNORE_INDEX
    if all(value is None or _scored(value, tissues) == _scored(index, tissues) for index, value in meant.items()):
        return indices
    unknown = [index for index, value in meant.items() if value is None]
    if unknown:
        wrong, value = next((i, v) for i, v in meant.items() if v is not None and v != i)
        raise DataError(
            f"{path}: its palette gives index {wrong} the colour of the set's {value} ('{_title(value, tissues)}') and "
            f"index {unknown[0]} a colour that the tissue set '{tissues.name}' does not have, so that it cannot be "
            "told what the indices mean. Save it in the set's colours, or as grey with the set's indices."
        )
    lookup = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    for index, known in meant.items():
        lookup[index] = IGNORE_INDEX if known is None else known
    mapped: np.ndarray = lookup[indices]
    return mapped


def _scored(value: int, tissues: TissueSet) -> int:
    """The value itself if it is a tissue; background and 255 are alike, as neither is scored."""
    background = tissues.background.index if tissues.background is not None else IGNORE_INDEX
    return IGNORE_INDEX if value == background else value


def _title(value: int, tissues: TissueSet) -> str:
    return tissues.names[value] if value < len(tissues) else "background"


def _unknown_colors(codes: list[int], path: Path, tissues: TissueSet) -> DataError:
    red, green, blue = codes[0] >> 16, (codes[0] >> 8) & 255, codes[0] & 255
    hint = (
        f"{len(codes)} unknown colours mean that it was once saved with loss (JPEG) or resized with smoothing; make it "
        "again as PNG from the original."
        if len(codes) > _MANY
        else "It has " + ", ".join(str(color) for color in color_table(tissues)) + "."
    )
    return DataError(
        f"{path}: holds the colour ({red}, {green}, {blue}), which the tissue set '{tissues.name}' does not have. "
        f"{hint}"
    )


def _code(color: Color) -> int:
    return (color[0] << 16) | (color[1] << 8) | color[2]
