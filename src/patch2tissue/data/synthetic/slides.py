"""Slides: the stain and the tumour that all patches of one slide share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from patch2tissue.data.synthetic.stain import SlideStain


@dataclass(frozen=True)
class Slide:
    """What the patches of one slide have in common.

    Attributes:
        stain: its colours.
        nucleus: factor on the size of tumour nuclei.
        pleomorphism: how much tumour nuclei differ in size, shape and darkness; 1 is usual.
        nucleoli: share of tumour nuclei with a visible nucleolus.
        chromatin: factor on the darkness of tumour nuclei.
        cytoplasm: basophilia of the tumour's cytoplasm, 0 (pink) to 1 (purple).
        glands: tendency of the tumour to form lumens, 0 (solid sheets) to 1.
        cellularity: factor on the number of fibroblasts.
        fibres: width of collagen fibres in µm.
        clefts: tendency to white gaps between fibres and around tumour nests.
        inflammation: factor on the number of scattered lymphocytes.
    """

    stain: SlideStain = field(default_factory=SlideStain)
    nucleus: float = 1.0
    pleomorphism: float = 1.0
    nucleoli: float = 0.5
    chromatin: float = 1.0
    cytoplasm: float = 0.5
    glands: float = 0.4
    cellularity: float = 1.0
    fibres: float = 1.6
    clefts: float = 0.5
    inflammation: float = 1.0

    @classmethod
    def random(cls, rng: np.random.Generator, shift: float = 1.0) -> Slide:
        """Draw a slide; `shift` >= 0 is how much slides differ from one another."""

        def factor(deviation: float) -> float:
            return float(np.exp(shift * rng.normal(0.0, deviation)))

        def share(middle: float) -> float:
            return float(np.clip(middle + shift * rng.uniform(-0.5, 0.5), 0.0, 1.0))

        return cls(
            stain=SlideStain.random(rng, shift),
            nucleus=factor(0.10),
            pleomorphism=factor(0.25),
            nucleoli=share(0.5),
            chromatin=factor(0.12),
            cytoplasm=share(0.5),
            glands=share(0.4),
            cellularity=factor(0.25),
            fibres=1.6 * factor(0.2),
            clefts=share(0.45),
            inflammation=factor(0.5),
        )
