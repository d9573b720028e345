"""What a model card tells of a run: data, supervision, scores, calibration, training. No name of a patch, no path.

A model folder is made to be handed on, and names of patches may tell patients, paths may tell people.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import Any

from patch2tissue.config import EncoderConfig, RunConfig
from patch2tissue.data.fingerprint import read_fingerprints
from patch2tissue.environment import read_environment
from patch2tissue.inference.temperature import TEMPERATURE_FILE, read_temperature
from patch2tissue.plain_files import read_json_object
from patch2tissue.run_folder import RunFolder
from patch2tissue.weights import weights_digest

NETWORK = "full_method"
"""The network that is exported, as `scores.json` calls it."""


def run_facts(run: RunFolder, config: RunConfig, encoder: str) -> dict[str, Any]:
    """Facts of a run, as JSON holds them; what the run does not tell is None.

    Args:
        run: folder of a finished run.
        config: its configuration.
        encoder: name of the network's encoder.

    Raises:
        DataError: if a file of the run is damaged.
    """
    scores = read_json_object(run.scores_file)
    supervision = "image-level labels"
    if config.selection == "validation_masks":
        supervision += "; checkpoint chosen on validation masks"
    return {
        "data": _data(run, config),
        "supervision": supervision,
        "scores": _scores(scores),
        "notes": _notes(scores),
        "calibration": _calibration(run.pfscnet),
        "training": {"encoder": encoder, **_training(run, config)},
    }


def _data(run: RunFolder, config: RunConfig) -> dict[str, Any] | None:
    """Numbers of files by use, of training patches by tissue, and the SHA-256 of the table of files."""
    if not run.data_file.is_file():
        return None
    files = read_fingerprints(run.data_file)
    names = config.tissue_set().names
    labels = [one.labels for one in files if one.use == "train" and len(one.labels) == len(names)]
    return {
        "synthetic": config.data.source is not None and config.data.source.kind == "synthetic",
        "files": dict(Counter(one.use for one in files)),
        "bytes": sum(one.bytes for one in files if one.use == "train"),
        "patches_with": {name: sum(label[place] == "1" for label in labels) for place, name in enumerate(names)},
        "several_tissues": sum(label.count("1") > 1 for label in labels),
        "sha256": hashlib.sha256(run.data_file.read_bytes()).hexdigest(),
    }


def _scores(scores: dict[str, Any]) -> dict[str, Any] | None:
    """Scores of the exported network on the test split, without what is no number; None if it was not scored."""
    part = scores.get("test")
    found = part.get(NETWORK) if isinstance(part, dict) else None
    if not isinstance(found, dict) or not _is_number(found.get("miou")):
        return None
    kept: dict[str, Any] = {name: value for name, value in found.items() if _is_number(value)}
    ends, ious = found.get("ci95"), found.get("iou")
    if isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends)):
        kept["ci95"] = ends
    kept["iou"] = {name: value for name, value in ious.items() if _is_number(value)} if isinstance(ious, dict) else {}
    return kept


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _notes(scores: dict[str, Any]) -> list[str]:
    notes = scores.get("notes")
    told = [_without_names(note) for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
    return [note for note in told if note is not None]


def _without_names(note: str) -> str | None:
    """A note of `scores.json` without the example, or the path, that it names; None if it is of no use without."""
    if note.startswith("there is nothing to score"):
        return None
    if note.startswith("the test scores flatter"):
        return f"{note.partition(' (')[0]} are in train"
    return note


def _calibration(stage: Path) -> dict[str, Any] | None:
    """How the temperature was found; None if none is used."""
    temperature = read_temperature(stage)  # which refuses a damaged file
    plain = read_json_object(stage / TEMPERATURE_FILE)
    if not plain or plain.get("weights") != weights_digest(stage):
        return None
    return {**{key: value for key, value in plain.items() if key != "weights"}, "temperature": temperature}


def _training(run: RunFolder, config: RunConfig) -> dict[str, Any]:
    environment = read_environment(run.environment_file) if run.environment_file.is_file() else {}
    versions = environment.get("versions", {})
    return {
        "start": _start(config),
        "epochs": {"craanet": config.craanet.epochs, "pfscnet": config.pfscnet.epochs},
        "rounds": config.pfscnet.rounds,
        "seed": config.seed,
        "device": environment.get("device"),
        "precision": environment.get("precision"),
        "python": environment.get("python"),
        "git_commit": environment.get("git_commit"),
        "versions": {str(name): str(version) for name, version in versions.items()},
    }


def _start(config: RunConfig) -> str:
    """Where the encoder's weights came from; of a file its name."""

    def of(encoder: EncoderConfig) -> str:
        if encoder.weights is not None:
            return f"weights of the file {encoder.weights.name}"
        return "weights that timm downloaded" if encoder.pretrained else "random weights"

    if config.pretraining is not None:
        return "random weights, pre-trained on the training patches without labels"
    if config.pfscnet.encoder is not None and config.pfscnet.init == "encoder":
        return of(config.pfscnet.encoder)
    return of(config.craanet.encoder)
