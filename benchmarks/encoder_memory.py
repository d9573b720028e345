"""What training a foundation model takes: memory and checkpoints, by what of it is trained. At random weights.

    python -m benchmarks.encoder_memory [--encoder uni] [--batch 4] [--side 224] [--modes all frozen lora]

Each way is a process of its own, on the CPU in float32: a CRAANet on the whole architecture, two steps of AdamW on
random patches. `memory` is the peak of the process beyond what it held before the network was made; `checkpoint` what
an epoch writes, without the frozen weights that are written once. `checkpointed` is `all` with gradient checkpointing.
Writes benchmarks/results/encoder_memory.json. `lora` needs peft.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.speed.children import memory_fields
from patch2tissue.atomic import write_text
from patch2tissue.config import EncoderConfig, OptimiserConfig
from patch2tissue.craanet.network import CRAANet
from patch2tissue.environment import git_commit, processor_name
from patch2tissue.training import parameter_groups
from patch2tissue.weights import trained_state

RESULTS = Path(__file__).resolve().parent / "results" / "encoder_memory.json"
MODES: dict[str, dict[str, Any]] = {
    "all": {"train": "all"},
    "checkpointed": {"train": "all", "gradient_checkpointing": True},
    "lora": {"train": "lora"},
    "frozen": {"train": "frozen"},
}
TISSUES = 4
STATUS = Path("/proc/self/status")


def measure(encoder: str, options: dict[str, Any], mode: str, batch: int, side: int) -> dict[str, float]:
    """Two steps of training in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    before = memory_fields(STATUS)["VmRSS"]
    network = CRAANet(EncoderConfig(name=encoder, options=options, **MODES[mode]), TISSUES).train()
    optimiser = torch.optim.AdamW(parameter_groups(network, OptimiserConfig()), fused=True)
    for _ in range(2):
        loss = F.binary_cross_entropy_with_logits(
            network(torch.rand(batch, 3, side, side)).logits, torch.ones(batch, 4)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    kept = [*trained_state(network).values(), *(t for s in optimiser.state.values() for t in s.values())]
    return {
        "memory_gib": (memory_fields(STATUS)["VmHWM"] - before) / 2**30,
        "checkpoint_mib": sum(tensor.nbytes for tensor in kept) / 2**20,
        "trained_millions": sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6,
    }


def compare(encoder: str, options: dict[str, Any], modes: Sequence[str], batch: int, side: int) -> dict[str, Any]:
    """Every mode in a process of its own; figures by mode, and memory as a share of the first one's."""
    figures: dict[str, Any] = {}
    for mode in modes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(measure, (encoder, options, mode, batch, side))
        first = figures.get(modes[0], found)
        figures[mode] = {
            **{key: round(value, 3) for key, value in found.items()},
            "memory_share": round(found["memory_gib"] / first["memory_gib"], 3),
        }
        print(mode, json.dumps(figures[mode]), flush=True)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="uni")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON, as encoder.options")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    figures = compare(given.encoder, given.options, given.modes, given.batch, given.side)
    settings = {"encoder": given.encoder, "batch": given.batch, "side": given.side}
    plain = {"machine": processor_name(), "commit": git_commit(), "settings": settings, "figures": figures}
    write_text(given.out, json.dumps(plain, indent=2) + "\n")


if __name__ == "__main__":
    main()
