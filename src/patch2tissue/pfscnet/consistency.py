"""Mean teacher in stage 2: agreement between a plain and a strongly changed view of the same patches.

The averaged weights are the teacher (Tarvainen & Valpola, Mean teachers, NeurIPS 2017 [published]). It labels the plain
view, and the network learns on a strong view to give the same label wherever the teacher is sure (FixMatch, Sohn et
al., NeurIPS 2020, for the threshold; CutMix for segmentation, French et al., BMVC 2020 [published]). Our reading: the
teacher's softmax runs over the tissues of the patch's label alone, so that it cannot teach a tissue that is absent;
the strong view changes haematoxylin, eosin, light and sharpness and moves no pixel; and it leaves the running
statistics of batch normalisation alone, since prediction sees plain images.

Cost: one forward pass of the teacher without gradient and a second forward and backward pass of the network: 2.1 times
the processor time of a step with cross-entropy alone (16 patches of 96 px, resnet10t, one thread), of which the strong
view itself is a hundredth, and the memory of two passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from skimage.color.colorconv import hed_from_rgb, rgb_from_hed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from patch2tissue.data.augment import shift_stain
from patch2tissue.distributed.batch import gather_batch, of_share, sum_over_batch, whole_batch
from patch2tissue.gaussian_kernel import full_precision
from patch2tissue.pfscnet.network import PFSCNet
from patch2tissue.tissues import IGNORE_INDEX

Mixing = Literal["none", "cutout", "cutmix"]

_STAIN = 0.15  # spreads at strength 1, in the units of data.stain_jitter and data.brightness_jitter
_BRIGHTNESS = 0.2
_BLUR = 1.5  # pixels
_SHARES = (0.1, 0.4)  # of a patch that mixing replaces


@dataclass(frozen=True)
class Mix:
    """Which rectangle of each picture is replaced, and by which other picture of the batch.

    Attributes:
        box: True in the rectangle, bool [B, H, W].
        source: index of the picture it is taken from, int64 [B]; None where it is erased.
    """

    box: Tensor
    source: Tensor | None

    def __call__(self, x: Tensor, erased: float) -> Tensor:
        """Replace the rectangle in maps [B, H, W] or pictures [B, C, H, W]; `erased` is the value where it is erased.

        The result is a new tensor.
        """
        box = self.box if x.ndim == 3 else self.box[:, None]
        return x.masked_fill(box, erased) if self.source is None else torch.where(box, x[self.source], x)


def draw_mix(batch: int, height: int, width: int, mixing: Mixing, device: torch.device) -> Mix:
    """Draw one rectangle per picture, from torch's global generator; for all pictures of a batch that is shared out.

    A rectangle covers 0.1 to 0.4 of the picture, with sides of a ratio from 1:2 to 2:1, and lies inside. With `cutmix`
    every picture gives to exactly one other; a batch of one is erased instead, and `none` gives empty rectangles.
    """
    draws = torch.rand(4, batch)
    if mixing == "none":
        return Mix(torch.zeros(batch, height, width, dtype=torch.bool, device=device), None)
    share = _SHARES[0] + (_SHARES[1] - _SHARES[0]) * draws[0]
    ratio = torch.exp(math.log(2.0) * (2.0 * draws[1] - 1.0))
    tall = (height * (share * ratio).sqrt()).round().clamp(1, height)
    wide = (width * (share / ratio).sqrt()).round().clamp(1, width)
    top = (draws[2] * (height - tall + 1)).floor().clamp(max=height - 1)
    left = (draws[3] * (width - wide + 1)).floor().clamp(max=width - 1)
    y, x = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    top, left, tall, wide = (values[:, None, None] for values in (top, left, tall, wide))
    box = ((y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)).to(device)
    if mixing == "cutout" or batch == 1:
        return Mix(box, None)
    distance = int(torch.randint(1, batch, ()))
    return Mix(box, ((torch.arange(batch) + distance) % batch).to(device))


@torch.no_grad()
def strong_colors(images: Tensor, strength: float) -> Tensor:
    """Change stain, light and sharpness of every picture, drawn from torch's global generator; no pixel moves.

    Where processes share a batch, all is drawn for the whole of it.

    Args:
        images: float32 RGB in 0..1, [B, 3, H, W].
        strength: 0 changes nothing; at 1 each stain is scaled by 1 ± 0.3 and shifted by ± 0.04 in optical density
            (in the form of `random_stain_shift`), light is scaled by 1 ± 0.2, and every second picture is blurred
            by up to 1.5 pixels.

    Returns:
        float32 RGB in 0..1, [B, 3, H, W].
    """
    batch = whole_batch(images.shape[0])
    draws = of_share(2.0 * torch.rand(batch, 7) - 1.0)
    blur = of_share(torch.rand(batch, 2))
    if strength == 0 or not len(images):
        return images
    # a bfloat16 autocast must round neither the pictures nor the change
    with full_precision(images.device):
        rgb_of_stains = torch.from_numpy(rgb_from_hed).float()
        scale = 1.0 + 2.0 * _STAIN * strength * draws[:, :3]
        matrix = torch.from_numpy(hed_from_rgb).float() @ (scale[:, :, None] * rgb_of_stains)
        light = -torch.log1p(_BRIGHTNESS * strength * draws[:, 6:])
        offset = 0.25 * _STAIN * strength * draws[:, 3:6] @ rgb_of_stains + light
        sigma = torch.where(blur[:, 0] < 0.5, _BLUR * strength * blur[:, 1], 0.0)
        shifted = shift_stain(images, matrix.to(images), offset.to(images))
        blurred = gaussian_blur(shifted, sigma)
    return blurred.contiguous(memory_format=torch.channels_last)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each picture by its own standard deviation.

    Args:
        images: [B, C, H, W].
        sigma: in pixels, [B]; 0 leaves a picture as it is. The kernel is cut off at 3 standard deviations of the
            largest one; edges are continued.
    """
    batch, channels, height, width = images.shape
    reach = min(math.ceil(3.0 * float(sigma.max())), height - 1, width - 1)
    if reach < 1:
        return images
    place = torch.arange(-reach, reach + 1, dtype=sigma.dtype, device=sigma.device)
    kernel = torch.exp(-0.5 * (place / sigma.clamp(min=1e-3)[:, None]).square())
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0).to(images)
    flat = images.reshape(1, batch * channels, height, width)
    flat = F.pad(flat, (reach, reach, reach, reach), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=batch * channels)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=batch * channels)
    return flat.reshape(images.shape)


