"""A trained network's labels of its own patches, and trainings in rounds that survive being killed."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from conftest import RECIPES, TINY
from killing import Killed
from patch2tissue.config import HardwareConfig, PseudoLabelConfig, RunConfig, load_config
from patch2tissue.data.augment import apply_symmetry
from patch2tissue.data.images import read_image, write_mask
from patch2tissue.data.layouts import load_split
from patch2tissue.data.patches import Patch
from patch2tissue.evaluation.run_scores import score_run
from patch2tissue.pfscnet.network import PFSCNet
from patch2tissue.pfscnet.training import PFSCNetStage
from patch2tissue.pipeline import run_training
from patch2tissue.pseudo_labels import files, second_round
from patch2tissue.pseudo_labels.background import white_pixels
from patch2tissue.pseudo_labels.second_round import generate_second_round, predicted_probabilities
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import load_tissue_set

HARDWARE = HardwareConfig(device="cpu", precision="float32", threads=1)


def network_of(tissues: int) -> PFSCNet:
    torch.manual_seed(0)
    network = PFSCNet("resnet10t", tissues, decoder_channels=16, embedding_dimensions=8, atrous_rates=(1, 2, 3))
    torch.nn.init.normal_(network.classifier.weight, std=2.0)
    return network.eval()


@settings(deadline=None)
@given(count=st.integers(0, 100), missing=st.sets(st.integers(0, 99)))
def test_whole_batches_are_done_again(count: int, missing: set[int]) -> None:
    class Folder:
        def __truediv__(self, name: str) -> Any:
            return type("File", (), {"is_file": lambda _: int(name[:-4]) not in missing})()

    patches = [Patch(Path(f"{i}.png"), str(i)) for i in range(count)]
    rows = files.rows_to_do(patches, Folder())  # type: ignore[arg-type]
    assert {row // files.BATCH for row in rows} == {i // files.BATCH for i in missing if i < count}
    for first in range(0, len(rows), files.BATCH):
        batch = rows[first : first + files.BATCH]
        assert batch[0] % files.BATCH == 0 and batch == list(range(batch[0], min(batch[0] + files.BATCH, count)))


def test_symmetries_of_the_patch_do_not_matter() -> None:
    network, images = network_of(3), torch.rand(2, 3, 32, 32)
    plain = predicted_probabilities(network, images)
    torch.testing.assert_close(plain.sum(1), torch.ones(2, 32, 32))
    for operation in (1, 4, 7):
        turned = predicted_probabilities(network, apply_symmetry(images, operation))
        torch.testing.assert_close(turned, apply_symmetry(plain, operation), atol=1e-4, rtol=1e-3)
    one = predicted_probabilities(network, images, symmetries=False)
    torch.testing.assert_close(one, torch.softmax(network(images).logits.detach(), 1))
    assert (one - plain).abs().max() > 1e-3


@pytest.mark.parametrize("symmetries", [True, False])
def test_files_follow_label_margin_and_white(tmp_path: Path, fabricate: Callable[..., Path], symmetries: bool) -> None:
    tissues = load_tissue_set("luad-histoseg")
    assert tissues.background is not None and tissues.background.white_above is not None
    white_above = tissues.background.white_above
    data = fabricate(tmp_path / "data", "luad-histoseg", train=8, test=0, side=40)
    for file in sorted((data / "train").glob("*.png"))[:4]:
        image = read_image(file).copy()
        image[:10] = 250
        Image.fromarray(image).save(file)
    patches = load_split(data, "train", tissues, "luad-histoseg")
    network, margin = network_of(4), 0.3
    generate_second_round(
        patches,
        tissues,
        network,
        tmp_path / "labels",
        side=48,
        config=PseudoLabelConfig(margin=margin),
        hardware=HARDWARE,
        symmetries=symmetries,
    )
    with torch.no_grad():
        for patch in patches:
            image = read_image(patch.path)
            canvas = np.full((48, 48, 3), 255, np.uint8)
            canvas[:40, :40] = image
            batch = torch.from_numpy(canvas).permute(2, 0, 1)[None].float() / 255
            probabilities = predicted_probabilities(network, batch, symmetries=symmetries)[0, :, :40, :40].numpy()
            probabilities *= np.array(patch.labels)[:, None, None]
            probabilities /= probabilities.sum(0)
            ranked = np.sort(probabilities, axis=0)
            lead = ranked[-1] - ranked[-2]
            everywhere = np.asarray(Image.open(tmp_path / "labels/variants/second_round" / f"{patch.name}.png"))
            assert (everywhere == probabilities.argmax(0))[lead > 1e-3].all()
            assert set(np.unique(everywhere)) <= {k for k, flag in enumerate(patch.labels or ()) if flag}
            mask = Image.open(tmp_path / "labels/masks" / f"{patch.name}.png")
            assert mask.mode == "P" and mask.size == (40, 40)
            ignored = (lead < margin) | white_pixels(image, white_above)
            known = abs(lead - margin) > 1e-3
            assert (np.asarray(mask) == np.where(ignored, 255, everywhere))[known & (lead > 1e-3)].all()
            confidence = np.asarray(Image.open(tmp_path / "labels/confidence" / f"{patch.name}.png"))
            np.testing.assert_allclose(confidence / 255, lead, atol=4e-3)
    assert any((np.asarray(Image.open(file)) == 255).any() for file in (tmp_path / "labels/masks").iterdir())
    rows = list(csv.DictReader((tmp_path / "labels/manifest.csv").open()))
    assert [row["name"] for row in rows] == [patch.name for patch in patches]


def test_killed_at_any_patch_writes_the_same_files(
    tmp_path: Path, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BATCH", 3)
    monkeypatch.setattr(second_round, "BATCH", 3)
    tissues = load_tissue_set("bcss-wsss")
    patches = load_split(fabricate(tmp_path / "data", "bcss-wsss", train=8, test=0), "train", tissues, "bcss-wsss")
    network = network_of(4)

    def generate(folder: Path) -> None:
        generate_second_round(
            patches, tissues, network, folder, side=32, config=PseudoLabelConfig(), hardware=HARDWARE, symmetries=False
        )

    generate(tmp_path / "whole")
    original = second_round.write_patch
    for name in (patches[0].name, patches[4].name, patches[7].name):

        def write_or_die(patch: Patch, *arguments: Any, name: str = name) -> None:
            if patch.name == name:
                raise Killed
            original(patch, *arguments)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(second_round, "write_patch", write_or_die)
            generate(tmp_path / "broken")
        assert not (tmp_path / "broken" / "manifest.csv").exists()
    generate(tmp_path / "broken")
    made = sorted(file.relative_to(tmp_path / "whole") for file in (tmp_path / "whole").rglob("*") if file.is_file())
    assert len(made) == 3 * 8 + 1
    assert made == sorted(f.relative_to(tmp_path / "broken") for f in (tmp_path / "broken").rglob("*") if f.is_file())
    assert all((tmp_path / "whole" / f).read_bytes() == (tmp_path / "broken" / f).read_bytes() for f in made)


def _same(one: RunFolder, two: RunFolder) -> None:
    for folder in ("pfscnet", "pfscnet/round-1"):
        a, b = (load_file(run.path / folder / "weights.safetensors") for run in (one, two))
        assert all(torch.equal(a[name], b[name]) for name in a)
    for kind in ("masks", "confidence", "variants/second_round"):
        made = sorted((one.round_labels(2) / kind).iterdir())
        assert len(made) == 12
        assert all(file.read_bytes() == (two.round_labels(2) / kind / file.name).read_bytes() for file in made)


@pytest.mark.slow
def test_rounds_killed_anywhere_end_the_same(
    tmp_path: Path, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss", train=12)

    def config(name: str) -> RunConfig:
        epochs = ("craanet.epochs=1", "pfscnet.epochs=2", "pfscnet.rounds=2")
        overrides = [f"output={tmp_path / name}", f"data.path={data}", *TINY, *epochs, "pfscnet.weight_averaging=0"]
        return load_config(RECIPES / "bcss-wsss.yaml", overrides)

    whole = run_training(config("whole"))
    first, last = (load_file(folder / "weights.safetensors") for folder in (whole.pfscnet / "round-1", whole.pfscnet))
    assert any(not torch.equal(first[name], last[name]) for name in first), "other labels, other weights"
    stages = {row["stage"] for row in csv.DictReader(whole.metrics_file.open())}
    assert {"pfscnet", "round-1"} <= stages

    def dies_in(owner: Any, name: str, call: int) -> None:
        original, calls = getattr(owner, name), [0]

        def call_or_die(*arguments: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == call:
                raise Killed
            return original(*arguments, **named)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, name, call_or_die)
            run_training(config("broken"))

    # 12 patches in batches of 4: three steps an epoch, six a round; steps count anew in every process
    dies_in(PFSCNetStage, "training_step", 5)  # in the second epoch of round 1
    broken = RunFolder(tmp_path / "broken")
    assert not (broken.pfscnet / "finished").exists() and not broken.round_labels(2).exists()
    dies_in(second_round, "write_patch", 6)  # amid the labels of round 2
    assert (broken.pfscnet / "round-1" / "finished").exists()
    dies_in(second_round, "write_manifest", 1)  # all labels are there, but are not known to be
    dies_in(PFSCNetStage, "training_step", 2)  # in the first epoch of round 2: nothing to resume from
    dies_in(PFSCNetStage, "training_step", 6)  # at its last step
    _same(whole, run_training(config("broken")))

    for patch in (data / "train").glob("*.png"):
        mask = np.full((32, 32), patch.stem[-5:-1].index("1"), np.uint8)
        write_mask(data / "train" / "mask" / patch.name, mask, config("whole").tissue_set())
    scores = score_run(whole, progress=False)
    assert list(scores["pseudo_labels"]) == ["last_epoch", "accumulated", "refined", "second_round"]
    assert "full_method" in scores["test"]


def test_three_rounds_lie_where_they_are_looked_for(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss", train=6, test=0)
    epochs = ("craanet.epochs=1", "pfscnet.epochs=1", "pfscnet.rounds=3")
    overrides = [f"output={tmp_path / 'run'}", f"data.path={data}", *TINY, *epochs]
    run = run_training(load_config(RECIPES / "bcss-wsss.yaml", overrides))
    for folder in ("round-1", "round-2", "."):
        assert (run.pfscnet / folder / "weights.safetensors").is_file()
    assert (run.round_labels(2) / "variants" / "second_round").is_dir()
    assert (run.round_labels(3) / "variants" / "third_round").is_dir()
    assert not (run.pfscnet / "round-3").exists()
