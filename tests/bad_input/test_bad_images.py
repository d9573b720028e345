"""Broken and strange pictures and masks, given to each command that reads some."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.bad_input.bad_images import IMAGES, INDICES, MASKS, PICTURE, SMOOTH
from tests.bad_input.faults import Commands, Fault, unchanged

from patch2tissue.data.images import read_image, read_mask
from patch2tissue.errors import DataError
from patch2tissue.label_page.session import LabelSession
from patch2tissue.tissues import load_tissue_set
from patch2tissue.viewer.scenes import find_scenes
from patch2tissue.viewer.viewer import Viewer

TISSUES = load_tissue_set("bcss-wsss")
REFUSED = [fault for fault in IMAGES if not fault.accepted]
ACCEPTED = [fault for fault in IMAGES if fault.accepted]

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that an EPS of the corpus writes if it is run, in the working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here" / "canary"


def put(faults: list[Fault], folder: Path, label: str = "") -> dict[str, Fault]:
    """Make the bad files in a folder; with a label in their names if one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for fault in faults:
        stem, dot, ending = fault.file.rpartition(".")
        name = f"{stem}{label}{dot}{ending}"
        fault.make(folder / name)
        made[name] = fault
    return made


def test_check_tells_of_all_of_them_at_once(commands: Commands, data: Path, canary: Path) -> None:
    made = put(REFUSED, data / "train", "[1100]")
    with unchanged(data):
        outcome = commands("check", data, "--tissues", "bcss-wsss")
    assert outcome.code == 2
    for name, fault in made.items():
        assert f"error train/{name}: " in outcome.said
        assert all(words in outcome.said for words in fault.says), fault.name
    assert f"{len(made)} errors" in outcome.said
    assert not canary.exists()


def test_predict_does_the_others(commands: Commands, data: Path, canary: Path, whole_run: Path, tmp_path: Path) -> None:
    made = put(REFUSED, data / "test" / "img")
    out = tmp_path / "out"
    with unchanged(data, whole_run):
        outcome = commands("predict", whole_run, data / "test", "--out", out, "--no-overlay")
    assert outcome.code == 2 and f"{len(made)} of {len(made) + 2} images could not be read" in outcome.said
    for name, fault in made.items():
        assert name in outcome.said and all(words in outcome.said for words in fault.says), fault.name
    masks = {"t0_mask.png", "t1_mask.png"}
    assert {path.name for path in out.iterdir() if not path.name.endswith("_confidence.png")} == {
        *masks,
        "areas.csv",
        "images.csv",
    }
    assert not canary.exists()


def test_training_refuses_them_before_it_begins(commands: Commands, data: Path, canary: Path, recipe: Path) -> None:
    made = put(REFUSED, data / "train", "[1100]")
    with unchanged(data):
        outcome = commands("train", recipe)
    assert outcome.code == 2 and f"{len(made)} of {len(made) + 4}" in outcome.said
    assert sum(name in outcome.said for name in made) >= 5 and "patch2tissue check" in outcome.said
    assert not (recipe.parent / "run" / "craanet").exists()
    assert not canary.exists()


