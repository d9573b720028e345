"""Which nuclei lie where: each tissue's cells, its look-alike forms, and lymphocytes that stray into all of them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from patch2tissue.data.synthetic.difficulty import LYMPHOCYTES, NECROSIS, STROMA, TUMOUR, Difficulty
from patch2tissue.data.synthetic.fields import FloatArray, blur, displace, smooth_noise, soft_step
from patch2tissue.data.synthetic.layout import TISSUES, Layout
from patch2tissue.data.synthetic.nuclei import (
    ACTIVATED,
    DEBRIS,
    FIBROBLAST,
    GHOST,
    LYMPHOCYTE,
    PALE_TUMOUR,
    PLUMP,
    SHRUNKEN,
    SMALL_TUMOUR,
    TUMOUR_CELL,
    Nuclei,
    candidates,
    keep_apart,
    traits,
)
from patch2tissue.data.synthetic.slides import Slide

FORMS = {
    TUMOUR: ("small cells",),
    STROMA: ("inflamed", "hyaline"),
    LYMPHOCYTES: ("loose", "activated"),
    NECROSIS: ("inflamed", "fibrinous"),
}
"""Forms that occur anywhere and resemble another tissue: small tumour cells and inflamed stroma or necrosis resemble
infiltrates, hyaline stroma resembles necrosis, loose infiltrates and fibrinous necrosis resemble stroma."""

REACTIONS = (
    (STROMA, TUMOUR, "desmoplastic"),
    (TUMOUR, NECROSIS, "pale cells"),
    (NECROSIS, TUMOUR, "ghosts"),
    (STROMA, LYMPHOCYTES, "oedematous"),
    (STROMA, NECROSIS, "hyaline"),
)
"""(tissue, neighbour, form): how a tissue changes beside another. Stroma around tumour is blue and cellular, tumour
around necrosis degenerates. A classifier learns the reaction as a sign of the neighbour, which misleads its maps;
masks tell the two apart."""


@dataclass(frozen=True)
class Forms:
    """How much of each tissue is drawn in which look-alike form.

    Attributes:
        form: name of the form of each tissue in this patch.
        amount: `[4, H, W]` float32, 0 (usual) to 1 (look-alike).
    """

    form: tuple[str, ...]
    amount: FloatArray

    def of(self, tissue: int, form: str) -> FloatArray:
        """`[H, W]` amount of one form of one tissue."""
        amount = self.amount[tissue]
        return amount if self.form[tissue] == form else np.zeros_like(amount)


def choose_forms(rng: np.random.Generator, layout: Layout, difficulty: Difficulty, um_per_pixel: float) -> Forms:
    """Draw the look-alike forms of a patch: reactions to neighbours, and single parts of any tissue.

    A look-alike part usually lies beside a usual part of the same tissue, so that a classifier can do without it.
    """
    shape = (layout.mask.shape[0], layout.mask.shape[1])
    names = [str(rng.choice(FORMS[tissue])) for tissue in range(TISSUES)]
    amount = np.zeros((TISSUES, *shape), np.float32)
    for tissue in range(TISSUES):
        noise = smooth_noise(rng, shape, 16.0 / um_per_pixel)
        # Part of the noise is common to the patch; the threshold gives the share over all patches.
        level = noise + np.float32(0.6 * rng.normal())
        if difficulty.lookalike > 0:
            threshold = float(np.hypot(1.0, 0.6)) * NormalDist().inv_cdf(1 - difficulty.lookalike)
            amount[tissue] = soft_step(level, threshold, 0.5)
        for changed, neighbour, form in REACTIONS:
            if changed == tissue and rng.random() < difficulty.reaction and layout.weights[neighbour].any():
                names[tissue] = form
                near = blur(layout.weights[neighbour], 14.0 / um_per_pixel)
                amount[tissue] = soft_step(near + np.float32(0.03) * noise, 0.05, 0.08)
                break
    return Forms(tuple(names), amount)


def place_cells(
    rng: np.random.Generator,
    layout: Layout,
    forms: Forms,
    fibre_angle: FloatArray,
    lumen: FloatArray,
    slide: Slide,
    difficulty: Difficulty,
    um_per_pixel: float,
) -> Nuclei:
    """Place the nuclei of a patch.

    Args:
        rng: source of randomness.
        layout: arrangement of tissues.
        forms: look-alike forms.
        fibre_angle: `[H, W]` direction of fibres in radians.
        lumen: `[H, W]` 0..1, where there is no tissue.
        slide: the slide's cells.
        difficulty: mixing and scattered lymphocytes.
        um_per_pixel: resolution.
    """
    shape = layout.mask.shape
    row, column = candidates(rng, (shape[0], shape[1]), 2.6 / um_per_pixel)
    iy, ix = row.astype(np.intp), column.astype(np.intp)
    strayed = displace(layout.content, rng, 4.0 / um_per_pixel, 3.0 / um_per_pixel)
    tissue = np.where(rng.random(len(row)) < difficulty.mixing, strayed[iy, ix], layout.content[iy, ix])
    amount = forms.amount[:, iy, ix]
    depth = layout.depth[iy, ix]
    patchy = smooth_noise(rng, (shape[0], shape[1]), 12.0 / um_per_pixel)[iy, ix]
    kind, kept = _kinds(rng, tissue.astype(np.intp), amount, depth, patchy, forms, slide)
    scatter = difficulty.scattered * slide.inflammation * np.exp(0.7 * patchy) * np.where(tissue == NECROSIS, 0.7, 0.6)
    stray = rng.random(len(row)) < scatter * np.where(tissue == STROMA, 0.7, 0.45)
    kind = np.where(stray, LYMPHOCYTE, kind)
    kept = (kept | stray) & (lumen[iy, ix] < 0.25)
    row, column, kind, tissue = row[kept], column[kept], kind[kept], tissue[kept]
    iy, ix = iy[kept], ix[kept]

    tumour = kind <= PALE_TUMOUR
    spread = traits("spread")[kind] * np.where(tumour, slide.pleomorphism, 1.0)
    radius = traits("radius")[kind] / um_per_pixel * np.exp(spread * rng.standard_normal(len(kind)))
    radius *= np.where(tumour | (kind == GHOST), slide.nucleus, 1.0)
    apart = keep_apart(row, column, (radius * traits("room")[kind]).astype(np.float32))
    row, column, kind, radius, iy, ix, tumour = (a[apart] for a in (row, column, kind, radius, iy, ix, tumour))

    count = len(kind)
    length = 1 + (traits("length")[kind] - 1) * np.exp(0.35 * rng.standard_normal(count))
    angle = rng.uniform(0, np.pi, count)
    aligned = (kind == FIBROBLAST) | (kind == PLUMP)
    angle = np.where(aligned, fibre_angle[iy, ix] + 0.22 * rng.standard_normal(count), angle)
    tone = 0.16 * np.where(tumour, slide.pleomorphism, 0.8) * rng.standard_normal(count)
    darkness = traits("darkness")[kind] * np.exp(tone) * np.where(tumour, slide.chromatin, 1.0)
    single = [np.asarray(values, np.float32) for values in (radius, length, angle, darkness)]
    return Nuclei(row, column, kind, *single)


def _kinds(
    rng: np.random.Generator,
    tissue: npt.NDArray[np.intp],
    amount: FloatArray,
    depth: FloatArray,
    patchy: FloatArray,
    forms: Forms,
    slide: Slide,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Draw each candidate's kind and whether it is there at all."""
    count = len(tissue)
    drawn, there = rng.random((3, count)), rng.random(count)
    in_form = drawn[0] < amount[tissue, np.arange(count)]
    kind = np.full(count, LYMPHOCYTE, np.intp)
    chance = np.zeros(count, np.float32)

    here = tissue == TUMOUR
    kind[here] = TUMOUR_CELL
    kind[here & in_form] = SMALL_TUMOUR if forms.form[TUMOUR] == "small cells" else PALE_TUMOUR
    kind[here & (drawn[1] < 0.015)] = SHRUNKEN  # dying cells
    chance[here] = 0.95

    here = tissue == STROMA
    kind[here] = FIBROBLAST
    chance[here] = 0.075 * slide.cellularity
    altered = here & in_form
    if forms.form[STROMA] == "desmoplastic":
        kind[altered & (drawn[1] < 0.65)] = PLUMP
        chance[altered] = 0.26 * slide.cellularity
    elif forms.form[STROMA] == "oedematous":
        kind[altered & (drawn[1] < 0.4)] = LYMPHOCYTE
        chance[altered] = 0.07
    elif forms.form[STROMA] == "inflamed":
        kind[altered & (drawn[1] < 0.7)] = LYMPHOCYTE
        chance[altered] = 0.17
    else:
        chance[altered] = 0.02

    here = tissue == LYMPHOCYTES
    kind[here & (drawn[1] < 0.10)] = ACTIVATED
    kind[here & (drawn[1] > 0.97)] = FIBROBLAST
    chance[here] = 0.30 + 0.6 * depth[here]
    altered = here & in_form
    if forms.form[LYMPHOCYTES] == "loose":
        chance[altered] *= 0.42
    else:
        kind[altered & (drawn[1] < 0.6)] = ACTIVATED

    here = tissue == NECROSIS
    kind[here] = np.where(drawn[1][here] < 0.6, DEBRIS, np.where(drawn[1][here] < 0.88, GHOST, SHRUNKEN))
    chance[here] = 0.09 * np.exp(patchy[here])  # debris lies in clusters
    altered = here & in_form
    if forms.form[NECROSIS] == "ghosts":
        kind[altered & (drawn[2] < 0.7)] = GHOST
        chance[altered] = 0.4
    elif forms.form[NECROSIS] == "inflamed":
        kind[altered & (drawn[2] < 0.6)] = SHRUNKEN
        chance[altered] = 0.28
    else:
        chance[altered] = 0.05
    return kind, there < chance
