"""One synthetic patch with its mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from patch2tissue.data.synthetic.cells import choose_forms, place_cells
from patch2tissue.data.synthetic.difficulty import Composition, Difficulty, difficulty_named
from patch2tissue.data.synthetic.fields import FloatArray
from patch2tissue.data.synthetic.layout import make_layout
from patch2tissue.data.synthetic.nuclei import draw
from patch2tissue.data.synthetic.slides import Slide
from patch2tissue.data.synthetic.textures import between_nuclei, lay_fibres, open_lumens

UM_PER_PIXEL = 0.5
"""Resolution of synthetic patches."""
_MARGIN_UM = 9.0


def render_patch(
    seed: int | np.random.SeedSequence,
    size: int | tuple[int, int],
    composition: Composition,
    difficulty: str | Difficulty = "hard",
    slide: Slide | None = None,
    um_per_pixel: float = UM_PER_PIXEL,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw one patch; its cost grows with its area, so that it serves large pictures too.

    White gaps (lumens, clefts between fibres, retraction around tumour) carry the label of the tissue around them, as
    in BCSS.

    Args:
        seed: seed; same seed and arguments, same picture.
        size: side, or height and width, in pixels.
        composition: mask indices of the tissues that shall be present (0 tumour, 1 stroma, 2 lymphocytic infiltrate,
            3 necrosis); each gets at least 4% of the patch or, rarely, nothing.
        difficulty: easy, medium, hard, or own settings.
        slide: the slide it is cut from; None: one of usual appearance.
        um_per_pixel: resolution.

    Returns:
        image `[H, W, 3]` uint8 RGB and mask `[H, W]` uint8 with values 0..3.

    Raises:
        ConfigError: if the difficulty is unknown.
    """
    level = difficulty_named(difficulty) if isinstance(difficulty, str) else difficulty
    slide = slide or Slide()
    sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    # A stream for each step, so that a change in one leaves the others as they were.
    *streams, sensor = (np.random.default_rng(child) for child in sequence.spawn(5))
    shape = (size, size) if isinstance(size, int) else size
    h, e, mask = dye_amounts(streams, shape, composition, level, slide, um_per_pixel)
    return slide.stain.develop(h, e, sensor), mask


def dye_amounts(
    streams: Sequence[np.random.Generator],
    shape: tuple[int, int],
    composition: Composition,
    level: Difficulty,
    slide: Slide,
    um_per_pixel: float = UM_PER_PIXEL,
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.uint8]]:
    """Arrange and draw tissue, not yet as colours.

    Args:
        streams: four sources of randomness, for the layout, the forms, the nuclei and what is between them.
        shape: height and width in pixels.
        composition: see `render_patch`.
        level: the difficulty.
        slide: what the slide's cells look like.
        um_per_pixel: resolution.

    Returns:
        `[H, W]` float32 amounts of haematoxylin and of eosin (see `SlideStain.develop`), and the mask.
    """
    where, what, cells, matter = streams
    height, width = shape
    margin = round(_MARGIN_UM / um_per_pixel)
    canvas = (height + 2 * margin, width + 2 * margin)
    inner = (slice(margin, margin + height), slice(margin, margin + width))

    layout = make_layout(where, canvas, composition, level, um_per_pixel, margin)
    forms = choose_forms(what, layout, level, um_per_pixel)
    fibres = lay_fibres(what, layout, um_per_pixel)
    lumen = open_lumens(what, layout, slide, um_per_pixel)
    nuclei = place_cells(cells, layout, forms, fibres.angle, lumen, slide, level, um_per_pixel)
    stain, cover, nucleoli = draw(cells, nuclei, canvas, um_per_pixel, slide.pleomorphism, slide.nucleoli)
    h, e = between_nuclei(matter, layout, forms, fibres, lumen, nuclei, slide, um_per_pixel)
    h = h * (1 - cover) + stain
    e = e * (1 - np.float32(0.45) * cover) + nucleoli
    return h[inner], e[inner], layout.mask[inner].copy()
