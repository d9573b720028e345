"""Comparing a run with its repetition, part by part, in the order in which a run comes about."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from patch2tissue.data.images import read_image, read_mask
from patch2tissue.errors import DataError
from patch2tissue.hardware import autocast_dtype, choose_device
from patch2tissue.inference.predictor import Predictor
from patch2tissue.pfscnet.network import load_pfscnet
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import TissueSet
from patch2tissue.training import CURVES_OF_TIME

_MAIN_SCORES = ("miou", "fwiou", "acc", "dice", "boundary_f_2px", "boundary_f_5px")
_ROWS_AT_A_TIME = 256


@dataclass(frozen=True)
class Part:
    """How a part of a run compares with the same part of its repetition.

    Attributes:
        name: what was compared.
        kind: `numbers` (the difference is the greatest of all), `maps` (it is the share of pixels that differ) or
            `scores` (it is the greatest of the main scores, as a fraction).
        same: whether it is the same, number by number.
        difference: see `kind`; None where the two cannot be subtracted: other files, names or sizes.
        where: where the difference is greatest, or what is missing; empty if there is none.
    """

    name: str
    kind: str
    same: bool
    difference: float | None
    where: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain values; not a number becomes None."""
        return {
            "part": self.name,
            "kind": self.kind,
            "same": self.same,
            "difference": None if self.difference is None or math.isnan(self.difference) else self.difference,
            "where": self.where,
        }


def compare_repetition(run: RunFolder, other: RunFolder, images: Sequence[Path]) -> list[Part]:
    """Compare everything that a run holds with what its repetition holds.

    Args:
        run: the run.
        other: its repetition.
        images: pictures to draw with both final networks, where the run has no predictions of its test split.

    Returns:
        Parts, in the order in which they come about; what the run does not hold is left out.

    Raises:
        DataError: if a file is damaged.
    """
    return list(_parts(run, other, run.config().tissue_set(), images))


def _parts(run: RunFolder, other: RunFolder, tissues: TissueSet, images: Sequence[Path]) -> Iterator[Part]:
    def both(compare: Callable[[str, Path, Path], Part], name: str, kind: str, path: Path) -> Iterator[Part]:
        """Compare a file or folder of the run, if it is there, with that of the repetition."""
        again = other.path / path.relative_to(run.path)
        if path.exists():
            yield compare(name, path, again) if again.exists() else Part(name, kind, False, None, "is missing")

    def maps(name: str, first: Path, second: Path) -> Part:
        return _compare_maps(name, first, second, lambda path: read_mask(path, tissues))

    yield from both(_compare_weights, "pre-trained encoder", "numbers", run.pretraining / "encoder.safetensors")
    yield from both(_compare_weights, "CRAANet, weights", "numbers", run.craanet / "weights.safetensors")
    yield from both(_compare_memory, "CRAANet, attention memory", "numbers", run.craanet / "attention_memory")
    yield from both(_compare_weights, "plain CAM, weights", "numbers", run.cam / "weights.safetensors")
    yield from both(maps, "pseudo labels", "maps", run.pseudo_labels / "masks")
    yield from both(_compare_confidence, "pseudo labels, confidence", "numbers", run.pseudo_labels / "confidence")
    for number in (2, 3):
        before = run.pfscnet / f"round-{number - 1}" / "weights.safetensors"
        yield from both(_compare_weights, f"PFSCNet, weights of round {number - 1}", "numbers", before)
        yield from both(maps, f"pseudo labels of round {number}", "maps", run.round_labels(number) / "masks")
    yield from both(_compare_weights, "PFSCNet, weights", "numbers", run.pfscnet / "weights.safetensors")
    for name in ("cross_entropy_only", "cam_pipeline", "full_supervision"):
        weights = run.comparison(name) / "weights.safetensors"
        yield from both(_compare_weights, f"{name.replace('_', ' ')}, weights", "numbers", weights)
    if run.scores_file.is_file() and run.predictions().is_dir():
        yield from both(maps, "maps of the test split", "maps", run.predictions())
    else:
        yield _draw_with_both(run, other, images)
    yield from both(_compare_scores, "scores", "scores", run.scores_file)


