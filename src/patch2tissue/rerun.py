"""Repeating a run from its folder: the same configuration, data and threads once more, and what comes out compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from patch2tissue.atomic import write_text
from patch2tissue.config import HardwareConfig, RunConfig, load_config
from patch2tissue.config_sections import LoggersConfig
from patch2tissue.data.fingerprint import changes, fingerprints, read_fingerprints
from patch2tissue.data.patches import Patch
from patch2tissue.environment import Change, describe_environment, environment_changes, read_environment
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.evaluation.repetition import Part, compare_repetition
from patch2tissue.evaluation.run_scores import score_run
from patch2tissue.hardware import choose_device
from patch2tissue.pipeline import run_training, unfinished
from patch2tissue.progress import console
from patch2tissue.run_data import used_files
from patch2tissue.run_folder import RunFolder
from patch2tissue.training_data import prepare_data, training_patches

RECORD = "rerun.json"
"""File in the repetition's folder: what was compared, and what came of it."""

MAY_BE_SET = (
    "data.path",
    "data.test_path",
    "data.source.path",
    "craanet.encoder.weights",
    "pfscnet.encoder.weights",
    "hardware.device",
    "hardware.workers",
    "hardware.devices",
    "hardware.nodes",
)
"""Fields that may be another in the repetition: where things lie, and what the result does not hang on."""

_DRAWN = 32
"""Training patches that are drawn with both networks where there are no predictions of a test split."""


@dataclass(frozen=True)
class Plan:
    """A repetition that is about to begin.

    Attributes:
        run: the run.
        config: the repetition's configuration.
        patches: its training patches.
        environment: what is another than when the run was trained.
        notes: what cannot be known or checked, in words.
    """

    run: RunFolder
    config: RunConfig
    patches: list[Patch]
    environment: list[Change]
    notes: list[str]


@dataclass(frozen=True)
class Rerun:
    """What came of a repetition.

    Attributes:
        plan: what was repeated.
        parts: the comparison.
        tolerance: most that scores may differ, as a fraction; maps where there are no scores; None: nothing may.
    """

    plan: Plan
    parts: list[Part]
    tolerance: float | None

    @property
    def first_difference(self) -> Part | None:
        """The first part that is not the same, in the order in which they come about."""
        return next((part for part in self.parts if not part.same), None)

    @property
    def result(self) -> str:
        """`same` (bit for bit), `within_tolerance` or `different`."""
        if self.first_difference is None:
            return "same"
        deciding = [part for part in self.parts if part.kind == "scores"] or [self.parts[-1]]
        near = self.tolerance is not None and all(
            part.same or (part.difference is not None and part.difference <= self.tolerance) for part in deciding
        )
        return "within_tolerance" if near else "different"

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for `rerun.json`."""
        first = self.first_difference
        return {
            "run": str(self.plan.run.path),
            "rerun": str(self.plan.config.output),
            "result": self.result,
            "first_difference": None if first is None else first.name,
            "tolerance": self.tolerance,
            "environment": [vars(change) for change in self.plan.environment],
            "notes": self.plan.notes,
            "parts": [part.to_dict() for part in self.parts],
        }


def plan_rerun(run: RunFolder, out: Path | None = None, settings: Sequence[str] = (), *, fresh: bool = False) -> Plan:
    """Check that a run can be repeated, and say what is another than it was.

    Args:
        run: folder of a finished run.
        out: folder for the repetition; None: beside the run, with `-rerun` after its name.
        settings: `section.field=value` of the fields `MAY_BE_SET`.
        fresh: an earlier repetition in that folder does not count.

    Raises:
        DataError: if the run is none or not finished, its data are gone or changed, or `out` is in its way.
        ConfigError: if another field is set, or `out` holds another run.
    """
    original = run.config()
    environment = read_environment(run.environment_file)
    config = _configuration(run, environment, settings)
    missing = unfinished(original, run)
    if missing:
        raise DataError(
            f"{run.path}: is not finished ({', '.join(missing)} not trained), so there is nothing to compare with. "
            "Finish it with `patch2tissue train`."
        )
    target = run.path.with_name(f"{run.path.resolve().name}-rerun") if out is None else Path(out)
    places = target.resolve(), run.path.resolve()
    if places[0] in (places[1], *places[1].parents) or places[1] in places[0].parents:
        raise DataError(f"{target}: is, holds or lies in the run that is repeated. Choose another folder with --out.")
    config.output = target
    notes = []
    if environment.get("resumed"):
        notes.append("the run went on in other environments than it was begun in, see resumed in its environment.json")
    if str(environment.get("git_commit")).endswith("-dirty"):
        notes.append("the run was made from a checkout with changes that no commit holds")
    if config.craanet.encoder.pretrained or config.stage2_encoder().pretrained:
        notes.append(
            "encoder.pretrained downloads weights by their name; whether they are those of then is not checked"
        )
    patches = _same_data(run, config)
    if not run.data_file.is_file():
        notes.append("the run keeps no data.csv, so whether its data are those of then is not known")
    return Plan(run, config, patches, _changes_of_environment(environment, config, fresh=fresh), notes)


def _configuration(run: RunFolder, environment: dict[str, Any], settings: Sequence[str]) -> RunConfig:
    """The run's configuration, with what it left to the machine set to what that machine had."""
    for setting in settings:
        name = setting.partition("=")[0].strip()
        if name not in MAY_BE_SET:
            raise ConfigError(
                f"--set {setting}: a repetition is of the same settings. What may be set: {', '.join(MAY_BE_SET)}."
            )
    config = load_config(run.config_file, list(settings))
    config.loggers = LoggersConfig()  # a repetition is no further experiment
    hardware = config.hardware
    if hardware.threads is None and isinstance(environment.get("threads"), int):
        hardware.threads = environment["threads"]
    # `autocast` is what earlier versions wrote
    precision = environment.get("precision", environment.get("autocast"))
    if hardware.precision == "auto" and precision is not None:
        hardware.precision = "bfloat16" if str(precision).endswith("bfloat16") else "float32"
    if not any(setting.partition("=")[0].strip() == "hardware.device" for setting in settings):
        hardware.device = _device(hardware, environment)
    return config


