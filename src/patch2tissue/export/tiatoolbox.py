"""A model class for TIAToolbox, as a Python file that needs neither patch2tissue nor the run."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

CLASS_FILE = "patch2tissue_model.py"
"""Its name in a model folder. It reads the TorchScript file and `export.json` beside it."""


def write_class(folder: Path) -> dict[str, object]:
    """Write the class file into a model folder that holds a TorchScript file."""
    with as_file(files("patch2tissue.export") / "templates" / "tiatoolbox_model.py.txt") as template:
        shutil.copyfile(template, folder / CLASS_FILE)
    return {"file": CLASS_FILE, "class": "TissueSegmentor", "made_for": "tiatoolbox 2"}
