"""How good a tissue map is by what needs no masks: labels of held-out patches, views of them, their pictures.

Used to choose settings (`benchmarks.quality.sweep`). Nothing in here opens a mask. All definitions are ours:

- `label_f1`: macro F1 of the tissues that the map says are present (at least `least_share` of the patch's pixels)
  against the patch's own label; counts are summed over patches before each tissue's F1.
- `absent_share`: share of the tissue pixels that are given to a tissue which the patch's label says is absent.
- `energy`: dense energy of the map (one tissue per pixel, exact kernel, σ of `ENERGY` whatever was trained), mean over
  patches: how often pixels that are alike and near get different tissues. A map without any edge has none at all.
- `edge_energy`: the same, divided by the energy of a kernel that knows place alone. Below 1, edges lie where colours
  change; fewer or shorter edges alone do not lower it, which is why the rule looks at this one.
- `view_agreement`: mean IoU between the maps of the 8 views of a patch, mapped back: over all pairs of views, pixels
  summed over patches, mean over the tissues of the labels. IoU and not the share of equal pixels, which the largest
  tissue would decide; a tissue that is never drawn counts as 0, so that a map of one tissue is not perfect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from patch2tissue.data.augment import SYMMETRIES, apply_symmetry, invert_symmetry
from patch2tissue.data.images import read_image
from patch2tissue.data.patches import Patch
from patch2tissue.evaluation.folders import group_names
from patch2tissue.inference.predictor import Predictor
from patch2tissue.pfscnet.dense_energy import dense_energy

VERSION = 1
"""Raise it when measures change: what was measured before is then measured again."""

ENERGY: dict[str, Any] = {"sigma_rgb": 15.0, "sigma_xy": 20.0, "grid": 56}
"""Kernel of `energy` and `edge_energy`: colour in grey levels of 255, place in pixels."""

RESAMPLES = 2000

TRAINING_NOISE = 0.01
"""Difference of `label_f1` or `absent_share` that two trainings of one setting may have: settings of the losses that
hardly change a map moved `label_f1` by up to 0.009 in the first sweep. The bootstrap does not see it."""

Measures = dict[str, Any]
"""Counts of one network on its held-out patches, see `measure`; plain values that JSON knows."""


def measure(
    predictor: Predictor,
    single: Predictor,
    patches: Sequence[Patch],
    least_share: float,
    maps: Callable[[Patch], np.ndarray] | None = None,
) -> Measures:
    """Predict held-out patches and count.

    Args:
        predictor: the trained network, with the inference settings of the table.
        single: the same network without averaging over symmetries, whose views are compared.
        patches: labelled patches that no stage has seen.
        least_share: a tissue is present from this share of a patch's pixels on (0..1).
        maps: gives the map of a patch, uint8 [H, W]; None: `predictor` on the patch alone.

    Returns:
        `groups`: by patient, slide or image the `labels` [K, 3] (tissue rightly, wrongly, not said to be present), and
        the pixels given to an `absent` tissue of all `pixels` of tissue; `pairs` [K, 2]: pixels of the intersections
        and unions of pairs of views; `energy` and `place_energy`: sums over patches; `patches`: their number.
    """
    tissues = len(predictor.tissues)
    _, names = group_names([patch.name for patch in patches])
    groups: dict[str, dict[str, Any]] = {}
    pairs = np.zeros((tissues, 2), dtype=np.int64)
    energy = place = 0.0
    for patch, name in zip(patches, names, strict=True):
        present = np.array(patch.labels, dtype=bool)
        image = read_image(patch.path)
        found = predictor.predict_array(image).mask if maps is None else maps(patch)
        counts = np.bincount(found.ravel(), minlength=256)[:tissues]
        said = (counts > 0) & (counts >= least_share * found.size)
        group = groups.setdefault(name, {"labels": np.zeros((tissues, 3), np.int64), "absent": 0, "pixels": 0})
        group["labels"] += np.stack([said & present, said & ~present, ~said & present], axis=1)
        group["absent"] += int(counts[~present].sum())
        group["pixels"] += int(counts.sum())
        pairs += pairs_of_views(views(single, image), tissues)
        with_colour, without = energies(image, found, tissues)
        energy, place = energy + with_colour, place + without
    plain = {name: group | {"labels": group["labels"].tolist()} for name, group in groups.items()}
    return {"groups": plain, "pairs": pairs.tolist(), "energy": energy, "place_energy": place, "patches": len(patches)}


def views(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    """Maps of the 8 symmetries of an image uint8 [H, W, 3], mapped back; uint8 [8, H, W]."""
    planes = torch.from_numpy(image).permute(2, 0, 1)
    found = []
    for operation in range(SYMMETRIES):
        view = apply_symmetry(planes, operation).permute(1, 2, 0).contiguous().numpy()
        found.append(invert_symmetry(torch.from_numpy(predictor.predict_array(view).mask), operation).numpy())
    return np.stack(found)


def pairs_of_views(maps: np.ndarray, tissues: int) -> np.ndarray:
    """Pixels of intersection and union of every tissue, summed over all pairs of V maps [V, H, W]; int64 [K, 2]."""
    result = np.zeros((tissues, 2), dtype=np.int64)
    for tissue in range(tissues):
        # a pixel that n of the V maps give to the tissue is in n(n−1)/2 intersections, and not in (V−n)(V−n−1)/2 unions
        votes = (maps == tissue).sum(axis=0, dtype=np.int64)
        count, others = len(maps), len(maps) - votes
        result[tissue, 0] = (votes * (votes - 1) // 2).sum()
        result[tissue, 1] = (count * (count - 1) // 2 - others * (others - 1) // 2).sum()
    return result


def energies(image: np.ndarray, found: np.ndarray, tissues: int) -> tuple[float, float]:
    """Dense energy of a map uint8 [H, W] on its image uint8 [H, W, 3], and with place alone; both 0..1."""
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255.0
    labels = torch.from_numpy(found.astype(np.int64))[None]
    valid = labels < tissues
    maps = F.one_hot(torch.where(valid, labels, 0), tissues).permute(0, 3, 1, 2).float() * valid[:, None]
    found_energies = [float(dense_energy(picture, maps, valid, **ENERGY)) for picture in (planes, 0 * planes)]
    # a map without edges has none, but for the last digits of float32
    with_colour, without = (value if value > 1e-6 else 0.0 for value in found_energies)
    return with_colour, without


def label_f1(counts: np.ndarray) -> Any:
    """Macro F1 from counts [..., K, 3] of `measure`; tissues neither present nor said to be are left out."""
    right, wrong, missed = (counts[..., i].astype(np.float64) for i in range(3))
    total = 2 * right + wrong + missed
    scores = np.divide(2 * right, total, out=np.full(total.shape, np.nan), where=total > 0)
    return np.nanmean(scores, axis=-1)


@dataclass(frozen=True)
class Criteria:
    """One setting, judged over the held-out patches of all its seeds.

    Attributes:
        values: the five criteria, 0..1 (`edge_energy` about 0..1).
        draws: `label_f1` and `absent_share` of bootstrap samples of the groups, [R] each. The same groups are drawn
            for every setting.
    """

    values: dict[str, float]
    draws: dict[str, np.ndarray]


def judge(measures: Sequence[Measures], *, seed: int = 0) -> Criteria:
    """Criteria of one setting.

    Args:
        measures: of its networks, one per seed, each with its own held-out patches.
        seed: of the bootstrap.
    """
    names = sorted({name for found in measures for name in found["groups"]})
    every = [[found["groups"][name] for found in measures if name in found["groups"]] for name in names]
    labels = np.array([np.sum([group["labels"] for group in same], axis=0) for same in every])
    shares = np.array([[sum(group[key] for group in same) for key in ("absent", "pixels")] for same in every])
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    drawn_shares = drawn @ shares
    pairs = np.sum([found["pairs"] for found in measures], axis=0)
    known = labels.sum(axis=0)[:, [0, 2]].any(axis=1)
    energy, place, patches = (sum(found[key] for found in measures) for key in ("energy", "place_energy", "patches"))
    values = {
        "label_f1": float(label_f1(labels.sum(axis=0))),
        "absent_share": float(shares[:, 0].sum() / max(1, shares[:, 1].sum())),
        # no edge anywhere is no evidence of good ones
        "edge_energy": float(energy / place) if place > 0 else 1.0,
        "energy": float(energy / patches),
        "view_agreement": float(np.mean(pairs[known, 0] / np.maximum(1, pairs[known, 1]))),
    }
    draws = {
        "label_f1": label_f1(np.tensordot(drawn, labels, axes=1)),
        "absent_share": drawn_shares[:, 0] / np.maximum(1, drawn_shares[:, 1]),
    }
    return Criteria(values, draws)


def choose(candidates: Sequence[Criteria]) -> int:
    """The rule by which a setting is chosen; returns its place in the list.

    The one with the best `label_f1` sets the mark. Kept are those that are not behind it by more than noise, neither
    in `label_f1` nor in `absent_share`; noise is the standard deviation of the difference over bootstrap samples of
    the same patients, slides or images (one-standard-error rule), and at least `TRAINING_NOISE`. Of these, the one with
    the least `edge_energy`; of equals the first, which is what the recipe has. `energy` and `view_agreement` have no
    say.
    """
    mark = max(candidates, key=lambda candidate: candidate.values["label_f1"])

    def behind(candidate: Criteria, key: str, sign: int) -> bool:
        gap = sign * (mark.values[key] - candidate.values[key])
        return bool(gap > max(np.std(mark.draws[key] - candidate.draws[key]), TRAINING_NOISE))

    kept = [
        place
        for place, candidate in enumerate(candidates)
        if not behind(candidate, "label_f1", 1) and not behind(candidate, "absent_share", -1)
    ]
    return min(kept, key=lambda place: candidates[place].values["edge_energy"])
