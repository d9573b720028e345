"""Labels in and out, and the pool of patches."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tests.labelling.folders import data_folder

from patch2tissue.data.layouts import load_split
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.labelling.exchange import export_table, import_file_names, import_table
from patch2tissue.labelling.pool import Place, find_pool
from patch2tissue.labelling.store import Answer, LabelStore
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("luad-histoseg")


def store_of(folder: Path) -> LabelStore:
    return LabelStore(folder / "labels.sqlite", TISSUES)


def said(patch: str, annotator: str, labels: tuple[int, ...]) -> Answer:
    return Answer(f"{annotator}-{patch}", patch, annotator, "labelled", labels)


def test_what_is_exported_is_what_training_reads(tmp_path: Path) -> None:
    folder = data_folder(tmp_path / "data", 5)
    pool = find_pool(folder)
    with store_of(folder) as store:
        store.add([said(patch.path, "Ada", (1, 0, 0, k % 2)) for k, patch in enumerate(pool[:4])])
        store.add([said(pool[1].path, "Bea", (1, 0, 0, 0)), said(pool[2].path, "Bea", (1, 0, 0, 0))])
        store.add([Answer("x", pool[3].path, "Bea", "discard"), said("train/gone.png", "Ada", (1, 0, 0, 0))])
        done = export_table(store, folder, pool)
    assert (done.path, done.labelled, done.backup) == (folder / "labels.csv", 2, None)
    assert done.left_out == {"disagreement": 1, "discarded": 1}
    read = load_split(folder, "train", TISSUES)
    assert {patch.name: patch.labels for patch in read} == {"p00": (1, 0, 0, 0), "p02": (1, 0, 0, 0)}


def test_one_annotators_labels_into_a_table_elsewhere(tmp_path: Path) -> None:
    folder = data_folder(tmp_path / "data", 3)
    pool = find_pool(folder)
    with store_of(folder) as store:
        store.add([said(pool[0].path, "Ada", (1, 0, 0, 0)), said(pool[0].path, "Bea", (0, 1, 0, 0))])
        table = tmp_path / "tables" / "bea.csv"
        table.parent.mkdir()
        assert export_table(store, folder, pool, annotator="Bea", path=table).labelled == 1
        assert table.read_text(encoding="utf-8").splitlines()[1] == "../data/train/p00.png,0,1,0,0"
        with pytest.raises(ConfigError, match="'Cem', but of Ada, Bea"):
            export_table(store, folder, pool, annotator="Cem")
    other = data_folder(tmp_path / "other", 1)
    with store_of(other) as store, pytest.raises(DataError, match="holds no labels"):
        export_table(store, other, find_pool(other))


def test_a_table_that_is_there_is_kept(tmp_path: Path) -> None:
    folder = data_folder(tmp_path / "data", 3)
    pool = find_pool(folder)
    (folder / "labels.csv").write_text("somebody's own work\n", encoding="utf-8")
    with store_of(folder) as store:
        store.add([said(pool[0].path, "Ada", (1, 0, 0, 0))])
        done = export_table(store, folder, pool)
        assert done.backup is not None and done.backup.read_text(encoding="utf-8") == "somebody's own work\n"
        assert export_table(store, folder, pool).backup is None
    assert len(list(folder.glob("labels*.csv"))) == 2


def test_file_names_come_in_once(tmp_path: Path) -> None:
    folder = data_folder(tmp_path / "data", 6, labels=True)
    Image.new("RGB", (24, 24)).save(folder / "train" / "without.png")
    pool = find_pool(folder)
    assert [patch.name for patch in pool][:2] == ["p00", "p01"]
    with store_of(folder) as store:
        first = import_file_names(store, folder, pool)
        assert (first.new, first.known, first.without) == (6, 0, 1)
        again = import_file_names(store, folder, pool)
        assert (again.new, again.known) == (0, 6)
        assert {one.labels for one in store.answers("file names")} == {(0, 1, 0, 0), (1, 1, 0, 0)}
    other = LabelStore(folder / "other.sqlite", load_tissue_set("glas"))
    with other, pytest.raises(DataError, match=r"train/p00-\[0 1 0 0\].* has 4 digits"):
        import_file_names(other, folder, pool)
    bare = data_folder(tmp_path / "bare", 2)
    with store_of(bare) as store, pytest.raises(DataError, match="no file name carries a label"):
        import_file_names(store, bare, find_pool(bare))


def test_a_table_comes_in_and_goes_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_folder(tmp_path / "data", 4)
    text = "path," + ",".join(TISSUES.names) + "\ntrain/p00.png,1,0,0,0\ntrain/p03.png,0,0,1,1\n"
    (tmp_path / "data" / "mine.csv").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    folder = Path("data")
    with store_of(folder) as store:
        done = import_table(store, folder, find_pool(folder), folder / "mine.csv")
        assert (done.new, done.without) == (2, 2)
        export_table(store, folder, find_pool(folder))
        assert (folder / "labels.csv").read_text(encoding="utf-8") == text
        other = data_folder(tmp_path / "other", 1)
        with pytest.raises(DataError, match="lists none of the 1 patches"):
            import_table(store, other, find_pool(other), folder / "mine.csv")


def test_pool_is_train_or_the_folder_itself(tmp_path: Path) -> None:
    folder = data_folder(tmp_path / "data", 2)
    assert [patch.path for patch in find_pool(folder)] == ["train/p00.png", "train/p01.png"]
    assert [patch.path for patch in find_pool(folder / "train")] == ["p00.png", "p01.png"]
    with pytest.raises(DataError, match="there is no such folder"):
        find_pool(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        find_pool(tmp_path / "empty")


def test_tiles_know_their_place(tmp_path: Path) -> None:
    folder = data_folder(tmp_path / "data", 2)
    lines = ["path,slide,x,y,width,height,size,um_per_pixel,tissue_share", "train/p01.png,a.svs,10,20,48.0,48.0,24,1,1"]
    (folder / "tiles.csv").write_text("\n".join(lines), encoding="utf-8")
    assert [patch.place for patch in find_pool(folder)] == [None, Place("a.svs", 10, 20, 48, 48)]
    (folder / "tiles.csv").write_text("path,slide\ntrain/p01.png,a.svs\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"tiles\.csv: is no list of tiles"):
        find_pool(folder)
