"""The whole method in order: data, CRAANet, pseudo labels, PFSCNet, and the comparisons that were asked for.

Every step leaves its result in the run folder and is passed over when it is there, so a run that was stopped goes on
where it was. Masks are opened only by what is named for it: `comparisons.full_supervision` and
`selection: validation_masks`.
"""

from __future__ import annotations

import csv
import io
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from patch2tissue.atomic import remove_abandoned, write_text
from patch2tissue.config import RunConfig, load_config
from patch2tissue.craanet.accumulation import AttentionMemory
from patch2tissue.craanet.network import CRAANet, load_craanet
from patch2tissue.craanet.training import train_craanet
from patch2tissue.data.canvas import canvas_size
from patch2tissue.data.patches import Patch
from patch2tissue.data.tables import TableWriter
from patch2tissue.environment import write_environment
from patch2tissue.errors import ConfigError, DataError, WriteError
from patch2tissue.hardware import autocast_dtype, choose_device, set_threads
from patch2tissue.inference.training_distribution import DISTRIBUTION_FILE, learn_distribution
from patch2tissue.labelling.exchange import unseen_by_training
from patch2tissue.links import refuse_to_write_through_links
from patch2tissue.pfscnet.network import PFSCNet, load_pfscnet
from patch2tissue.pfscnet.rounds import train_rounds
from patch2tissue.pfscnet.training import train_pfscnet
from patch2tissue.pretraining.training import pretrain_encoder, start_from
from patch2tissue.progress import console
from patch2tissue.pseudo_labels.baselines import generate_cam_labels
from patch2tissue.pseudo_labels.generate import generate_pseudo_labels
from patch2tissue.run_data import record_data
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import TissueSet
from patch2tissue.training import is_finished
from patch2tissue.training_data import (
    patients_in_both,
    prepare_data,
    refuse_bad_pictures,
    training_patches,
    validation_patches,
)
from patch2tissue.weights import refuse_other_tissues

log = logging.getLogger(__name__)

STAGES = ("craanet", "pseudo", "pfscnet")

_FREE_SECTIONS = {"output", "hardware", "inference", "comparisons"}
"""Parts of a configuration that may change when a run is resumed, since trained weights do not depend on them."""


