"""From a place that is wrong to a label that is right."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from tests.labelling.folders import data_folder
from tests.slides.pictures import picture, write_tiled

from patch2tissue.errors import ConfigError, DataError
from patch2tissue.label_page.session import LabelSession
from patch2tissue.labelling.corrections import Corrections
from patch2tissue.labelling.exchange import export_table, unseen_by_training
from patch2tissue.labelling.pool import find_pool
from patch2tissue.labelling.store import DATABASE, Answer, Flag, LabelStore
from patch2tissue.slides.cut_tiles import TileSettings, cut_tiles
from patch2tissue.slides.opening import SlideFile, open_slide
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("bcss-wsss")
PATCH = "train/p03.png"


def answer(patch: str, labels: tuple[int, ...] = (1, 0, 0, 0), who: str = "Ada", **more: object) -> Answer:
    answer.count = getattr(answer, "count", 0) + 1  # type: ignore[attr-defined]
    return Answer(f"k{answer.count}", patch, who, "labelled", labels, **more)  # type: ignore[arg-type, attr-defined]


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / DATABASE, TISSUES)


# --- flags in the store -----------------------------------------------------------------------------------------------


def test_a_flag_is_open_until_it_is_answered(store: LabelStore) -> None:
    store.flag(Flag(PATCH, 0.25, 0.5))
    store.flag(Flag("train/p01.png", 0, 1))
    assert store.flags() == store.flags("Ada") == [Flag(PATCH, 0.25, 0.5), Flag("train/p01.png", 0, 1)]
    store.add([answer(PATCH)])
    assert [flag.patch for flag in store.flags()] == [flag.patch for flag in store.flags("Bob")] == ["train/p01.png"]
    store.undo("Ada")
    assert len(store.flags()) == 2


def test_those_who_answered_before_are_asked_again_and_others_are_not(store: LabelStore) -> None:
    store.add([answer(PATCH), answer(PATCH, who="Bob")])
    store.flag(Flag(PATCH, 0.5, 0.5))
    store.add([answer(PATCH, (0, 1, 0, 0))])
    assert store.flags() == store.flags("Ada") == store.flags("Cleo") == []
    assert store.flags("Bob") == [Flag(PATCH, 0.5, 0.5)]


def test_of_a_flagged_patch_only_answers_since_hold(store: LabelStore) -> None:
    store.add([answer(PATCH), answer(PATCH, who="Bob"), answer("train/p01.png", who="Bob")])
    store.flag(Flag(PATCH, 0.5, 0.5))
    # until somebody has answered, what was said before holds
    assert [one.labels for one in store.answers() if one.patch == PATCH] == [(1, 0, 0, 0)] * 2
    store.add([answer(PATCH, (0, 1, 0, 0))])
    assert [(one.annotator, one.labels) for one in store.answers() if one.patch == PATCH] == [("Ada", (0, 1, 0, 0))]
    assert [one.patch for one in store.answers("Bob")] == ["train/p01.png"]
    # an import is no answer to a flag
    store.flag(Flag("train/p01.png", 0.5, 0.5))
    store.add([answer("train/p01.png", who="table", chosen="import")])
    assert [flag.patch for flag in store.flags()] == ["train/p01.png"]


def test_a_flag_that_is_set_again_is_moved_and_can_be_taken_back(store: LabelStore) -> None:
    store.flag(Flag(PATCH, 0.1, 0.1))
    store.flag(Flag(PATCH, 0.9, 0.9))
    assert store.flags() == [Flag(PATCH, 0.9, 0.9)]
    assert store.withdraw(PATCH) and not store.withdraw(PATCH) and store.flags() == []
    store.flag(Flag(PATCH, 0.1, 0.1))
    store.add([answer(PATCH)])
    assert not store.withdraw(PATCH)  # it has done what it was for
    with pytest.raises(ConfigError, match="from 0 to 1"):
        store.flag(Flag(PATCH, 1.5, 0))


def test_a_database_made_before_there_were_flags(tmp_path: Path, store: LabelStore) -> None:
    store.add([answer(PATCH)])
    store._connection.execute("DROP TABLE flags")
    store.close()
    with LabelStore(tmp_path / DATABASE, TISSUES) as again:
        assert again.flags() == [] and len(again.answers()) == 1


# --- patches ----------------------------------------------------------------------------------------------------------


def labels_of(folder: Path) -> dict[str, list[str]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return {path: labels for path, *labels in list(csv.reader(file))[1:]}


@pytest.mark.parametrize("table", [False, True])
def test_a_correction_goes_into_the_table_beside_the_labels_there_were(tmp_path: Path, table: bool) -> None:
    folder = data_folder(tmp_path / "data", 6, labels=not table)
    names = sorted(f"train/{path.name}" for path in (folder / "train").iterdir())
    if table:
        rows = "\n".join(f"{name},{number % 2},1,0,0" for number, name in enumerate(names))
        (folder / "labels.csv").write_text(f"path,{','.join(TISSUES.names)}\n{rows}\n", encoding="utf-8")
    corrections = Corrections(folder, TISSUES)
    marked = corrections.flag_patch(folder / names[2], (24, 24), 6, 12)
    assert marked.patch == names[2] and marked.name == "p02" and marked.point == (6, 12)
    assert corrections.marks_on_patch(folder / names[2], (24, 24)) == [marked]
    assert corrections.marks_on_patch(folder / names[1], (24, 24)) == []
    session = LabelSession(folder, TISSUES)
    (asked,) = session.next("Ada", 1, [])
    assert (asked["name"], asked["chosen"], asked["flag"]) == ("p02", "flagged", [0.25, 0.5])
    assert asked["labels"] == [0, 0, 0, 0]  # what others said is judged, not copied
    kept = {"key": "a", "patch": asked["index"], "annotator": "Ada", "kind": "labelled", "chosen": asked["chosen"]}
    session.answer(kept | {"labels": [0, 0, 1, 1]})
    assert corrections.marks_on_patch(folder / names[2], (24, 24)) == []
    export_table(session.store, folder, session.patches)
    expected = {name: [str(number % 2), "1", "0", "0"] for number, name in enumerate(names)}
    assert labels_of(folder) == expected | {names[2]: ["0", "0", "1", "1"]}
    session.close()
    corrections.close()


def test_ones_own_answer_is_shown_again(tmp_path: Path) -> None:
    folder = data_folder(tmp_path / "data", 6)
    session = LabelSession(folder, TISSUES)
    session.store.add([answer(PATCH, (1, 1, 0, 0)), answer(PATCH, (0, 0, 0, 1), who="Bob")])
    with pytest.raises(DataError, match="is no patch to be labelled"):
        Corrections(folder, TISSUES).flag_patch(tmp_path / "p03.png", (24, 24), 1, 1)
    for place in [(-1, 2), (2, 25), (float("nan"), 2), (float("inf"), 2)]:
        with pytest.raises(DataError, match="there is nothing at"):
            Corrections(folder, TISSUES).flag_patch(folder / PATCH, (24, 24), *place)
    Corrections(folder, TISSUES).flag_patch(folder / PATCH, (24, 24), 1, 1)
    assert [session.next(who, 1, [])[0]["labels"] for who in ("Ada", "Bob")] == [[1, 1, 0, 0], [0, 0, 0, 1]]
    (asked,) = session.next("Ada", 1, [])
    plain = {"key": "x", "patch": asked["index"], "annotator": "Ada", "kind": "unsure", "chosen": "flagged"}
    session.answer(plain)
    assert session.next("Ada", 1, [])[0]["chosen"] == "order"
    back = session.undo("Ada")
    assert back is not None and back["flag"] == asked["flag"] and back["name"] == "p03"
    session.close()


# --- slides -----------------------------------------------------------------------------------------------------------

SETTINGS = TileSettings(size=100, stride=100, tissue="everywhere", sample=4)


@pytest.fixture
def cut(tmp_path: Path) -> tuple[Path, Path]:
    """A slide of 400 × 300 pixels and a data folder with four of its twelve tiles."""
    slide = write_tiled(tmp_path / "a.tif", picture(300, 400))
    cut_tiles([SlideFile(slide)], tmp_path / "data", SETTINGS)
    return slide, tmp_path / "data"


def test_a_place_on_a_slide_becomes_its_tile(cut: tuple[Path, Path]) -> None:
    path, folder = cut
    there = {patch.path: patch.place for patch in find_pool(folder)}
    assert len(there) == 4
    corrections = Corrections(folder, TISSUES)
    with open_slide(path) as slide:
        assert corrections.knows(slide)
        for name, place in there.items():
            assert place is not None
            marked = corrections.flag_place(slide, place.x + 30, place.y + 99)
            assert marked.patch == name and marked.box == (place.x, place.y, 100, 100)
        assert len(find_pool(folder)) == 4 and len(corrections.marks(slide)) == 4
        assert corrections.withdraw(name) and len(corrections.marks(slide)) == 3
        places = [(x, y) for x in range(0, 400, 100) for y in range(0, 300, 100)]
        x, y = next(at for at in places if at not in {(of.x, of.y) for of in there.values() if of})
        session = LabelSession(folder, TISSUES)  # began before there was this tile
        marked = corrections.flag_place(slide, x + 50, y + 25)
        assert marked.box == (x, y, 100, 100) and len(find_pool(folder)) == 5
        corrections.flag_place(slide, x + 60, y + 25)
        assert len(find_pool(folder)) == 5 and len(corrections.marks(slide)) == 4
        asked = session.next("Ada", 9, [])
        assert [one["chosen"] for one in asked] == ["flagged"] * 4 + ["order"]
        assert asked[3]["name"] == marked.name and asked[3]["flag"] == [0.6, 0.25]
        assert session.picture(asked[3]["index"])[1] == "image/png"
        session.close()
    corrections.close()


def test_a_slide_that_is_not_known(tmp_path: Path, cut: tuple[Path, Path]) -> None:
    other = write_tiled(tmp_path / "other.tif", picture(300, 400))
    with open_slide(other) as slide:
        # its tiles can be cut as those of the others
        assert Corrections(cut[1], TISSUES).knows(slide)
        assert not Corrections(data_folder(tmp_path / "plain"), TISSUES).knows(slide)
        with pytest.raises(DataError, match="was not cut with"):
            Corrections(tmp_path / "plain", TISSUES).flag_place(slide, 5, 5)
    with pytest.raises(DataError, match="holds no images"):
        Corrections(data_folder(tmp_path / "empty", 0), TISSUES)
    # labels of other tissues are not mixed up
    Corrections(cut[1], TISSUES).flag_patch(cut[1] / find_pool(cut[1])[0].path, (100, 100), 1, 1)
    luad = Corrections(cut[1], load_tissue_set("luad-histoseg"))
    with pytest.raises(DataError, match="holds labels of the tissues"):
        luad.marks_on_patch(cut[1] / find_pool(cut[1])[0].path, (100, 100))


# --- training ---------------------------------------------------------------------------------------------------------


def test_what_training_would_not_see_is_told(tmp_path: Path) -> None:
    folder = data_folder(tmp_path / "data", 6)
    assert unseen_by_training(folder, "auto") == []
    with LabelStore(folder / DATABASE, TISSUES) as store:
        store.add([answer("train/p00.png"), answer("train/p01.png"), replace(answer("train/p02.png"), chosen="import")])
        (told,) = unseen_by_training(folder, "auto")
        assert "labels.sqlite: 2 answers" in told and "labels export" in told
        pool = find_pool(folder)
        export_table(store, folder, pool, path=tmp_path / "elsewhere.csv")
        assert unseen_by_training(folder, "auto") == [told]
        export_table(store, folder, pool)
        assert unseen_by_training(folder, "auto") == unseen_by_training(folder, "csv") == []
        assert "data.layout=csv" in unseen_by_training(folder, "bcss-wsss")[0]
        store.add([answer("train/p03.png")])
        assert "1 answers" in unseen_by_training(folder, "csv")[0]
        store.undo("Ada")
        assert unseen_by_training(folder, "csv") == []
    (folder / DATABASE).write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"labels\.sqlite: cannot be used"):
        unseen_by_training(folder, "csv")
