from __future__ import annotations

import csv
import json
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patch2tissue.data import regions
from patch2tissue.data.images import read_image, read_mask, write_mask
from patch2tissue.data.layouts import load_images_and_masks, load_split
from patch2tissue.data.regions import cut_regions, positions, tissue_shares
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.tissues import Tissue, TissueSet, load_tissue_set

GLAS = load_tissue_set("glas")
WSSS = load_tissue_set("wsss4luad")
RNG = np.random.default_rng(5)


def put(folder: Path, name: str, mask: np.ndarray, tissues: TissueSet = GLAS, extension: str = "png") -> np.ndarray:
    """Write a random image with this mask; return the image."""
    image = RNG.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    (folder / "img").mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / "img" / f"{name}.{extension}")
    write_mask(folder / "mask" / f"{name}.png", mask, tissues)
    return image


@given(length=st.integers(1, 400), size=st.integers(1, 200), stride=st.integers(1, 200))
def test_positions_cover_the_side(length: int, size: int, stride: int) -> None:
    found = positions(length, size, stride)
    assert found == sorted(set(found))
    assert found[0] == 0
    if length > size:
        assert found[-1] == length - size
        assert all(b - a <= stride for a, b in pairwise(found))
        assert len(found) == 1 + -(-(length - size) // stride)
    else:
        assert found == [0]


def test_shares_are_of_all_pixels() -> None:
    assert tissue_shares(np.array([[0, 1], [1, 255]], np.uint8), 3) == (0.25, 0.5, 0.0)


def test_patches_and_labels_are_what_a_slow_reading_of_the_mask_gives(tmp_path: Path) -> None:
    mask = RNG.choice([0, 1, 2, 255], (50, 70), p=[0.55, 0.3, 0.05, 0.1]).astype(np.uint8)
    mask[:24, :24] = 255
    image = put(tmp_path / "in" / "train", "case", mask, WSSS)
    summary = cut_regions(tmp_path / "in", tmp_path / "out", WSSS, size=24, stride=20, least_share=0.06)
    expected = {}
    skipped = 0
    for y in (0, 20, 26):
        for x in (0, 20, 40, 46):
            window = mask[y : y + 24, x : x + 24]
            labels = tuple(int((window == k).sum() / 576 >= 0.06) for k in range(3))
            if any(labels):
                expected[f"case_x{x:06d}_y{y:06d}_mpp1-[{' '.join(map(str, labels))}]"] = (x, y, labels)
            else:
                skipped += 1
    assert skipped >= 1
    assert summary.skipped == skipped
    assert {patch.name: (patch.x, patch.y, patch.labels) for patch in summary.patches} == expected

    patches = load_split(tmp_path / "out", "train", WSSS)
    assert {patch.name: patch.labels for patch in patches} == {name: entry[2] for name, entry in expected.items()}
    for patch in patches:
        x, y, _ = expected[patch.name]
        assert np.array_equal(read_image(patch.path), image[y : y + 24, x : x + 24])
        assert patch.mask is not None
        assert np.array_equal(read_mask(patch.mask, WSSS), mask[y : y + 24, x : x + 24])
        assert (patch.patient, patch.slide) == (None, "case")
        with Image.open(patch.mask) as written:
            assert written.mode == "P"

    with (tmp_path / "out" / "patches.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == sorted(expected)
    for row in rows:
        x, y, labels = expected[row["name"]]
        assert (row["source"], int(row["x"]), int(row["y"]), int(row["size"])) == ("case.png", x, y, 24)
        window = mask[y : y + 24, x : x + 24]
        for k, name in enumerate(WSSS.names):
            assert int(row[name]) == labels[k]
            assert float(row[f"{name} share"]) == pytest.approx((window == k).mean(), abs=1e-4)
    record = json.loads((tmp_path / "out" / "patches.json").read_text())
    assert record["least_share"] == 0.06
    assert (record["size"], record["stride"], record["skipped"]) == (24, 20, skipped)
    assert record["tissues"] == WSSS.to_dict()


def test_small_images_are_padded_with_white_that_is_not_scored(tmp_path: Path) -> None:
    image = put(tmp_path / "in" / "train", "small", np.ones((10, 14), np.uint8))
    cut_regions(tmp_path / "in", tmp_path / "out", GLAS, size=16, stride=16)
    (patch,) = load_split(tmp_path / "out", "train", GLAS)
    read = read_image(patch.path)
    assert read.shape == (16, 16, 3)
    assert np.array_equal(read[:10, :14], image)
    assert (read[10:] == 255).all()
    assert (read[:, 14:] == 255).all()
    assert patch.mask is not None
    assert (read_mask(patch.mask, GLAS) == 255).sum() == 256 - 140


def test_val_and_test_stay_whole(tmp_path: Path) -> None:
    put(tmp_path / "in" / "train", "a", np.zeros((30, 30), np.uint8))
    masks = {split: RNG.integers(0, 2, (40, 50), dtype=np.uint8) for split in ("val", "test")}
    images = {split: put(tmp_path / "in" / split, f"{split}_1", mask) for split, mask in masks.items()}
    seen: list[tuple[int, int]] = []
    cut_regions(
        tmp_path / "in",
        tmp_path / "out",
        GLAS,
        size=16,
        stride=16,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for split in ("val", "test"):
        (patch,) = load_images_and_masks(tmp_path / "out" / split, GLAS)
        assert patch.path == tmp_path / "out" / split / "img" / f"{split}_1.png"
        assert patch.mask is not None
        assert np.array_equal(read_image(patch.path), images[split])
        assert np.array_equal(read_mask(patch.mask, GLAS), masks[split])


def test_a_set_of_unknown_resolution_has_none_in_its_names(tmp_path: Path) -> None:
    tissues = TissueSet("two", (Tissue("a", "A", (9, 0, 0)), Tissue("b", "B", (0, 9, 0))))
    put(tmp_path / "in" / "train", "r", np.zeros((8, 8), np.uint8), tissues)
    (patch,) = cut_regions(tmp_path / "in", tmp_path / "out", tissues, size=8, stride=8).patches
    assert patch.name == "r_x000000_y000000-[1 0]"


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        put(tmp_path / "in" / "train", name, RNG.integers(0, 2, (40, 40), dtype=np.uint8))
    contents = []
    for out in (tmp_path / "one", tmp_path / "two"):
        cut_regions(tmp_path / "in", out, GLAS, size=16, stride=8)
        contents.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2 * 3 * 16 + 2


@pytest.mark.parametrize(
    ("options", "says"),
    [({"size": 0}, "size 0"), ({"stride": 0}, "stride 0"), ({"least_share": 1.5}, "least share 1.5")],
)
def test_senseless_settings(tmp_path: Path, options: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        cut_regions(tmp_path, tmp_path / "out", GLAS, **{"size": 8, "stride": 8, **options})


def _nothing(root: Path) -> None:
    (root / "val" / "img").mkdir(parents=True)
    put(root / "val", "v", np.zeros((8, 8), np.uint8))


def _empty(root: Path) -> None:
    (root / "train" / "img").mkdir(parents=True)


def _no_mask(root: Path) -> None:
    put(root / "train", "a", np.zeros((8, 8), np.uint8))
    put(root / "train", "b", np.zeros((8, 8), np.uint8))
    (root / "train" / "mask" / "b.png").unlink()


def _other_size(root: Path) -> None:
    put(root / "train", "a", np.zeros((8, 8), np.uint8))
    write_mask(root / "train" / "mask" / "a.png", np.zeros((8, 9), np.uint8), GLAS)


def _bad_index(root: Path) -> None:
    put(root / "train", "a", np.zeros((8, 8), np.uint8))
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(root / "train" / "mask" / "a.png")


def _twice(root: Path) -> None:
    put(root / "train", "a", np.zeros((8, 8), np.uint8))
    put(root / "train", "a", np.zeros((8, 8), np.uint8), extension="jpg")


def _no_tissue(root: Path) -> None:
    put(root / "train", "a", np.full((8, 8), 255, np.uint8))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_nothing, "has no train/ folder"),
        (_empty, "train: holds no images"),
        (_no_mask, "b.png: has no mask of the same name"),
        (_other_size, "a.png: is 9×8 px, but its image is 8×8 px"),
        (_bad_index, "a.png: holds the mask index 7"),
        (_twice, "a.png: differs from a.jpg only in its extension"),
        (_no_tissue, "train: no patch holds 5% of any tissue"),
    ],
)
def test_unusable_sources_are_named_and_leave_nothing_behind(tmp_path: Path, make, says: str) -> None:
    make(tmp_path / "in")
    with pytest.raises(DataError) as raised:
        cut_regions(tmp_path / "in", tmp_path / "made" / "out", GLAS, size=8, stride=8)
    assert says in str(raised.value)
    assert not (tmp_path / "made").exists() or list((tmp_path / "made").iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path / "in" / "train", "a", np.zeros((8, 8), np.uint8))
    out = tmp_path / "out"
    out.mkdir()
    cut_regions(tmp_path / "in", out, GLAS, size=8, stride=8)  # an empty one is used
    before = sorted(out.rglob("*"))
    with pytest.raises(DataError, match="out: is there already and not empty"):
        cut_regions(tmp_path / "in", out, GLAS, size=4, stride=4)
    assert sorted(out.rglob("*")) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: is there already"):
        cut_regions(tmp_path / "in", tmp_path / "file", GLAS, size=8, stride=8)


def test_an_interruption_leaves_nothing_and_stops_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        put(tmp_path / "in" / "train", str(number), np.zeros((8, 8), np.uint8))
    started: list[Path] = []
    original = regions._read_pair
    monkeypatch.setattr(regions.os, "cpu_count", lambda: 1)
    released = threading.Event()

    def read(image: Path, mask: Path, tissues: TissueSet):
        started.append(image)
        if len(started) > 1:
            released.wait(10)
        return original(image, mask, tissues)

    def interrupt(done: int, total: int) -> None:
        released.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(regions, "_read_pair", read)
    with pytest.raises(KeyboardInterrupt):
        cut_regions(tmp_path / "in", tmp_path / "out", GLAS, size=8, stride=8, progress=interrupt)
    assert len(started) < 40
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(("folder", "tissues"), [("glas", GLAS), ("luad", WSSS)])
def test_real_regions(tmp_path: Path, shared_data: Path, folder: str, tissues: TissueSet) -> None:
    source = tmp_path / "in"
    for split, count in (("train", 4), ("val", 1)):
        images = sorted((shared_data / folder / split / "img").iterdir())[:count]
        for kind in ("img", "mask"):
            (source / split / kind).mkdir(parents=True)
        for image in images:
            (source / split / "img" / image.name).symlink_to(image)
            mask = f"{image.stem}.png"
            (source / split / "mask" / mask).symlink_to(shared_data / folder / split / "mask" / mask)
    summary = cut_regions(source, tmp_path / "out", tissues, size=112, stride=112)
    patches = load_split(tmp_path / "out", "train", tissues)
    assert len(patches) == len(summary.patches) > 8
    for patch in patches:
        assert patch.mask is not None
        shares = tissue_shares(read_mask(patch.mask, tissues), len(tissues))
        assert patch.labels == tuple(int(share >= 0.05) for share in shares)
    (whole,) = load_images_and_masks(tmp_path / "out" / "val", tissues)
    original = sorted((shared_data / folder / "val" / "img").iterdir())[0]
    assert np.array_equal(read_image(whole.path), read_image(original))