def run_training(
    config: RunConfig, *, stages: Sequence[str] = STAGES, resume: bool = True, progress: bool = True
) -> RunFolder:
    """Train both stages on patch labels.

    Args:
        config: the whole run.
        stages: which of `craanet`, `pseudo`, `pfscnet` to run, in this order.
        resume: go on with what is in the run folder; otherwise it is emptied first.
        progress: show what is going on.

    Returns:
        The run folder.

    Raises:
        ConfigError, DataError: for what the user can mend; TrainingError if training diverges.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise ConfigError(f"Unknown stage '{unknown[0]}'. Stages are {', '.join(STAGES)}.")
    run = RunFolder(Path(config.output))
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
    if not _all_done(config, run, stages):
        refuse_bad_pictures(config, patches, stages)
    record_data(run, config, patches)
    say = console.print if progress else log.info
    say(f"[bold]{len(patches)}[/bold] patches with image-level labels from {config.data.path} → {run.path}")
    side = canvas_size(patches, config.data.patch_size)
    if config.pretraining is not None and {"craanet", "pfscnet"} & set(stages):
        config = start_from(config, pretrain_encoder(config, patches, run.pretraining, side=side))
    if "craanet" in stages:
        train_craanet(config, patches, run.craanet, side=side)
        if config.comparisons.cam:
            train_craanet(config, patches, run.cam, side=side, plain_cam=True)
    if "pseudo" in stages:
        make_pseudo_labels(config, run, patches, side)
    if "pfscnet" in stages:
        _train_stage2(config, run, patches, side)
        keep_distribution(config, run, patches, side, progress=progress)
    collect_curves(run)
    return run


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
    """Write config and environment; refuse a folder that holds a run with other settings."""
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
        if not run.environment_file.is_file() or unfinished(config, run):
            write_environment(run.environment_file, config)
    except OSError as error:
        if isinstance(error, WriteError) and error.full:
            raise
        raise DataError(f"{run.path}: cannot write the run folder: {error.strerror or error}.") from None


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


def make_pseudo_labels(config: RunConfig, run: RunFolder, patches: Sequence[Patch], side: int) -> None:
    """Write pseudo labels from the trained stage 1, and those of plain CAM if it was asked for."""
    if not is_finished(run.craanet):
        raise DataError(f"{run.craanet}: stage craanet is not trained yet. Run `patch2tissue train` without --stage.")
    tissues = config.tissue_set()
    if not (run.pseudo_labels / "manifest.csv").is_file():
        torch.manual_seed(config.seed)
        generate_pseudo_labels(
            patches,
            tissues,
            _trained_craanet(run.craanet, tissues),
            AttentionMemory(run.craanet / "attention_memory"),
            run.pseudo_labels,
            side=side,
            config=config.pseudo_labels,
            form=config.craanet.accumulation.form,
            hardware=config.hardware,
        )
    if config.comparisons.cam and is_finished(run.cam):
        generate_cam_labels(
            patches,
            tissues,
            _trained_craanet(run.cam, tissues),
            run.pseudo_labels,
            side=side,
            hardware=config.hardware,
        )
    if config.comparisons.grad_cam:
        generate_cam_labels(
            patches,
            tissues,
            _trained_craanet(run.craanet, tissues),
            run.pseudo_labels,
            side=side,
            hardware=config.hardware,
            method="grad_cam",
        )


def _trained_craanet(folder: Path, tissues: TissueSet) -> CRAANet:
    network = load_craanet(folder)
    refuse_other_tissues(network, tissues, folder)
    return network


def _train_stage2(config: RunConfig, run: RunFolder, patches: Sequence[Patch], side: int) -> None:
    if not (run.pseudo_labels / "manifest.csv").is_file():
        raise DataError(
            f"{run.pseudo_labels}: there are no pseudo labels yet. Run `patch2tissue train` without --stage."
        )
    masks = [run.pseudo_labels / "masks" / f"{patch.name}.png" for patch in patches]
    confidences = [run.pseudo_labels / "confidence" / f"{patch.name}.png" for patch in patches]
    validate = _validation(config) if config.selection == "validation_masks" else None
    train_rounds(config, run, patches, side=side, validate=validate)
    if config.comparisons.cross_entropy_only:
        train_pfscnet(
            config,
            patches,
            masks,
            run.comparison("cross_entropy_only"),
            side=side,
            title="cross-entropy only",
            confidences=confidences,
            craanet=run.craanet,
            cross_entropy_only=True,
        )
    if config.comparisons.cam_pipeline:
        train_pfscnet(
            config,
            patches,
            [run.pseudo_labels / "variants" / "cam" / f"{patch.name}.png" for patch in patches],
            run.comparison("cam_pipeline"),
            side=side,
            title="CAM pipeline",
            craanet=run.cam,
            cross_entropy_only=True,
        )
    if config.comparisons.full_supervision:
        log.warning("full supervision reads the masks of train, as comparisons.full_supervision asks for")
        train_pfscnet(
            config,
            patches,
            [patch.mask for patch in patches if patch.mask is not None],
            run.comparison("full_supervision"),
            side=side,
            title="full supervision",
            craanet=run.craanet,
            cross_entropy_only=True,
        )


def keep_distribution(
    config: RunConfig, run: RunFolder, patches: Sequence[Patch], side: int, *, progress: bool = True
) -> None:
    """Keep what the training patches look like, so that images that are unlike them can be told, unless it is there."""
    path = run.pfscnet / DISTRIBUTION_FILE
    if path.is_file():
        return
    device = choose_device(config.hardware.device)
    set_threads(config.hardware)
    dtype = autocast_dtype(device, config.hardware.precision)
    network = load_pfscnet(run.pfscnet, device)
    found = learn_distribution(network, patches, side, device=device, dtype=dtype, progress=progress)
    if found is None:
        log.warning(
            "there are too few training patches to know what they look like: images unlike them will not be told of"
        )
    else:
        found.save(path)


def _validation(config: RunConfig) -> Callable[[PFSCNet], float]:
    """Score on the masks of val, for `selection: validation_masks`."""
    from patch2tissue.data.images import read_image, read_mask
    from patch2tissue.evaluation.scores import ConfusionMatrix
    from patch2tissue.inference.tiling import predict_tiled

    tissues, patches = config.tissue_set(), validation_patches(config)

    def score(network: PFSCNet) -> float:
        training = network.training
        network.eval()
        device = next(network.parameters()).device
        confusion = ConfusionMatrix(len(tissues))
        for patch in patches:
            assert patch.mask is not None
            probabilities = predict_tiled(
                lambda images: network(images).logits.softmax(dim=1),
                read_image(patch.path),
                tile=config.inference.tile,
                overlap=config.inference.overlap,
                batch_size=config.inference.batch_size,
                device=device,
            )
            confusion.update(np.asarray(probabilities).argmax(axis=0).astype(np.uint8), read_mask(patch.mask, tissues))
        network.train(training)
        return float(confusion.scores()["miou"])

    return score


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
