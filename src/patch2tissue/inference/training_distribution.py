"""Whether pictures look like those a network was trained on: out-of-distribution detection.

What is measured is the distance of a picture's features from their mean over the training patches, in units of their
spread (Mahalanobis distance; Lee et al., NeurIPS 2018, with the shrinkage of Ledoit & Wolf, 2004), of two kinds:

- texture: mean and standard deviation of each channel of the encoder's finest features. Another resolution, blur, and
  other tissue change them.
- colour: mean and standard deviation of the optical density of red, green and blue. Another stain, scanner or
  brightness changes them.

A distance alone says nothing, so it is given as its rank among the distances of training patches, each measured
without the patients it comes from. The distance of the pixel embeddings from the tissues' prototypes was tried first;
it does not see a change of scale, as `benchmarks/trust.py` shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor
from torch.nn import functional as F

from patch2tissue.atomic import write_bytes
from patch2tissue.data.images import read_image
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.inference.familiarity import Familiarity
from patch2tissue.inference.tiling import pad_to_multiple, to_input
from patch2tissue.pfscnet.network import PFSCNet
from patch2tissue.progress import track

DISTRIBUTION_FILE = "training_distribution.safetensors"
"""Its name in the folder of stage 2."""

KINDS = ("texture", "colour")

FEWEST = 20
"""Training patches below which nothing can be said."""

MOST = 600
"""Training patches that are looked at."""

GLASS = 0.86
"""Pixels whose red, green and blue all exceed this share of white are glass."""

_FOLDS = 5
_STRIDE = 4


@dataclass(frozen=True)
class _Gaussian:
    mean: np.ndarray
    precision: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> _Gaussian:
        from sklearn.covariance import ledoit_wolf  # slow to import, and needed after training only

        covariance, _ = ledoit_wolf(features)
        # a channel that is always zero would make the matrix singular
        covariance[np.diag_indices_from(covariance)] += 1e-6 * max(np.trace(covariance) / len(covariance), 1e-12)
        return cls(features.mean(axis=0), np.linalg.inv(covariance))

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Mahalanobis distance of features [..., D]."""
        away = features - self.mean
        squared = ((away @ self.precision) * away).sum(axis=-1)
        return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


@dataclass(frozen=True)
class TrainingDistribution:
    """Where the training patches lie, and how far each lies from the others.

    Attributes:
        side: side of the windows that are looked at, in pixels: that of the training patches.
        gaussians: by kind.
        distances: by kind, ascending: of training patches, each from the patches of other patients.
    """

    side: int
    gaussians: dict[str, _Gaussian]
    distances: dict[str, np.ndarray]

    @classmethod
    def of(cls, features: dict[str, np.ndarray], groups: Sequence[str], side: int) -> TrainingDistribution:
        """Learn from the features of training patches.

        Args:
            features: by kind, [N, D].
            groups: patient, slide or image that each patch comes from.
            side: see the attributes.
        """
        number = {group: place for place, group in enumerate(sorted(set(groups)))}
        # patches of one patient are left out together, unless all are of one
        fold = np.array([number[group] for group in groups] if len(number) > 1 else range(len(groups))) % _FOLDS
        gaussians, distances = {}, {}
        for kind in KINDS:
            values = features[kind].astype(np.float64)
            gaussians[kind] = _Gaussian.of(values)
            found = np.empty(len(values))
            for one in np.unique(fold):
                found[fold == one] = _Gaussian.of(values[fold != one]).distance(values[fold == one])
            distances[kind] = np.sort(found)
        return cls(side, gaussians, distances)

    def distance(self, images: Tensor, fine: Tensor) -> np.ndarray:
        """Distances of the windows of images.

        Args:
            images: float RGB in 0..1, [B, 3, H, W].
            fine: the encoder's features at stride 4, [B, C, H/4, W/4].

        Returns:
            float64 [kinds, B, windows]; NaN in windows that are mostly glass.
        """
        features, glass = describe(images, fine, self.side)
        found = np.stack([self.gaussians[kind].distance(features[kind]) for kind in KINDS])
        found[:, glass] = np.nan
        return found

    def familiarity(self, distances: np.ndarray) -> Familiarity | None:
        """Rank of the median of distances [kinds, windows]; None if all windows are glass."""
        known = distances[:, ~np.isnan(distances).any(axis=0)]
        if not known.shape[1]:
            return None
        medians = np.median(known, axis=1)
        ranks = [
            np.searchsorted(self.distances[kind], median) / len(self.distances[kind])
            for kind, median in zip(KINDS, medians, strict=True)
        ]
        return Familiarity(*map(float, ranks))

    def save(self, path: Path) -> None:
        """Write it as safetensors, atomically."""
        arrays = {"side": np.array([self.side], np.int64)}
        for kind in KINDS:
            arrays[f"{kind}.mean"] = self.gaussians[kind].mean
            arrays[f"{kind}.precision"] = self.gaussians[kind].precision.astype(np.float32)
            arrays[f"{kind}.distances"] = self.distances[kind]
        write_bytes(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))

    @classmethod
    def load(cls, path: Path) -> TrainingDistribution:
        """Read what `save` wrote.

        Raises:
            DataError: if it is no such file.
        """
        try:
            arrays = load_file(path)
            gaussians = {
                kind: _Gaussian(arrays[f"{kind}.mean"], arrays[f"{kind}.precision"].astype(np.float64))
                for kind in KINDS
            }
            for gaussian in gaussians.values():
                if gaussian.precision.shape != 2 * gaussian.mean.shape:
                    raise ValueError("sizes that do not fit each other")
            return cls(int(arrays["side"][0]), gaussians, {kind: arrays[f"{kind}.distances"] for kind in KINDS})
        except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
            raise DataError(
                f"{path}: cannot be read ({error}). Delete it; `patch2tissue calibrate` makes it anew."
            ) from None


