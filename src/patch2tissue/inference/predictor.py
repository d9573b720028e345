"""A trained run, ready to draw tissue maps of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patch2tissue.config import InferenceConfig
from patch2tissue.craanet.network import CRAANet, load_craanet
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.hardware import autocast_dtype, choose_device, set_threads
from patch2tissue.inference.symmetries import average_symmetries
from patch2tissue.inference.tiling import Network, predict_batch, predict_tiled
from patch2tissue.pfscnet.network import PFSCNet, load_pfscnet
from patch2tissue.pseudo_labels.background import white_pixels
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import TissueSet
from patch2tissue.weights import refuse_other_tissues


@dataclass(frozen=True)
class Prediction:
    """Result for one image.

    Attributes:
        mask: uint8 [H, W]: tissue 0..K-1, or the set's background index where the white-background rule applies.
        probabilities: float32 [K, H, W]; sum to one over tissues.
    """

    mask: np.ndarray
    probabilities: np.ndarray


class Predictor:
    """Draws tissue maps with a trained network.

    Args:
        network: the segmentation network.
        tissues: its tissue set.
        settings: tiles, overlap, batch, symmetries, gate.
        classifier: CRAANet, needed for the image-level gate only.
        device: where to compute.
        dtype: autocast type, None for float32.
    """

    def __init__(
        self,
        network: PFSCNet,
        tissues: TissueSet,
        settings: InferenceConfig,
        *,
        classifier: CRAANet | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.network = network.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.tissues = tissues
        self.settings = settings
        self.classifier = None if classifier is None else classifier.to(self.device).eval()
        self.dtype = dtype

    @classmethod
    def from_run(
        cls,
        run: RunFolder | Path | str,
        *,
        network: str = "full_method",
        symmetries: bool | None = None,
        gate: float | None = None,
        device: str | None = None,
    ) -> Predictor:
        """Load a run folder.

        Args:
            run: folder that `train` wrote.
            network: `full_method`, or the name of a comparison.
            symmetries: average over the 8 symmetries; None: as the run's configuration says.
            gate: drop tissues that CRAANet finds less likely than this; None: as the configuration says; 0: no gate.
            device: `auto`, `cpu`, `cuda` or `mps`; None: as the configuration says.

        Raises:
            DataError: if the folder is no run or the network is not trained.
            ConfigError: if the device is not there, or the gate is no probability.
        """
        if gate is not None and not 0.0 <= gate <= 1.0:
            raise ConfigError(f"The gate is a probability from 0 to 1, not {gate}.")
        folder = run if isinstance(run, RunFolder) else RunFolder(Path(run))
        config = folder.config()
        changes: dict[str, object] = {}
        if symmetries is not None:
            changes["symmetries"] = symmetries
        if gate is not None:
            changes["gate"] = gate or None
        settings = config.inference.model_copy(update=changes)
        where = folder.pfscnet if network == "full_method" else folder.comparison(network)
        if not (where / "network.json").is_file():
            raise DataError(f"{where}: holds no trained network. Finish `patch2tissue train` for this run first.")
        chosen = choose_device(device or config.hardware.device)
        set_threads(config.hardware)
        tissues, found = config.tissue_set(), load_pfscnet(where, chosen)
        refuse_other_tissues(found, tissues, where)
        classifier = load_craanet(folder.craanet, chosen) if settings.gate is not None else None
        if classifier is not None:
            refuse_other_tissues(classifier, tissues, folder.craanet)
        return cls(
            found,
            tissues,
            settings,
            classifier=classifier,
            device=chosen,
            dtype=autocast_dtype(chosen, config.hardware.precision),
        )

    def predict_array(self, image: np.ndarray) -> Prediction:
        """Predict an image of any size, uint8 RGB [H, W, 3]."""
        probabilities = predict_tiled(
            self._network(),
            image,
            tile=self.settings.tile,
            overlap=self.settings.overlap,
            batch_size=self.settings.batch_size,
            device=self.device,
            dtype=self.dtype,
        )
        return self._prediction(image, probabilities)

    def predict_arrays(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Predict several images; those of one size that go through whole (`fits_whole`) share a forward pass.

        Args:
            images: uint8 RGB [H, W, 3] each; all of one size, no larger than a tile, where they shall share a pass.
        """
        if len(images) < 2 or len({image.shape for image in images}) > 1 or not self.fits_whole(images[0]):
            return [self.predict_array(image) for image in images]
        network = self._network()
        predictions: list[Prediction] = []
        for start in range(0, len(images), self.settings.batch_size):
            part = images[start : start + self.settings.batch_size]
            found = predict_batch(network, np.stack(part), device=self.device, dtype=self.dtype)
            predictions.extend(self._prediction(*pair) for pair in zip(part, found, strict=True))
        return predictions

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Probabilities of images of one size in one pass: uint8 RGB [B, H, W, 3] to float32 [B, K, H, W]."""
        return predict_batch(self._network(), images, device=self.device, dtype=self.dtype)

    def fits_whole(self, image: np.ndarray) -> bool:
        """Whether an image [H, W, 3] needs no tiles."""
        height, width = image.shape[:2]
        return bool(max(height, width) <= self.settings.tile)

    def _prediction(self, image: np.ndarray, probabilities: np.ndarray) -> Prediction:
        mask = probabilities.argmax(axis=0).astype(np.uint8)
        background = self.tissues.background
        if background is not None and background.white_above is not None:
            mask[white_pixels(image, background.white_above)] = background.index
        return Prediction(mask, probabilities)

    def _network(self) -> Network:
        return self._gated(average_symmetries(self._probabilities) if self.settings.symmetries else self._probabilities)

    def _probabilities(self, images: Tensor) -> Tensor:
        return torch.softmax(self.network.segment(images).float(), dim=1)

    def _gated(self, network: Network) -> Network:
        """Let tissues that CRAANet finds absent from a tile get no pixels of it."""
        classifier, gate = self.classifier, self.settings.gate
        if classifier is None or gate is None:
            return network

        def gated(images: Tensor) -> Tensor:
            probabilities = network(images)
            likely = torch.sigmoid(classifier(images).logits.float())
            allowed = likely >= gate
            # a tile in which nothing is likely keeps its likeliest tissue
            allowed[torch.arange(len(likely)), likely.argmax(dim=1)] = True
            # the least value lets an allowed tissue win even where the network rules it out
            kept = probabilities.clamp(min=1e-12) * allowed[:, :, None, None]
            return kept / kept.sum(dim=1, keepdim=True)

        return gated