def _compare_weights(name: str, first: Path, second: Path) -> Part:
    one, two = _load_weights(first), _load_weights(second)
    wrong = sorted(set(one) ^ set(two)) or [key for key in one if one[key].shape != two[key].shape]
    if wrong:
        return Part(name, "numbers", False, None, f"{wrong[0]} is of another network")
    found = {key: _difference(one[key].double().numpy(), two[key].double().numpy()) for key in one}
    same = all(_bits(one[key]) == _bits(two[key]) for key in one)
    return _numbers(name, found, same, _first_epoch(first.parent / "metrics.csv", second.parent / "metrics.csv"))


def _load_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Restore the file, or train again.") from None


def _bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _difference(one: np.ndarray, two: np.ndarray) -> float:
    """Greatest absolute difference; not a number where just one of two is none."""
    if one.size == 0:
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(one.astype(np.float64) - two.astype(np.float64))
    equal = (one == two) | (np.isnan(one) & np.isnan(two))
    return float(np.where(equal, 0.0, difference).max())


def _numbers(name: str, found: Mapping[str, float], same: bool, since: str = "") -> Part:
    """The greatest of some differences, and what it belongs to."""
    if same:
        return Part(name, "numbers", True, 0.0)
    worst = _worst(found)
    return Part(name, "numbers", False, found[worst], f"{worst}{since}")


def _first_epoch(first: Path, second: Path) -> str:
    """From which epoch on the curves of two trainings differ, in words; empty if they do not."""
    one, two = _curves(first), _curves(second)
    epochs = [epoch for epoch, name in {**one, **two} if one.get((epoch, name)) != two.get((epoch, name))]
    return f"; curves differ from epoch {min(epochs)}" if epochs else ""


def _curves(path: Path) -> dict[tuple[int, str], str]:
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))[1:]
        return {(int(epoch), name): value for epoch, name, value in rows if name not in CURVES_OF_TIME}
    except (OSError, ValueError):
        return {}


def _compare_memory(name: str, first: Path, second: Path) -> Part:
    found, same = {}, True
    for file in ("maps", "counts"):
        one, two = (_mapped(folder / f"{file}.npy") for folder in (first, second))
        if (one.shape, one.dtype) != (two.shape, two.dtype):
            return Part(name, "numbers", False, None, f"{file} of another size")
        step = 1.0 / 255.0 if one.dtype == np.uint8 else 1.0
        greatest = 0.0
        for start in range(0, len(one), _ROWS_AT_A_TIME):
            rows = slice(start, start + _ROWS_AT_A_TIME)
            same = same and one[rows].tobytes() == two[rows].tobytes()
            greatest = max(greatest, step * _difference(one[rows], two[rows]))
        found[file] = greatest
    return _numbers(name, found, same)


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Restore the file, or train again.") from None


def _compare_maps(name: str, first: Path, second: Path, read: Callable[[Path], np.ndarray]) -> Part:
    pairs, odd = _paired(first, second)
    if odd:
        return Part(name, "maps", False, None, odd)
    return _maps(name, _read_pairs(pairs, read))


