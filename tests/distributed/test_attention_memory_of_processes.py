"""The attention memory of several processes is, to the bit, that of one which sees the same maps in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from patch2tissue.config import AccumulationConfig, CRAANetConfig
from patch2tissue.craanet.network import CRAANetOutput
from patch2tissue.craanet.training import CRAANetStage
from patch2tissue.data.patches import Patch
from patch2tissue.distributed.batch import Share, gathered_values, within
from patch2tissue.distributed.place import joined
from processes import in_processes

PATCHES, SIDE, EPOCHS = 11, 16, 3


class Given(nn.Module):
    """Maps that are pixels of the picture, so that they do not hang on how many pictures there are."""

    attention_stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.settings: dict[str, Any] = {}

    def forward(self, images: Tensor) -> CRAANetOutput:
        attention = 4.0 * self.weight * images[:, :, ::4, ::4]
        return CRAANetOutput(attention[:, :, 0, 0] - 2.0, attention)


def accumulate(folder: str) -> dict[str, Any]:
    """Three epochs over the patches in batches of 5, 5 and 1; the first process' memories and the curves of each."""
    place = joined()
    rng = np.random.default_rng(0)
    labels = (rng.random((PATCHES, 3)) < 0.6).astype(int)
    patches = [Patch(Path(f"p{i}.png"), f"p{i}", tuple(map(int, label))) for i, label in enumerate(labels)]
    config = CRAANetConfig(epochs=EPOCHS, accumulation=AccumulationConfig(start=0.0, dtype="uint8", mode="mean"))
    beside = {"largest": AccumulationConfig(mode="max", dtype="float16"), "decaying": AccumulationConfig(mode="ema")}
    memory = Path(folder) / "attention_memory"
    stage = CRAANetStage(Given(), config, patches, SIDE, memory, beside)  # type: ignore[arg-type]
    scores, losses = [], []
    for epoch in range(EPOCHS):
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(PATCHES, generator=generator)
        images = torch.rand(PATCHES, 3, SIDE, SIDE, generator=generator)
        turned = torch.randint(8, (PATCHES,), generator=generator)
        for index in order.split(5):
            share = None if place is None else Share.of(len(index), place)
            own = index if share is None else index[share.start : share.start + share.count]
            batch = {"index": own, "symmetry": turned[own], "labels": torch.tensor(labels)[own].float()}
            with within(share):
                losses.append(gathered_values(stage.training_step(images[own], batch, epoch), share)["loss"])
        scores.append(stage.end_of_epoch(epoch)["label_f1"])
    if stage.memory is not None:
        stage.save_files(Path(folder) / "checkpoint")
        stage.finish(Path(folder))
    return {"first": stage.memory is not None, "scores": scores, "losses": losses}


@pytest.mark.parametrize("world", [2, 4])
def test_memory_of_processes_is_that_of_one(tmp_path: Path, world: int) -> None:
    alone = accumulate(str(tmp_path / "one"))
    results = in_processes(world, accumulate, str(tmp_path / "many"))
    assert [found["first"] for found in results] == [True] + [False] * (world - 1)
    for found in results:
        assert found["scores"] == pytest.approx(alone["scores"], rel=1e-6) and len(set(alone["scores"])) == EPOCHS
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    names = [
        f"{memory}/{file}.npy" for memory in ("attention_memory", "largest", "decaying") for file in ("maps", "counts")
    ]
    for name in [*names, *(f"checkpoint/{name}" for name in names), "attention_epochs.npy"]:
        one, many = (np.load(tmp_path / folder / name) for folder in ("one", "many"))
        assert one.any() and np.array_equal(one, many), name
    histories = [np.load(tmp_path / folder / "attention_history.npz") for folder in ("one", "many")]
    assert all(np.array_equal(histories[0][key], histories[1][key]) for key in histories[0].files)
