"""Metrics of torchmetrics give what `evaluate` gives, in pieces, copies and processes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchmetrics import MetricCollection

from patch2tissue import BoundaryFScore, TissueScores, evaluate, load_tissue_set

TISSUES = load_tissue_set("bcss-wsss")
COUNT = len(TISSUES)


def drawn(seed: int, images: int = 3, side: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions with pixels of no tissue, and a truth with unscored ones, uint8 [B, H, W]."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, COUNT, (images, side // 8, side // 8)).repeat(8, 1).repeat(8, 2)
    found = np.where(rng.random(blocks.shape) < 0.1, rng.integers(0, COUNT + 1, blocks.shape), np.roll(blocks, 1, 1))
    true = np.where(rng.random(blocks.shape) < 0.05, 255, blocks)
    return torch.from_numpy(np.where(found == COUNT, 255, found).astype(np.uint8)), torch.from_numpy(true)


def both() -> MetricCollection:
    return MetricCollection([TissueScores(TISSUES), BoundaryFScore(TISSUES)])


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        float(one[name]) == pytest.approx(float(other[name]), abs=1e-6, nan_ok=True) for name in one
    )


@pytest.mark.parametrize("seed", range(3))
def test_they_are_the_scores_of_evaluate(seed: int, tmp_path: Path) -> None:
    found, true = drawn(seed)
    for name, maps in (("predictions", found), ("masks", true)):
        (tmp_path / name).mkdir()
        for number, labels in enumerate(maps):
            Image.fromarray(labels.numpy().astype(np.uint8)).save(tmp_path / name / f"{number}.png")
    wanted = evaluate(tmp_path / "predictions", tmp_path / "masks", TISSUES).to_dict()
    metrics = both()
    metrics.update(found, true)
    values = {name: float(value) for name, value in metrics.compute().items()}
    for name in ("miou", "fwiou", "acc", "dice", "boundary_f_2px", "boundary_f_5px"):
        assert values[name] == pytest.approx(wanted[name], abs=1e-6)
    for name, iou in wanted["iou"].items():
        assert values[f"iou_{name}"] == pytest.approx(float("nan") if iou is None else iou, abs=1e-6, nan_ok=True)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2))
def test_in_pieces_it_is_the_same(seed: int, cut: int) -> None:
    found, true = drawn(seed)
    whole, pieces, rest = both(), both(), both()
    whole.update(found, true)
    pieces.update(found[:cut], true[:cut])
    rest.update(found[cut:], true[cut:])
    pieces = pickle.loads(pickle.dumps(pieces)).clone()
    for name, metric in pieces.items():
        metric.merge_state(rest[name])
    assert same(pieces.compute(), whole.compute())
    pieces.reset()
    pieces.update(found, true)
    assert same(pieces.compute(), whole.compute())


def test_logits_and_probabilities_are_predictions() -> None:
    logits, (_, true) = torch.randn(3, COUNT, 24, 24, generator=torch.Generator().manual_seed(0)), drawn(0)
    labels, scores, probabilities, alone = both(), both(), both(), both()
    labels.update(logits.argmax(dim=1), true)
    scores.update(logits, true)
    probabilities.update(logits.softmax(dim=1), true)
    for one, target in zip(logits, true, strict=True):
        alone.update(one, target)
    assert same(labels.compute(), scores.compute())
    assert same(labels.compute(), probabilities.compute()) and same(labels.compute(), alone.compute())


def test_nothing_scored_is_not_a_number() -> None:
    metrics = both()
    metrics.update(torch.zeros(1, 8, 8, dtype=torch.long), torch.full((1, 8, 8), 255))
    assert all(torch.isnan(value) for value in metrics.compute().values())


def test_names_may_be_a_number() -> None:
    scores, edges = TissueScores(2), BoundaryFScore(["a", "b"], tolerances=[1, 2.5])
    labels = torch.tensor([[0, 1], [0, 1]])
    assert list(scores(labels, labels)) == ["miou", "fwiou", "acc", "dice", "iou_0", "iou_1"]
    assert edges(labels, labels) == {"boundary_f_1px": 1.0, "boundary_f_2.5px": 1.0}


@pytest.mark.parametrize(
    ("preds", "target", "said"),
    [
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long), r"\[B, 4, H, W\]"),
        (torch.zeros(1, 8, 8).long(), torch.zeros(1, 8, 9).long(), "are not both"),
        (torch.zeros(1, 8, 8).long(), torch.full((1, 8, 8), COUNT), "labels are 0 to 3"),
        (torch.full((1, 8, 8), -1), torch.zeros(1, 8, 8).long(), "labels are 0 to 3"),
    ],
)
def test_what_makes_no_sense_is_refused(preds: torch.Tensor, target: torch.Tensor, said: str) -> None:
    for metric in both().values():
        with pytest.raises(ValueError, match=said):
            metric.update(preds, target)


def process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found, true = drawn(7)
    metrics = both()
    metrics.update(*((found[:1], true[:1]) if rank == 0 else (found[1:], true[1:])))
    values = {name: float(value) for name, value in metrics.compute().items()}
    torch.save(values, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(tmp_path: Path) -> None:
    mp.spawn(process, args=(str(tmp_path),), nprocs=2)
    whole = both()
    whole.update(*drawn(7))
    for rank in range(2):
        assert same(torch.load(tmp_path / f"{rank}.pt", weights_only=True), whole.compute())


def test_they_run_in_a_loop_of_lightning(tmp_path: Path) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(1, COUNT, 1)
            self.scores = both()

        def validation_step(self, batch: list[torch.Tensor], number: int) -> None:
            image, true = batch
            self.scores.update(self.layer(image), true)

        def on_validation_epoch_end(self) -> None:
            self.log_dict(self.scores.compute())
            self.scores.reset()

    _, true = drawn(0)
    images = true[:, None].float() / 4
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, true), batch_size=2)
    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    (logged,) = trainer.validate(module, loader, verbose=False)
    wanted = both()
    wanted.update(module.layer(images), true)
    assert same(logged, wanted.compute())
