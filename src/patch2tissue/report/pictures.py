"""From arrays to pictures inside the page: data URIs, tissue colours, overlays, error maps."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from patch2tissue.evaluation.scores import ConfusionMatrix
from patch2tissue.tissues import IGNORE_INDEX, TissueSet

MAX_SIDE = 360
"""Longest side of an embedded picture in pixels; larger ones are scaled down."""

_WRONG = np.array([213, 94, 0], dtype=np.float32)  # vermilion of the Okabe-Ito palette: apart from H&E for any eye
_SHINE = 0.28
_IGNORED_LIGHT, _IGNORED_DARK = 236, 186


@dataclass(frozen=True)
class Picture:
    """One picture of the page.

    Attributes:
        uri: `data:` address with the whole file in it.
        alt: what it shows, for those who do not see it.
        width: width in pixels.
        height: height in pixels.
        caption: short text under it, None for none.
    """

    uri: str
    alt: str
    width: int
    height: int
    caption: str | None = None


def photo(image: np.ndarray, alt: str, caption: str | None = None) -> Picture:
    """Embed a picture, uint8 [H, W, 3], with a little loss; scaled down if it is large."""
    small = _fit(Image.fromarray(image))
    return Picture(_webp(small), alt, small.width, small.height, caption)


def _fit(image: Image.Image) -> Image.Image:
    scale = MAX_SIDE / max(image.size)
    if scale >= 1.0:
        return image
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )


def _webp(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=86, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def color_mask(mask: np.ndarray, tissues: TissueSet, image: np.ndarray | None = None) -> np.ndarray:
    """Tissue colours of a label map; what is ignored (255) is hatched grey.

    Args:
        mask: uint8 [H, W].
        tissues: gives the colours.
        image: uint8 [H, W, 3] whose structure shines through, so that borders can be judged; None for flat colours.

    Returns:
        uint8 [H, W, 3].
    """
    table = np.full((256, 3), 255, dtype=np.uint8)
    table[: len(tissues)] = tissues.colors
    colored = table[mask]
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    period = max(6, max(mask.shape) // 24)
    stripes = (rows + columns) % period < period / 3
    grey = np.where(stripes, _IGNORED_DARK, _IGNORED_LIGHT).astype(np.uint8)
    ignored = mask == IGNORE_INDEX
    colored[ignored] = grey[ignored][:, None]
    if image is None or image.shape != colored.shape:
        return np.asarray(colored)
    mixed = (1.0 - _SHINE) * colored + _SHINE * _faded(image, 1.0)
    return np.asarray(mixed, dtype=np.uint8)


def resize_maps(maps: np.ndarray, side: int, shape: tuple[int, int]) -> np.ndarray:
    """Enlarge attention maps of a canvas to pixels and cut off the canvas' padding.

    Args:
        maps: [K, h, w] of the whole canvas.
        side: side of the square canvas in pixels.
        shape: (height, width) of the patch, which lies at the canvas' top left.

    Returns:
        float32 [K, height, width].
    """
    enlarged = [
        np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR))
        for plane in np.asarray(maps, dtype=np.float32)
    ]
    return np.stack(enlarged)[:, : shape[0], : shape[1]]


def strongest_tissue(maps: np.ndarray, present: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Best present tissue of every pixel and its lead over the second.

    Args:
        maps: [K, H, W], not negative.
        present: 1 for each tissue in the patch's label, K values.

    Returns:
        Labels uint8 [H, W] and lead float32 [H, W] in 0..1 (1 where only one tissue is present).
    """
    allowed = np.asarray(present, dtype=bool)
    shares = np.where(allowed[:, None, None], maps, -1.0)
    labels = shares.argmax(axis=0).astype(np.uint8)
    if allowed.sum() < 2:
        return labels, np.ones(labels.shape, dtype=np.float32)
    ranked = np.sort(shares, axis=0)
    total = np.where(allowed[:, None, None], maps, 0.0).sum(axis=0).clip(min=1e-6)
    lead = (ranked[-1] - ranked[-2].clip(min=0.0)) / total
    return labels, lead.clip(0.0, 1.0).astype(np.float32)


def overlay(image: np.ndarray, labels: np.ndarray, strength: np.ndarray, tissues: TissueSet) -> np.ndarray:
    """Lay tissue colours over the greyed image; the surer, the stronger the colour.

    Args:
        image: uint8 [H, W, 3].
        labels: uint8 [H, W], 0..K-1.
        strength: [H, W] in 0..1.
        tissues: gives the colours.

    Returns:
        uint8 [H, W, 3].
    """
    alpha = (0.12 + 0.73 * strength)[..., None]
    blended = _faded(image, 0.75) * (1.0 - alpha) + np.asarray(tissues.colors, dtype=np.float32)[labels] * alpha
    return np.asarray(blended.clip(0, 255), dtype=np.uint8)


def error_map(image: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mark wrong pixels on a faded image; pixels the mask does not score are left white.

    Returns:
        uint8 [H, W, 3].
    """
    picture = _faded(image, 0.55)
    wrong = (predicted != truth) & (truth != IGNORE_INDEX)
    picture[wrong] = picture[wrong] * 0.25 + _WRONG * 0.75
    picture[truth == IGNORE_INDEX] = 255.0
    return picture.clip(0, 255).astype(np.uint8)


def _faded(image: np.ndarray, contrast: float) -> np.ndarray:
    """Grey version drawn towards white, float32 [H, W, 3]."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.repeat((255.0 - contrast * (255.0 - grey))[..., None], 3, axis=2)


def heat(values: np.ndarray, colormap: str = "cividis") -> np.ndarray:
    """Colours of values in 0..1 by a matplotlib colour map, uint8 [H, W, 3]."""
    from matplotlib import colormaps

    colored: np.ndarray = colormaps[colormap](np.clip(values, 0.0, 1.0), bytes=True)
    return colored[..., :3]


def describe_mask(mask: np.ndarray, tissues: TissueSet) -> str:
    """Shares of tissues in words, for an alt text: 'tumour 61%, stroma 39%'."""
    counts = np.bincount(mask.ravel(), minlength=256)
    total = max(1, int(counts.sum()))
    parts = [(name, int(counts[k])) for k, name in enumerate(tissues.names) if counts[k]]
    parts.sort(key=lambda part: -part[1])
    if counts[IGNORE_INDEX]:
        parts.append(("not labelled", int(counts[IGNORE_INDEX])))
    return ", ".join(f"{name} {100 * count / total:.0f}%" for name, count in parts)


def mean_iou(predicted: np.ndarray, truth: np.ndarray, tissues: int) -> float | None:
    """Mean IoU over the tissues in truth or prediction on the pixels that the truth scores; None if there is none.

    Args:
        predicted: labels, any shape; 255 counts as a miss.
        truth: labels of the same shape; 255 is not scored.
        tissues: number of tissues K.
    """
    confusion = ConfusionMatrix(tissues)
    confusion.update(predicted, truth)
    value = float(confusion.scores()["miou"])
    return value if math.isfinite(value) else None
