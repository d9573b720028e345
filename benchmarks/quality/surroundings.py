"""Maps of held-out patches with what is around them: cut from the map of the whole picture that they come from."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from patch2tissue.data.images import read_image
from patch2tissue.data.layouts import image_files, image_folder
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.inference.predictor import Predictor


class PictureMaps:
    """Predicts every picture once and cuts the maps of its patches out.

    Only with it can tiles be judged that are larger than a patch. The held-out pictures are those of whole folds, so
    that no stage has seen any part of them.

    Args:
        predictor: a trained network with its inference settings.
        folder: data folder whose split `train` holds the pictures that the patches were cut from.
    """

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        self.predictor = predictor
        self.pictures = {file.stem: file for file in image_files(image_folder(folder / "train"))}
        self.maps: dict[str, np.ndarray] = {}

    def __call__(self, patch: Patch) -> np.ndarray:
        """The map of a patch, uint8 [H, W].

        Raises:
            DataError: if its name does not tell picture and place, or the picture is not there.
        """
        found = re.match(r"(.+)_x(\d+)_y(\d+)", patch.name)
        if found is None or found[1] not in self.pictures:
            raise DataError(f"{patch.path}: its name does not tell which picture of train it was cut from, and where.")
        stem, left, top = found[1], int(found[2]), int(found[3])
        if stem not in self.maps:
            self.maps = {stem: self.predictor.predict_array(read_image(self.pictures[stem])).mask}
        height, width = read_image(patch.path).shape[:2]
        return self.maps[stem][top : top + height, left : left + width]
