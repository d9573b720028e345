"""The whole method in order: data, CRAANet, pseudo labels, PFSCNet, and the comparisons that were asked for.

Every step leaves its result in the run folder and is passed over when it is there, so a run that was stopped goes on
where it was. Masks are opened only by what is named for it: `comparisons.full_supervision` and
`selection: validation_masks`. The data are read before torch is imported, which takes seconds.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patch2tissue.atomic import remove_abandoned, write_text
from patch2tissue.config import RunConfig, load_config
from patch2tissue.config_sections import LoggersConfig
from patch2tissue.data.canvas import canvas_size
from patch2tissue.data.fingerprint import Content
from patch2tissue.data.patches import Patch
from patch2tissue.data.tables import TableWriter
from patch2tissue.distributed.launch import Order, launch, processes_to_start
from patch2tissue.distributed.place import is_first, joined, place_of_process
from patch2tissue.environment import write_environment
from patch2tissue.errors import ConfigError, DataError, WriteError
from patch2tissue.foundation_models import encoder_notes
from patch2tissue.labelling.exchange import unseen_by_training
from patch2tissue.links import refuse_to_write_through_links
from patch2tissue.optional import require_package
from patch2tissue.progress import console
from patch2tissue.run_data import is_recorded, record_data
from patch2tissue.run_folder import RunFolder, is_finished
from patch2tissue.training_data import patients_in_both, prepare_data, refuse_bad_pictures, training_patches

log = logging.getLogger(__name__)

STAGES = ("craanet", "pseudo", "pfscnet")

_FREE_SECTIONS = {"output", "hardware", "inference", "comparisons", "loggers"}
"""Parts of a configuration that may change when a run is resumed, since trained weights do not depend on them."""


def run_training(
    config: RunConfig,
    *,
    stages: Sequence[str] = STAGES,
    resume: bool = True,
    progress: bool = True,
    augmentation: object = None,
) -> RunFolder:
    """Train both stages on patch labels.

    If `config.hardware` asks for several processes, they are started and waited for, unless torchrun or SLURM started
    them: then this is to be called in each.

    Args:
        config: the whole run.
        stages: which of `craanet`, `pseudo`, `pfscnet` to run, in this order.
        resume: go on with what is in the run folder; otherwise it is emptied first.
        progress: show what is going on.
        augmentation: changes the colours of training patches in place of `config.data.augmentation`: a pipeline of
            albumentations, MONAI or torchvision, or a function, see `given_augmentation`.

    Returns:
        The run folder.

    Raises:
        ConfigError, DataError: for what the user can mend; TrainingError if training diverges, or a process is lost.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise ConfigError(f"Unknown stage '{unknown[0]}'. Stages are {', '.join(STAGES)}.")
    refuse_missing_packages(config.loggers)
    config = _with_augmentation(config, augmentation)
    run = RunFolder(Path(config.output))
    if place_of_process() is not None and joined() is None:
        from patch2tissue.distributed.group import together

        with together(config.hardware):
            _train_together(config, run, stages, resume=resume, progress=progress)
    elif joined() is None and (number := processes_to_start(config.hardware)):
        launch(Order.of(config, stages, resume=resume, progress=progress), number, config.hardware.nodes)
    else:
        patches, side = _prepare(config, run, stages, resume=resume, progress=progress)
        with console.status("Loading the networks ..."):
            from patch2tissue.stages import train_stages
        _write_environment(run, config)
        train_stages(config, run, patches, side, stages, progress=progress)
        collect_curves(run)
    return run


def _train_together(config: RunConfig, run: RunFolder, stages: Sequence[str], *, resume: bool, progress: bool) -> None:
    """Train as one of several processes, of which the first looks at the data and writes."""
    from patch2tissue.distributed.group import of_first
    from patch2tissue.stages import train_stages

    own: list[Patch] = []

    def prepare() -> dict[str, Any]:
        patches, side = _prepare(config, run, stages, resume=resume, progress=progress)
        _write_environment(run, config)
        own.extend(patches)
        return {"side": side, "patches": _digest(patches)}

    told = of_first(prepare)
    if not is_first():
        logging.disable(logging.WARNING)  # the first process has said it
        own.extend(training_patches(config))
        logging.disable(logging.NOTSET)
        if _digest(own) != told["patches"]:
            raise DataError(
                f"{config.data.path}: holds other training patches on this machine than on the first one. All machines "
                "must see the same data folder and the same run folder."
            )
    train_stages(config, run, own, told["side"], stages, progress=progress)
    of_first(lambda: collect_curves(run))


def _digest(patches: Sequence[Patch]) -> str:
    """Names and labels of patches in their order, as a short text."""
    text = "\n".join(f"{patch.name} {patch.labels}" for patch in patches)
    return hashlib.sha256(text.encode()).hexdigest()


def _prepare(
    config: RunConfig, run: RunFolder, stages: Sequence[str], *, resume: bool, progress: bool
) -> tuple[list[Patch], int]:
    """Make the run folder and look at the data; returns the training patches and the side of the canvas."""
    if not resume:
        remove_run(run)
    refuse_to_write_through_links(run.path)
    _claim_folder(run, config)
    remove_abandoned(run.path)
    _remove_checkpoints(run)
    prepare_data(config)
    for unseen in unseen_by_training(Path(config.data.path), config.data.layout):
        log.warning(unseen)
    patches = training_patches(config)
    for shared in patients_in_both(config, patches):
        log.warning(shared)
    for note in encoder_notes(config):
        log.warning(note)
    side = _look_at_data(config, run, patches, stages, progress=progress)
    say = console.print if progress else log.info
    say(f"[bold]{len(patches)}[/bold] patches with image-level labels from {config.data.path} → {run.path}")
    return patches, side


