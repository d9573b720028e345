"""MLPS: what dropout attention does, alignment of the targets, and a tiny training of both phases."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_peer import SIDE, patches_of, same_weights, tiny_config
from torch.nn import functional as F

from killing import killed_at
from patch2tissue.config import EncoderConfig, InferenceConfig
from patch2tissue.craanet.attention_maps import grad_cam
from patch2tissue.craanet.network import CRAANet, load_craanet
from patch2tissue.data.augment import SYMMETRIES
from patch2tissue.data.images import read_image, read_mask, write_mask
from patch2tissue.errors import ConfigError
from patch2tissue.inference.predictor import Predictor
from patch2tissue.peers.mlps import (
    GATE,
    MLPSClassifierStage,
    dropout_attention,
    dropout_coefficient,
    train_mlps_classifier,
)
from patch2tissue.peers.mlps_labels import DEPTHS, generate_mlps_labels, layer_scores
from patch2tissue.peers.mlps_segmentation import LAYER_WEIGHTS, LayeredPatches, MLPSStage, train_mlps_segmentation
from patch2tissue.pfscnet.network import PFSCNet, load_pfscnet


def test_course_of_the_dropout_coefficient() -> None:
    published = [dropout_coefficient(epoch, 20) for epoch in range(20)]
    assert published[:3] == [None, None, None]
    assert published[3:6] == pytest.approx([0.985, 0.985**2, 0.985**3])
    assert dropout_coefficient(19, 20) == pytest.approx(0.985**17)
    # another length runs through the same course
    short = [dropout_coefficient(epoch, 10) for epoch in range(10)]
    assert short[0] is short[1] is None and short[2:] == published[4::2]
    assert all(0.65 <= mu <= 1.0 for mu in published[3:] if mu is not None)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), coefficient=st.sampled_from([0.65, 0.8, 0.985]))
def test_dropout_attention_equals_slow_loop(seed: int, coefficient: float) -> None:
    scores = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    slow = torch.zeros(2, 1, 4, 5)
    for b in range(2):
        for k in range(3):
            top = max(0.0, float(scores[b, k].max()))
            for (y, x), value in np.ndenumerate(scores[b, k].numpy()):
                slow[b, 0, y, x] += 0.0 if value > coefficient * top else max(0.0, float(value)) / 3
        slow[b] = slow[b] / slow[b].mean() if slow[b].mean() > 0 else torch.ones(1, 4, 5)
    torch.testing.assert_close(dropout_attention(scores, coefficient), slow)


def test_dropout_attention_silences_the_most_telling_place() -> None:
    scores = torch.rand(1, 1, 6, 6) * 0.5 + 0.1
    scores[0, 0, 2, 3] = 1.0
    attention = dropout_attention(scores, 0.8)
    assert attention[0, 0, 2, 3] == 0 and (attention > 0).sum() == 35
    assert float(attention.mean()) == pytest.approx(1.0)
    assert (dropout_attention(-scores, 0.8) == 1).all()  # nothing is found: nothing is silenced
    # the lower the coefficient, the more is dropped
    dropped = [int((dropout_attention(scores, mu) == 0).sum()) for mu in (0.9, 0.5, 0.3)]
    assert dropped[0] == 1 and dropped[0] < dropped[1] < dropped[2]


def test_classifier_learns_elsewhere_than_at_its_most_telling_place() -> None:
    network = CRAANet("resnet10t", 2, residual_weight=0.0)
    stage = MLPSClassifierStage(network, 2, 20)

    class Given(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = torch.nn.Parameter(torch.full((1, 3, 4, 4), 0.2))

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [self.features]

    given_features = Given()
    given_features.features.data[0, 0, 1, 2] = 2.0
    network.encoder = given_features  # type: ignore[assignment]
    network.heads.classifiers[0] = torch.nn.Conv2d(3, 2, 1, bias=False)
    network.heads.classifiers[0].weight.data = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]]).view(2, 3, 1, 1)
    for coefficient, reached in ((None, True), (0.9, False)):
        given_features.features.grad = None
        F.binary_cross_entropy_with_logits(
            stage.logits(torch.rand(1, 3, 32, 32), coefficient), torch.ones(1, 2)
        ).backward()
        gradient = given_features.features.grad
        assert gradient is not None
        assert bool(gradient[0, :, 1, 2].abs().sum() > 0) == reached
        assert gradient.abs().sum() > 0


def test_scores_of_a_layer_keep_the_order_of_tissues() -> None:
    network, images = CRAANet("resnet10t", 3, residual_weight=0.0).eval(), torch.rand(2, 3, 32, 32)
    for stage in DEPTHS.values():
        raw, scores = grad_cam(network, images, stage), layer_scores(network, images, stage)
        assert scores.shape == (2, 3, 32, 32) and scores.min() >= 0 and scores.max() <= 1
        enlarged = F.interpolate(raw, (32, 32), mode="bilinear")
        for b in range(2):
            flat = torch.stack([enlarged[b].flatten(), scores[b].flatten()]).double()
            assert float(torch.corrcoef(flat)[0, 1]) == pytest.approx(1.0, abs=1e-5)


def test_too_few_feature_maps_are_refused(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    config = tiny_config(tmp_path, fabricate)
    network = CRAANet(EncoderConfig(name="resnet10t", options={"out_indices": [3, 4]}), 4)
    with pytest.raises(ConfigError, match="three feature maps"):
        generate_mlps_labels(
            patches_of(config), config.tissue_set(), network, tmp_path, side=SIDE, hardware=config.hardware
        )
    with pytest.raises(ConfigError, match="3 folders"):
        train_mlps_segmentation(config, patches_of(config), [tmp_path], tmp_path / "out", side=SIDE)


@pytest.mark.parametrize("cache", [True, False])
def test_all_targets_turn_with_the_picture(tmp_path: Path, fabricate: Callable[..., Path], cache: bool) -> None:
    config = tiny_config(tmp_path, fabricate)
    patches, tissues = patches_of(config), config.tissue_set()
    rng = np.random.default_rng(0)
    files: dict[str, list[Path]] = {name: [] for name in LAYER_WEIGHTS}
    tables: list[dict[str, np.ndarray]] = []
    for patch in patches:
        # a label map that can be told from the picture, pixel by pixel
        base = rng.integers(0, 4, (SIDE, SIDE)).astype(np.uint8)
        tables.append({name: (base + shift) % 4 for shift, name in enumerate(LAYER_WEIGHTS)})
        for name in LAYER_WEIGHTS:
            files[name].append(tmp_path / name / f"{patch.name}.png")
            write_mask(files[name][-1], tables[-1][name].astype(np.uint8), tissues)
    further = {name: files[name] for name in LAYER_WEIGHTS if name != "target"}
    dataset = LayeredPatches(patches, tissues, 48, seed=0, cache=cache, targets=files["target"], further=further)
    operations = set()
    for epoch in range(4):
        for index in range(len(patches)):
            item = dataset[epoch, index]
            operations.add(int(item["symmetry"]))
            inside = item["inside"]
            base = item["target"][inside].int()
            assert inside.sum() == SIDE * SIDE
            assert torch.equal(item["target_middle"][inside].int(), (base + 1) % 4)
            assert torch.equal(item["target_shallow"][inside].int(), (base + 2) % 4)
            assert (item["target_middle"][~inside] == 255).all() and item["target_shallow"].shape == (48, 48)
    assert len(operations) == SYMMETRIES
    assert torch.equal(dataset[2, 1]["target_middle"], dataset[2, 1]["target_middle"])


def test_loss_is_the_weighted_sum(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    config = tiny_config(tmp_path, fabricate)
    network = PFSCNet.from_config(config, 4).eval()
    stage = MLPSStage(network, config.pfscnet, "MLPS", 4)
    images = torch.rand(2, 3, SIDE, SIDE)
    batch = {name: torch.randint(0, 4, (2, SIDE, SIDE), dtype=torch.uint8) for name in LAYER_WEIGHTS}
    batch["target_shallow"][:, :8] = 255
    with torch.no_grad():
        losses = stage.training_step(images, batch, 0)
        logits = network(images).logits
    each = {name: float(F.cross_entropy(logits, batch[name].long(), ignore_index=255)) for name in LAYER_WEIGHTS}
    expected = 0.6 * each["target"] + 0.2 * each["target_middle"] + 0.2 * each["target_shallow"]
    assert float(losses["loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(losses["loss_ce_shallow"]) == pytest.approx(each["target_shallow"], rel=1e-5)


@pytest.mark.slow
def test_killed_training_ends_with_the_same_weights_and_labels(
    tmp_path: Path, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, fabricate, "luad-histoseg")
    patches, tissues = patches_of(config), config.tissue_set()
    picture = read_image(patches[0].path).copy()
    picture[:10, :10] = 255  # glass
    Image.fromarray(picture).save(patches[0].path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for out, steps in ((whole, ()), (broken, (4,))):
        for step in steps:
            killed_at(
                monkeypatch,
                MLPSClassifierStage,
                step,
                lambda out=out: train_mlps_classifier(config, patches, out / "classifier", side=SIDE),
            )
        train_mlps_classifier(config, patches, out / "classifier", side=SIDE)
        classifier = load_craanet(out / "classifier")
        generate_mlps_labels(patches, tissues, classifier, out / "labels", side=SIDE, hardware=config.hardware)

        def train(out: Path = out) -> None:
            folders = [out / "labels" / name for name in DEPTHS]
            train_mlps_segmentation(
                config, patches, folders, out / "network", side=SIDE, craanet=out / "classifier", title="MLPS"
            )

        for step in steps:
            killed_at(monkeypatch, MLPSStage, step, train)
        train()
    assert same_weights(whole / "classifier", broken / "classifier")
    assert same_weights(whole / "network", broken / "network")
    for patch in patches:
        present = {k for k, flag in enumerate(patch.labels or ()) if flag}
        for name in DEPTHS:
            file = Path("labels") / name / f"{patch.name}.png"
            assert (whole / file).read_bytes() == (broken / file).read_bytes()
            mask = read_mask(whole / file, tissues)
            assert mask.shape == (SIDE, SIDE) and set(np.unique(mask).tolist()) <= present | {255}
            assert (mask[:8, :8] == 255).all() == (patch is patches[0]) and not (mask[12:, 12:] == 255).all()
    with (whole / "network" / "metrics.csv").open() as stream:
        names = {row["name"] for row in csv.DictReader(stream)}
    assert {"loss_ce", "loss_ce_middle", "loss_ce_shallow"} <= names
    assert not {"loss_energy", "loss_contrast", "loss_consistency"} & names

    # the classification gate: a tissue that the classifier rules out gets no pixel
    classifier, network = load_craanet(whole / "classifier"), load_pfscnet(whole / "network")
    with torch.no_grad():
        images = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255.0
        likely, order = torch.sigmoid(classifier(images).logits)[0].sort()
        least = int(order[0])
        network.classifier.bias[least] = 50.0
    gate = float(likely[0] + likely[1]) / 2
    predictors = [Predictor(network, tissues, InferenceConfig(gate=g), classifier=classifier) for g in (None, gate)]
    drawn = [predictor.predict_array(picture).mask for predictor in predictors]
    assert (drawn[0] == least).any() and not (drawn[1] == least).any()
    assert InferenceConfig(gate=GATE).gate == 0.1