def _maps(name: str, pairs: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> Part:
    """The share of pixels that differ, of named pairs of maps [H, W]."""
    pixels = different = 0
    worst = (0, "")
    for file, one, two in pairs:
        if one.shape != two.shape:
            return Part(name, "maps", False, None, f"{file} is of another size")
        count = int((one != two).sum())
        pixels, different = pixels + one.size, different + count
        if count > worst[0]:
            worst = (count, file)
    return Part(name, "maps", different == 0, different / max(1, pixels), worst[1])


def _compare_confidence(name: str, first: Path, second: Path) -> Part:
    pairs, odd = _paired(first, second)
    if odd:
        return Part(name, "numbers", False, None, odd)
    found = {"": 0.0}
    for file, one, two in _read_pairs(pairs, read_image):
        if one.shape != two.shape:
            return Part(name, "numbers", False, None, f"{file} is of another size")
        found[file] = _difference(one, two) / 255.0
    return _numbers(name, found, not any(found.values()))


def _paired(first: Path, second: Path) -> tuple[list[tuple[Path, Path]], str]:
    """Maps of both folders without the pictures beside them, or which map only one of them holds."""
    beside = ("_overlay.png", "_confidence.png")
    one, two = (
        {path.name for path in folder.glob("*.png") if not path.name.endswith(beside)} for folder in (first, second)
    )
    odd = sorted(one ^ two)
    if odd:
        return [], f"{odd[0]} {'is missing' if odd[0] in one else 'is new'}"
    return [(first / file, second / file) for file in sorted(one)], ""


def _read_pairs(
    pairs: Sequence[tuple[Path, Path]], read: Callable[[Path], np.ndarray]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    with ThreadPoolExecutor(4) as pool:
        # some at a time: all results of a long list would not fit into memory
        for start in range(0, len(pairs), _ROWS_AT_A_TIME):
            part = pairs[start : start + _ROWS_AT_A_TIME]
            found = pool.map(lambda pair: (read(pair[0]), read(pair[1])), part)
            for (path, _), (one, two) in zip(part, found, strict=True):
                yield path.name, one, two


def _draw_with_both(run: RunFolder, other: RunFolder, images: Sequence[Path]) -> Part:
    """Maps that both final networks draw on the device of the repetition, without the gate."""
    config = other.config()
    device = choose_device(config.hardware.device)
    one, two = (
        Predictor(
            load_pfscnet(folder.pfscnet, device),
            config.tissue_set(),
            config.inference.model_copy(update={"gate": None}),
            device=device,
            dtype=autocast_dtype(device, config.hardware.precision),
        )
        for folder in (run, other)
    )
    pictures = ((path.name, read_image(path)) for path in images)
    drawn = ((name, one.predict_array(image).mask, two.predict_array(image).mask) for name, image in pictures)
    return _maps(f"maps of {len(images)} training patches", drawn)


def _compare_scores(name: str, first: Path, second: Path) -> Part:
    one, two = (_leaves(_read_json(path)) for path in (first, second))
    if one.keys() != two.keys():
        odd = min(one.keys() ^ two.keys())
        return Part(name, "scores", False, None, f"{odd} {'is missing' if odd in one else 'is new'}")
    found = {}
    for key in one:
        before, after = one[key], two[key]
        if key.rsplit(": ", 1)[-1] in _MAIN_SCORES and before != after:
            found[key] = math.nan if before is None or after is None else abs(before - after)
    if not found:
        return Part(name, "scores", one == two, 0.0)
    worst = _worst(found)
    return Part(name, "scores", False, found[worst], worst)


def _worst(found: Mapping[str, float]) -> str:
    """What the greatest difference belongs to; one that is no number is the greatest."""
    return max(found, key=lambda key: math.inf if math.isnan(found[key]) else found[key])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Run `patch2tissue score {path.parent}` again.") from None


def _leaves(plain: Any, prefix: str = "") -> dict[str, float | None]:
    """Numbers of a nested mapping by the names that lead to them; texts are passed over."""
    if isinstance(plain, list):
        plain = dict(enumerate(plain))
    if isinstance(plain, dict):
        pairs = [
            pair
            for key, value in plain.items()
            for pair in _leaves(value, f"{prefix}{': ' * bool(prefix)}{key}").items()
        ]
        return dict(pairs)
    if isinstance(plain, float) and math.isnan(plain):
        plain = None
    return {prefix: plain} if plain is None or isinstance(plain, float | int) else {}
