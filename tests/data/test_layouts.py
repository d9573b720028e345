from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from patch2tissue.data.images import write_mask
from patch2tissue.data.labels_csv import scan_labels_csv
from patch2tissue.data.layouts import (
    detect_layout,
    image_files,
    load_images_and_masks,
    load_split,
    mask_files,
    read_labels_csv,
)
from patch2tissue.errors import DataError
from patch2tissue.tissues import Tissue, TissueSet, load_tissue_set

GLAS = load_tissue_set("glas")
LUAD = load_tissue_set("luad-histoseg")


def put(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return path


def put_mask(path: Path) -> Path:
    write_mask(path, np.zeros((8, 8), np.uint8), GLAS)
    return path


@pytest.mark.parametrize("layout", ["luad-histoseg", "bcss-wsss", "wsss4luad"])
def test_miniatures_of_the_public_sets(tmp_path: Path, fabricate: Callable[..., Path], layout: str) -> None:
    tissues = load_tissue_set(layout)
    root = fabricate(tmp_path / "set", layout, train=6, test=3)
    assert detect_layout(root / "train", tissues) == layout
    for named in ("auto", layout):
        train = load_split(root, "train", tissues, named)
        assert [patch.name for patch in train] == sorted(path.stem for path in (root / "train").glob("*.png"))
        for patch in train:
            assert patch.labels is not None
            assert str(patch.labels[0]) == patch.name[patch.name.index("[") + 1]
            assert (patch.mask, patch.patient is None) == (None, False)
        for split in ("val", "test"):
            patches = load_split(root, split, tissues, named)
            assert len(patches) == 3
            assert all(patch.mask is not None and patch.mask.stem == patch.name for patch in patches)


def test_images_lie_in_the_split_or_in_img_with_masks_of_any_extension(tmp_path: Path) -> None:
    for folder in (tmp_path / "a" / "train", tmp_path / "b" / "train" / "img"):
        for name in ("x-[1 0].png", "y-[0 1].JPG", "z-[1 1].tif"):
            put(folder / name)
        put(folder / ".hidden-[1 1].png")
        (folder / "notes.txt").write_text("no image")
    put_mask(tmp_path / "b" / "train" / "mask" / "x-[1 0].png")
    put_mask(tmp_path / "b" / "train" / "mask" / "z-[1 1].png")
    names = ["x-[1 0]", "y-[0 1]", "z-[1 1]"]
    assert [patch.name for patch in load_split(tmp_path / "a", "train", GLAS)] == names
    assert [patch.mask is not None for patch in load_split(tmp_path / "b", "train", GLAS)] == [True, False, True]
    assert len(image_files(tmp_path / "b" / "train" / "img")) == 3
    assert image_files(tmp_path / "absent") == []
    assert mask_files(tmp_path / "a" / "train") == {}


def test_unlabelled_names_in_val_are_fine_and_what_looks_like_a_label_is_none(tmp_path: Path) -> None:
    for name in ("plain.png", "scan[2023].png", "other-[1 0 1].png", "real-[1 0].png"):
        put(tmp_path / "val" / "img" / name)
    found = {patch.name: patch.labels for patch in load_split(tmp_path, "val", GLAS)}
    assert found == {"plain": None, "scan[2023]": None, "other-[1 0 1]": None, "real-[1 0]": (1, 0)}


@pytest.mark.parametrize(
    ("names", "layout", "says"),
    [
        ([], "auto", "holds no images"),
        (["a.txt"], "luad-histoseg", "holds no patches to train on"),
        (["a.png"], "auto", "no file name carries a label (first: a.png)"),
        (["a-[1 0].png", "b.png", "c.png"], "auto", "2 training patches carry no label, for example b.png, c.png"),
        (["a-[1 0].png", "b-[0 0].png"], "auto", "1 training patches have a label with no tissue, for example b-[0 0]"),
        (["a-[1 0 1].png"], "auto", "a-[1 0 1].png: its label has 3 digits"),
        (["a-[1 0].png", "a-[1 0].jpg"], "auto", "two images are called 'a-[1 0]'"),
        (["a-[1 0].png"], "csv", "layout is csv, but there is no labels.csv"),
        (["a-[1 0].png"], "nonsense", "Unknown layout 'nonsense'"),
    ],
)
def test_unusable_training_folders(tmp_path: Path, names: list[str], layout: str, says: str) -> None:
    (tmp_path / "train").mkdir()
    for name in names:
        if name.endswith("txt"):
            (tmp_path / "train" / name).write_text("")
        else:
            put(tmp_path / "train" / name)
    with pytest.raises(DataError) as raised:
        load_split(tmp_path, "train", GLAS, layout)
    assert says in str(raised.value)
    assert str(tmp_path) in str(raised.value) or layout == "nonsense"


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test: there is no such folder"):
        load_split(tmp_path, "test", GLAS)
    with pytest.raises(DataError, match=r"holds no images, neither directly nor in img/"):
        load_images_and_masks(tmp_path, GLAS)


def test_real_images_and_masks(shared_data: Path) -> None:
    patches = load_images_and_masks(shared_data / "glas" / "val", GLAS)
    assert len(patches) == 20
    assert all(patch.mask is not None and patch.labels is None for patch in patches)


# labels.csv


def test_a_table_of_the_whole_set(tmp_path: Path) -> None:
    for name in ("train/a.png", "train/b.png", "train/unlisted.png", "test/img/t.png", "test/img/unlisted.png"):
        put(tmp_path / name)
    put_mask(tmp_path / "test" / "mask" / "t.png")
    (tmp_path / "labels.csv").write_bytes(
        "\ufeffPath,SUR,Gland\r\ntrain\\a.png,0,1\r\n./train/b.png, 1 ,1\r\n\r\ntest/img/t.png,1,0\r\n".encode()
    )
    train = load_split(tmp_path, "train", GLAS)
    assert [(patch.name, patch.labels) for patch in train] == [("a", (1, 0)), ("b", (1, 1))]
    assert all(patch.path.is_file() for patch in train)
    test = load_split(tmp_path, "test", GLAS)
    # what is not in the table is still scored
    assert [(patch.name, patch.labels, patch.mask is None) for patch in test] == [
        ("t", (0, 1), False),
        ("unlisted", None, True),
    ]


def test_a_table_beside_the_patches_and_one_that_points_elsewhere(tmp_path: Path) -> None:
    put(tmp_path / "one" / "train" / "a.png")
    (tmp_path / "one" / "train" / "labels.csv").write_text("path;gland;surrounding tissue\na.png;1;0\n")
    assert [patch.labels for patch in load_split(tmp_path / "one", "train", GLAS)] == [(1, 0)]
    # no train folder; what lies in test is never trained on
    put(tmp_path / "images" / "a.png")
    put(tmp_path / "two" / "test" / "img" / "t.png")
    (tmp_path / "two" / "labels.csv").write_text(
        "path,gland,surrounding tissue\n../images/a.png,1,0\ntest/img/t.png,1,1\n"
    )
    assert [patch.name for patch in load_split(tmp_path / "two", "train", GLAS)] == ["a"]


HEADER = "path,gland,surrounding tissue\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty. The first line must be path,gland,surrounding tissue"),
        ("image,gland,SUR\n", "line 1: has no column 'path'"),
        ("path,gland\n", "line 1: has no column for the tissue 'surrounding tissue' (SUR)"),
        ("path,gland,GLA,SUR\n", "line 1: has two columns for the tissue 'gland'"),
        ("path,gland,SUR,fat\n", "line 1: the column 'fat' is no tissue of the set 'glas'"),
        (HEADER + "a.png,1\n", "line 2: has 2 values instead of 3"),
        (HEADER + "a.png,1,0\n\nb.png,1,yes\n", "line 4: 'yes' is not a label; write 0 or 1"),
        (HEADER + "a.png,1,2\n", "line 2: '2' is not a label"),
        (HEADER + "a.png,1,\n", "line 2: '' is not a label"),
        (HEADER + ",1,0\n", "line 2: has no path"),
        (HEADER + "a.png,1,0\nb.png,1,0\n./a.png,1,0\n", "line 4: './a.png' is listed twice (first in line 2)"),
        (HEADER + '"a.png,1,0\n', "is not valid CSV"),
        (HEADER + "a\0.png,1,0\n", "line 2: "),
    ],
)
def test_a_wrong_table_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(DataError) as raised:
        read_labels_csv(path, GLAS)
    assert str(raised.value).startswith(str(path))
    assert says in str(raised.value)


