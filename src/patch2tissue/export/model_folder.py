"""`export_run`: from a run folder to a model folder, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from patch2tissue.atomic import remove_abandoned, temporary_prefix
from patch2tissue.config import RunConfig
from patch2tissue.errors import DISK_FULL, ConfigError, DataError, WriteError
from patch2tissue.export import monai_bundle, onnx_file, qupath, tiatoolbox, torchscript
from patch2tissue.export.description import EXPORT_FILE, KIND, describe_model
from patch2tissue.export.facts import run_facts
from patch2tissue.export.model_card import UNSPECIFIED, model_card
from patch2tissue.export.run_copy import copy_run
from patch2tissue.inference.temperature import read_temperature
from patch2tissue.inference.training_distribution import DISTRIBUTION_FILE
from patch2tissue.pfscnet.network import PFSCNet, load_pfscnet
from patch2tissue.plain_files import read_json
from patch2tissue.run_folder import RunFolder, is_finished
from patch2tissue.weights import refuse_other_tissues

FORMATS = ("onnx", "torchscript", "monai-bundle", "tiatoolbox")
"""What a run can be exported to."""

ONNX_FILE, TORCHSCRIPT_FILE = "model.onnx", "torchscript.pt"

_NEED_TORCHSCRIPT = {"torchscript", "monai-bundle", "tiatoolbox"}


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        folder: the model folder.
        name: of the model.
        formats: of each format its file, relative to the folder, and what was measured.
    """

    folder: Path
    name: str
    formats: dict[str, dict[str, Any]]


def export_run(
    run: RunFolder | Path | str,
    out: Path | str,
    formats: Sequence[str] = (),
    *,
    name: str | None = None,
    licence: str = UNSPECIFIED,
    fresh: bool = False,
) -> ExportResult:
    """Write a model folder: weights, configuration, model card, a script for QuPath, and the model in other formats.

    The folder serves as a run folder for `predict` and `slide predict`, and can be pushed to Hugging Face as it is. It
    holds no path and no name of a patch. It is built beside `out` and renamed, so that `out` is whole or not there.

    Args:
        run: folder of a finished run, or a model folder.
        out: folder to write.
        formats: of `FORMATS`; the last two bring `torchscript` with them. None: weights alone.
        name: of the model; None: the name of `out`.
        licence: SPDX identifier of the weights' licence, which is for you to choose.
        fresh: replace a model folder that is there.

    Returns:
        What was written.

    Raises:
        DataError: if the run is none, is not finished or damaged, or `out` holds something else.
        ConfigError: if a format is unknown or lacks a package, or the licence is no identifier.
        Patch2TissueError: if an exported model does not give what the run's network gives.
    """
    run = run if isinstance(run, RunFolder) else RunFolder(Path(run))
    out = Path(out)
    chosen = _chosen(formats)
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", licence) is None:
        raise ConfigError(f"'{licence}' is no SPDX identifier of a licence. Give one such as CC-BY-4.0 or Apache-2.0.")
    name = out.resolve().name if name is None else name
    if not name.strip() or not name.isprintable():
        raise ConfigError(f"{name!r} is no name for a model: it is empty, or has line ends or control characters.")
    config = run.config()
    if not is_finished(run.pfscnet) or not (run.pfscnet / "network.json").is_file():
        raise DataError(f"{run.pfscnet}: holds no trained network. Finish `patch2tissue train` for this run first.")
    _refuse_in_the_way(out, fresh=fresh)
    if "onnx" in chosen:
        onnx_file.need_onnx()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(out.parent, below=False)
        staging = Path(tempfile.mkdtemp(prefix=temporary_prefix(out), dir=out.parent))
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(out)) from None
    try:
        written = _write(run, config, staging, chosen, name, licence)
        _put(staging, out)
    except OSError as error:
        if error.errno not in DISK_FULL or isinstance(error, WriteError):
            raise
        raise WriteError(error.errno, error.strerror, str(out)) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return ExportResult(out, name, written)


