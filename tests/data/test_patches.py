from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patch2tissue.data.layouts import load_split
from patch2tissue.data.patches import Patch, PatchFiles, stem_of
from patch2tissue.tissues import load_tissue_set

NAME = "TCGA-A1-A0SK-DX1_xmin{}_ymin25055_MPP-0.2500+0[1101]"


@given(st.text(st.characters(blacklist_characters="/\\\0:", blacklist_categories=("Cs",)), min_size=1))
def test_stem_is_that_of_a_path(file: str) -> None:
    if not file.endswith("."):  # of which versions of Python think differently, and no picture is called so
        assert stem_of(file) == Path(file).stem


def test_a_patch_gives_back_what_it_was_given() -> None:
    mask = Path("data/train/mask/a.b.png")
    for path, name, of in (
        (Path("data/train/a.b.png"), "a.b", mask),
        (Path("/data/a.tif"), "another name", mask),
        (Path("a.png"), "a", None),
    ):
        patch = Patch(path, name, (1, 0), of, "patient", "slide")
        assert (patch.path, patch.name, patch.mask, patch.labels) == (path, name, of, (1, 0))
        assert (patch.patient, patch.slide) == ("patient", "slide")
        again = pickle.loads(pickle.dumps(patch))  # data-loading processes are handed patches so
        assert again == patch and hash(again) == hash(patch) and again != Patch(path, name, (0, 1), of)
        with pytest.raises(FrozenInstanceError):
            patch.labels = (1, 1)  # type: ignore[misc]
    assert Patch.in_folder("data/train", "a.b.png", (1,), mask) == Patch(Path("data/train/a.b.png"), "a.b", (1,), mask)


def test_files_of_patches_are_named_after_them() -> None:
    patches = [Patch(Path(f"{name}.jpg"), name) for name in "abc"]
    files = PatchFiles(Path("masks"), patches)
    assert list(files) == [Path("masks/a.png"), Path("masks/b.png"), Path("masks/c.png")]
    assert files[-1] == Path("masks/c.png") and list(files[1:]) == list(files)[1:] and len(files) == 3


def test_ten_thousand_patches_take_little_memory(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    (folder / "mask").mkdir(parents=True)
    count = 10_000
    for number in range(count):
        (folder / f"{NAME.format(number)}.png").touch()
    tissues = load_tissue_set("bcss-wsss")
    found = []
    for _ in range(2):  # in one of them Python may enlarge its table of known texts
        tracemalloc.start()
        try:
            patches = load_split(tmp_path, "train", tissues)
            found.append(tracemalloc.get_traced_memory())
        finally:
            tracemalloc.stop()
        assert len(patches) == count and patches[0].labels == (1, 1, 0, 1)
        del patches
    # a file's name of 60 letters is 110 bytes of it
    assert min(held for held, _ in found) < 320 * count
    assert min(peak for _, peak in found) < 640 * count
