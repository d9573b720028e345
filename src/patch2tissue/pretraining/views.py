"""Random views of patches for self-supervised learning: a crop, a symmetry, another stain."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from patch2tissue.data.augment import SYMMETRIES, apply_symmetry, random_stain_shift, shift_stain
from patch2tissue.distributed.batch import of_share, whole_batch
from patch2tissue.gaussian_kernel import full_precision


def random_view(images: Tensor, side: int, *, least_scale: float, stain: float, brightness: float) -> Tensor:
    """One random view of each patch.

    A square crop of a random size and place is resampled bilinearly to `side`, turned or flipped, and its stain is
    shifted. All is drawn from torch's global CPU generator, so that a resumed training repeats it, and for the whole
    batch where processes share it. Computed in float32 also inside autocast.

    Args:
        images: float RGB in 0..1, [B, 3, S, S].
        side: side of the view in pixels.
        least_scale: least side of a crop as a share of S, in 0..1 (0 excluded).
        stain: spread of the stain shift, see `random_stain_shift`.
        brightness: spread of the brightness.

    Returns:
        float RGB in 0..1, [B, 3, side, side], channels last in memory.
    """
    count, drawn = len(images), whole_batch(len(images))
    scale = least_scale + (1.0 - least_scale) * torch.rand(drawn)
    centre = (1.0 - scale)[:, None] * (2.0 * torch.rand(drawn, 2) - 1.0)
    scale, centre = of_share(scale), of_share(centre)
    operations = of_share(torch.randint(SYMMETRIES, (drawn,))).tolist()
    rng = np.random.default_rng(int(torch.randint(2**62, (1,))))
    if not count:  # another process has them all
        return images.new_zeros(0, 3, side, side)
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0] = affine[:, 1, 1] = scale
    affine[:, :, 2] = centre
    with full_precision(images.device):  # bfloat16 would round where a pixel is taken from
        grid = F.affine_grid(affine, [count, 3, side, side], align_corners=False).to(images.device)
        crops = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    crops = torch.stack([apply_symmetry(crop, operation) for crop, operation in zip(crops, operations, strict=True)])
    shifts = [random_stain_shift(rng, stain, brightness) for _ in range(drawn)]
    matrix, offset = (
        of_share(torch.from_numpy(np.stack(values))).to(images.device)
        for values in ([shift.matrix for shift in shifts], [shift.offset for shift in shifts])
    )
    with full_precision(images.device):  # and what colour it gets
        view = shift_stain(crops, matrix, offset)
    return view.contiguous(memory_format=torch.channels_last)