@torch.no_grad()
def teacher_labels(logits: Tensor, present: Tensor, inside: Tensor, confidence: float) -> Tensor:
    """What the teacher says, where it is sure enough.

    Args:
        logits: the teacher's, [B, K, H, W].
        present: 1 for each tissue in the patch's label, [B, K]; the softmax runs over these alone.
        inside: pixels of the patch, without padding, bool [B, H, W].
        confidence: least probability, 0..1.

    Returns:
        int64 [B, H, W]: tissue, or 255 where the teacher is not sure, outside the patch, and in patches whose label
        names no tissue.
    """
    possible = present > 0.5
    masked = logits.float().masked_fill(~possible[:, :, None, None], -torch.inf)
    best, labels = torch.softmax(masked, dim=1).max(dim=1)
    sure = (best >= confidence) & inside & possible.any(dim=1)[:, None, None]
    return labels.masked_fill(~sure, IGNORE_INDEX)


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch normalisation as they are; batches are still normalised by their own."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for module in norms:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in norms:
            module.track_running_stats = True


def consistency_loss(
    network: PFSCNet,
    teacher: PFSCNet,
    images: Tensor,
    present: Tensor,
    inside: Tensor,
    *,
    confidence: float,
    strength: float = 1.0,
    mixing: Mixing = "cutmix",
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the network on a strong view against the teacher's sure labels of the plain view.

    Args:
        network: learns; in training mode.
        teacher: labels; set to evaluation mode, gets no gradient.
        images: plain view, float32 RGB in 0..1, [B, 3, S, S].
        present: 1 for each tissue in the patch's label, [B, K].
        inside: pixels of the patch, without padding, bool [B, S, S].
        confidence: least probability that the teacher must give its label, 0..1.
        strength: of the colour changes, see `strong_colors`.
        mixing: what happens to a rectangle of each picture: nothing; erased; or taken from another patch of the batch,
            with the teacher's labels there.

    Returns:
        The loss, float32: the sum over pixels of which the teacher is sure, divided by all pixels inside patches, so
        that it counts for little while the teacher is sure of little; and the share of pixels it is sure of. Where
        processes share the batch, this one's part of both.
    """
    teacher.eval()
    with torch.no_grad():
        labels = teacher_labels(teacher(images).logits, present, inside, confidence)
    mix = draw_mix(whole_batch(images.shape[0]), images.shape[-2], images.shape[-1], mixing, images.device)

    def mixed(x: Tensor, erased: float) -> Tensor:
        # a rectangle may be from a patch of another process
        return of_share(mix(gather_batch(x), erased))

    view = mixed(strong_colors(images, strength), 1.0).contiguous(memory_format=torch.channels_last)
    target, counted = mixed(labels, IGNORE_INDEX), mixed(inside, False)
    with frozen_statistics(network):
        logits = network(view).logits
    each = F.cross_entropy(logits.float(), target, ignore_index=IGNORE_INDEX, reduction="none")
    pixels = sum_over_batch(counted.sum()).clamp(min=1)
    return each.sum() / pixels, (target != IGNORE_INDEX).sum() / pixels
