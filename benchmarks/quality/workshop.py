"""Where networks and labels of a set, an encoder and a seed are made, once for all rows that need them.

An artefact is a folder, found again by what it is and by its settings (`made_with.json`); a killed one goes on where it
was. Everything is made by the package's own functions.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.quality.labels import MEMORIES, OWN_LABELS, LabelMaker, Labels
from benchmarks.quality.peers import PEER_LABELS, PEER_TRAINERS
from benchmarks.quality.rows import Row
from benchmarks.quality.settings import (
    Settings,
    digest,
    flat,
    network_settings,
    pretraining_settings,
    same_settings,
    stage1_settings,
)
from patch2tissue.atomic import write_text
from patch2tissue.config import RunConfig
from patch2tissue.craanet.training import train_craanet
from patch2tissue.data.canvas import canvas_size
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.evaluation.predictions import ensure_predictions
from patch2tissue.evaluation.run_scores import test_patches
from patch2tissue.pfscnet.network import load_pfscnet
from patch2tissue.pfscnet.training import train_pfscnet
from patch2tissue.pretraining.training import WEIGHTS, pretrain_encoder, start_from
from patch2tissue.pseudo_labels.second_round import generate_second_round
from patch2tissue.run_folder import RunFolder
from patch2tissue.training_data import prepare_data, training_patches

NETWORK = "network"
"""Name of the network in an artefact that is a run folder."""

_VARIANT = "round"
"""Folder of the labels of a further round before any pixel is ignored."""


class Workshop:
    """Makes what one cell needs.

    Args:
        config: resolved recipe of the cell; `output` is the folder of artefacts.
        patches: use so many training patches, evenly drawn from all; None: all.
        images: score so many test images; None: all.
    """

    def __init__(self, config: RunConfig, patches: int | None = None, images: int | None = None) -> None:
        self.config, self.limit = config, patches
        self.tissues = config.tissue_set()
        prepare_data(config)
        self.patches = _thinned(training_patches(config), patches)
        self.images = _thinned(test_patches(config, self.tissues), images)
        if not self.images:
            raise DataError(f"{config.data.path}: there are no test images with masks to score on.")
        self.side = canvas_size(self.patches, config.data.patch_size)
        self.spent: dict[Path, float] = {}

    def artefact(self, kind: str, settings: Settings, make: Callable[[Path], None]) -> Path:
        """Return the folder of an artefact, making it if it is not there.

        Args:
            kind: what it is, one word.
            settings: all it depends on.
            make: writes it into the folder; called again after an interruption.
        """
        home = Path(self.config.output)
        for record in sorted(home.glob(f"{kind}-*/made_with.json")):
            plain = json.loads(record.read_text(encoding="utf-8"))
            if same_settings(plain["settings"], settings):
                break
        else:
            record = home / f"{kind}-{digest(settings)[:12]}" / "made_with.json"
            plain = {"settings": settings, "seconds": None}
            write_text(record, json.dumps(plain, indent=1))
        if plain["seconds"] is None:
            begin = time.perf_counter()
            make(record.parent)
            spent = max(time.perf_counter() - begin, _training_seconds(record.parent, len(self.patches)))
            plain["seconds"] = round(spent, 1)
            write_text(record, json.dumps(plain, indent=1))
        self.spent[record.parent] = float(plain["seconds"])
        return record.parent

    def started(self) -> RunConfig:
        """The recipe; if it has pre-training, with encoders that start from it."""
        if self.config.pretraining is None:
            return self.config

        def make(folder: Path) -> None:
            pretrain_encoder(self.config, self.patches, folder, side=self.side)

        folder = self.artefact("pretraining", pretraining_settings(self.config, self.limit), make)
        return start_from(self.config, folder / WEIGHTS)

    def craanet(self, *, plain_cam: bool = False) -> Path:
        """Folder of the trained classifier, with memories of every mode beside its own; or that of plain CAM."""
        config = self.started()
        accumulation = self.config.craanet.accumulation
        beside = {folder: accumulation.model_copy(update={"mode": mode}) for mode, folder in MEMORIES.items()}
        return self.artefact(
            "cam_classifier" if plain_cam else "craanet",
            stage1_settings(self.config, self.limit, plain_cam=plain_cam),
            lambda folder: train_craanet(
                config, self.patches, folder, side=self.side, plain_cam=plain_cam, beside=beside
            ),
        )

    def named(self, folder: Path) -> list[Path]:
        """The PNG of every training patch in a folder."""
        return [folder / f"{patch.name}.png" for patch in self.patches]

    def labels(self, name: str) -> Labels:
        """Labels by name, made if need be; see `LABELS`."""
        return LABELS[name](self, name)

    def network(self, row: Row, rounds: int | None = None) -> RunFolder:
        """Run folder with the trained network of a row as comparison `network`.

        Args:
            row: row of the table.
            rounds: instead of `pfscnet.rounds`; a second round learns from the network of the first, and so on.
        """
        rounds = rounds or self.config.pfscnet.rounds
        settings = network_settings(self.config, row, self.limit) | {"pfscnet.rounds": rounds}
        labels = self.labels(row.labels) if rounds == 1 else self._labels_of_round(row, rounds)
        run = RunFolder(
            self.artefact(row.trainer, settings, lambda folder: self._train(row, labels, RunFolder(folder)))
        )
        # where data lie and how images are predicted may have changed since
        write_text(run.config_file, self.config.to_yaml())
        return run

    def _labels_of_round(self, row: Row, number: int) -> Labels:
        """What a further round learns from, see `pfscnet.rounds.train_rounds`."""
        config, before = self.config, self.network(row, number - 1)
        settings = network_settings(config, row, self.limit) | {"pfscnet.rounds": number}
        folder = self.artefact(
            "labels_round",
            settings | flat({"pseudo_labels": config.model_dump(mode="json")["pseudo_labels"]}),
            lambda folder: generate_second_round(
                self.patches,
                self.tissues,
                load_pfscnet(before.comparison(NETWORK)),
                folder,
                side=self.side,
                config=config.pseudo_labels,
                hardware=config.hardware,
                symmetries=config.pseudo_labels.symmetries,
                variant=_VARIANT,
            ),
        )
        scored, learned = self.named(folder / "variants" / _VARIANT), self.named(folder / "masks")
        return Labels(scored, learned, self.named(folder / "confidence"), before.craanet.resolve())

    def _train(self, row: Row, labels: Labels, run: RunFolder) -> None:
        write_text(run.config_file, self.config.to_yaml())
        if not run.craanet.exists():
            # inference asks it which tissues an image holds, if `inference.gate` is set
            run.craanet.symlink_to(os.path.relpath(labels.encoder, run.path), target_is_directory=True)
        TRAINERS[row.trainer](self, row, labels, run.comparison(NETWORK))

    def predictions(self, run: RunFolder) -> list[Path]:
        """Predicted masks of the test images."""
        return ensure_predictions(run, self.config, NETWORK, self.images, progress=False)


def _thinned(patches: Sequence[Patch], count: int | None) -> list[Patch]:
    """So many of the patches, evenly spread over the list."""
    if count is None or count >= len(patches):
        return list(patches)
    return [patches[int(i)] for i in np.linspace(0, len(patches) - 1, count).round()]


def _training_seconds(folder: Path, patches: int) -> float:
    """Seconds of all epochs by the curves, those before an interruption too; 0 where nothing was trained."""
    seconds = 0.0
    for curves in folder.rglob("metrics.csv"):
        with curves.open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["name"] == "patches_per_second"]
        seconds += sum(patches / float(row["value"]) for row in rows)
    return seconds


def _train_pfscnet(shop: Workshop, row: Row, labels: Labels, folder: Path) -> None:
    train_pfscnet(
        shop.config,
        shop.patches,
        labels.learned,
        folder,
        side=shop.side,
        title=row.title.removeprefix("+ "),
        confidences=labels.confidences,
        craanet=labels.encoder,
    )


LABELS: dict[str, LabelMaker] = OWN_LABELS | PEER_LABELS
"""How labels are made, by the name that rows use."""

TRAINERS: dict[str, Callable[[Workshop, Row, Labels, Path], None]] = {"pfscnet": _train_pfscnet, **PEER_TRAINERS}
"""How networks are trained, by the name that rows use."""
