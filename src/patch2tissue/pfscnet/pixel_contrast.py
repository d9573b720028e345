"""Pixel clustering by contrast: pixels of one tissue come together in the embedding, over all images.

[PMB] names the idea; the form follows [PIX] (pixel to pixel, hard anchors, memory) and [P2P] (pixel to prototype) and
is our reading. For an anchor v of tissue k, with temperature τ:

- pixel to prototype: `−log( e^{v·c⁺/τ} / (e^{v·c⁺/τ} + Σ_{c of other tissues} e^{v·c/τ}) )`, c⁺ its tissue's nearest
  prototype;
- pixel to pixel: the mean over keys q⁺ of the same tissue *from other images* of
  `−log( e^{v·q⁺/τ} / (e^{v·q⁺/τ} + Σ_{q of other tissues} e^{v·q/τ}) )`. Keys are confident pixels of the batch and of
  the memory bank.

The loss is the mean of the first over the anchors plus the mean of the second.

Where processes share a batch, anchors and keys are chosen among the pixels of all of it, and all processes hold the
same prototypes and the same bank: those of one process.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patch2tissue.distributed.batch import gather_batch, replicated, rows_of_batch
from patch2tissue.gaussian_kernel import at_least_float32, full_precision, resize
from patch2tissue.pfscnet.pixel_pairs import contrast_pairs
from patch2tissue.pfscnet.prototypes import MemoryBank, TissuePrototypes, choose_per_group
from patch2tissue.tissues import IGNORE_INDEX

_UNKNOWN_IMAGE = -1


@torch.no_grad()
def labels_on_grid(labels: Tensor, size: tuple[int, int], tissues: int) -> Tensor:
    """Shrink a label map to the embedding's size: the commonest value of each cell, ignored pixels included.

    Args:
        labels: [B, H, W] integer, 0..K-1 or 255.
        size: height and width of the result.
        tissues: number of tissues K.

    Returns:
        [B, h, w] long.

    >>> labels_on_grid(torch.tensor([[[0, 1, 255, 255], [1, 1, 255, 0]]]), (1, 2), 2)
    tensor([[[  1, 255]]])
    """
    labels = labels.long()
    if tuple(labels.shape[-2:]) == tuple(size):
        return labels
    values = torch.tensor([*range(tissues), IGNORE_INDEX], device=labels.device, dtype=labels.dtype)
    one_hot = (labels[:, None] == values[:, None, None]).float()
    winner = resize(one_hot, size).argmax(dim=1)
    return torch.where(winner == tissues, IGNORE_INDEX, winner)


@torch.no_grad()
def choose_anchors(labels: Tensor, hard: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Choose anchors among flattened pixels, balanced over the tissues that occur.

    Half of a tissue's share goes to hard pixels (fewer if there are fewer), the rest to any of its others.

    Args:
        labels: [n] long, tissue of each pixel or 255.
        hard: [n] bool, pixels where the network disagrees with the label.
        count: number of anchors wanted over all tissues; a tissue with fewer pixels than its share gives all.
        generator: CPU generator, None for torch's global one.

    Returns:
        Indices [A] (long), A ≤ count.
    """
    usable = labels != IGNORE_INDEX
    candidates = usable.nonzero().flatten()
    if candidates.numel() == 0:
        return candidates
    kinds = int(labels[candidates].max()) + 1
    present = torch.bincount(labels[candidates], minlength=kinds) > 0
    # The first tissues get what a division leaves over; with more tissues than anchors some go without.
    number = int(present.sum())
    rank = present.long().cumsum(0) - 1
    share = torch.where(present, count // number + (rank < count % number).long(), 0)
    difficult = (usable & hard).nonzero().flatten()
    difficult = difficult[choose_per_group(labels[difficult], share // 2, generator)]
    left = usable.clone()
    left[difficult] = False
    others = left.nonzero().flatten()
    remaining = share - torch.bincount(labels[difficult], minlength=kinds)
    return torch.cat([difficult, others[choose_per_group(labels[others], remaining, generator)]])


def _flat(embedding: Tensor) -> Tensor:
    """Pixels [n, D] of an embedding [B, D, h, w]."""
    return at_least_float32(embedding).movedim(1, -1).flatten(0, 2)


def _support(labels: Tensor, probabilities: Tensor) -> Tensor:
    """The network's probability of each pixel's label, [B, h, w]; -1 where there is none."""
    labelled = labels != IGNORE_INDEX
    tissue = torch.where(labelled, labels.long(), 0)
    own = at_least_float32(probabilities.detach()).gather(1, tissue[:, None])[:, 0]
    return torch.where(labelled, own, -1.0)


class PixelContrastLoss(nn.Module):
    """Contrast of pixels with prototypes and with pixels of other images.

    Call the loss, step the optimiser, then call `update` with the same batch; the loss itself changes no state.

    Args:
        tissues: number of tissues K.
        dimensions: size D of the embedding.
        temperature: τ of both parts.
        anchors: anchor pixels per call, balanced over tissues, half of them hard.
        bank: pixels kept per tissue in the memory bank; 0 for none.
        prototypes: prototypes per tissue.
        momentum: share μ of a prototype kept per update.
        confidence: a pixel feeds prototypes, keys and bank if the network gives its label more than this probability.
        bank_per_image: pixels per tissue of one image that enter the bank at an update, so that it holds many images.
    """

    def __init__(
        self,
        tissues: int,
        dimensions: int,
        temperature: float = 0.1,
        anchors: int = 512,
        bank: int = 512,
        prototypes: int = 1,
        momentum: float = 0.99,
        confidence: float = 0.7,
        bank_per_image: int = 8,
    ) -> None:
        super().__init__()
        if temperature <= 0 or anchors < 1 or bank < 0 or bank_per_image < 1:
            raise ValueError("temperature must be positive, anchors and bank_per_image at least 1, bank at least 0")
        self.temperature, self.anchors, self.confidence = temperature, anchors, confidence
        self.bank_per_image = bank_per_image
        self.prototypes = TissuePrototypes(tissues, dimensions, prototypes, momentum)
        self.bank = MemoryBank(tissues, dimensions, bank)

    def forward(
        self,
        embedding: Tensor,
        labels: Tensor,
        probabilities: Tensor,
        image_ids: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the scalar loss; zero (with a gradient of zero) if there is nothing to contrast.

        Args:
            embedding: [B, D, h, w], L2-normalised over D.
            labels: [B, h, w] integer tissue, 255 for ignored pixels (see `labels_on_grid`).
            probabilities: [B, K, h, w] of the network; no gradient flows to them.
            image_ids: [B] long, 0 or more, the same for the same image in each epoch; None: all taken as different.
            generator: CPU generator of the random choices, None for torch's global one.
        """
        self._check(embedding, labels, probabilities, image_ids)
        with full_precision(embedding.device):
            pixels = _flat(embedding)
            tissue, image = self._describe(labels, image_ids)
            support = gather_batch(_support(labels, probabilities)).flatten()
            predicted = gather_batch(probabilities.detach().argmax(dim=1)).flatten()
            chosen = choose_anchors(tissue, predicted != tissue, self.anchors, generator)
            confident = (support > self.confidence).nonzero().flatten()
            limit = -(-self.anchors // self.prototypes.vectors.shape[0])
            confident = confident[choose_per_group(tissue[confident], limit, generator)]
            # taken in one go: the gradient of each choice is an array of all pixels
            taken = rows_of_batch(pixels, torch.cat([chosen, confident]))
            anchors, own_keys = taken.split([len(chosen), len(confident)])
            bank, bank_tissue, bank_image = self.bank.read()
            keys = torch.cat([own_keys, bank.to(pixels.dtype)])
            key_tissue = torch.cat([tissue[confident], bank_tissue])
            key_image = torch.cat([image[confident], bank_image])

            to_prototypes = self._to_prototypes(anchors, tissue[chosen])
            to_pixels = contrast_pairs(
                anchors, keys, tissue[chosen], image[chosen], key_tissue, key_image, self.temperature
            )
            return replicated(to_pixels + to_prototypes.mean() if to_prototypes.numel() else to_pixels)

    @torch.no_grad()
    def update(
        self,
        embedding: Tensor,
        labels: Tensor,
        probabilities: Tensor,
        image_ids: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Feed prototypes and bank with the confident pixels of a batch; arguments as for the loss."""
        self._check(embedding, labels, probabilities, image_ids)
        pixels = _flat(embedding)
        own = (_support(labels, probabilities) > self.confidence).flatten()
        confident = gather_batch(own.reshape(labels.shape)).flatten().nonzero().flatten()
        tissue, image = self._describe(labels, image_ids)
        self.prototypes.update(pixels[own], labels.long().flatten()[own])
        position, tissues = confident // labels.shape[1:].numel(), self.prototypes.vectors.shape[0]
        group = position * tissues + tissue[confident]
        kept = confident[choose_per_group(group, self.bank_per_image, generator)]
        self.bank.push(rows_of_batch(pixels, kept), tissue[kept], image[kept].clamp(min=_UNKNOWN_IMAGE))

    def _describe(self, labels: Tensor, image_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tissue and image of each pixel of the whole batch, [n] each."""
        tissue = gather_batch(labels.long())
        if image_ids is None:  # below the identifier of unknown images in the bank, so that none is ever the same
            images = _UNKNOWN_IMAGE - 1 - torch.arange(len(tissue), device=labels.device)
        else:
            images = gather_batch(image_ids.to(labels.device).long())
        return tissue.flatten(), images.repeat_interleave(labels.shape[1:].numel())

    def _to_prototypes(self, anchors: Tensor, tissue: Tensor) -> Tensor:
        known = self.prototypes.initialised
        if int(known.sum()) < 2:
            return anchors.new_zeros(0)
        usable = known[tissue]
        anchors, tissue = anchors[usable], tissue[usable]
        similarity = self.prototypes.similarity(anchors) / self.temperature
        own = F.one_hot(tissue, len(known)).bool()
        positive = similarity[own].amax(dim=1)
        others = similarity.masked_fill((own | ~known)[:, :, None], -torch.inf).flatten(1).logsumexp(dim=1)
        return F.softplus(others - positive)

    def _check(self, embedding: Tensor, labels: Tensor, probabilities: Tensor, image_ids: Tensor | None) -> None:
        tissues, _, dimensions = self.prototypes.vectors.shape
        if embedding.ndim != 4 or embedding.shape[1] != dimensions:
            raise ValueError(f"embedding must be [B, {dimensions}, h, w], got {list(embedding.shape)}")
        batch, _, height, width = embedding.shape
        if list(labels.shape) != [batch, height, width] or labels.is_floating_point():
            raise ValueError(
                f"labels must be integers of shape {[batch, height, width]} as the embedding is, "
                f"got {labels.dtype} of shape {list(labels.shape)}"
            )
        if list(probabilities.shape) != [batch, tissues, height, width]:
            raise ValueError(
                f"probabilities must be {[batch, tissues, height, width]}, got {list(probabilities.shape)}"
            )
        if image_ids is not None and list(image_ids.shape) != [batch]:
            raise ValueError(f"image_ids must be [{batch}], got {list(image_ids.shape)}")
