"""The temperature that `patch2tissue calibrate` chose for a run's network, beside its weights."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from patch2tissue.atomic import write_text
from patch2tissue.errors import DataError
from patch2tissue.plain_files import read_json
from patch2tissue.weights import weights_digest

TEMPERATURE_FILE = "temperature.json"
"""Its name in the folder of stage 2."""

log = logging.getLogger(__name__)


def write_temperature(folder: Path, temperature: float, facts: dict[str, Any]) -> None:
    """Write a temperature for the weights that a stage's folder holds.

    Args:
        folder: of the stage.
        temperature: above 0.
        facts: how it was found, to be kept with it.
    """
    plain = {"temperature": temperature, "weights": weights_digest(folder), **facts}
    write_text(folder / TEMPERATURE_FILE, json.dumps(plain, indent=2) + "\n")


def read_temperature(folder: Path) -> float:
    """The temperature of the weights in a stage's folder; 1 if none was chosen for them.

    Raises:
        DataError: if the file is damaged.
    """
    path = folder / TEMPERATURE_FILE
    if not path.is_file():
        return 1.0
    try:
        plain = read_json(path)
        temperature, weights = float(plain["temperature"]), plain["weights"]
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature {temperature}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}). Delete it, or run `patch2tissue calibrate` again."
        ) from None
    if weights != weights_digest(folder):
        log.warning("%s: is of other weights and is not used; run `patch2tissue calibrate` again", path)
        return 1.0
    return temperature
