"""The part of a run that prediction needs, without anything that tells of the machine or the data it was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from patch2tissue.config import EncoderConfig, RunConfig
from patch2tissue.errors import DataError
from patch2tissue.inference.temperature import TEMPERATURE_FILE
from patch2tissue.inference.training_distribution import DISTRIBUTION_FILE
from patch2tissue.plain_files import read_json
from patch2tissue.run_folder import RunFolder

_NEEDED = ("network.json", "weights.safetensors")
_OPTIONAL = (TEMPERATURE_FILE, DISTRIBUTION_FILE)


def portable_config(config: RunConfig) -> RunConfig:
    """A configuration that predicts alike anywhere: no path, the tissue set and its resolution in it."""

    def without_file(encoder: EncoderConfig) -> EncoderConfig:
        return encoder.model_copy(update={"weights": None, "pretrained": False})

    tissues = config.tissue_set()
    own = config.self_contained()
    data = own.data.model_copy(
        update={"path": Path("data"), "test_path": None, "source": None, "um_per_pixel": tissues.um_per_pixel}
    )
    pfscnet = own.pfscnet
    if pfscnet.encoder is not None:
        pfscnet = pfscnet.model_copy(update={"encoder": without_file(pfscnet.encoder)})
    return own.model_copy(
        update={
            "output": Path(),
            "data": data,
            "craanet": own.craanet.model_copy(update={"encoder": without_file(own.craanet.encoder)}),
            "pfscnet": pfscnet,
            "hardware": own.hardware.model_copy(update={"device": "auto", "workers": 0, "threads": None}),
        }
    )


def copy_run(run: RunFolder, config: RunConfig, folder: Path) -> None:
    """Copy what `predict` and `slide predict` need, so that a model folder serves as a run folder.

    CRAANet is copied only where the configuration has a gate.

    Args:
        run: folder of a finished run.
        config: its configuration.
        folder: where to; it is there.

    Raises:
        DataError: if a file is missing or damaged.
    """
    lacking = [name for name in _NEEDED if config.inference.gate is not None and not (run.craanet / name).is_file()]
    if lacking:
        raise DataError(
            f"{run.craanet / lacking[0]}: is missing, but inference.gate of the run's config.yaml needs CRAANet. "
            "Restore it, or set inference.gate to null."
        )
    copied = [name for name in (*_NEEDED, *_OPTIONAL) if name in _NEEDED or (run.pfscnet / name).is_file()]
    files = [(run.pfscnet / name, folder / "pfscnet" / name) for name in copied]
    if config.inference.gate is not None:
        files += [(run.craanet / name, folder / "craanet" / name) for name in _NEEDED]
    for source, target in files:
        target.parent.mkdir(exist_ok=True)
        if source.name == "network.json":
            target.write_text(json.dumps(_without_file(source), indent=2), encoding="utf-8")
        else:
            shutil.copyfile(source, target)
    (folder / "pfscnet" / "finished").touch()
    (folder / "config.yaml").write_text(portable_config(config).to_yaml(), encoding="utf-8")


def _without_file(path: Path) -> dict[str, Any]:
    """A `network.json` that does not tell where its encoder's first weights lay."""
    try:
        plain = read_json(path)
        return {**plain, "encoder": {**plain["encoder"], "weights": None, "pretrained": False}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Restore the file, or train again.") from None
