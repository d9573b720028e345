"""Training batches: deterministic in (seed, epoch, index), padded, with targets that follow the augmentation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patch2tissue.data.augment import invert_symmetry
from patch2tissue.data.canvas import canvas_size
from patch2tissue.data.datasets import EpochSampler, PlainPatches, TrainingPatches, read_ahead, training_loader
from patch2tissue.data.images import read_image, write_mask
from patch2tissue.data.layouts import load_split
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("bcss-wsss")


@pytest.fixture
def patches(tmp_path: Path, fabricate: Callable[..., Path]) -> list[Patch]:
    return load_split(fabricate(tmp_path / "data", "bcss-wsss"), "train", TISSUES)


def batches(patches: list[Patch], epoch: int, workers: int) -> list[dict[str, torch.Tensor]]:
    dataset = TrainingPatches(patches, TISSUES, 32, seed=3, stain=0.1, brightness=0.1)
    loader = training_loader(dataset, 5, workers, pin_memory=False)
    assert isinstance(loader.sampler, EpochSampler)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_same_with_and_without_worker_processes_and_different_every_epoch(patches: list[Patch]) -> None:
    alone, two = batches(patches, 1, 0), batches(patches, 1, 2)
    assert all(torch.equal(a[key], b[key]) for a, b in zip(alone, two, strict=True) for key in a)
    assert sorted(torch.cat([b["index"] for b in alone]).tolist()) == list(range(12))
    other = batches(patches, 2, 0)
    assert not torch.equal(torch.cat([b["index"] for b in alone]), torch.cat([b["index"] for b in other]))
    assert not torch.equal(torch.cat([b["stain_matrix"] for b in alone]), torch.cat([b["stain_matrix"] for b in other]))


def test_image_target_and_inside_share_one_symmetry(patches: list[Patch], tmp_path: Path) -> None:
    small = [patch.path for patch in patches[:3]]
    for path in small:
        Image.fromarray(read_image(path)[:20, :25]).save(path)
    targets = []
    for i, patch in enumerate(patches):
        shape = read_image(patch.path).shape[:2]
        mask = np.random.default_rng(i).integers(0, 4, shape).astype(np.uint8)
        targets.append(tmp_path / "targets" / f"{patch.name}.png")
        write_mask(targets[-1], mask, TISSUES)
    dataset = TrainingPatches(patches, TISSUES, 48, seed=0, targets=targets)
    for index in (0, 5):
        for epoch in range(6):
            item = dataset[epoch, index]
            operation = int(item["symmetry"])
            image = read_image(patches[index].path)
            height, width = image.shape[:2]
            back = invert_symmetry(item["image"], operation).permute(1, 2, 0).numpy()
            assert np.array_equal(back[:height, :width], image) and (back[height:] == 255).all()
            inside = invert_symmetry(item["inside"], operation)
            assert inside[:height, :width].all() and int(inside.sum()) == height * width
            target = invert_symmetry(item["target"], operation)
            assert (target[~inside] == 255).all()
            assert np.array_equal(target[:height, :width].numpy(), np.asarray(Image.open(targets[index])))


def test_canvas(patches: list[Patch]) -> None:
    assert canvas_size(patches, None) == 32
    Image.fromarray(np.zeros((20, 37, 3), np.uint8)).save(patches[0].path)
    assert canvas_size(patches, None) == 48, "a multiple of 16"
    with pytest.raises(DataError, match=r"data\.patch_size"):
        canvas_size(patches, 32)
    assert PlainPatches(patches, 48)[0]["image"].shape == (3, 48, 48)


def test_a_last_single_patch_is_left_out() -> None:
    empty = [Patch(Path(f"{i}.png"), str(i), (1, 0, 0, 0)) for i in range(9)]
    assert len(training_loader(TrainingPatches(empty, TISSUES, 32, seed=0), 4, 0, False)) == 2
    assert len(training_loader(TrainingPatches(empty[:1], TISSUES, 32, seed=0), 4, 0, False)) == 1


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_decoded_patches_are_kept_only_if_those_of_all_workers_fit(
    patches: list[Patch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patch2tissue.data.datasets._CACHE_LIMIT", 2 * 3 * 32 * 32 * len(patches))
    reads: list[Path] = []

    def counted(path: Path) -> np.ndarray:
        reads.append(path)
        return read_image(path)

    monkeypatch.setattr("patch2tissue.data.datasets.read_image", counted)
    found = {}
    for workers in (0, 2, 3):
        dataset = TrainingPatches(patches, TISSUES, 32, seed=3)
        training_loader(dataset, 5, workers, pin_memory=False)  # says how many will read
        reads.clear()
        for _ in range(2):
            dataset[0, 1]
        found[workers] = len(reads)
    assert found == {0: 1, 2: 1, 3: 2}


def test_reading_ahead_gives_the_same_batches_and_leaves_the_threads_alone(patches: list[Patch]) -> None:
    loader = training_loader(TrainingPatches(patches, TISSUES, 32, seed=3, stain=0.1), 5, 0, pin_memory=False)
    plain, threads = list(loader), torch.get_num_threads()
    ahead = list(read_ahead(loader))
    assert torch.get_num_threads() == threads
    assert len(ahead) == len(plain) == 3
    assert all(torch.equal(a[key], b[key]) for a, b in zip(plain, ahead, strict=True) for key in a)


def test_reading_ahead_tells_of_a_bad_picture_and_can_be_left(patches: list[Patch]) -> None:
    patches[3].path.write_bytes(b"no picture")
    loader = training_loader(TrainingPatches(patches, TISSUES, 32, seed=3), 2, 0, pin_memory=False)
    with pytest.raises(DataError, match="cannot be read as an image"):
        list(read_ahead(loader))
    threads = threading.active_count()
    batches = read_ahead(training_loader(TrainingPatches(patches[:3], TISSUES, 32, seed=3), 1, 0, pin_memory=False))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads
