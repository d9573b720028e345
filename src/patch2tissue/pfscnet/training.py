"""Stage 2: training the segmentation network on pseudo labels.

`L = L_ce + α·L_energy + β·L_pixel` (published form of the system; weights and warm-up are our reading). The last two
join after a share of the epochs with cross-entropy alone, when predictions mean something.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from patch2tissue.config import DenseEnergyConfig, PFSCNetConfig, RunConfig
from patch2tissue.craanet.network import load_craanet
from patch2tissue.data.color_pipeline import color_options
from patch2tissue.data.datasets import TrainingPatches, training_loader
from patch2tissue.data.patches import Patch
from patch2tissue.distributed.batch import gather_batch, of_share, sum_over_batch, sum_over_processes
from patch2tissue.distributed.group import of_first
from patch2tissue.errors import ConfigError
from patch2tissue.pfscnet.consistency import consistency_loss
from patch2tissue.pfscnet.dense_energy import DenseEnergyLoss, soft_filter
from patch2tissue.pfscnet.label_correction import correct_labels
from patch2tissue.pfscnet.mosaic import LabelSets, make_mosaics
from patch2tissue.pfscnet.network import PFSCNet, save_pfscnet
from patch2tissue.pfscnet.pixel_contrast import PixelContrastLoss, labels_on_grid
from patch2tissue.tissues import IGNORE_INDEX
from patch2tissue.training import Batch, Stage, fit_stage, is_finished
from patch2tissue.weights import load_trained_state, trained_state

log = logging.getLogger(__name__)

Supervision = Literal["pseudo_labels", "masks"]


class PFSCNetStage(Stage):
    """Segmentation from pseudo labels with dense energy, pixel contrast and label correction.

    Args:
        network: the segmentation network.
        config: stage configuration.
        title: shown in progress bars.
        tissues: number of tissues K.
        validate: scores a network after every epoch; if given, the weights with the highest score are kept. This is
            the explicit option `selection: validation_masks`, and is extra supervision.

    Attributes:
        label_sets: labels of the training patches, for mosaics of any patches; None: mosaics of one-tissue patches.
    """

    in_parts = True

    def __init__(
        self,
        network: PFSCNet,
        config: PFSCNetConfig,
        title: str,
        tissues: int,
        validate: Callable[[PFSCNet], float] | None = None,
    ) -> None:
        self.network: PFSCNet = network
        self.config = config
        self.title = title
        self.tissues = tissues
        self.validate = validate
        self.best = -1.0
        self.best_weights: dict[str, Tensor] | None = None
        self.label_sets: LabelSets | None = None
        self.energy = dense_energy_loss(config.dense_energy)
        contrast = config.contrast
        self.contrast = PixelContrastLoss(
            tissues,
            contrast.dimensions,
            temperature=contrast.temperature,
            anchors=contrast.anchors,
            bank=contrast.bank,
            prototypes=contrast.prototypes,
            momentum=contrast.momentum,
            confidence=contrast.confidence,
        )
        self.average: AveragedModel | None = None
        if config.weight_averaging > 0:
            average = _average_of_trained(config.weight_averaging)
            self.average = AveragedModel(network, multi_avg_fn=average, use_buffers=True)
            self._share_frozen()
        elif config.consistency.weight > 0:
            raise ConfigError("pfscnet.consistency needs averaged weights: set pfscnet.weight_averaging above 0.")
        self.losses_start = int(config.losses_start * config.epochs)
        self.correction_start = max(self.losses_start, int(config.correction.start * config.epochs))
        self.counts = {"changed": 0, "labelled": 0}

    def training_step(self, images: Tensor, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """One step: cross-entropy, and after the warm-up dense energy, contrast and correction."""
        target = batch["target"].long()
        part: Tensor | None = None
        if self.config.mosaic > 0:
            # the other patch of a mosaic may be another process'
            mosaic = make_mosaics(
                gather_batch(images),
                gather_batch(target),
                gather_batch(batch["labels"]),
                gather_batch(batch["inside"]),
                self.config.mosaic,
                label_sets=self.label_sets,
                confidence=gather_batch(batch["confidence"]) if "confidence" in batch else None,
            )
            images = of_share(mosaic.images).contiguous(memory_format=torch.channels_last)
            target, part = of_share(mosaic.target), of_share(mosaic.part)
            batch = batch | {"labels": of_share(mosaic.labels), "inside": of_share(mosaic.inside)}
            if mosaic.confidence is not None:
                batch = batch | {"confidence": of_share(mosaic.confidence)}
        output = self.network(images)
        confidence = batch["confidence"].float() / 255.0 if "confidence" in batch else None
        probabilities = torch.softmax(output.logits, dim=1)
        losses: dict[str, Tensor] = {}
        started = epoch >= self.losses_start
        contrasting = started and self.config.contrast.weight > 0
        used = target
        if contrasting and confidence is not None and epoch >= self.correction_start:
            used = self._corrected(output.embedding, target, confidence, batch)
        losses["loss_ce"] = self._cross_entropy(output.logits, used, confidence)
        loss = losses["loss_ce"]
        if started and self.config.dense_energy.weight > 0:
            weights = soft_filter(probabilities, used) if self.config.dense_energy.soft_filter else None
            losses["loss_energy"] = self.energy(images, probabilities, batch["inside"], weights=weights, part=part)
            loss = loss + self.config.dense_energy.weight * losses["loss_energy"]
        if contrasting:
            size = output.embedding.shape[-2:]
            small_labels = labels_on_grid(used, size, self.tissues)
            small_probabilities = F.interpolate(probabilities.detach(), size=size, mode="area")
            losses["loss_contrast"] = self.contrast(output.embedding, small_labels, small_probabilities, batch["index"])
            loss = loss + self.config.contrast.weight * losses["loss_contrast"]
            self.contrast.update(output.embedding, small_labels, small_probabilities, batch["index"])
        if started and self.config.consistency.weight > 0:
            losses["loss_consistency"], losses["teacher_sure"] = self._consistency(images, batch)
            loss = loss + self.config.consistency.weight * losses["loss_consistency"]
        return {"loss": loss, **losses}

    def _consistency(self, images: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        settings = self.config.consistency
        return consistency_loss(
            self.network,
            self.final_network(),
            images,
            batch["labels"],
            batch["inside"],
            confidence=settings.confidence,
            strength=settings.strength,
            mixing=settings.mixing,
        )

    def _cross_entropy(self, logits: Tensor, target: Tensor, confidence: Tensor | None) -> Tensor:
        """Mean cross-entropy over labelled pixels, weighted by confidence if asked for; zero if there is none."""
        labelled = target != IGNORE_INDEX
        each = F.cross_entropy(logits.float(), target, ignore_index=IGNORE_INDEX, reduction="none")
        weights = labelled.float()
        if confidence is not None and self.config.confidence_weighting:
            weights = weights * confidence
        return (each * weights).sum() / sum_over_batch(weights.sum()).clamp(min=1.0)

    @torch.no_grad()
    def _corrected(self, embedding: Tensor, target: Tensor, confidence: Tensor, batch: Batch) -> Tensor:
        correction = self.config.correction
        if correction.mode == "off":
            return target
        corrected, changed = correct_labels(
            target,
            confidence,
            embedding.detach(),
            self.contrast.prototypes,
            batch["labels"],
            mode=correction.mode,
            margin=correction.margin,
            confidence_below=correction.confidence,
            fill=batch["inside"] > 0 if correction.fill else None,
        )
        labelled = target != IGNORE_INDEX
        self.counts["changed"] += int((changed & labelled).sum())
        self.counts["labelled"] += int(labelled.sum())
        return corrected

    def move_to(self, device: torch.device) -> None:
        """Move prototypes, memory bank and averaged weights."""
        self.contrast.to(device)
        if self.average is not None:
            self._share_frozen()  # anew: the network was moved
            self.average.to(device)

    def _share_frozen(self) -> None:
        """Let the averaged network have the frozen weights of the other: they are the same, and may be large."""
        assert self.average is not None
        for one, other in zip(self.average.module.parameters(), self.network.parameters(), strict=True):
            if not other.requires_grad:
                one.data = other.data

    def after_optimiser_step(self) -> None:
        """Average the weights."""
        if self.average is not None:
            self.average.update_parameters(self.network)

    def final_network(self) -> PFSCNet:
        """The network that would be kept now: averaged weights if they are averaged."""
        return self.network if self.average is None else cast(PFSCNet, self.average.module)

    def end_of_epoch(self, epoch: int) -> dict[str, float]:
        """Share of labels changed by correction, and the validation score if that was asked for."""
        values: dict[str, float] = {}
        changed, labelled = sum_over_processes([self.counts["changed"], self.counts["labelled"]])
        if labelled:
            values["labels_changed"] = changed / labelled
        self.counts = {"changed": 0, "labelled": 0}
        validate = self.validate
        if validate is not None:
            score = of_first(lambda: validate(self.final_network()))
            values["validation_miou"] = score
            if score > self.best:
                self.best = score
                state = trained_state(self.final_network())
                self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        return values

    def state(self) -> dict[str, Any]:
        """Averaged weights, prototypes, memory bank and the best validated weights."""
        return {
            "average": None if self.average is None else trained_state(self.average),
            "contrast": self.contrast.state_dict(),
            "best": self.best,
            "best_weights": self.best_weights,
        }

    def restore(self, state: dict[str, Any], checkpoint_folder: Path) -> None:
        """Take back what `state` gave."""
        if self.average is not None:
            load_trained_state(self.average, state["average"])
        self.contrast.load_state_dict(state["contrast"])
        self.best, self.best_weights = state["best"], state["best_weights"]

    def finish(self, folder: Path) -> None:
        """Write the weights that inference uses."""
        network = self.final_network()
        if self.best_weights is not None:
            load_trained_state(network, self.best_weights)
        save_pfscnet(network, folder)


def _average_of_trained(decay: float) -> Callable[..., None]:
    """Exponential moving average of weights, without work for those that both networks share."""
    update = get_ema_multi_avg_fn(decay)

    def average(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        pairs = [(a, c) for a, c in zip(averaged, current, strict=True) if a.data_ptr() != c.data_ptr()]
        if pairs:
            update([a for a, _ in pairs], [c for _, c in pairs], count)

    return average


def dense_energy_loss(config: DenseEnergyConfig) -> DenseEnergyLoss:
    """The loss that a configuration describes."""
    return DenseEnergyLoss(
        sigma_rgb=config.sigma_rgb,
        sigma_xy=config.sigma_xy,
        grid=config.grid,
        rows={"auto": "auto", "rows": config.samples}.get(config.sampling),  # type: ignore[arg-type]
        displacements=config.samples if config.sampling == "displacements" else None,
        balanced=config.balanced,
    )


def train_pfscnet(
    config: RunConfig,
    patches: Sequence[Patch],
    targets: Sequence[Path],
    folder: Path,
    *,
    side: int,
    title: str = "PFSCNet",
    confidences: Sequence[Path] | None = None,
    craanet: Path | None = None,
    cross_entropy_only: bool = False,
    validate: Callable[[PFSCNet], float] | None = None,
    stage_type: type[PFSCNetStage] = PFSCNetStage,
    dataset_type: Callable[..., TrainingPatches] = TrainingPatches,
) -> None:
    """Train stage 2.

    Args:
        config: the run's configuration.
        patches: training patches.
        targets: one label map per patch: pseudo labels; or, only for the comparison that is asked for by name, masks.
        folder: stage folder; gets weights and `metrics.csv`.
        side: canvas side in pixels, see `canvas_size`.
        title: shown in progress bars.
        confidences: one confidence picture per patch, None if the targets have none.
        craanet: folder of the trained stage 1, whose encoder is the start if `pfscnet.init` is `craanet`.
        cross_entropy_only: leave out dense energy, contrast, label correction and consistency.
        validate: see `PFSCNetStage`.
        stage_type: what is trained: `PFSCNetStage`, or a peer with another loss.
        dataset_type: makes the data set: `TrainingPatches`, or a peer's with further items.

    Raises:
        ConfigError, DataError, TrainingError: see `fit`.
    """
    if is_finished(folder):
        return
    torch.manual_seed(config.seed + 1)
    tissues = config.tissue_set()
    settings = config.pfscnet
    if cross_entropy_only:
        settings = settings.model_copy(
            update={
                "dense_energy": settings.dense_energy.model_copy(update={"weight": 0.0}),
                "contrast": settings.contrast.model_copy(update={"weight": 0.0}),
                "correction": settings.correction.model_copy(update={"mode": "off"}),
                "mosaic": 0.0,
                "consistency": settings.consistency.model_copy(update={"weight": 0.0}),
            }
        )
    network = PFSCNet.from_config(config, len(tissues))
    network.settings["tissue_names"] = list(tissues.names)
    if settings.init == "craanet" and craanet is not None:
        _start_from(network, craanet)
    dataset = dataset_type(
        patches,
        tissues,
        side,
        seed=config.seed + 1,
        **color_options(config.data),
        cache=config.data.cache,
        targets=targets,
        confidences=confidences,
    )
    loader = training_loader(dataset, settings.batch_size, config.hardware.workers, torch.cuda.is_available())
    stage = stage_type(network, settings, title, len(tissues), validate)
    if settings.mosaic_of == "any":
        stage.label_sets = LabelSets(torch.tensor([patch.labels for patch in patches]))
    fit_stage(config, stage, loader, settings, folder, seed=config.seed + 1)


def _start_from(network: PFSCNet, craanet: Path) -> None:
    """Copy the trained encoder of stage 1."""
    trained = load_craanet(craanet).encoder.state_dict()
    try:
        network.encoder.load_plain(trained)
    except RuntimeError:
        raise ConfigError(
            "pfscnet.encoder differs from craanet.encoder, so that pfscnet.init cannot be 'craanet'. Set pfscnet.init "
            "to 'encoder', or leave pfscnet.encoder out."
        ) from None