def refuse_missing_packages(loggers: LoggersConfig) -> None:
    """Look for what loggers need before anything is trained; ConfigError if it is not installed."""
    for name in ("mlflow", "wandb"):
        if getattr(loggers, name) is not None:
            require_package(name, f"loggers.{name}", "tracking")


def _with_augmentation(config: RunConfig, given: object) -> RunConfig:
    """The configuration with what was given in Python, after another library's pipeline was tried."""
    if given is None and config.data.augmentation is None:
        return config
    from patch2tissue.data.color_pipeline import check_colors, given_augmentation

    used = config.data.augmentation if given is None else given_augmentation(given)
    assert used is not None
    check_colors(used)
    return config.model_copy(update={"data": config.data.model_copy(update={"augmentation": used})})


def _look_at_data(
    config: RunConfig, run: RunFolder, patches: Sequence[Patch], stages: Sequence[str], *, progress: bool
) -> int:
    """Read the pictures before anything is trained, and write down what they are; returns the side of the canvas."""
    contents: dict[str, Content] | None = None if is_recorded(run) else {}
    longest = None
    if not _all_done(config, run, stages):
        longest = refuse_bad_pictures(config, patches, stages, contents, progress=progress)
    record_data(run, config, patches, contents)
    return canvas_size(patches, config.data.patch_size, longest)


def remove_run(run: RunFolder) -> None:
    """Delete what a run wrote, and only if it is a run folder.

    Raises:
        DataError: if the folder holds something else.
    """
    if not run.path.exists() or not any(run.path.iterdir()):
        return
    if not run.config_file.is_file():
        raise DataError(
            f"{run.path}: is not a run folder (no config.yaml), so it is not emptied. Choose another output."
        )
    shutil.rmtree(run.path)


def _claim_folder(run: RunFolder, config: RunConfig) -> None:
    """Write the configuration; refuse a folder that holds a run with other settings."""
    config = config.self_contained()
    if run.config_file.is_file():
        old = load_config(run.config_file).self_contained().model_dump(mode="json")
        new = config.model_dump(mode="json")
        changed = _differences(old, new)
        if changed:
            raise ConfigError(
                f"{run.path}: holds a run with other settings ({', '.join(changed[:6])}). Use --fresh to start again, "
                "or another output folder."
            )
    elif run.path.is_dir() and any(run.path.iterdir()):
        raise DataError(f"{run.path}: is not empty and not a run folder. Choose another output.")
    try:
        write_text(run.config_file, config.to_yaml())
    except OSError as error:
        if isinstance(error, WriteError) and error.full:
            raise
        raise DataError(f"{run.path}: cannot write the run folder: {error.strerror or error}.") from None


def _write_environment(run: RunFolder, config: RunConfig) -> None:
    """Write what the run is trained on, unless all of it was trained before."""
    if not run.environment_file.is_file() or unfinished(config, run):
        write_environment(run.environment_file, config)


def _differences(old: object, new: object, prefix: str = "") -> list[str]:
    """Dotted names of fields that differ, outside the free sections."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(set(old) | set(new))
        return [
            difference
            for name in names
            if prefix or name not in _FREE_SECTIONS
            for difference in _differences(old.get(name), new.get(name), f"{prefix}{name}.")
        ]
    return [] if old == new else [prefix.rstrip(".")]


def _all_done(config: RunConfig, run: RunFolder, stages: Sequence[str]) -> bool:
    """Whether nothing is left to train, comparisons that were asked for later among it."""
    left, first = set(unfinished(config, run)), {"craanet", "cam"}
    done = {
        "craanet": not left & first,
        "pseudo": (run.pseudo_labels / "manifest.csv").is_file(),
        "pfscnet": not left - first,
    }
    return all(done[stage] for stage in stages)


def _stage_folders(run: RunFolder) -> list[Path]:
    rounds = sorted(run.pfscnet.glob("round-*"))
    return [run.pretraining, run.craanet, run.pfscnet, *rounds, *sorted((run.path / "comparisons").glob("*"))]


def unfinished(config: RunConfig, run: RunFolder) -> list[str]:
    """Names of the networks that the configuration asks for and the folder does not hold trained."""
    wanted = {"craanet": run.craanet, "pfscnet": run.pfscnet}
    for name in ("cam", "cross_entropy_only", "cam_pipeline", "full_supervision"):
        if getattr(config.comparisons, name):
            wanted[name] = run.comparison(name)
    return [name for name, folder in wanted.items() if not is_finished(folder)]


def _remove_checkpoints(run: RunFolder) -> None:
    """Remove checkpoints of stages that are finished, which a process killed at that moment left."""
    for folder in _stage_folders(run):
        if is_finished(folder):
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)


def collect_curves(run: RunFolder) -> None:
    """Gather the curves of all stages in `metrics.csv`: stage, epoch, name, value."""
    buffer = io.StringIO()
    writer = TableWriter(buffer)
    writer.writerow(["stage", "epoch", "name", "value"])
    for folder in _stage_folders(run):
        if (folder / "metrics.csv").is_file():
            try:
                rows = list(csv.reader(io.StringIO((folder / "metrics.csv").read_text(encoding="utf-8"))))[1:]
            except (OSError, ValueError, csv.Error) as error:
                raise DataError(
                    f"{folder / 'metrics.csv'}: cannot be read ({error}). All is trained: delete this file and "
                    "give the command again, to have the curves of the other stages."
                ) from None
            writer.writerows([folder.name, *row] for row in rows)
    write_text(run.metrics_file, buffer.getvalue())