def describe(images: Tensor, fine: Tensor, side: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features of the windows of images.

    Args:
        images: float RGB in 0..1, [B, 3, H, W].
        fine: features at stride 4, [B, C, h, w], at least of the images' size.
        side: side of a window in pixels; images that are smaller are one window.

    Returns:
        By kind, float64 [B, windows, D]; and bool [B, windows], whether a window is mostly glass.
    """
    size = images.shape[-2:]
    cells = tuple(max(1, min(side, length) // _STRIDE) for length in size)
    pixels = tuple(min(count * _STRIDE, length) for count, length in zip(cells, size, strict=True))
    inside = fine[..., : max(1, size[0] // _STRIDE), : max(1, size[1] // _STRIDE)]
    density = -torch.log10((images.float() * 255.0 + 1.0) / 256.0)
    white = (images.amin(dim=1, keepdim=True) > GLASS).float()
    found = {"texture": _moments(inside.float(), cells), "colour": _moments(density, pixels)}
    glass = F.avg_pool2d(white, pixels).flatten(1) > 0.5
    return {kind: values.double().cpu().numpy() for kind, values in found.items()}, glass.cpu().numpy()


def _moments(values: Tensor, window: tuple[int, ...]) -> Tensor:
    """Mean and standard deviation of each channel in windows: [B, C, H, W] to [B, windows, 2C]."""
    mean = F.avg_pool2d(values, window)
    spread = (F.avg_pool2d(values.square(), window) - mean.square()).clamp(min=0.0).sqrt()
    return torch.cat([mean, spread], dim=1).flatten(2).mT


@torch.inference_mode()
def _inputs_and_features(
    network: PFSCNet, images: np.ndarray, device: torch.device, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """What `describe` takes, of pictures uint8 RGB [B, H, W, 3]."""
    inputs = pad_to_multiple(to_input(images, device), 32)
    with torch.autocast(device.type, dtype) if dtype is not None else nullcontext():
        return inputs, network.fine_features(inputs)


def distances_of(
    network: PFSCNet,
    distribution: TrainingDistribution,
    images: np.ndarray,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
) -> np.ndarray:
    """Distances [kinds, B, windows] of pictures uint8 RGB [B, H, W, 3]."""
    return distribution.distance(*_inputs_and_features(network, images, device, dtype))


def learn_distribution(
    network: PFSCNet,
    patches: Sequence[Patch],
    side: int,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    progress: bool = True,
) -> TrainingDistribution | None:
    """Look at up to `MOST` training patches, evenly spread over the list.

    Args:
        network: the trained network.
        patches: those it was trained on.
        side: their side in pixels; larger ones are looked at in windows of it, of which the first counts.
        device: where to compute.
        dtype: autocast type, None for float32.
        progress: show a bar.

    Returns:
        None if there are fewer than `FEWEST`.
    """
    if len(patches) < FEWEST:
        return None
    chosen = [patches[int(place)] for place in np.linspace(0, len(patches) - 1, min(len(patches), MOST))]
    network = network.to(device).eval()
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for patch in track(chosen, "learning what training patches look like", len(chosen)) if progress else chosen:
        features, _ = describe(*_inputs_and_features(network, read_image(patch.path)[None], device, dtype), side)
        for kind in KINDS:
            found[kind].append(features[kind][0, 0])
    groups = [patch.patient or patch.slide or patch.name for patch in chosen]
    return TrainingDistribution.of({kind: np.stack(values) for kind, values in found.items()}, groups, side)
