"""What processes compute of their shares of a batch, put together, is what one process computes of all of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patch2tissue.config import PFSCNetConfig
from patch2tissue.distributed.batch import (
    Share,
    gather_batch,
    gather_with_gradient,
    gathered_values,
    of_share,
    rows_of_batch,
    sum_over_batch,
    whole_batch,
    within,
)
from patch2tissue.distributed.group import barrier, of_first
from patch2tissue.distributed.layers import WholeBatchLayers
from patch2tissue.distributed.place import Place, is_first, joined
from patch2tissue.errors import TrainingError
from patch2tissue.pfscnet.network import PFSCNetOutput
from patch2tissue.pfscnet.training import PFSCNetStage
from patch2tissue.pretraining.views import random_view
from processes import in_processes

TISSUES, SIDE = 3, 16


def test_shares_are_the_batch_in_order() -> None:
    for total in range(1, 9):
        for world in range(1, 5):
            shares = [Share.of(total, Place(rank, world, rank, world, 0, "torchrun")) for rank in range(world)]
            assert [i for share in shares for i in range(share.start, share.start + share.count)] == list(range(total))
            assert max(shares[0].sizes) - min(shares[0].sizes) <= 1 and shares[0].total == total


class Tiny(nn.Module):
    """Of the form of PFSCNet, with the layers that look at a whole batch."""

    def __init__(self) -> None:
        super().__init__()
        # no bias before a normalisation: its gradient is rounding, of which Adam makes a whole step
        first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.encoder = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.classifier = nn.Sequential(nn.Conv2d(8, TISSUES, 1, bias=False), nn.BatchNorm2d(TISSUES))
        self.embedding_head = nn.Conv2d(8, 4, 1)

    def forward(self, images: Tensor) -> PFSCNetOutput:
        features = self.encoder(images)
        small = F.avg_pool2d(features, 4)
        return PFSCNetOutput(self.classifier(features), F.normalize(self.embedding_head(small), dim=1))


def a_stage() -> PFSCNetStage:
    torch.manual_seed(3)
    config = PFSCNetConfig.model_validate(
        {
            "losses_start": 0.0,
            "mosaic": 0.6,
            "mosaic_of": "any",
            "weight_averaging": 0.9,
            "contrast": {"dimensions": 4, "anchors": 40, "bank": 24, "confidence": 0.2, "prototypes": 2},
            "correction": {"start": 0.0, "margin": 0.0, "confidence": 1.0, "mode": "relabel"},
            "consistency": {"weight": 0.5, "confidence": 0.3},
            "dense_energy": {"sampling": "rows", "samples": 20},
        }
    )
    return PFSCNetStage(Tiny(), config, "tiny", TISSUES)  # type: ignore[arg-type]


def a_batch(patches: int) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    target = torch.randint(TISSUES, (patches, SIDE // 4, SIDE // 4), generator=generator)
    target = target.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
    target[:, :2] = 255
    labels = torch.stack([(target == k).flatten(1).any(dim=1) for k in range(TISSUES)], dim=1).float()
    images = torch.rand(patches, 3, SIDE, SIDE, generator=generator)
    return images.contiguous(memory_format=torch.channels_last), {
        "target": target,
        "labels": labels,
        "inside": torch.ones(patches, SIDE, SIDE, dtype=torch.bool),
        "confidence": torch.randint(256, (patches, SIDE, SIDE), generator=generator, dtype=torch.uint8),
        "index": torch.arange(patches) + 10,
    }


def steps(stage: PFSCNetStage, sizes: list[int]) -> dict[str, Any]:
    """Train on batches of these sizes, as `fit` does; what came of it."""
    place = joined()
    optimiser = torch.optim.AdamW(stage.network.parameters(), lr=1e-2)
    torch.manual_seed(11)
    values = []
    for number, size in enumerate(sizes):
        images, batch = a_batch(size)
        share = None if place is None else Share.of(size, place)
        if share is not None:
            own = slice(share.start, share.start + share.count)
            images, batch = images[own], {name: value[own] for name, value in batch.items()}
        with within(share):
            losses = stage.training_step(images, batch, epoch=number)
        values.append(gathered_values(losses, share))
        optimiser.zero_grad()
        losses["loss"].backward()
        for parameter in stage.network.parameters():
            if place is not None and parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
        optimiser.step()
        stage.after_optimiser_step()
    return {
        "values": values,
        "state": {f"network.{name}": tensor for name, tensor in stage.network.state_dict().items()}
        | {f"average.{name}": tensor for name, tensor in stage.state()["average"].items()}
        | {f"contrast.{name}": tensor for name, tensor in stage.state()["contrast"].items()},
        "epoch": stage.end_of_epoch(0),
    }


def functions() -> dict[str, Any]:
    """The pieces, on shares of 2 of 5 patches at most."""
    place = joined()
    assert place is not None
    share = Share.of(5, place)
    whole = torch.arange(5 * 3 * 4, dtype=torch.float64).reshape(5, 3, 4).sin()
    own = whole[share.start : share.start + share.count]
    found: dict[str, Any] = {"first": of_first(lambda: {"is": is_first()})}
    with within(share):
        found["gathered"] = torch.equal(gather_batch(own), whole)
        found["flags"] = torch.equal(gather_batch(own > 0), whole > 0)
        found["share"] = torch.equal(of_share(whole), own) and whole_batch(len(own)) == 5
        found["sum"] = sum_over_batch(own.sum()).item()
        rows = own.reshape(-1, 4).clone().requires_grad_()
        index = torch.tensor([14, 0, 7, 7, 3])
        taken = rows_of_batch(rows, index)
        found["rows"] = torch.equal(taken, whole.reshape(-1, 4)[index])
        (taken.square().sum() / place.world).backward()
        assert rows.grad is not None
        found["gradient"] = gather_batch(rows.grad.reshape(-1, 3, 4)).reshape(-1, 4)
        found["embeddings"] = torch.equal(gather_with_gradient(own[:, 0]), whole[:, 0])
        torch.manual_seed(1)
        images = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(2))
        view = random_view(of_share(images), 8, least_scale=0.4, stain=0.1, brightness=0.1)
        found["view"] = gather_batch(view)
    try:
        torch.manual_seed(place.rank)  # as after a layer that drew by itself
        gathered_values({"loss": torch.zeros(())}, share)
    except TrainingError as error:
        found["refused"] = str(error)
    barrier()
    return found


def everything(sizes: list[int]) -> dict[str, Any]:
    return {"functions": functions(), "steps": steps(a_stage(), sizes)}


@pytest.mark.parametrize("world", [2, 4])
def test_processes_give_what_one_gives(world: int) -> None:
    # the last batch leaves one of four processes without a patch
    sizes = [5, 4, 5, 3]
    alone = steps(a_stage(), sizes)
    results = in_processes(world, everything, sizes)
    for result in results:
        found = result["functions"]
        assert all(found[name] for name in ("gathered", "flags", "share", "rows", "embeddings"))
        assert found["first"] == {"is": True} and "random numbers" in found["refused"]
        whole = torch.arange(60, dtype=torch.float64).sin().reshape(-1, 4)
        expected = whole.clone().requires_grad_()
        expected[torch.tensor([14, 0, 7, 7, 3])].square().sum().backward()
        torch.testing.assert_close(found["gradient"], expected.grad)
        assert found["sum"] == pytest.approx(whole.sum().item())
        torch.manual_seed(1)
        images = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(
            found["view"], random_view(images, 8, least_scale=0.4, stain=0.1, brightness=0.1), rtol=0, atol=1e-6
        )
        trained = result["steps"]
        for mine, theirs in zip(alone["values"], trained["values"], strict=True):
            assert mine.keys() == theirs.keys() and len(mine) == 6
            assert theirs == pytest.approx(mine, rel=1e-4, abs=1e-6)
        assert trained["epoch"] == pytest.approx(alone["epoch"]) and trained["epoch"]["labels_changed"] > 0
        for name, tensor in alone["state"].items():
            torch.testing.assert_close(trained["state"][name], tensor, rtol=1e-3, atol=2e-5, msg=name)
        # of the bank, which pixels it holds, of which images, and in which places
        for name in ("images", "filled", "position"):
            assert torch.equal(trained["state"][f"contrast.bank.{name}"], alone["state"][f"contrast.bank.{name}"])
        assert int(alone["state"]["contrast.bank.filled"].min()) > 8
        # and the processes hold the same, to the bit
        assert all(torch.equal(trained["state"][name], results[0]["steps"]["state"][name]) for name in alone["state"])


def test_layers_alone_are_those_of_torch() -> None:
    """Batch normalisation of all of a batch needs no second process to be compared; dropout draws alike."""
    dropout = nn.Dropout(0.4)
    for order in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(6, 3, 5, 4).contiguous(memory_format=order)
        torch.manual_seed(5)
        expected = dropout(x)
        after = torch.get_rng_state()
        parts = []
        for start, count in ((0, 4), (4, 2), (6, 0)):
            torch.manual_seed(5)
            with WholeBatchLayers(start, count, 6):
                parts.append(dropout(x[start : start + count]))
            assert torch.equal(torch.get_rng_state(), after)
        assert torch.equal(torch.cat(parts), expected)
    norm = nn.BatchNorm2d(3).eval()
    with WholeBatchLayers(0, 6, 6):
        assert torch.equal(norm(x), copy.deepcopy(norm)(x))
