"""The heart picture: how attention accumulates epoch by epoch over a few training patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from patch2tissue.data.canvas import canvas_size, rounded_side
from patch2tissue.data.images import read_image, read_mask
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.plain_files import read_arrays
from patch2tissue.report.figures import Line, panel
from patch2tissue.report.pictures import (
    Picture,
    color_mask,
    describe_mask,
    heat,
    mean_iou,
    overlay,
    photo,
    resize_maps,
    strongest_tissue,
)
from patch2tissue.report.record import RunRecord
from patch2tissue.tissues import TissueSet

SHOWN_PATCHES = 5
SHOWN_EPOCHS = 7


@dataclass(frozen=True)
class History:
    """`attention_history.npz`: maps of P patches over E epochs, [E, P, K, h, w]."""

    names: list[str]
    epochs: list[int]
    current: np.ndarray
    accumulated: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class PatchStory:
    """Pictures of one patch: image, then a map of the epoch and of the memory per shown epoch, then the results."""

    name: str
    present: list[int]
    image: Picture
    current: list[Picture]
    memory: list[Picture | None]
    final: Picture | None
    mask: Picture | None


@dataclass(frozen=True)
class AccumulationView:
    """What the section shows."""

    epochs: list[int]
    stories: list[PatchStory]
    charts: list[Markup]
    heat_rows: list[tuple[str, list[Picture], list[Picture | None]]]
    heat_name: str
    start: int | None


def read_history(path: Path) -> History | None:
    """Read `attention_history.npz`; None if there is none.

    Raises:
        DataError: if it is damaged.
    """
    if not path.is_file():
        return None
    again = "Train stage craanet again, or delete the file."
    file = read_arrays(path, ("names", "epochs", "current", "accumulated", "present"), again)
    try:
        history = History(
            [str(name) for name in file["names"]],
            [int(epoch) for epoch in file["epochs"]],
            file["current"].astype(np.float32),
            file["accumulated"].astype(np.float32),
            file["present"].astype(np.uint8),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: cannot be read ({error}). {again}") from None
    shape = history.current.shape
    fits = shape == history.accumulated.shape and shape[:2] == (len(history.epochs), len(history.names))
    if not fits or len(shape) != 5 or 0 in shape[2:] or history.present.shape != shape[1:3]:
        raise DataError(f"{path}: its arrays do not fit each other. {again}")
    return history


def shown_epochs(epochs: Sequence[int], start: int | None, count: int = SHOWN_EPOCHS) -> list[int]:
    """Positions of the epochs that are shown: the first, the last, where accumulation starts, and some between."""
    total = len(epochs)
    if total <= count:
        return list(range(total))
    chosen = {round(i * (total - 1) / (count - 1)) for i in range(count)}
    if start is not None and start not in chosen:
        inner = sorted(chosen - {0, total - 1})
        if inner:
            chosen.discard(min(inner, key=lambda position: abs(position - start)))
        chosen.add(start)
    return sorted(chosen)


def accumulation_view(record: RunRecord) -> AccumulationView | None:
    """Prepare the section; None if the run kept no history or its patches are not there."""
    history = read_history(record.run.craanet / "attention_history.npz")
    if history is None or not history.epochs:
        return None
    places = [i for i, name in enumerate(history.names) if name in record.train]
    if not places:
        return None
    filled = history.accumulated.reshape(len(history.epochs), -1).max(axis=1) > 0
    start = int(filled.argmax()) if filled.any() else None
    shown = shown_epochs(history.epochs, start)
    requested = record.config.data.patch_size
    side = rounded_side(requested) if requested else canvas_size(list(record.train.values()), None)
    tissues = record.tissues
    painters = [_Painter(record, record.train[history.names[i]], history, i, side, tissues) for i in places]
    first = next((painter for painter in painters if sum(painter.present) > 1), painters[0])
    heat_rows = [
        (
            tissue,
            [first.heat(epoch, k, "current") for epoch in shown],
            [first.heat(epoch, k, "accumulated") if start is not None and epoch >= start else None for epoch in shown],
        )
        for k, tissue in enumerate(tissues.names)
        if first.present[k]
    ]
    return AccumulationView(
        epochs=[history.epochs[e] for e in shown],
        stories=[painter.story(shown) for painter in painters[:SHOWN_PATCHES]],
        charts=_charts(painters, history.epochs, start),
        heat_rows=heat_rows,
        heat_name=first.patch.name,
        start=None if start is None else history.epochs[start],
    )


class _Painter:
    """Draws the maps of one patch."""

    def __init__(
        self, record: RunRecord, patch: Patch, history: History, place: int, side: int, tissues: TissueSet
    ) -> None:
        self.record, self.patch, self.tissues, self.side = record, patch, tissues, side
        self.image = read_image(patch.path)
        self.truth = read_mask(patch.mask, tissues) if patch.mask is not None else None
        self.maps = {"current": history.current[:, place], "accumulated": history.accumulated[:, place]}
        self.present = [int(value) for value in history.present[place]]

    def has(self, epoch: int, kind: str) -> bool:
        return bool(self.maps[kind][epoch].max() > 0)

    def labels(self, epoch: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
        shape = (self.image.shape[0], self.image.shape[1])
        return strongest_tissue(resize_maps(self.maps[kind][epoch], self.side, shape), self.present)

    def _agreement(self, labels: np.ndarray) -> str | None:
        if self.truth is None:
            return None
        value = mean_iou(labels, self.truth, len(self.tissues))
        return None if value is None else f"{value:.2f}"

    def map(self, epoch: int, kind: str) -> Picture | None:
        if not self.has(epoch, kind):
            return None
        labels, lead = self.labels(epoch, kind)
        what = "map of the epoch" if kind == "current" else "memory"
        alt = f"{self.patch.name}, {what} {epoch + 1}: {describe_mask(labels, self.tissues)}"
        return photo(overlay(self.image, labels, lead, self.tissues), alt, self._agreement(labels))

    def heat(self, epoch: int, tissue: int, kind: str) -> Picture:
        shape = (self.image.shape[0], self.image.shape[1])
        values = resize_maps(self.maps[kind][epoch], self.side, shape)[tissue]
        alt = f"{self.tissues.names[tissue]}, {kind} attention at epoch {epoch + 1}, mean {values.mean():.2f}"
        return photo(heat(values), alt)

    def story(self, shown: Sequence[int]) -> PatchStory:
        blank = Picture("", "no map", 1, 1)
        final_file = self.record.run.pseudo_labels / "masks" / f"{self.patch.name}.png"
        final = None
        if final_file.is_file():
            labels = read_mask(final_file, self.tissues)
            alt = f"{self.patch.name}, pseudo label: {describe_mask(labels, self.tissues)}"
            final = photo(color_mask(labels, self.tissues, self.image), alt, self._agreement(labels))
        mask = None
        if self.truth is not None:
            alt = f"{self.patch.name}, mask: {describe_mask(self.truth, self.tissues)}"
            mask = photo(color_mask(self.truth, self.tissues, self.image), alt)
        return PatchStory(
            name=self.patch.name,
            present=self.present,
            image=photo(self.image, f"{self.patch.name}, image"),
            current=[self.map(epoch, "current") or blank for epoch in shown],
            memory=[self.map(epoch, "accumulated") for epoch in shown],
            final=final,
            mask=mask,
        )


def _charts(painters: Sequence[_Painter], epochs: Sequence[int], start: int | None) -> list[Markup]:
    """Agreement with the masks, and share of pixels that changed tissue, by epoch, over the kept patches."""
    agreement: dict[str, list[tuple[float, float]]] = {"current": [], "accumulated": []}
    restless: dict[str, list[tuple[float, float]]] = {"current": [], "accumulated": []}
    tissues = len(painters[0].tissues)
    for kind in agreement:
        before: list[np.ndarray] | None = None
        for e, epoch in enumerate(epochs):
            if not all(painter.has(e, kind) for painter in painters):
                continue
            labels = [painter.labels(e, kind)[0] for painter in painters]
            pairs = [(found, p.truth) for found, p in zip(labels, painters, strict=True) if p.truth is not None]
            if pairs:
                found = np.concatenate([pair[0].ravel() for pair in pairs])
                truth = np.concatenate([pair[1].ravel() for pair in pairs])
                value = mean_iou(found, truth, tissues)
                if value is not None:
                    agreement[kind].append((epoch, value))
            if before is not None:
                changed = sum(int((a != b).sum()) for a, b in zip(labels, before, strict=True))
                restless[kind].append((epoch, changed / sum(a.size for a in labels)))
            before = labels
    mark = None if start is None else (float(epochs[start]), "memory starts")
    charts = []
    for name, title, values in (
        ("agreement", "Agreement with the masks (MIoU of these patches)", agreement),
        ("restless", "Pixels that change tissue from one epoch to the next", restless),
    ):
        lines = [
            Line(series, label, values[kind])
            for kind, series, label in (("current", "cam", "this epoch"), ("accumulated", "accumulated", "memory"))
            if values[kind]
        ]
        if lines and max(len(line.points) for line in lines) > 1:
            chart = panel(name, title, lines, size=(520, 250), start=mark, labels=True, zero=name == "restless")
            charts.append(chart)
    return charts