def test_strange_pictures_are_read(commands: Commands, data: Path, whole_run: Path, tmp_path: Path) -> None:
    made = put(ACCEPTED, data / "test" / "img")
    for name in made:
        Image.fromarray(INDICES).save((data / "test" / "mask" / name).with_suffix(".png"))
    with unchanged(data):
        commands.accepts("check", data, "--tissues", "bcss-wsss")
        commands.accepts("predict", whole_run, data / "test", "--out", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == len(made) + 2
    commands.accepts("evaluate", tmp_path / "out", data / "test" / "mask", "--tissues", "bcss-wsss")


@pytest.mark.parametrize("fault", ACCEPTED, ids=str)
def test_strange_pictures_hold_the_right_pixels(tmp_path: Path, fault: Fault) -> None:
    fault.make(tmp_path / fault.file)
    read = read_image(tmp_path / fault.file)
    if fault.name in ("grey", "GIF called .png"):
        assert np.array_equal(read, PICTURE[..., :1].repeat(3, axis=2))
    elif fault.name == "turned by EXIF":
        # as whoever looked at it through the camera saw it, and as all viewers of pictures show it
        assert np.array_equal(read, np.rot90(PICTURE, -1))
    elif fault.name == "CMYK":
        assert np.abs(read.astype(int) - SMOOTH).mean() < 4
    else:
        assert np.array_equal(read, PICTURE)


def test_pages_show_the_others(data: Path, tmp_path: Path) -> None:
    put(REFUSED, data / "train")
    session = LabelSession(data, TISSUES)
    try:
        for index, patch in enumerate(session.patches):
            try:
                shown, kind = session.picture(index)
            except DataError as error:
                assert Path(patch.path).name in str(error)
            else:
                with Image.open(io.BytesIO(shown)) as picture:
                    assert picture.size == (32, 32) and kind.startswith("image/")
    finally:
        session.close()
    viewer = Viewer(find_scenes([data / "test"]), TISSUES)
    try:
        for number in range(2):
            assert viewer.describe(number)["width"] == 32
    finally:
        viewer.close()


@pytest.mark.parametrize("fault", MASKS, ids=str)
def test_masks(commands: Commands, data: Path, tmp_path: Path, fault: Fault) -> None:
    (data / "test" / "mask" / "t0.png").unlink()
    path = data / "test" / "mask" / fault.file.replace("m.", "t0.")
    fault.make(path)
    for k in range(2):
        (tmp_path / "maps").mkdir(exist_ok=True)
        Image.fromarray(INDICES).save(tmp_path / "maps" / f"t{k}_mask.png")
    for arguments in (
        ("check", data, "--tissues", "bcss-wsss"),
        ("evaluate", tmp_path / "maps", data / "test" / "mask", "--tissues", "bcss-wsss"),
    ):
        with unchanged(data, tmp_path / "maps"):
            if fault.accepted:
                commands.accepts(*arguments)
            else:
                commands.refuses(fault, path, *arguments)
    if fault.accepted:
        assert np.array_equal(read_mask(path, TISSUES), INDICES)


def test_patches_are_cut_of_all_images_or_of_none(commands: Commands, tmp_path: Path) -> None:
    source, out = tmp_path / "source" / "train", tmp_path / "out"
    for part in ("img", "mask"):
        (source / part).mkdir(parents=True)
        Image.fromarray(PICTURE if part == "img" else INDICES).save(source / part / "good.png")
    for fault in (*REFUSED[::4], *(fault for fault in MASKS if not fault.accepted)):
        bad = [(source / part / fault.file).with_stem("bad") for part in ("img", "mask")]
        is_mask = fault.kind == "masks"
        fault.make(bad[is_mask])
        Image.fromarray(PICTURE if is_mask else INDICES).save(bad[not is_mask].with_suffix(".png"))
        with unchanged(source):
            commands.refuses(fault, bad[is_mask], "patches", source.parent, "--out", out, "--tissues", "bcss-wsss")
        assert {path.name for path in tmp_path.iterdir()} == {"source"}
        for path in source.glob("*/bad.*"):
            path.unlink()


def test_masks_that_training_was_asked_to_read_are_read_before_it_begins(
    commands: Commands, data: Path, recipe: Path
) -> None:
    supervised = ("train", recipe, "--set", "comparisons.full_supervision=true")
    validated = ("train", recipe, "--set", "selection=validation_masks")
    outcome = commands(*supervised)
    assert outcome.code == 2 and "needs a mask for every training patch; 4 have none" in outcome.said
    (data / "test").rename(data / "val")
    (data / "val" / "mask" / "t0.png").write_bytes(b"")
    for folder, arguments in ((data / "train", supervised), (data / "val", validated)):
        (folder / "mask").mkdir(exist_ok=True)
        for path in folder.glob("*.png"):
            Image.fromarray(INDICES[:16]).save(folder / "mask" / path.name)
        outcome = commands(*arguments)
        assert outcome.code == 2 and "patches cannot be read, so training is not begun" in outcome.said
        assert f"{folder / 'mask'}" in outcome.said and ("is 32×16 px" in outcome.said or "is empty" in outcome.said)
        (recipe.parent / "run" / "config.yaml").unlink()
    assert not (recipe.parent / "run" / "craanet").exists()
