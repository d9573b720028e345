"""A trained run, ready to draw tissue maps of arrays.

PFSCNet draws the map; CRAANet can help in two ways [both our reading]. The gate takes out tissues that its
classification finds absent from a tile. And its residual attention, as a softmax over tissues, can join PFSCNet's
probabilities P by a weighted geometric mean, `P^(1−w) · A^w`, scaled to sum to one: two networks that err in different
places, the second one of which is there anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from patch2tissue.config import ComparisonConfig, InferenceConfig
from patch2tissue.craanet.attention_maps import enlarge
from patch2tissue.craanet.network import CRAANet, load_craanet
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.hardware import autocast_dtype, choose_device, set_threads
from patch2tissue.inference.symmetries import average_symmetries
from patch2tissue.inference.tiling import Network, predict_batch, predict_tiled
from patch2tissue.pfscnet.network import PFSCNet, load_pfscnet
from patch2tissue.pseudo_labels.background import white_pixels
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import TissueSet

_LEAST = 1e-12
"""Least probability before tissues are taken out or maps are joined, so that no network alone can rule a tissue out."""


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
        settings: tiles, overlap, batch, symmetries, gate, attention.
        classifier: CRAANet, needed for the image-level gate and for attention in the map.
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
            network: `full_method`, or the name of a comparison. The method's comparisons stand for other methods, so
                that their maps have no share of attention.
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
        if network in ComparisonConfig.model_fields:
            changes["attention"] = 0.0
        settings = config.inference.model_copy(update=changes)
        where = folder.pfscnet if network == "full_method" else folder.comparison(network)
        if not (where / "network.json").is_file():
            raise DataError(f"{where}: holds no trained network. Finish `patch2tissue train` for this run first.")
        asks_classifier = settings.gate is not None or settings.attention > 0
        chosen = choose_device(device or config.hardware.device)
        set_threads(config.hardware)
        return cls(
            load_pfscnet(where, chosen),
            config.tissue_set(),
            settings,
            classifier=load_craanet(folder.craanet, chosen) if asks_classifier else None,
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
        network: Network = self._segmented
        if self.classifier is not None and self.settings.attention > 0:
            network = partial(self._with_attention, self.classifier)
        if self.settings.symmetries:
            network = average_symmetries(network)
        if self.classifier is not None and self.settings.gate is not None:
            network = partial(self._gated, self.classifier, self.settings.gate, network)
        return network

    def _segmented(self, images: Tensor) -> Tensor:
        return torch.softmax(self.network(images).logits.float(), dim=1)

    def _with_attention(self, classifier: CRAANet, images: Tensor) -> Tensor:
        """Join both networks' maps."""
        height, width = images.shape[-2:]
        stride = classifier.encoder.output_stride
        # as PFSCNet does with its input, so that both maps lie on the picture
        padded = F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate")
        scores = classifier(padded).attention.float()
        attention = enlarge(scores.softmax(dim=1), (padded.shape[-2], padded.shape[-1]))[..., :height, :width]
        share = self.settings.attention
        joined = self._segmented(images).clamp(min=_LEAST) ** (1 - share) * attention.clamp(min=_LEAST) ** share
        return joined / joined.sum(dim=1, keepdim=True)

    @staticmethod
    def _gated(classifier: CRAANet, gate: float, network: Network, images: Tensor) -> Tensor:
        """Let tissues that CRAANet finds absent from a tile get no pixels of it."""
        probabilities = network(images)
        likely = torch.sigmoid(classifier(images).logits.float())
        allowed = likely >= gate
        # a tile in which nothing is likely keeps its likeliest tissue
        allowed[torch.arange(len(likely)), likely.argmax(dim=1)] = True
        # the least value lets an allowed tissue win even where the network rules it out
        kept = probabilities.clamp(min=_LEAST) * allowed[:, :, None, None]
        return kept / kept.sum(dim=1, keepdim=True)
