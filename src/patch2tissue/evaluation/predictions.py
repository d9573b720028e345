"""Predictions of a run's networks on its test split: made where they are missing, and anew where they are outdated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patch2tissue.atomic import write_text
from patch2tissue.config import RunConfig
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.inference.confidence import confidence_file
from patch2tissue.inference.predict import predict_images
from patch2tissue.inference.temperature import read_temperature
from patch2tissue.plain_files import read_json
from patch2tissue.progress import console
from patch2tissue.run_folder import RunFolder
from patch2tissue.weights import weights_digest

RECORD = "made_with.json"
"""File beside the predictions: which weights and settings they come from."""


def network_folder(run: RunFolder, name: str) -> Path:
    """Folder of a stage-2 network by the name it has in `scores.json`."""
    return run.pfscnet if name == "full_method" else run.comparison(name)


def ensure_predictions(
    run: RunFolder, config: RunConfig, name: str, patches: Sequence[Patch], *, progress: bool
) -> list[Path]:
    """Predict the patches with one network unless that is done.

    Masks that are there stay, unless the network was trained or the inference section changed after they were made:
    scores must never be those of another network.

    Args:
        run: run folder.
        config: its configuration.
        name: name of a trained network in `scores.json`.
        patches: images to predict.
        progress: show a bar.

    Returns:
        Predicted masks, in the order of the patches.

    Raises:
        DataError: if an image cannot be predicted.
    """
    out = run.predictions(name)
    files = [out / f"{patch.name}_mask.png" for patch in patches]
    written = [*files, *(confidence_file(file) for file in files)]
    maker = _maker(run, config, name)
    current = _are_current(files, out / RECORD, maker, network_folder(run, name))
    if not current or not all(file.is_file() for file in written):
        if progress:
            console.print(f"predicting the test split: {name.replace('_', ' ')}", highlight=False)
        (out / RECORD).unlink(missing_ok=True)
        if not current:
            for file in written:
                file.unlink(missing_ok=True)
        results = predict_images(
            run.path,
            [patch.path for patch in patches],
            out,
            network=name,
            overlay=name == "full_method",
            resume=True,
            progress=progress,
        )
        failed = [result for result in results if result.error is not None]
        if failed:
            # the text names the file
            raise DataError(str(failed[0].error))
    write_text(out / RECORD, json.dumps(maker, indent=2))
    return files


def _maker(run: RunFolder, config: RunConfig, name: str) -> dict[str, Any]:
    folder = network_folder(run, name)
    return {
        "weights": weights_digest(folder),
        "temperature": read_temperature(folder),
        "inference": config.inference.model_dump(mode="json", exclude={"batch_size"}),
    }


def _are_current(files: Sequence[Path], record: Path, maker: dict[str, Any], network: Path) -> bool:
    """Whether the masks come from these weights and settings; without a record, whether they are newer than those."""
    if record.is_file():
        try:
            return bool(read_json(record) == maker)
        except ValueError:
            return False
    trained = (network / "weights.safetensors").stat().st_mtime
    return all(file.stat().st_mtime >= trained for file in files if file.is_file())
