"""Stage 1: training the classifier, and accumulating its attention while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics.classification import MultilabelF1Score

from patch2tissue.atomic import atomic_path
from patch2tissue.config import AccumulationConfig, CRAANetConfig, RunConfig
from patch2tissue.craanet.accumulation import AttentionMemory
from patch2tissue.craanet.attention_maps import attention_maps
from patch2tissue.craanet.epoch_maps import EPOCH_MAPS_FILE, EpochMaps
from patch2tissue.craanet.network import CRAANet, save_craanet
from patch2tissue.data.augment import invert_symmetries
from patch2tissue.data.color_pipeline import color_options
from patch2tissue.data.datasets import TrainingPatches, training_loader
from patch2tissue.data.patches import Patch
from patch2tissue.distributed.batch import gather_batch, whole_batch
from patch2tissue.distributed.place import is_first
from patch2tissue.training import Batch, Stage, fit_stage, is_finished

HISTORY_PATCHES = 6
"""Patches whose maps are kept for every epoch, for the report."""


class CRAANetStage(Stage):
    """Multi-label classification with attention accumulation.

    Where several processes train together, the first one alone keeps the memory: it gets the maps of every batch from
    all of them, in the order of the batch, so that the memory is that of one process.

    Args:
        network: the classifier.
        config: stage configuration.
        patches: training patches, in the order of the data set.
        side: canvas side in pixels.
        memory_folder: where the attention memory is kept; None trains without accumulation.
        beside: further memories by folder name, filled beside it from the same maps, to compare ways of accumulating;
            of each, mode, decay and storage are used.
    """

    in_parts = True

    def __init__(
        self,
        network: CRAANet,
        config: CRAANetConfig,
        patches: Sequence[Patch],
        side: int,
        memory_folder: Path | None,
        beside: Mapping[str, AccumulationConfig] | None = None,
    ) -> None:
        self.network: CRAANet = network
        self.config = config
        self.patches = patches
        self.memory_folder = memory_folder
        self.title = "CRAANet" if memory_folder is not None else "plain CAM classifier"
        self.first_epoch = config.first_accumulated_epoch
        self.memory: AttentionMemory | None = None
        self.epoch_maps: EpochMaps | None = None
        labels = torch.tensor([patch.labels for patch in patches])
        self.tissues = labels.shape[1]
        if memory_folder is not None and is_first():
            grid = -(-side // network.attention_stride)
            shape = (len(patches), self.tissues, grid, grid)
            self.memory = _empty_memory(memory_folder, shape, config.accumulation)
            self.beside = {
                name: _empty_memory(memory_folder.with_name(name), shape, settings)
                for name, settings in (beside or {}).items()
            }
            self.epoch_maps = EpochMaps.create_within(
                memory_folder.with_name(EPOCH_MAPS_FILE), (config.epochs, *shape), config.accumulation.epoch_maps_gib
            )
            self.shown = _patches_to_show(labels)
            self.current = torch.zeros(len(self.shown), self.tissues, grid, grid)
            self.history: dict[str, list[Tensor]] = {"current": [], "accumulated": []}
        self.f1 = MultilabelF1Score(self.tissues, average="macro")

    def training_step(self, images: Tensor, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """One step: loss, and the maps of this very pass overlaid on the memory."""
        output = self.network(images)
        labels = batch["labels"]
        if len(labels):
            # as probabilities: torchmetrics would take a few logits that all lie in 0..1 for such
            self.f1.update(output.logits.detach().sigmoid().cpu(), labels.cpu().int())
        if self.memory_folder is not None:
            self._overlay(output.attention, batch, epoch)
        patches = whole_batch(len(labels))
        if patches == len(labels):
            return {"loss": F.binary_cross_entropy_with_logits(output.logits, labels)}
        total = F.binary_cross_entropy_with_logits(output.logits, labels, reduction="sum")
        return {"loss": total / (patches * self.tissues)}

    @torch.no_grad()
    def _overlay(self, attention: Tensor, batch: Batch, epoch: int) -> None:
        """Overlay the maps of a batch, [B, K, h, w], on the memory, and keep what viewer and report show."""
        maps = attention_maps(attention, batch["labels"], self.config.accumulation.form)
        maps = gather_batch(invert_symmetries(maps, batch["symmetry"]).cpu())
        index = gather_batch(batch["index"].cpu())
        if self.memory is None:
            return
        self._keep_for_report(index, maps)
        if self.epoch_maps is not None:
            self.epoch_maps.write(epoch, index.numpy(), maps.float().numpy())
        if epoch >= self.first_epoch:
            for memory in (self.memory, *self.beside.values()):
                memory.accumulate(index, maps)

    def _keep_for_report(self, index: Tensor, maps: Tensor) -> None:
        for slot, patch in enumerate(self.shown):
            rows = (index == patch).nonzero()
            if len(rows):
                self.current[slot] = maps[int(rows[0])]

    def end_of_epoch(self, epoch: int) -> dict[str, float]:
        """Classification score on the training labels, and the maps of the patches that the report shows."""
        score = float(self.f1.compute())
        self.f1.reset()
        if self.memory is not None:
            self.history["current"].append(self.current.half().clone())
            self.history["accumulated"].append(self.memory.read(self.shown).half())
        return {"label_f1": score}

    def state(self) -> dict[str, Any]:
        """Maps for the report."""
        return {} if self.memory is None else {"history": self.history, "current": self.current}

    def save_files(self, checkpoint_folder: Path) -> None:
        """Snapshot of the memory as it is after this epoch."""
        if self.memory is not None:
            self.memory.save_snapshot(checkpoint_folder / "attention_memory")
            for name, memory in self.beside.items():
                memory.save_snapshot(checkpoint_folder / name)

    def restore(self, state: dict[str, Any], checkpoint_folder: Path) -> None:
        """Take the memory back to the end of the checkpoint's epoch, whatever a killed epoch wrote since."""
        if self.memory is not None:
            self.history, self.current = state["history"], state["current"]
            folder = cast(Path, self.memory_folder)
            self.memory = AttentionMemory.restore_snapshot(checkpoint_folder / "attention_memory", folder)
            for name in self.beside:
                target = folder.with_name(name)
                self.beside[name] = AttentionMemory.restore_snapshot(checkpoint_folder / name, target)

    def finish(self, folder: Path) -> None:
        """Write weights and the history of the shown patches."""
        if self.memory is not None:
            for memory in (self.memory, *self.beside.values()):
                cast(np.memmap, memory.maps).flush()
                cast(np.memmap, memory.counts).flush()
            if self.epoch_maps is not None:
                self.epoch_maps.flush()
            with atomic_path(folder / "attention_history.npz") as temporary:
                np.savez_compressed(
                    temporary,
                    names=np.array([self.patches[i].name for i in self.shown.tolist()]),
                    epochs=np.arange(1, len(self.history["current"]) + 1),
                    current=torch.stack(self.history["current"]).numpy(),
                    accumulated=torch.stack(self.history["accumulated"]).numpy(),
                    present=np.array([self.patches[i].labels for i in self.shown.tolist()], dtype=np.uint8),
                )
        save_craanet(self.network, folder)


