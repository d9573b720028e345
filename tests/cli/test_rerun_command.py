"""`patch2tissue rerun`: the same bit for bit, told where it is not, and nothing for runs that cannot be repeated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from conftest import RECIPES, TINY
from killing import killed_at
from patch2tissue import environment
from patch2tissue.config import load_config
from patch2tissue.data.images import read_image
from patch2tissue.errors import DataError
from patch2tissue.evaluation.run_scores import score_run
from patch2tissue.pfscnet.training import PFSCNetStage
from patch2tissue.pipeline import run_training
from patch2tissue.rerun import carry_out, plan_rerun
from patch2tissue.run_folder import RunFolder

SETTINGS = [
    *TINY,
    "craanet.epochs=2",
    "pfscnet.epochs=2",
    "craanet.accumulation.start=0",
    "hardware.threads=null",
]


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory, fabricate: Callable[..., Path]) -> Path:
    """A folder with `data`, the scored `run`, and its finished repetition `run-rerun`; not to be changed."""
    folder = tmp_path_factory.mktemp("repeated")
    data = fabricate(folder / "data", "bcss-wsss")
    # threads are left open: the repetition must take those of then
    settings = [f"output={folder / 'run'}", f"data.path={data}", "data.layout=auto", *SETTINGS]
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "git_commit", lambda: "0123456789ab")
        run = run_training(load_config(RECIPES / "bcss-wsss.yaml", settings), progress=False)
        score_run(run, progress=False)
        plan = plan_rerun(run)
        assert plan.config.output == folder / "run-rerun"
        assert plan.environment == [] and plan.notes == []
        killed_at(patch, PFSCNetStage, 5, lambda: carry_out(plan, progress=False))
        assert carry_out(plan_rerun(run), progress=False).result == "same"
    return folder


@pytest.fixture
def folder(repeated: Path, tmp_path: Path) -> Path:
    """A copy that may be changed, with the same data."""
    for name in ("run", "run-rerun"):
        shutil.copytree(repeated / name, tmp_path / name)
    for name in ("run", "run-rerun"):
        config = load_config(tmp_path / name / "config.yaml", [f"output={tmp_path / name}"])
        (tmp_path / name / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    return tmp_path


def test_a_repetition_that_was_killed_on_its_way_is_the_same(repeated: Path) -> None:
    found = json.loads((repeated / "run-rerun" / "rerun.json").read_text(encoding="utf-8"))
    assert (found["result"], found["first_difference"], found["environment"]) == ("same", None, [])
    names = [part["part"] for part in found["parts"]]
    assert names == [
        "CRAANet, weights",
        "CRAANet, attention memory",
        "pseudo labels",
        "pseudo labels, confidence",
        "PFSCNet, weights",
        "maps of the test split",
        "scores",
    ]
    assert all(part["same"] and part["difference"] == 0 for part in found["parts"])
    # the original knows nothing of it
    assert not (repeated / "run" / "rerun.json").exists()


def test_the_command_goes_on_where_all_is_done_and_compares(
    folder: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("rerun", folder / "run") == 0
    out, err = capsys.readouterr()
    assert "The same, bit for bit." in out and "nothing that results may hang on" in err
    assert run_command("rerun", folder / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["result"] == "same"


def _nudge(path: Path, by: float) -> None:
    weights = load_file(path)
    name = next(name for name in weights if weights[name].is_floating_point())
    weights[name].view(-1)[0] += by
    save_file(weights, path)


def test_a_difference_is_told_by_its_first_place_and_size(
    folder: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    _nudge(folder / "run" / "pfscnet" / "weights.safetensors", 0.25)
    # the first label map is nothing but ignored pixels now
    masks = sorted((folder / "run" / "pseudo_labels" / "masks").iterdir())
    with Image.open(masks[0]) as mask:
        flat = Image.fromarray(np.full_like(np.asarray(mask), 255))
        flat.putpalette(mask.getpalette() or [])
    flat.save(masks[0])
    assert run_command("rerun", folder / "run") == 1
    shown = capsys.readouterr().out
    assert "Different, first in: pseudo labels. If scores" in shown
    assert "at most 0.25" in shown and "% of pixels" in shown
    found = json.loads((folder / "run-rerun" / "rerun.json").read_text(encoding="utf-8"))
    parts = {part["part"]: part for part in found["parts"]}
    assert found["first_difference"] == "pseudo labels" and parts["pseudo labels"]["where"] == masks[0].name
    assert parts["CRAANet, weights"]["same"] and parts["scores"]["same"]
    # the scores are the same, so it is good enough where a tolerance is given
    assert run_command("rerun", folder / "run", "--tolerance", "0") == 0
    assert "Within the tolerance of 0; not bit for bit, first different: pseudo labels." in capsys.readouterr().out


def test_scores_decide_about_the_tolerance(folder: Path, run_command: Callable[..., int]) -> None:
    file = folder / "run" / "scores.json"
    scores = json.loads(file.read_text(encoding="utf-8"))
    scores["test"]["full_method"]["miou"] += 0.02
    file.write_text(json.dumps(scores), encoding="utf-8")
    plan = plan_rerun(RunFolder(folder / "run"))
    outcome = carry_out(plan, progress=False)
    results = [replace(outcome, tolerance=tolerance).result for tolerance in (None, 0.01, 0.03)]
    assert results == ["different", "different", "within_tolerance"]
    del scores["test"]
    file.write_text(json.dumps(scores), encoding="utf-8")
    assert run_command("rerun", folder / "run", "--tolerance", "1") == 1
    parts = json.loads((folder / "run-rerun" / "rerun.json").read_text(encoding="utf-8"))["parts"]
    assert parts[-1]["difference"] is None and "test: full_method" in parts[-1]["where"]


def test_without_scores_both_networks_draw(folder: Path, run_command: Callable[..., int]) -> None:
    for name in ("run", "run-rerun"):
        (folder / name / "scores.json").unlink()
    assert run_command("rerun", folder / "run") == 0
    weights = load_file(folder / "run" / "pfscnet" / "weights.safetensors")
    save_file({name: torch.zeros_like(tensor) for name, tensor in weights.items()},
              folder / "run" / "pfscnet" / "weights.safetensors")  # fmt: skip
    assert run_command("rerun", folder / "run", "--tolerance", "0.001") == 1
    part = json.loads((folder / "run-rerun" / "rerun.json").read_text(encoding="utf-8"))["parts"][-1]
    assert part["part"] == "maps of 12 training patches" and part["difference"] > 0.001


def test_what_the_repetition_lacks_is_a_difference(folder: Path, run_command: Callable[..., int]) -> None:
    shutil.rmtree(folder / "run-rerun" / "craanet" / "attention_memory")
    assert run_command("rerun", folder / "run") == 1
    found = json.loads((folder / "run-rerun" / "rerun.json").read_text(encoding="utf-8"))
    assert found["first_difference"] == "CRAANet, attention memory"


def test_moved_data_are_found_and_changed_data_refused(
    folder: Path, repeated: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder / "moved"
    shutil.copytree(repeated / "data", data)
    plan = plan_rerun(RunFolder(folder / "run"), folder / "new", [f"data.path={data}"])
    assert plan.config.data.path == data and plan.notes == []
    first = sorted((data / "train").glob("*.png"))[0]
    image = read_image(first)
    image[0, 0] ^= 1
    Image.fromarray(image).save(first)
    assert run_command("rerun", folder / "run", "--out", folder / "new", "--set", f"data.path={data}") == 2
    message = capsys.readouterr().err
    assert f"1 file is of other content, train/{first.name}" in message
    shutil.rmtree(data)
    assert run_command("rerun", folder / "run", "--out", folder / "new", "--set", f"data.path={data}") == 2
    message = capsys.readouterr().err
    assert "there is no such folder" in message and "--set data.path=FOLDER" in message
    assert not (folder / "new").exists()


def test_the_machine_of_then_is_what_the_configuration_left_open(folder: Path) -> None:
    run = RunFolder(folder / "run")
    file = run.environment_file
    then = json.loads(file.read_text(encoding="utf-8"))
    assert run.config().hardware.threads is None and run.config().hardware.precision == "auto"
    then |= {"threads": 7, "precision": "bfloat16", "device": "NVIDIA of another machine", "git_commit": "1-dirty"}
    then |= {"resumed": [{"versions": {}}]}
    then["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(then), encoding="utf-8")
    plan = plan_rerun(run, folder / "new")
    assert (plan.config.hardware.threads, plan.config.hardware.precision) == (7, "bfloat16")
    assert {"torch", "device"} <= {change.what for change in plan.environment}
    assert len(plan.notes) == 2
    assert plan_rerun(run, folder / "new", ["hardware.device=cpu"]).config.hardware.device == "cpu"


def test_a_run_of_an_earlier_version_is_repeated_with_what_it_tells(folder: Path) -> None:
    run = RunFolder(folder / "run")
    run.data_file.unlink()
    then = json.loads(run.environment_file.read_text(encoding="utf-8"))
    then["autocast"] = "None" if then.pop("precision") == "float32" else "torch.bfloat16"
    for key in ("workers", "vector_instructions"):
        del then[key]
    run.environment_file.write_text(json.dumps(then), encoding="utf-8")
    outcome = carry_out(plan_rerun(run), progress=False)
    assert outcome.result == "same"
    assert [change.then for change in outcome.plan.environment] == [None, None]
    assert "no data.csv" in outcome.plan.notes[0]


def test_what_cannot_be_repeated_is_bad_input(
    folder: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object) -> str:
        assert run_command("rerun", *arguments) == 2
        return capsys.readouterr().err

    run = folder / "run"
    assert "not a run folder" in refused(folder)
    for out in (run, run / "again", folder):
        assert "Choose another folder with --out" in refused(run, "--out", out)
    assert "--set seed=1: a repetition is of the same settings" in refused(run, "--set", "seed=1")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("years of work")
    assert "not empty and not a run folder" in refused(run, "--out", folder / "full")
    (run / "craanet" / "weights.safetensors").write_bytes(b"damaged")
    assert "weights.safetensors: cannot be read" in refused(run)
    (run / "environment.json").write_text("{", encoding="utf-8")
    assert "environment.json: is damaged" in refused(run)
    shutil.copy(folder / "run-rerun" / "environment.json", run)
    (run / "pfscnet" / "finished").unlink()
    assert "is not finished (pfscnet not trained)" in refused(run)


def test_other_data_than_the_repetition_was_begun_with(folder: Path, repeated: Path) -> None:
    table = folder / "run-rerun" / "data.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",1000,", ",0100,"), encoding="utf-8")
    with pytest.raises(DataError, match="labelled otherwise"):
        carry_out(plan_rerun(RunFolder(folder / "run")), progress=False)
