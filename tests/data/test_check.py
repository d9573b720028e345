from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patch2tissue.data.check import DataReport, check_data
from patch2tissue.data.images import write_mask
from patch2tissue.data.layouts import load_split
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.tissues import load_tissue_set

GLAS = load_tissue_set("glas")
SIDE = 12
_RNG = np.random.default_rng(11)


def put(path: Path, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """Write an image that is unlike any other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def put_mask(path: Path, *values: int) -> Path:
    """Write a mask whose columns are split between the values."""
    columns = np.array(values or (0, 1), np.uint8)[np.arange(SIDE) * len(values or (0, 1)) // SIDE]
    write_mask(path, np.tile(columns, (SIDE, 1)), GLAS)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small data set in order."""
    folder = tmp_path / "set"
    for number in range(3):
        for patient, label in ((1000001, "1 0"), (1000002, "0 1"), (1000003, "1 1")):
            put(folder / "train" / f"{patient}-{number}-7-[{label}].png")
    for split, patient in (("val", 2000001), ("test", 2000002)):
        for number in range(2):
            put(folder / split / "img" / f"{patient}-{number}-7.png")
            put_mask(folder / split / "mask" / f"{patient}-{number}-7.png")
    return folder


def lines(report: DataReport, level: str = "error") -> list[str]:
    return [str(problem) for problem in report.problems if problem.level == level]


FIRST = "train/1000001-0-7-[1 0].png"


def test_a_set_in_order(root: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = check_data(root, GLAS, progress=lambda done, total: seen.append((done, total)))
    assert (report.clean, report.problems, report.layout) == (True, [], "luad-histoseg")
    assert seen == [(k, 13) for k in range(1, 14)]
    train, test = report.splits["train"], report.splits["test"]
    assert (train.images, train.labelled, train.masks, train.patients) == (9, 9, 0, 3)
    assert train.per_tissue == {"gland": 6, "surrounding tissue": 6}
    assert train.per_label == {"gland": 3, "surrounding tissue": 3, "gland + surrounding tissue": 3}
    assert train.sizes == {"12×12": 9}
    assert train.pixels == {}
    assert (test.images, test.labelled, test.masks) == (2, 0, 2)
    assert test.pixels == {"gland": 144, "surrounding tissue": 144, "not scored": 0}
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["clean"] is True
    assert plain["splits"]["train"]["per_tissue"]["gland"] == 6


# each maker spoils the set; the message names the file


def _truncated(root: Path) -> None:
    content = (root / FIRST).read_bytes()
    (root / FIRST).write_bytes(content[: len(content) // 2])


def _empty(root: Path) -> None:
    (root / FIRST).write_bytes(b"")


def _text(root: Path) -> None:
    (root / FIRST).write_text("no picture")


def _long_label(root: Path) -> None:
    put(root / "train" / "1000001-9-7-[1 0 1].png")


def _other_digits(root: Path) -> None:
    put(root / "train" / "1000001-9-7-[1 2].png")


def _no_label(root: Path) -> None:
    put(root / "train" / "1000001-9-7.png")


def _no_tissue(root: Path) -> None:
    put(root / "train" / "1000001-9-7-[0 0].png")


def _mask_size(root: Path) -> None:
    write_mask(root / "test" / "mask" / "2000002-0-7.png", np.zeros((SIDE, SIDE + 1), np.uint8), GLAS)


def _mask_index(root: Path) -> None:
    Image.fromarray(np.full((SIDE, SIDE), 7, np.uint8)).save(root / "test" / "mask" / "2000002-0-7.png")


def _mask_colour(root: Path) -> None:
    Image.new("RGB", (SIDE, SIDE), (1, 2, 3)).save(root / "test" / "mask" / "2000002-0-7.png")


def _mask_damaged(root: Path) -> None:
    (root / "test" / "mask" / "2000002-0-7.png").write_bytes(b"\x89PNG\r\n\x1a\n")


def _mask_alone(root: Path) -> None:
    put_mask(root / "val" / "mask" / "extra.png")


def _image_alone(root: Path) -> None:
    put(root / "val" / "img" / "2000001-8-7.png")


def _no_masks(root: Path) -> None:
    for path in (root / "val" / "mask").iterdir():
        path.unlink()


def _same_stem(root: Path) -> None:
    put((root / FIRST).with_suffix(".tif"))


def _same_mask_stem(root: Path) -> None:
    put_mask(root / "val" / "mask" / "2000001-0-7.tif")


def _name_in_two_splits(root: Path) -> None:
    put(root / "val" / "img" / "plain.png")
    put_mask(root / "val" / "mask" / "plain.png")
    put(root / "test" / "img" / "plain.png")
    put_mask(root / "test" / "mask" / "plain.png")


def _picture_in_two_splits(root: Path) -> None:
    # in another format, so that the bytes differ
    Image.open(root / FIRST).save(root / "test" / "img" / "copy.tif")
    put_mask(root / "test" / "mask" / "copy.png")


def _patient_in_two_splits(root: Path) -> None:
    put(root / "test" / "img" / "1000001-99-7.png")
    put_mask(root / "test" / "mask" / "1000001-99-7.png")


def _region_in_two_splits(root: Path) -> None:
    put(root / "train" / "case_7_x000000_y000000-[1 0].png")
    put(root / "val" / "img" / "case_7.png")
    put_mask(root / "val" / "mask" / "case_7.png")


def _never(root: Path) -> None:
    for path in (root / "train").iterdir():
        if not path.stem.endswith("[1 0]"):
            path.unlink()


def _no_images(root: Path) -> None:
    for path in (root / "test" / "img").iterdir():
        path.unlink()


def _no_train(root: Path) -> None:
    (root / "train").rename(root / "elsewhere")


ERRORS: list[tuple[Callable[[Path], None], list[str]]] = [
    (_truncated, [f"{FIRST}: cannot be read as an image"]),
    (_empty, [f"{FIRST}: is empty (0 bytes)"]),
    (_text, [f"{FIRST}: cannot be read as an image (it is damaged or of a format that is not known"]),
    (_long_label, ["train/1000001-9-7-[1 0 1].png: its label has 3 digits, but the tissue set 'glas' has 2 tissues"]),
    (_other_digits, ["train/1000001-9-7-[1 2].png: its label holds a 2"]),
    (_no_label, ["train/1000001-9-7.png: its name carries no label in the form of luad-histoseg"]),
    (_no_tissue, ["train/1000001-9-7-[0 0].png: its label holds no tissue"]),
    (_mask_size, ["test/mask/2000002-0-7.png: is 13×12 px, but its image is 12×12 px"]),
    (_mask_index, ["test/mask/2000002-0-7.png: holds the mask index 7"]),
    (_mask_colour, ["test/mask/2000002-0-7.png: holds the colour (1, 2, 3)"]),
    (_mask_damaged, ["test/mask/2000002-0-7.png: cannot be read as an image"]),
    (_mask_alone, ["val/mask/extra.png: there is no image of the same name"]),
    (_image_alone, ["val/img/2000001-8-7.png: has no mask of the same name in val/mask/"]),
    (_no_masks, ["val: none of its 2 images has a mask in val/mask/ to score with"]),
    (_same_stem, ["train/1000001-0-7-[1 0].tif: is called like train/1000001-0-7-[1 0].png"]),
    (_same_mask_stem, ["val/mask/2000001-0-7.tif: is called like val/mask/2000001-0-7.png"]),
    (_name_in_two_splits, ["test/img/plain.png: has the name of val/img/plain.png"]),
    (_picture_in_two_splits, [f"test/img/copy.tif: is the same picture as {FIRST}, so that test is not independent"]),
    (
        _patient_in_two_splits,
        ["test/img/1000001-99-7.png: patient 1000001 is in train (3 images) and in test (1)"],
    ),
    (_region_in_two_splits, ["val/img/case_7.png: slide case_7 is in train (1 image) and in val (1)"]),
    (_never, ["train: no patch is labelled 'surrounding tissue'"]),
    (
        _no_images,
        [
            "test/mask/2000002-0-7.png: there is no image of the same name",
            "test/mask/2000002-1-7.png: there is no image of the same name",
            "test: holds no images",
        ],
    ),
    (_no_train, ["train: there is no such folder, so there is nothing to train on"]),
]


@pytest.mark.parametrize(("spoil", "expected"), ERRORS, ids=[spoil.__name__.strip("_") for spoil, _ in ERRORS])
def test_every_bad_file_is_named_with_the_reason(
    root: Path, spoil: Callable[[Path], None], expected: list[str]
) -> None:
    spoil(root)
    report = check_data(root, GLAS, workers=2)
    found = lines(report)
    assert len(found) == len(expected), found
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)
    assert not report.clean
    assert report.to_dict()["errors"] == len(expected)


def test_all_that_is_wrong_is_found_at_once(root: Path) -> None:
    for spoil in (_truncated, _long_label, _no_tissue, _mask_index, _mask_alone, _image_alone, _same_stem):
        spoil(root)
    assert len(lines(check_data(root, GLAS))) == 7


def test_what_training_refuses_is_an_error_here(root: Path) -> None:
    for spoil in (_long_label, _no_label, _no_tissue, _same_stem):
        copy = root.parent / spoil.__name__
        for path in (root / "train").iterdir():
            put(copy / "train" / path.name)
        spoil(copy)
        with pytest.raises(DataError):
            load_split(copy, "train", GLAS)
        assert not check_data(copy, GLAS).clean


def test_names_without_any_label_are_said_once(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path / "train" / f"{number}.png")
    (line,) = lines(check_data(tmp_path, GLAS))
    assert line.startswith("train: no file name carries a label (first: 0.png)")
    assert "patch2tissue patches" not in line
    put_mask(tmp_path / "train" / "mask" / "0.png")
    assert "can be cut into labelled patches by `patch2tissue patches`" in lines(check_data(tmp_path, GLAS))[0]


# warnings


def _contradiction(root: Path) -> None:
    for path in list((root / "train").iterdir()):
        put_mask(root / "train" / "mask" / path.name, *(k for k in (0, 1) if path.stem[-4:-1].split()[k] == "1"))
    put_mask(root / "train" / "mask" / Path(FIRST).name, 1)


def _some_masks(root: Path) -> None:
    put_mask(root / "train" / "mask" / Path(FIRST).name, 0)


def _empty_mask(root: Path) -> None:
    put_mask(root / "test" / "mask" / "2000002-0-7.png", 255)


def _always(root: Path) -> None:
    for path in list((root / "train").iterdir()):
        if path.stem.endswith("[0 1]"):
            path.unlink()


def _sizes(root: Path) -> None:
    put(root / "train" / "1000001-9-7-[1 0].png", (SIDE, SIDE + 4))


def _picture_twice(root: Path) -> None:
    (root / "train" / "1000001-9-7-[1 0].png").write_bytes((root / FIRST).read_bytes())


def _blank(root: Path) -> None:
    # blank patches are alike without being copies
    for split in ("train", "test/img"):
        name = "1000001-9-7-[1 0].png" if split == "train" else "2000002-0-7.png"
        Image.new("RGB", (SIDE, SIDE), (255, 255, 255)).save(root / split / name)


def _patient_in_val_and_test(root: Path) -> None:
    put(root / "test" / "img" / "2000001-99-7.png")
    put_mask(root / "test" / "mask" / "2000001-99-7.png")


def _beside(root: Path) -> None:
    put(root / "val" / "loose.png")


def _other_files(root: Path) -> None:
    (root / "train" / "a.svs").write_bytes(b"")
    (root / "train" / "notes.txt").write_text("")
    (root / "train" / ".DS_Store").write_bytes(b"")


WARNINGS: list[tuple[Callable[[Path], None], list[str]]] = [
    (
        _contradiction,
        [
            f"{FIRST}: is labelled 'gland', but its mask holds none",
            f"{FIRST}: is not labelled 'surrounding tissue', but that is 100% of its mask",
        ],
    ),
    (_some_masks, ["train/mask: 8 of 9 images have no mask, for example 1000001-1-7-[1 0].png"]),
    (_empty_mask, ["test/mask/2000002-0-7.png: holds no tissue, only what is not scored"]),
    (_always, ["train: every patch is labelled 'gland'"]),
    (_sizes, ["train: images have 2 sizes (most 12×12 px, but for example 1000001-9-7-[1 0].png not)"]),
    (_picture_twice, [f"train/1000001-9-7-[1 0].png: is the same picture as {FIRST}."]),
    (_blank, ["train/1000001-9-7-[1 0].png: has a single colour", "test/img/2000002-0-7.png: has a single colour"]),
    (_patient_in_val_and_test, ["test/img/2000001-99-7.png: patient 2000001 is in val (2 images) and in test (1)"]),
    (_beside, ["val: 1 images lie beside img/ and are not read, for example loose.png"]),
    (_other_files, ["train: 1 files with the extension '.svs' are not read"]),
]


@pytest.mark.parametrize(("spoil", "expected"), WARNINGS, ids=[spoil.__name__.strip("_") for spoil, _ in WARNINGS])
def test_what_is_worth_a_look_is_a_warning(root: Path, spoil: Callable[[Path], None], expected: list[str]) -> None:
    spoil(root)
    report = check_data(root, GLAS)
    found = lines(report, "warning")
    assert len(found) == len(expected), found
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)
    assert report.clean
    assert [problem.level for problem in report.problems] == ["warning"] * len(expected)


def test_a_small_piece_that_is_not_labelled_is_no_contradiction(root: Path) -> None:
    for path in list((root / "train").iterdir()):
        put_mask(root / "train" / "mask" / path.name, *(k for k in (0, 1) if path.stem[-4:-1].split()[k] == "1"))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[0, :7] = 1  # 7 of 144 pixels
    write_mask(root / "train" / "mask" / Path(FIRST).name, mask, GLAS)
    assert check_data(root, GLAS).problems == []
    mask[0, :8] = 1
    write_mask(root / "train" / "mask" / Path(FIRST).name, mask, GLAS)
    assert [problem.kind for problem in check_data(root, GLAS).warnings] == ["contradiction"]


# labels.csv


def test_a_table_is_checked_line_by_line(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "unlisted"):
        put(tmp_path / "train" / f"{name}.png")
    put(tmp_path / "test" / "img" / "t.png")
    put_mask(tmp_path / "test" / "mask" / "t.png")
    (tmp_path / "labels.csv").write_text(
        "path,gland,SUR\ntrain/a.png,1,0\ntrain/b.png,0,1\ntrain/c.png,0,0\ntrain/absent.png,1,1\ntrain/d.png,yes,1\n"
        "test/img/t.png,1,1\ntest/img/gone.png,1,1\n"
    )
    report = check_data(tmp_path, GLAS)
    assert report.layout == "csv"
    assert [line.split(": ")[0] for line in lines(report)] == [
        "labels.csv",
        "train/absent.png",
        "train/c.png",
        "test/img/gone.png",
    ]
    assert "line 6: 'yes' is not a label" in lines(report)[0]
    assert lines(report, "warning") == ["train/unlisted.png: is not listed in labels.csv, so it is not trained on."]
    assert report.splits["train"].images == 3
    assert report.splits["test"].per_tissue == {"gland": 1, "surrounding tissue": 1}


def test_a_table_with_a_wrong_first_line(tmp_path: Path) -> None:
    put(tmp_path / "train" / "a.png")
    (tmp_path / "labels.csv").write_text("path,gland\na.png,1\n")
    (line,) = lines(check_data(tmp_path, GLAS))
    assert line.startswith("labels.csv: line 1: has no column for the tissue 'surrounding tissue'")


def test_images_anywhere(tmp_path: Path) -> None:
    for name, label in (("a", "1,0"), ("b", "0,1")):
        put(tmp_path / "images" / f"{name}.png")
        with (tmp_path / "labels.csv").open("a") as file:
            file.write(("path,gland,SUR\n" if name == "a" else "") + f"images/{name}.png,{label}\n")
    report = check_data(tmp_path, GLAS)
    assert report.problems == []
    assert report.splits["train"].images == 2


def test_a_named_layout_and_folders_that_are_no_data_set(root: Path, tmp_path: Path) -> None:
    assert check_data(root, GLAS, "luad-histoseg").clean
    (line,) = lines(check_data(root, GLAS, "bcss-wsss"))
    assert line.startswith(
        "train: no file name carries a label in the form of bcss-wsss (first: 1000001-0-7-[1 0].png)"
    )
    (line,) = lines(check_data(root, GLAS, "csv"))
    assert "there is no labels.csv" in line
    with pytest.raises(ConfigError, match="Unknown layout 'nonsense'"):
        check_data(root, GLAS, "nonsense")
    with pytest.raises(DataError, match="has none of the folders train/, val/ and test/"):
        check_data(tmp_path, GLAS)
    with pytest.raises(DataError, match="there is no such folder"):
        check_data(tmp_path / "absent", GLAS)


@pytest.mark.parametrize("layout", ["luad-histoseg", "bcss-wsss", "wsss4luad"])
def test_miniatures_of_the_public_sets_read(tmp_path: Path, fabricate: Callable[..., Path], layout: str) -> None:
    root = fabricate(tmp_path / "set", layout)
    report = check_data(root, load_tissue_set(layout))
    assert report.layout == layout
    # the miniature's patients are in all splits on purpose: there are only five
    assert {problem.kind for problem in report.errors} <= {"patient"}
    assert report.splits["train"].patients > 1


def test_real_images(tmp_path: Path, shared_data: Path) -> None:
    for kind in ("img", "mask"):
        (tmp_path / "val" / kind).mkdir(parents=True)
        for path in sorted((shared_data / "luad" / "val" / kind).iterdir())[:4]:
            (tmp_path / "val" / kind / path.name).symlink_to(path)
    report = check_data(tmp_path, load_tissue_set("wsss4luad"))
    assert [problem.file for problem in report.errors] == ["train"]
    assert report.splits["val"].masks == 4
    assert sum(report.splits["val"].pixels.values()) > 100_000
