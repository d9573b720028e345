"""A loss that is no number, or that explodes, stops training, and the state before stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from patch2tissue.config import HardwareConfig, OptimiserConfig
from patch2tissue.data.datasets import EpochSampler
from patch2tissue.errors import TrainingError
from patch2tissue.training import Stage, fit, is_finished


class Patches(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        return {
            "image": torch.zeros(3, 8, 8, dtype=torch.uint8),
            "stain_matrix": torch.eye(3),
            "stain_offset": torch.zeros(3),
            "index": torch.tensor(0),
        }


class Given(Stage):
    """A stage whose losses are given, epoch by epoch."""

    title = "given"

    def __init__(self, losses: list[dict[str, float]]) -> None:
        self.network = nn.Linear(1, 1)
        self.losses = losses
        self.finished = False

    def training_step(self, images: Tensor, batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        alive = 0.0 * self.network(torch.ones(1)).sum()
        return {name: alive + value for name, value in self.losses[epoch].items()}

    def finish(self, folder: Path) -> None:
        self.finished = True


def train(losses: list[dict[str, float]], folder: Path) -> Given:
    stage = Given(losses)
    data = Patches()
    loader = DataLoader(data, batch_size=2, sampler=EpochSampler(len(data), 0))
    settings = OptimiserConfig(epochs=len(losses), batch_size=2)
    fit(stage, loader, settings, folder, seed=0, hardware=HardwareConfig(device="cpu", threads=1))
    return stage


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"loss": float("nan")}, "no longer a number in epoch 3"),
        ({"loss": float("inf")}, "no longer a number in epoch 3"),
        ({"loss": 5.1}, r"training diverges; in epoch 3 the loss is 5\."),
        ({"loss": 9.0, "loss_ce": 9.0}, "diverges"),
    ],
)
def test_training_stops_at_the_last_good_state(last: dict[str, float], said: str, tmp_path: Path) -> None:
    first = dict.fromkeys(last, 1.0)
    with pytest.raises(TrainingError, match=said) as caught:
        train([first, dict.fromkeys(first, 0.9), last], tmp_path)
    assert "Lower learning_rate" in str(caught.value) and str(tmp_path / "checkpoint") in str(caught.value)
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["epoch-0001"]
    assert not is_finished(tmp_path)
    # and goes on from there when it is well again
    assert train([first, first, dict.fromkeys(first, 0.8)], tmp_path).finished


def test_losses_that_join_later_are_no_divergence(tmp_path: Path) -> None:
    joined = {"loss": 9.0, "loss_ce": 0.9, "loss_contrast": 8.1}
    assert train([{"loss": 1.0, "loss_ce": 1.0}, joined, joined], tmp_path).finished
