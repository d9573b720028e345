"""A trained run, ready to draw tissue maps of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patch2tissue.config import InferenceConfig
from patch2tissue.craanet.network import CRAANet, load_craanet
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.hardware import autocast_dtype, choose_device, set_threads
from patch2tissue.inference.confidence import apply_temperature, confidence_map
from patch2tissue.inference.engines import Engine, make_engine
from patch2tissue.inference.familiarity import Familiarity
from patch2tissue.inference.symmetries import average_symmetries
from patch2tissue.inference.temperature import read_temperature
from patch2tissue.inference.tiling import Network, predict_batch, predict_tiled
from patch2tissue.inference.training_distribution import DISTRIBUTION_FILE, TrainingDistribution, distances_of
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
        confidence: uint8 [H, W] in 1/255: the probability of the pixel's tissue; 0 in background.
        familiarity: whether the image looks like the training patches; None if nothing is known of them, or if it is
            all glass.
    """

    mask: np.ndarray
    probabilities: np.ndarray
    confidence: np.ndarray
    familiarity: Familiarity | None = None


class Predictor:
    """Draws tissue maps with a trained network.

    Args:
        network: the segmentation network; what computes it is made when the first image comes, see `engine`.
        tissues: its tissue set.
        settings: tiles, overlap, batch, symmetries, gate, engine.
        classifier: CRAANet, needed for the image-level gate only.
        device: where to compute.
        dtype: autocast type, None for float32.
        temperature: divides logits before probabilities and confidence are given; masks do not depend on it.
        distribution: of the training patches, to tell images that are unlike them.
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
        temperature: float = 1.0,
        distribution: TrainingDistribution | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.network = network.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.tissues = tissues
        self.settings = settings
        self.classifier = None if classifier is None else classifier.to(self.device).eval()
        self.dtype = dtype
        self.temperature = temperature
        self.distribution = distribution
        self._distances: list[np.ndarray] = []

    @classmethod
    def from_run(
        cls,
        run: RunFolder | Path | str,
        *,
        network: str = "full_method",
        symmetries: bool | None = None,
        gate: float | None = None,
        device: str | None = None,
        engine: str | None = None,
    ) -> Predictor:
        """Load a run folder.

        Args:
            run: folder that `train` wrote.
            network: `full_method`, or the name of a comparison.
            symmetries: average over the 8 symmetries; None: as the run's configuration says.
            gate: drop tissues that CRAANet finds less likely than this; None: as the configuration says; 0: no gate.
            device: `auto`, `cpu`, `cuda` or `mps`; None: as the configuration says.
            engine: what computes the network, see `InferenceConfig.engine`; None: as the configuration says.

        Raises:
            DataError: if the folder is no run or the network is not trained.
            ConfigError: if the device or the engine is not there, or the gate is no probability.
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
        if engine is not None:
            changes["engine"] = engine
        settings = config.inference.model_copy(update=changes)
        where = folder.pfscnet if network == "full_method" else folder.comparison(network)
        if not (where / "network.json").is_file():
            raise DataError(f"{where}: holds no trained network. Finish `patch2tissue train` for this run first.")
        known = where / DISTRIBUTION_FILE
        chosen = choose_device(device or config.hardware.device)
        set_threads(config.hardware)
        tissues, found = config.tissue_set(), load_pfscnet(where, chosen)
        refuse_other_tissues(found, tissues, where)
        classifier = load_craanet(folder.craanet, chosen) if settings.gate is not None else None
        if classifier is not None:
            refuse_other_tissues(classifier, tissues, folder.craanet)
        predictor = cls(
            found,
            tissues,
            settings,
            classifier=classifier,
            device=chosen,
            dtype=autocast_dtype(chosen, config.hardware.precision),
            temperature=read_temperature(where),
            distribution=TrainingDistribution.load(known) if known.is_file() else None,
        )
        if settings.engine not in ("auto", "torch"):
            _ = predictor.engine  # so that what is missing is told of now
        return predictor

    @cached_property
    def engine(self) -> Engine:
        """What computes the network, its batch normalisations folded."""
        return make_engine(
            self.settings.engine,
            self.network,
            device=self.device,
            dtype=self.dtype,
            features=self.distribution is not None,
        )

    def predict_array(self, image: np.ndarray) -> Prediction:
        """Predict an image of any size, uint8 RGB [H, W, 3]."""
        self._distances.clear()
        probabilities = predict_tiled(
            self._network(observed=True),
            image,
            tile=self.settings.tile,
            overlap=self.settings.overlap,
            batch_size=self.settings.batch_size,
            device=self.device,
            dtype=self.dtype,
        )
        seen = [found.reshape(len(found), -1) for found in self._distances]
        return self._prediction(image, probabilities, np.concatenate(seen, axis=1) if seen else None)

    def predict_arrays(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Predict several images; those of one size that go through whole (`fits_whole`) share a forward pass.

        Args:
            images: uint8 RGB [H, W, 3] each; all of one size, no larger than a tile, where they shall share a pass.
        """
        if len(images) < 2 or len({image.shape for image in images}) > 1 or not self.fits_whole(images[0]):
            return [self.predict_array(image) for image in images]
        network = self._network(observed=True)
        predictions: list[Prediction] = []
        for start in range(0, len(images), self.settings.batch_size):
            part = images[start : start + self.settings.batch_size]
            self._distances.clear()
            found = predict_batch(network, np.stack(part), device=self.device, dtype=self.dtype)
            seen = self._distances[0] if self._distances else None
            for number, (image, values) in enumerate(zip(part, found, strict=True)):
                predictions.append(self._prediction(image, values, None if seen is None else seen[:, number]))
        return predictions

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Probabilities of images of one size in one pass: uint8 RGB [B, H, W, 3] to float32 [B, K, H, W]."""
        return _numbers(predict_batch(self._network(), images, device=self.device, dtype=self.dtype))

    def familiarity(self, images: np.ndarray) -> Familiarity | None:
        """Whether pictures of one size taken together look like the training patches, without predicting them.

        Args:
            images: uint8 RGB [B, H, W, 3].
        """
        if self.distribution is None:
            return None
        found = [
            distances_of(
                self.network, self.distribution, images[start : start + 8], device=self.device, dtype=self.dtype
            )
            for start in range(0, len(images), 8)
        ]
        return self.distribution.familiarity(np.concatenate([one.reshape(len(one), -1) for one in found], axis=1))

    def fits_whole(self, image: np.ndarray) -> bool:
        """Whether an image [H, W, 3] needs no tiles."""
        height, width = image.shape[:2]
        return bool(max(height, width) <= self.settings.tile)

    def _prediction(self, image: np.ndarray, probabilities: np.ndarray, distances: np.ndarray | None) -> Prediction:
        mask = _numbers(probabilities).argmax(axis=0).astype(np.uint8)
        probabilities = apply_temperature(probabilities, self.temperature)
        confidence = confidence_map(probabilities)
        background = self.tissues.background
        if background is not None and background.white_above is not None:
            white = white_pixels(image, background.white_above)
            mask[white], confidence[white] = background.index, 0
        familiarity = None
        if self.distribution is not None and distances is not None:
            familiarity = self.distribution.familiarity(distances)
        return Prediction(mask, probabilities, confidence, familiarity)

    def _network(self, *, observed: bool = False) -> Network:
        """The network with what the settings ask for; observed: distances go to `_distances`."""
        plain = self._observed if observed and self.distribution is not None else self._probabilities
        return self._gated(average_symmetries(self._probabilities, plain) if self.settings.symmetries else plain)

    def _probabilities(self, images: Tensor) -> Tensor:
        return torch.softmax(self.engine.segment(images).float(), dim=1)

    def _observed(self, images: Tensor) -> Tensor:
        """Probabilities; how far the images lie from the training patches costs next to nothing beside them."""
        assert self.distribution is not None
        logits, fine = self.engine.segment_with_features(images)
        self._distances.append(self.distribution.distance(images, fine))
        return torch.softmax(logits.float(), dim=1)

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


def _numbers(probabilities: np.ndarray) -> np.ndarray:
    """The same probabilities, unless some are no numbers: the first tissue would be drawn there without a word."""
    if not np.isfinite(probabilities.sum()):
        raise DataError(
            "The network's probabilities are no numbers: its weights are damaged, or hardware.precision does not suit "
            "this machine. Set it to float32; if that does not help, restore the weights or train again."
        )
    return probabilities