def _empty_memory(folder: Path, shape: tuple[int, int, int, int], settings: AccumulationConfig) -> AttentionMemory:
    return AttentionMemory.create(folder, shape, mode=settings.mode, ema_decay=settings.ema_decay, dtype=settings.dtype)


def _patches_to_show(labels: Tensor) -> Tensor:
    """Patches with most tissues, spread over the data set and over tissues; they show most about attention."""
    order = torch.argsort(-labels.sum(dim=1), stable=True)
    best = order[: max(HISTORY_PATCHES, int((labels.sum(1) == labels.sum(1).max()).sum()))]
    step = max(1, len(best) // HISTORY_PATCHES)
    return best[::step][:HISTORY_PATCHES].contiguous()


def patch_label_loader(config: RunConfig, patches: Sequence[Patch], side: int) -> DataLoader[Any]:
    """Training patches of stage 1: as `config.craanet` and `config.data` say, and the same for every classifier.

    Args:
        config: the run's configuration.
        patches: labelled training patches.
        side: canvas side in pixels, see `canvas_size`.
    """
    dataset = TrainingPatches(
        patches,
        config.tissue_set(),
        side,
        seed=config.seed,
        **color_options(config.data),
        cache=config.data.cache,
    )
    return training_loader(dataset, config.craanet.batch_size, config.hardware.workers, torch.cuda.is_available())


def train_craanet(
    config: RunConfig,
    patches: Sequence[Patch],
    folder: Path,
    *,
    side: int,
    plain_cam: bool = False,
    beside: Mapping[str, AccumulationConfig] | None = None,
) -> None:
    """Train stage 1 on patch labels.

    Args:
        config: the run's configuration.
        patches: labelled training patches.
        folder: stage folder; gets weights, `attention_memory/`, `attention_history.npz`, `attention_epochs.npy` unless
            it would be too large, `metrics.csv`.
        side: canvas side in pixels, see `canvas_size`.
        plain_cam: train the baseline instead: average pooling of the deepest feature map, no accumulation, all else
            equal.
        beside: further attention memories, see `CRAANetStage`; training does not change by them.

    Raises:
        ConfigError, DataError, TrainingError: see `fit`.
    """
    if is_finished(folder):
        return
    torch.manual_seed(config.seed)
    tissues = config.tissue_set()
    settings = config.craanet
    if plain_cam:
        plain = {"heads": 1, "temperatures": None, "residual_weight": 0.0, "attention_stages": 1}
        settings = settings.model_copy(update=plain)
    network = CRAANet.from_config(settings, len(tissues))
    network.settings["tissue_names"] = list(tissues.names)
    memory = None if plain_cam else folder / "attention_memory"
    stage = CRAANetStage(network, settings, patches, side, memory, beside)
    loader = patch_label_loader(config, patches, side)
    fit_stage(config, stage, loader, settings, folder)
