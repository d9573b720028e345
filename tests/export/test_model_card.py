"""The model card: what Hugging Face reads, and that it tells what the run tells and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from patch2tissue.config import config_from_dict
from patch2tissue.data.fingerprint import Fingerprint, write_fingerprints
from patch2tissue.errors import DataError
from patch2tissue.export.description import describe_model
from patch2tissue.export.facts import run_facts
from patch2tissue.export.model_card import cell, model_card
from patch2tissue.inference.temperature import write_temperature
from patch2tissue.pfscnet.network import PFSCNet
from patch2tissue.run_folder import RunFolder

AWKWARD = {
    "name": "mine",
    "tissues": [
        {"name": 'tumour | "epi\'thelium" <b>', "abbreviation": "T|E", "color": [1, 2, 3]},
        {"name": "--- #stroma: `x` 组织 $y", "abbreviation": "S", "color": [4, 5, 6]},
    ],
    "um_per_pixel": 0.5,
}
SCORES = {
    "supervision": "image-level labels",
    "test": {
        "full_method": {"miou": 0.6123, "ci95": [0.5, 0.7], "acc": 0.8, "dice": None, "iou": {"T|E": 0.5, "S": 0.7246}},
        "full_supervision": {"miou": 0.99},
    },
    "notes": ["the test scores flatter: 2 of the test images' patients or slides (PATIENT-7) are in train"],
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    (folder.pfscnet).mkdir(parents=True)
    (folder.pfscnet / "weights.safetensors").write_bytes(b"weights")
    plain = {"output": str(folder.path), "tissues": AWKWARD, "data": {"path": str(tmp_path / "PATIENT-7")}}
    folder.config_file.write_text(config_from_dict(plain).to_yaml(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def network() -> PFSCNet:
    return PFSCNet("resnet10t", 2, decoder_channels=8, embedding_dimensions=4)


def card_of(run: RunFolder, network: PFSCNet, licence: str = "other", files: dict[str, Any] | None = None) -> ModelCard:
    config = run.config()
    description = describe_model("My [model]", licence, run, config, network, 1.25)
    facts = {**run_facts(run, config, "resnet10t"), "familiarity": False}
    target = run.path / "README.md"
    target.write_text(model_card(description, facts, files or {}), encoding="utf-8")
    return ModelCard.load(target)


def test_a_run_without_records_is_said_to_be_unknown(run: RunFolder, network: PFSCNet) -> None:
    card = card_of(run, network)
    assert card.data.license == "other" and card.data.to_dict()["license_name"] == "unspecified"
    assert card.data.library_name == "patch2tissue" and card.data.pipeline_tag == "image-segmentation"
    assert "histopathology" in card.data.tags and card.data.metrics is None
    for told in (
        "Not scored",
        "does not tell what it was trained on",
        "Environment: not recorded",
        "Not calibrated",
        "licence was not specified",
        "no medical device",
        "nothing warns of unlike images",
        "0.5 µm per pixel",
    ):
        assert told in card.text, told


def test_everything_that_is_recorded_is_told(run: RunFolder, network: PFSCNet, tmp_path: Path) -> None:
    table = [
        Fingerprint("train", f"PATIENT-7-{n}.png", 1000, labels, "0" * 64) for n, labels in enumerate(["10", "11"])
    ]
    write_fingerprints(run.data_file, [*table, Fingerprint("val mask", "PATIENT-7.png", 5, "", "1" * 64)])
    run.scores_file.write_text(json.dumps(SCORES))
    environment = {"python": "3.11.7", "device": "cpu", "command": [str(tmp_path)], "versions": {"torch": "2.9"}}
    run.environment_file.write_text(json.dumps(environment))
    write_temperature(run.pfscnet, 1.25, {"patches": 42})
    card = card_of(run, network, "CC-BY-4.0", {"onnx": {"file": "model.onnx", "max_abs_difference": 1.5e-6}})
    assert card.data.license == "cc-by-4.0" and card.data.metrics == ["mean_iou"] and "onnx" in card.data.tags
    for told in (
        "2 training patches (0.0 MB), 1 of them labelled with several tissues",
        "1 (val mask)",
        "mean IoU | 61.2 % (95 % interval 50.0 % to 70.0 %)",
        "pixel accuracy | 80.0 %",
        "72.5 %",
        "2 of the test images' patients or slides are in train",
        "temperature 1.25, chosen on 42 training patches",
        "Python 3.11.7, torch 2.9; device cpu, unknown precision",
        "| onnx | `model.onnx` | 1.5e-06 |",
        "Licence of the weights: CC-BY-4.0",
    ):
        assert told in card.text, told
    assert "mean Dice" not in card.text and "99.0" not in card.text  # undefined, and of another network
    assert "PATIENT" not in card.content and str(tmp_path) not in card.content


@pytest.mark.parametrize(
    ("licence", "license", "name"),
    [
        ("CC-BY-NC-4.0", "cc-by-nc-4.0", None),
        ("GPL-3.0-or-later", "gpl-3.0", None),
        ("EUPL-1.2", "other", "eupl-1.2"),
    ],
)
def test_licences_are_called_as_the_hub_calls_them(
    run: RunFolder, network: PFSCNet, licence: str, license: str, name: str | None
) -> None:
    card = card_of(run, network, licence)
    assert (card.data.license, card.data.to_dict().get("license_name")) == (license, name)
    assert f"Licence of the weights: {licence}." in card.text


def test_a_temperature_of_other_weights_is_none(run: RunFolder, network: PFSCNet) -> None:
    write_temperature(run.pfscnet, 3.0, {"patches": 42})
    (run.pfscnet / "weights.safetensors").write_bytes(b"others")
    assert run_facts(run, run.config(), "resnet10t")["calibration"] is None
    assert "Not calibrated" in card_of(run, network).text


@pytest.mark.parametrize(
    "broken",
    [
        {"test": []},
        {"test": {"full_method": 3}},
        {"test": {"full_method": {"miou": "high"}}},
        {"test": {"full_method": {"miou": 0.5, "ci95": [0.1], "iou": [1], "acc": float("nan")}}, "notes": "x"},
    ],
)
def test_scores_that_are_none_are_not_told(run: RunFolder, network: PFSCNet, broken: dict[str, Any]) -> None:
    run.scores_file.write_text(json.dumps(broken))
    text = card_of(run, network).text
    assert "interval" not in text and "accuracy" not in text and "Note" not in text and "nan" not in text


def test_damaged_records_are_named(run: RunFolder) -> None:
    for file in (run.scores_file, run.environment_file, run.data_file, run.pfscnet / "temperature.json"):
        file.write_text("{")
        with pytest.raises(DataError, match=re.escape(str(file))):
            run_facts(run, run.config(), "resnet10t")
        file.unlink()


def test_names_cannot_break_the_card(run: RunFolder, network: PFSCNet) -> None:
    card = card_of(run, network)
    assert yaml.safe_load(card.content.split("---\n")[1])["library_name"] == "patch2tissue"
    rows = [line for line in card.text.splitlines() if line.startswith(("| 0 |", "| 1 |"))]
    for row, tissue in zip(rows, AWKWARD["tissues"], strict=True):
        cells = [part.strip() for part in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 4
        assert re.sub(r"\\(.)", r"\1", cells[1]) == tissue["name"]
    assert "# My \\[model\\]" in card.text and "<b>" not in card.text


def test_line_ends_do_not_end_a_cell() -> None:
    assert cell("a\n| b\r\n# c") == "a \\| b \\# c"