def _chosen(formats: Sequence[str]) -> tuple[str, ...]:
    unknown = [one for one in formats if one not in FORMATS]
    if unknown:
        raise ConfigError(f"Unknown format '{unknown[0]}'. Choose of {', '.join(FORMATS)}.")
    wanted = set(formats)
    if wanted & _NEED_TORCHSCRIPT:
        wanted.add("torchscript")
    return tuple(one for one in FORMATS if one in wanted)


def _refuse_in_the_way(out: Path, *, fresh: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        found = read_json(out / EXPORT_FILE)
        ours = isinstance(found, dict) and found.get("kind") == KIND
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise DataError(f"{out}: is there already and is no model folder. Choose another folder.")
    if not fresh:
        raise DataError(f"{out}: is a model folder already. Choose another folder, or replace it with --fresh.")


def _write(
    run: RunFolder, config: RunConfig, folder: Path, formats: Sequence[str], name: str, licence: str
) -> dict[str, dict[str, Any]]:
    """Write everything into a folder that nobody sees yet."""
    network = load_pfscnet(run.pfscnet, torch.device("cpu"))
    refuse_other_tissues(network, config.tissue_set(), run.pfscnet)
    temperature = read_temperature(run.pfscnet)
    description = describe_model(name, licence, run, config, network, temperature)
    facts = _facts(run, config, network)
    copy_run(run, config, folder)
    written = _write_graphs(folder, formats, network, temperature, description)
    if "tiatoolbox" in formats:
        written["tiatoolbox"] = tiatoolbox.write_class(folder)
    if "monai-bundle" in formats:
        written["monai-bundle"] = {"file": monai_bundle.FOLDER}
    qupath.write_script(folder, description, TORCHSCRIPT_FILE if "torchscript" in formats else None)
    card = model_card(description, facts, written)
    (folder / "README.md").write_text(card, encoding="utf-8")
    if "monai-bundle" in formats:
        body = card.split("---\n", 2)[2].lstrip()
        bundle = folder / monai_bundle.FOLDER
        monai_bundle.write_bundle(bundle, folder / TORCHSCRIPT_FILE, network, description, body)
    content = {**description, "formats": written, "facts": facts}
    (folder / EXPORT_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return written


def _write_graphs(
    folder: Path, formats: Sequence[str], network: PFSCNet, temperature: float, description: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    written: dict[str, dict[str, Any]] = {}
    if "onnx" in formats:
        facts = onnx_file.write_onnx(folder / ONNX_FILE, network, temperature, description)
        written["onnx"] = {"file": ONNX_FILE, **facts}
    if "torchscript" in formats:
        facts = torchscript.write_torchscript(folder / TORCHSCRIPT_FILE, network, temperature, description)
        written["torchscript"] = {"file": TORCHSCRIPT_FILE, **facts}
    return written


def _facts(run: RunFolder, config: RunConfig, network: PFSCNet) -> dict[str, Any]:
    """Facts of a run; those that came with it if it is a model folder itself."""
    known = run.path / EXPORT_FILE
    if known.is_file():
        try:
            return dict(read_json(known)["facts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{known}: cannot be read ({error}). Restore it, or export the run again.") from None
    encoder = str(network.settings["encoder"]["name"])
    return {**run_facts(run, config, encoder), "familiarity": (run.pfscnet / DISTRIBUTION_FILE).is_file()}


def _put(staging: Path, out: Path) -> None:
    """Give a finished folder its name; one of ours that has it makes room, and is removed after."""
    umask = os.umask(0)
    os.umask(umask)
    staging.chmod(0o777 & ~umask)
    if not out.exists():
        staging.rename(out)
        return
    with tempfile.TemporaryDirectory(prefix=temporary_prefix(out), dir=out.parent) as old:
        out.rename(Path(old) / "old")
        staging.rename(out)
