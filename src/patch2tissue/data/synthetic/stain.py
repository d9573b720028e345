"""Haematoxylin and eosin as amounts of dye, and how one slide turns them into colours.

Tissue is drawn as two maps, the amount of haematoxylin and of eosin in each pixel. A slide turns them into light by
Beer-Lambert's law [P]: `I = I0 · 10^-(h·V_h + e·V_e)`, where `V_h`, `V_e` are the unit absorption of the dyes in red,
green and blue. Slides differ in these vectors, in the amounts, in light, focus and noise, as stains and scanners do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]

HAEMATOXYLIN = (0.60, 0.71, 0.36)
"""Absorption of haematoxylin in R, G, B (unit length within 1%), typical of scanned routine slides."""
EOSIN = (0.16, 0.91, 0.38)
"""Absorption of eosin in R, G, B."""


@dataclass(frozen=True)
class SlideStain:
    """How a slide was stained and scanned.

    Attributes:
        haematoxylin: absorption in R, G, B, a unit vector.
        eosin: absorption in R, G, B, a unit vector.
        haematoxylin_amount: factor on the amount of haematoxylin; 1 is usual.
        eosin_amount: factor on the amount of eosin; 1 is usual.
        light: RGB of empty glass, 0..255.
        blur: deviation of the point spread in pixels.
        noise: deviation of the sensor's noise in grey levels.
        gamma: contrast of the scanner; 1 is linear in light.
    """

    haematoxylin: tuple[float, float, float] = HAEMATOXYLIN
    eosin: tuple[float, float, float] = EOSIN
    haematoxylin_amount: float = 1.0
    eosin_amount: float = 1.0
    light: tuple[float, float, float] = (244.0, 242.0, 245.0)
    blur: float = 0.6
    noise: float = 2.0
    gamma: float = 1.0

    @classmethod
    def random(cls, rng: np.random.Generator, shift: float) -> SlideStain:
        """Draw a slide; `shift` >= 0 is how much slides differ (0: all alike, 1: as between laboratories)."""

        def vector(usual: tuple[float, float, float]) -> tuple[float, float, float]:
            moved = np.clip(np.array(usual) + shift * rng.normal(0.0, 0.045, 3), 0.02, None)
            red, green, blue = (float(value) for value in moved / np.linalg.norm(moved))
            return red, green, blue

        white = 244.0 + shift * rng.normal(0.0, 3.0)
        red, green, blue = (float(np.clip(white + shift * rng.normal(0.0, 2.0), 225.0, 254.0)) for _ in range(3))
        return cls(
            haematoxylin=vector(HAEMATOXYLIN),
            eosin=vector(EOSIN),
            haematoxylin_amount=float(np.exp(shift * rng.normal(0.0, 0.16))),
            eosin_amount=float(np.exp(shift * rng.normal(0.0, 0.20))),
            light=(red, green, blue),
            blur=float(np.clip(0.6 + shift * rng.normal(0.05, 0.2), 0.3, 1.3)),
            noise=float(np.clip(2.0 + shift * rng.normal(0.5, 0.8), 0.8, 5.0)),
            gamma=float(np.exp(shift * rng.normal(0.0, 0.08))),
        )

    def develop(self, haematoxylin: FloatArray, eosin: FloatArray, rng: np.random.Generator) -> ImageArray:
        """Turn amounts of dye into a picture.

        Args:
            haematoxylin: `[H, W]` amount of haematoxylin, >= 0; about 1 in a lymphocyte's nucleus.
            eosin: `[H, W]` amount of eosin, >= 0; about 0.3 in a collagen fibre.
            rng: source of the sensor's noise.

        Returns:
            `[H, W, 3]` uint8 RGB.
        """
        h = ndimage.gaussian_filter(haematoxylin, self.blur, truncate=3.0) * self.haematoxylin_amount
        e = ndimage.gaussian_filter(eosin, self.blur, truncate=3.0) * self.eosin_amount
        vectors = np.array([self.haematoxylin, self.eosin], np.float32)
        density = h[..., None] * vectors[0] + e[..., None] * vectors[1]
        light = np.array(self.light, np.float32) * np.power(np.float32(10.0), -self.gamma * density)
        # Part of a scanner's noise is in brightness and part in single channels.
        light += rng.normal(0.0, 0.8 * self.noise, h.shape).astype(np.float32)[..., None]
        light += rng.normal(0.0, 0.6 * self.noise, light.shape).astype(np.float32)
        return np.asarray(np.clip(np.rint(light), 0, 255), np.uint8)