def _device(hardware: HardwareConfig, environment: dict[str, Any]) -> Literal["auto", "cpu", "cuda", "mps"]:
    """The device that the run was trained on, by kind; `auto` where this machine has none of it."""
    known = environment.get("device")
    kind = hardware.device
    if kind == "auto" and known is not None:
        kind = "cpu" if known == "cpu" else "mps" if known == "mps" else "cuda"  # which is told by its model
    try:
        choose_device(kind)
    except ConfigError:
        return "auto"
    return kind


def _changes_of_environment(then: dict[str, Any], config: RunConfig, *, fresh: bool) -> list[Change]:
    """What was another where the repetition was begun, and is another where it is about to go on."""
    again = RunFolder(config.output)
    begun = [read_environment(again.environment_file)] if again.environment_file.is_file() and not fresh else []
    if not begun or unfinished(config, again):
        begun.append(describe_environment(config))
    return list(dict.fromkeys(change for now in begun for change in environment_changes(then, now)))


def _same_data(run: RunFolder, config: RunConfig) -> list[Patch]:
    """Training patches, if they are those that the run was trained on.

    Raises:
        DataError: if they are gone or others.
    """
    try:
        prepare_data(config)
        patches = training_patches(config)
        files = used_files(config, patches)
        found = []
        if run.data_file.is_file():
            with console.status(f"Looking at {len(files)} files ..."):
                found = changes(read_fingerprints(run.data_file), fingerprints(files))
    except DataError as error:
        raise DataError(
            f"{error} Paths in {run.config_file} are relative to the folder that the run was trained from. If data "
            "moved, say where they are with --set data.path=FOLDER (likewise "
            f"{', '.join(MAY_BE_SET[1:5])})."
        ) from None
    if found:
        raise DataError(
            f"{config.data.path}: the data are not those that {run.path} was trained on: {'; '.join(found)}. Put them "
            f"back; {run.data_file} lists every file with size, label and hash."
        )
    return patches


def carry_out(plan: Plan, *, tolerance: float | None = None, fresh: bool = False, progress: bool = True) -> Rerun:
    """Train again, score if the run is scored, compare, and write `rerun.json`; goes on where an earlier call stopped.

    Args:
        plan: what `plan_rerun` found.
        tolerance: see `Rerun`.
        fresh: delete an earlier repetition in the same folder first.
        progress: show what is going on.

    Raises:
        ConfigError, DataError, TrainingError: see `run_training` and `score_run`.
    """
    again = run_training(plan.config, resume=not fresh, progress=progress)
    if plan.run.scores_file.is_file():
        score_run(again, progress=progress)
    images = [patch.path for patch in plan.patches[:_DRAWN]]
    outcome = Rerun(plan, compare_repetition(plan.run, again, images), tolerance)
    write_text(again.path / RECORD, json.dumps(outcome.to_dict(), indent=2))
    return outcome
