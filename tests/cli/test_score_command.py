"""`patch2tissue score` with an untrained network of ten layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from patch2tissue.config import EncoderConfig, config_from_dict
from patch2tissue.pfscnet.network import PFSCNet, save_pfscnet

Run = Callable[..., int]


@pytest.fixture(scope="module")
def scored_run(tmp_path_factory: pytest.TempPathFactory, fabricate: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("score")
    data = fabricate(folder / "data", "luad-histoseg", train=4, test=3)
    run = folder / "run"
    run.mkdir()
    plain = {
        "output": str(run),
        "tissues": "luad-histoseg",
        "data": {"path": str(data)},
        "hardware": {"device": "cpu", "precision": "float32", "threads": 1},
    }
    (run / "config.yaml").write_text(config_from_dict(plain).to_yaml())
    torch.manual_seed(0)
    encoder = EncoderConfig(name="resnet10t", output_stride=8)
    save_pfscnet(PFSCNet(encoder, 4, decoder_channels=16, embedding_dimensions=8), run / "pfscnet")
    (run / "pfscnet" / "finished").touch()
    return run


def test_predicts_scores_and_prints(
    scored_run: Path, run_command: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_command("score", scored_run, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((scored_run / "scores.json").read_text())
    assert set(printed["test"]) == {"full_method"} and 0 <= printed["test"]["full_method"]["miou"] <= 1
    predictions = scored_run / "predictions" / "full_method"
    assert len(list(predictions.glob("*_mask.png"))) == 3 and (predictions / "areas.csv").is_file()
    assert run_command("score", scored_run) == 0
    printed_table = capsys.readouterr().out
    assert "Networks, on the test split" in printed_table and "full method" in printed_table


def test_no_masks_is_a_note_and_no_error(
    tmp_path: Path, run_command: Run, fabricate: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = fabricate(tmp_path / "data", "luad-histoseg", train=4, test=0)
    run = tmp_path / "run"
    run.mkdir()
    plain = {"output": str(run), "tissues": "luad-histoseg", "data": {"path": str(data)}}
    (run / "config.yaml").write_text(config_from_dict(plain).to_yaml())
    assert run_command("score", run) == 0
    assert "holds no masks" in " ".join(capsys.readouterr().out.split())
    assert set(json.loads((run / "scores.json").read_text())) == {"supervision", "notes"}


def test_what_is_no_run_ends_with_two(tmp_path: Path, run_command: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        assert run_command("score", folder) == 2
        assert "not a run folder" in " ".join(capsys.readouterr().err.split())
