"""A finished run with an untrained network that still draws every tissue, so that maps can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tests.inference.tiny_run import real_run

from patch2tissue.export.checking import check_pictures, to_graph_input
from patch2tissue.inference.temperature import write_temperature
from patch2tissue.pfscnet.network import load_pfscnet, save_pfscnet

TEMPERATURE = 1.5


def varied_run(folder: Path, tissues: str = "luad-histoseg", **inference: Any) -> Path:
    """`real_run` with logits of mean zero and a spread of 3, a temperature, and the mark of a finished training."""
    real_run(folder, tissues, **inference)
    network = load_pfscnet(folder / "pfscnet")
    with torch.no_grad():
        logits = network.segment(to_graph_input(check_pictures()[0]))
        scale = 3.0 / logits.std(dim=(0, 2, 3))
        network.classifier.weight.mul_(scale[:, None, None, None])
        network.classifier.bias.sub_(logits.mean(dim=(0, 2, 3))).mul_(scale)
    save_pfscnet(network, folder / "pfscnet")
    write_temperature(folder / "pfscnet", TEMPERATURE, {"patches": 12})
    (folder / "pfscnet" / "finished").touch()
    return folder
