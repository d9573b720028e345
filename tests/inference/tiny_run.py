"""Runs small enough for tests: one with real, untrained networks, one whose networks go by colour."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import patch2tissue.inference.predictor as predictor_module
from patch2tissue.config import EncoderConfig, config_from_dict
from patch2tissue.craanet.network import CRAANet, save_craanet
from patch2tissue.pfscnet.network import PFSCNet, save_pfscnet

COLOURS = np.array([(150, 60, 120), (230, 170, 200), (70, 40, 130), (200, 210, 90)], dtype=np.uint8)
"""The colour network's idea of the four tissues."""


def write_config(folder: Path, tissues: str = "luad-histoseg", **inference: Any) -> Path:
    """A run folder with nothing but its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {
        "output": str(folder),
        "tissues": tissues,
        "data": {"path": "data"},
        "inference": {"tile": 64, "batch_size": 4, **inference},
        "hardware": {"device": "cpu", "precision": "float32", "threads": 1},
    }
    (folder / "config.yaml").write_text(config_from_dict(plain).to_yaml(), encoding="utf-8")
    return folder


def real_run(folder: Path, tissues: str = "luad-histoseg", **inference: Any) -> Path:
    """A run with untrained networks of ten layers."""
    write_config(folder, tissues, **inference)
    torch.manual_seed(0)
    encoder = EncoderConfig(name="resnet10t", output_stride=8)
    save_pfscnet(PFSCNet(encoder, 4, decoder_channels=16, embedding_dimensions=8), folder / "pfscnet")
    save_craanet(CRAANet(encoder, 4), folder / "craanet")
    return folder


def write_colour_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose network goes by colour."""
    write_config(folder, "bcss-wsss")
    (folder / "pfscnet").mkdir()
    (folder / "pfscnet" / "network.json").write_text("{}")
    (folder / "pfscnet" / "weights.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(predictor_module, "load_pfscnet", lambda *arguments: ColourNetwork())
    return folder


class ColourNetwork(nn.Module):
    """Says of each pixel which of `COLOURS` it is nearest to; remembers the sizes it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("colours", torch.from_numpy(COLOURS).float() / 255.0)
        self.seen: list[tuple[int, ...]] = []

    def segment(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        distances = (images[:, None] - self.colours[None, :, :, None, None]).square().sum(dim=2)
        return -200.0 * distances

    def forward(self, images: Tensor) -> Any:
        return SimpleNamespace(logits=self.segment(images))


class FixedClassifier(nn.Module):
    """Says the same of every patch."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.logit(torch.tensor(probabilities), eps=1e-6))

    def forward(self, images: Tensor) -> Any:
        return SimpleNamespace(logits=self.logits[None].expand(len(images), -1))


def coloured(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image of blocks in the four colours, and the mask that is right for it."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 4, (height // 8 + 1, width // 8 + 1), dtype=np.uint8)
    mask = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return COLOURS[mask], mask
