"""What a run knows of its patches: pseudo labels, attention by epoch, and what its network makes of them."""

from __future__ import annotations

import csv
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from patch2tissue.config import RunConfig
from patch2tissue.craanet.epoch_maps import EPOCH_MAPS_FILE, EpochMaps, replayed
from patch2tissue.data.canvas import canvas_size, rounded_side
from patch2tissue.data.images import read_image
from patch2tissue.data.layouts import load_images_and_masks, load_split
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.labelling.corrections import Corrections
from patch2tissue.plain_files import read_array
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import TissueSet

if TYPE_CHECKING:
    from patch2tissue.inference.predictor import Predictor

logger = logging.getLogger(__name__)

_PREDICTIONS = 64


@dataclass(frozen=True)
class Drawn:
    """What a network makes of a patch: tissue indices uint8 [H, W], probabilities uint8 [K, H, W] in 1/255."""

    classes: np.ndarray
    probabilities: np.ndarray


class ViewedRun:
    """A run that is looked at. May be used by several threads; torch is loaded when a prediction is first wanted.

    Args:
        folder: the run folder.

    Attributes:
        name: of the folder.
        config: its configuration.
        tissues: its tissue set.

    Raises:
        DataError: if it is no run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.run = RunFolder(Path(folder))
        self.config: RunConfig = self.run.config()
        self.tissues: TissueSet = self.config.tissue_set()
        self.name = self.run.path.resolve().name
        self._lock = threading.Lock()
        self._predictor: Predictor | None = None
        self._drawn: OrderedDict[Path, Drawn] = OrderedDict()

    @property
    def data(self) -> Path:
        """The data folder."""
        return Path(self.config.data.path)

    def patches(self) -> dict[str, list[Patch]]:
        """Patches that can be read, `training` and `test`; those of `val` are among the latter if there is no test.

        Raises:
            DataError: if there is neither; the message tells why.
        """
        found: dict[str, list[Patch]] = {"training": [], "test": []}
        problem: DataError | None = None
        try:
            found["training"] = load_split(self.data, "train", self.tissues, self.config.data.layout)
        except DataError as error:
            problem = error
        known = {patch.path.resolve() for patch in found["training"]}
        # what was trained on and is not in the data set any more
        gone = (Path(row["image"]) for row in self._manifest)
        found["training"] += [Patch(path, path.stem) for path in gone if path.resolve() not in known and path.is_file()]
        test = self.config.data.test_path
        folders = [Path(test)] if test is not None else [self.data / split for split in ("test", "val")]
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is not None:
            try:
                found["test"] = load_images_and_masks(folder, self.tissues)
            except DataError as error:
                problem = problem or error
        if not any(found.values()):
            raise problem or DataError(f"{self.data}: holds no patches.")
        return found

    @cached_property
    def _manifest(self) -> list[dict[str, str]]:
        """Lines of the pseudo labels' manifest, in the order of training; empty before stage 1 has ended."""
        path = self.run.pseudo_labels / "manifest.csv"
        if not path.is_file():
            return []
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            for row in rows:
                if not row["image"] or not row["name"] or "\0" in row["image"] + row["name"]:
                    raise ValueError("a line lacks its name or image")
            return rows
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise DataError(
                f"{path}: is damaged ({type(error).__name__}: {error}). Make pseudo labels again."
            ) from None

    @cached_property
    def _rows(self) -> dict[Path, int]:
        """Numbers of the training patches, by file."""
        return {Path(row["image"]).resolve(): number for number, row in enumerate(self._manifest)}

    # --- pseudo labels ------------------------------------------------------------------------------------------------

    def pseudo_label(self, image: Path) -> Path | None:
        """The pseudo label that the network was trained on, None if the patch has none."""
        row = self._rows.get(image.resolve())
        if row is None:
            return None
        rounds = [self.run.round_labels(number) for number in range(self.config.pfscnet.rounds, 0, -1)]
        files = (folder / "masks" / f"{self._manifest[row]['name']}.png" for folder in rounds)
        return next((file for file in files if file.is_file()), None)

    # --- attention ----------------------------------------------------------------------------------------------------

    def has_attention(self, image: Path) -> bool:
        """Whether attention maps of a patch were kept."""
        return self._attention is not None and image.resolve() in self._rows

    @property
    def has_epochs(self) -> bool:
        """Whether maps of every epoch were kept."""
        return isinstance(self._attention, EpochMaps)

    def attention(self, image: Path) -> tuple[np.ndarray, np.ndarray | None]:
        """Attention of a training patch by epoch: accumulated and of the epoch itself, float32 [E, K, h, w] in 0..1.

        Without maps of the epochs the former has a single entry, the end of training, and the latter is None.

        Raises:
            DataError: if a file is damaged.
        """
        assert self._attention is not None
        row = self._rows[image.resolve()]
        if isinstance(self._attention, EpochMaps):
            maps = self._attention.of_patch(row)
            settings = self.config.craanet
            mode, decay = settings.accumulation.mode, settings.accumulation.ema_decay
            return replayed(maps, mode, first=settings.first_accumulated_epoch, ema_decay=decay), maps
        stored = np.asarray(self._attention[row], np.float32)
        return (stored / 255.0 if self._attention.dtype == np.uint8 else stored)[None], None

    @cached_property
    def _attention(self) -> EpochMaps | np.ndarray | None:
        """Maps of the epochs, else the memory's alone, None if nothing fits the manifest."""
        epochs, memory = self.run.craanet / EPOCH_MAPS_FILE, self.run.craanet / "attention_memory" / "maps.npy"
        if epochs.is_file():
            found = EpochMaps(epochs)
            if found.shape[1:3] == (len(self._manifest), len(self.tissues)):
                return found
        if memory.is_file():
            maps = read_array(memory, "Train stage craanet again.", "r")
            if maps.ndim == 4 and maps.shape[:2] == (len(self._manifest), len(self.tissues)):
                return maps
        return None

    @cached_property
    def side(self) -> int:
        """Side in pixels of the canvas that attention maps cover."""
        requested = self.config.data.patch_size
        if requested is not None:
            return rounded_side(requested)
        images = (Path(row["image"]) for row in self._manifest)
        return canvas_size([Patch(path, path.stem) for path in images if path.is_file()], None)

    # --- the network --------------------------------------------------------------------------------------------------

    @property
    def has_network(self) -> bool:
        """Whether the run has a trained PFSCNet."""
        return all((self.run.pfscnet / name).is_file() for name in ("network.json", "weights.safetensors"))

    def drawn(self, image: Path) -> Drawn:
        """What the network makes of an image, as `predict` draws it.

        Raises:
            DataError: if the network or the image cannot be read.
        """
        key = image.resolve()
        # one at a time: a network uses all cores as it is
        with self._lock:
            found = self._drawn.get(key)
            if found is None:
                found = self._draw(image)
                self._drawn[key] = found
                if len(self._drawn) > _PREDICTIONS:
                    self._drawn.popitem(last=False)
            self._drawn.move_to_end(key)
            return found

    def _draw(self, image: Path) -> Drawn:
        if self._predictor is None:
            from patch2tissue.inference.predictor import Predictor

            self._predictor = Predictor.from_run(self.run)
        prediction = self._predictor.predict_array(read_image(image))
        return Drawn(prediction.mask, np.rint(prediction.probabilities * 255.0).astype(np.uint8))


def corrections_of(runs: Iterable[ViewedRun]) -> list[Corrections]:
    """Corrections of the data folders of runs; folders without patches that could be labelled are left out."""
    found: dict[Path, Corrections] = {}
    for run in runs:
        try:
            found.setdefault(run.data.resolve(), Corrections(run.data, run.tissues))
        except DataError as error:
            logger.info("nothing can be marked as wrong in %s: %s", run.data, error)
    return list(found.values())
