"""Broken, hostile and swapped files of runs and of labelled folders, given to each command that reads some."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from tests.bad_input.bad_images import encoded
from tests.bad_input.bad_runs import ARRAYS, CANARY, DATABASES, NETWORKS, RECORDS, Payload
from tests.bad_input.faults import Commands, Fault, unchanged

from patch2tissue.config import load_config
from patch2tissue.craanet.accumulation import AttentionMemory
from patch2tissue.errors import DataError
from patch2tissue.labelling.store import DATABASE, LabelStore
from patch2tissue.pseudo_labels.of_run import make_pseudo_labels
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import load_tissue_set
from patch2tissue.training_data import training_patches
from patch2tissue.viewer.runs import ViewedRun

SET = ("--tissues", "bcss-wsss")
TISSUES = load_tissue_set("bcss-wsss")


@pytest.fixture(autouse=True)
def no_payload_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No file of the corpus may run code, whoever reads it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert not (tmp_path / "here" / CANARY).exists()


def test_the_payload_does_run_if_somebody_unpickles_it() -> None:
    pickle.loads(pickle.dumps(Payload()))
    assert Path(CANARY).read_text() == "run"
    Path(CANARY).unlink()


@pytest.fixture
def run_with_data(run_copy: Path, data: Path) -> Path:
    """A run that a test may damage, whose data folder is there."""
    path = run_copy / "config.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("path: data", f"path: {data}"), encoding="utf-8")
    return run_copy


@pytest.mark.parametrize("fault", NETWORKS, ids=str)
def test_networks(commands: Commands, run_with_data: Path, data: Path, tmp_path: Path, fault: Fault) -> None:
    fault.make(run_with_data / fault.file)
    path = run_with_data / fault.file if fault.name != "no description" else run_with_data / "pfscnet"
    picture = data / "test" / "img" / "t0.png"
    with unchanged(run_with_data, data):
        commands.refuses(fault, path, "predict", run_with_data, picture, "--out", tmp_path / "out")
        commands.refuses(
            fault, path, "slide", "predict", run_with_data, picture, "--out", tmp_path / "out", "--mpp", "0.25"
        )
        commands.refuses(fault, path, "export", run_with_data, "--out", tmp_path / "model")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.*"))
    assert not (tmp_path / "model").exists()


def test_scores_are_not_lost_to_a_broken_network(commands: Commands, run_with_data: Path) -> None:
    (run_with_data / "pfscnet" / "weights.safetensors").write_bytes(b"")
    before = (run_with_data / "scores.json").read_bytes()
    fault = Fault("networks", "", "", lambda path: None, ("does not fit network.json beside it",))
    commands.refuses(fault, run_with_data / "pfscnet" / "weights.safetensors", "score", run_with_data)
    assert (run_with_data / "scores.json").read_bytes() == before


@pytest.mark.parametrize("name", ["weights.pt", "weights.ckpt", "weights.bin", "weights.pth", "weights.safetensors"])
def test_an_encoder_with_a_payload(commands: Commands, recipe: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    torch.save({"state_dict": Payload()}, path)
    fault = Fault("networks", "", "", lambda path: None, ("encoder",))
    commands.refuses(fault, path, "train", recipe, "--set", f"craanet.encoder.weights={path}")
    outcome = commands("train", recipe, "--set", f"craanet.encoder.options={{checkpoint_path: {path}}}")
    assert outcome.code == 2 and "'checkpoint_path' is not taken here" in outcome.said


@pytest.mark.parametrize("fault", ARRAYS, ids=str)
def test_arrays(commands: Commands, run_with_data: Path, recipe: Path, fault: Fault) -> None:
    path = run_with_data / fault.file
    fault.make(path)
    with unchanged(run_with_data):
        if "history" in fault.file:
            commands.refuses(fault, path, "report", run_with_data)
            return
        named = path if fault.file.endswith("maps.npy") else path.parent
        commands.refuses(fault, named, "pseudo-labels", run_with_data)
        with pytest.raises(DataError, match=named.name):
            AttentionMemory(run_with_data / "craanet" / "attention_memory")


def test_a_viewer_of_broken_maps(run_with_data: Path) -> None:
    for fault in ARRAYS:
        if not fault.file.endswith("maps.npy"):
            continue
        fault.make(run_with_data / fault.file)
        for name in ("attention_memory/maps.npy", "attention_epochs.npy"):
            path = run_with_data / "craanet" / name
            path.write_bytes((run_with_data / fault.file).read_bytes())
            viewed = ViewedRun(run_with_data)
            try:
                assert not viewed.has_attention(Path("x.png"))
            except DataError as error:
                assert path.name in str(error)
        path.unlink()


@pytest.mark.parametrize("name", ["state.pt of a payload", "state.pt cut short", "state.pt of another version"])
def test_checkpoints(commands: Commands, recipe: Path, tmp_path: Path, name: str) -> None:
    state = tmp_path / "run" / "craanet" / "checkpoint" / "epoch-0000" / "state.pt"
    outcome = commands("train", recipe, "--stage", "pseudo")
    assert outcome.code == 2 and "is not trained yet" in outcome.said
    state.parent.mkdir(parents=True)
    torch.save({"epoch": 0, "network": Payload() if "payload" in name else {"old.weight": torch.ones(3)}}, state)
    if "short" in name:
        state.write_bytes(state.read_bytes()[:300])
    fault = Fault("networks", name, "state.pt", lambda path: None, ("cannot be resumed from", "--fresh"))
    commands.refuses(fault, state, "train", recipe)
    assert state.is_file() and not (tmp_path / "run" / "craanet" / "weights.safetensors").exists()


@pytest.mark.parametrize("fault", RECORDS, ids=str)
def test_records(commands: Commands, run_with_data: Path, fault: Fault) -> None:
    path = run_with_data / fault.file
    path.parent.mkdir(parents=True, exist_ok=True)
    fault.make(path)
    if fault.accepted:
        commands.accepts("report", run_with_data)
        commands.accepts("compare", run_with_data)
        return
    with unchanged(run_with_data):
        commands.refuses(fault, path, "report", run_with_data)
        if fault.file == "scores.json":
            outcome = commands("compare", run_with_data)
            assert outcome.code == 2 and "scores.json: is damaged. Run `patch2tissue score" in outcome.said


def test_a_folder_that_is_no_run(commands: Commands, data: Path, tmp_path: Path) -> None:
    fault = Fault("records", "", "", lambda path: None, ("not a run folder", "Give the folder that"))
    with unchanged(data):
        for arguments in (
            ("predict", data, data / "test", "--out", tmp_path / "out"),
            ("score", data),
            ("compare", data),
            ("report", data),
            ("pseudo-labels", data),
            ("slide", "predict", data, data / "test" / "img" / "t0.png", "--out", tmp_path / "out"),
        ):
            commands.refuses(fault, data, *arguments)


@pytest.mark.parametrize("fault", DATABASES, ids=str)
def test_databases_of_labels(commands: Commands, data: Path, fault: Fault) -> None:
    path = data / DATABASE
    fault.make(path)
    with unchanged(data):
        commands.refuses(fault, path, "labels", "status", data, *SET)
        commands.refuses(fault, path, "labels", "export", data, *SET)
        with pytest.raises(DataError, match=DATABASE), LabelStore(path, TISSUES) as store:
            store.answers()
            store.flags()


def test_a_database_of_another_program_does_not_stop_training(data: Path, recipe: Path, commands: Commands) -> None:
    DATABASES[0].make(data / DATABASE)
    fault = Fault("", "", "", lambda path: None, ("move it away",))
    commands.refuses(fault, data / DATABASE, "train", recipe)
    assert not (recipe.parent / "run" / "craanet").exists()


def test_pseudo_labels_of_a_broken_classifier(run_with_data: Path, data: Path) -> None:
    run = RunFolder(run_with_data)
    config = load_config(run.config_file)
    (run.craanet / "weights.safetensors").write_bytes(encoded("PNG"))
    with pytest.raises(DataError, match=r"weights\.safetensors: does not fit"):
        make_pseudo_labels(config, run, training_patches(config), 32)


MANIFESTS = ("\xff", "a,b\n1,2\n", "name,image\n\0,\0\n", "name,image\nx\n", f"name,image\n{'x' * 200_000},y\n")


@pytest.mark.parametrize("number", range(len(MANIFESTS)))
def test_a_manifest_that_is_none(commands: Commands, run_with_data: Path, number: int) -> None:
    path = run_with_data / "pseudo_labels" / "manifest.csv"
    path.parent.mkdir()
    path.write_bytes(MANIFESTS[number].encode("latin-1"))
    fault = Fault("", "", "", lambda path: None, ("is damaged", "Make pseudo labels again"))
    with unchanged(run_with_data):
        commands.refuses(fault, path, "view", run_with_data, "--no-browser")


HEAD = "path,slide,x,y,width,height,size,um_per_pixel,tissue_share\n"
TILES = ("\xff", "a,b\n1,2\n", f"{HEAD}train/p0[1000].png,a.tif,nan,0,9,9,9,1,1\n", f"{HEAD}train/p0[1000].png,a.tif\n")


@pytest.mark.parametrize("number", range(len(TILES)))
def test_a_list_of_tiles_that_is_none(commands: Commands, data: Path, number: int) -> None:
    path = data / "tiles.csv"
    path.write_bytes(TILES[number].encode("latin-1"))
    fault = Fault("", "", "", lambda path: None, ("is no list of tiles", "Cut the tiles again"))
    with unchanged(data):
        commands.refuses(fault, path, "labels", "import", data, *SET)
        commands.refuses(fault, path, "label", data, *SET, "--no-browser")


def test_names_that_are_too_long_or_no_files(commands: Commands, data: Path, whole_run: Path, tmp_path: Path) -> None:
    long = "x" * 300
    for arguments in (
        ("check", long, *SET),
        ("train", long),
        ("predict", whole_run, long, "--out", tmp_path / "out"),
        ("report", long),
        ("slide", "tiles", f"{long}.svs", "--out", tmp_path / "tiles"),
        ("view", long, "--no-browser"),
    ):
        outcome = commands(*arguments)
        assert outcome.code == 2 and "File name too long" in outcome.said
    outcome = commands("evaluate", data / "test" / "mask", data / "test" / "mask", *SET, "--out", tmp_path)
    assert outcome.code == 2 and f"{tmp_path}: is a folder. Name a file in it." in outcome.said
    picture = data / "test" / "img" / "t0.png"
    for resolution in ("1e-9", "1e9", "inf", "nan"):
        cut = ("slide", "tiles", picture, "--out", tmp_path / "tiles", "--mpp", "1", "--tile-mpp", resolution)
        drawn = ("slide", "predict", whole_run, picture, "--out", tmp_path / "maps", "--mpp", "1")
        for arguments in (cut, (*drawn, "--model-mpp", resolution)):
            outcome = commands(*arguments)
            assert outcome.code == 2 and "resolution in µm per pixel is from 0.02 to 100" in outcome.said