def test_all_wrong_lines_are_found_at_once(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(HEADER + "a.png,1,0\nb.png,1\nc.png,x,0\nd.png,0,1\n")
    labels, problems = scan_labels_csv(path, GLAS)
    assert list(labels) == [tmp_path / "a.png", tmp_path / "d.png"]
    assert [problem.split(": ")[0][-6:] for problem in problems] == ["line 3", "line 4"]


def test_a_listed_file_must_exist_and_text_must_be_utf8(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "labels.csv").write_text(HEADER + "train/absent.png,1,0\n")
    with pytest.raises(DataError, match=r"absent\.png: is listed in .*labels\.csv, but there is no such file"):
        load_split(tmp_path, "train", GLAS)
    (tmp_path / "labels.csv").write_bytes(HEADER.encode("utf-16"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        load_split(tmp_path, "train", GLAS)


def test_an_abbreviation_of_two_tissues_says_nothing(tmp_path: Path) -> None:
    tissues = TissueSet("t", (Tissue("stroma", "STR", (1, 0, 0)), Tissue("striated muscle", "STR", (2, 0, 0))))
    path = tmp_path / "labels.csv"
    path.write_text("path,STR,striated muscle\n")
    with pytest.raises(DataError, match="no column for the tissue 'stroma'"):
        read_labels_csv(path, tissues)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.dictionaries(
        st.from_regex(r"[a-z0-9 ,;'éµ]{1,8}\.png", fullmatch=True).filter(lambda name: name == name.strip()),
        st.tuples(*[st.integers(0, 1)] * 4),
        max_size=6,
    ),
    order=st.permutations(range(4)),
    delimiter=st.sampled_from(",;\t"),
)
def test_any_table_reads_back(
    tmp_path: Path, rows: dict[str, tuple[int, ...]], order: list[int], delimiter: str
) -> None:
    import csv

    path = tmp_path / "labels.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow([*(LUAD.names[k] for k in order), "path"])
        for name, labels in rows.items():
            writer.writerow([*(labels[k] for k in order), name])
    assert read_labels_csv(path, LUAD) == {tmp_path / name: labels for name, labels in rows.items()}
