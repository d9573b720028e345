"""Training the networks of a run: stage 1, stage 2 and those that were asked for beside them.

Apart from the order of things (`pipeline`), since this imports torch, which takes seconds that the data can be read in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from patch2tissue.config import RunConfig
from patch2tissue.craanet.training import train_craanet
from patch2tissue.data.patches import Patch, PatchFiles
from patch2tissue.distributed.group import of_first
from patch2tissue.errors import DataError
from patch2tissue.hardware import autocast_dtype, choose_device, set_threads
from patch2tissue.inference.training_distribution import DISTRIBUTION_FILE, learn_distribution
from patch2tissue.pfscnet.network import PFSCNet, load_pfscnet
from patch2tissue.pfscnet.rounds import train_rounds
from patch2tissue.pfscnet.training import train_pfscnet
from patch2tissue.pretraining.training import pretrain_encoder, start_from
from patch2tissue.pseudo_labels.of_run import make_pseudo_labels
from patch2tissue.run_folder import RunFolder
from patch2tissue.training_data import validation_patches

log = logging.getLogger(__name__)


def train_stages(
    config: RunConfig,
    run: RunFolder,
    patches: Sequence[Patch],
    side: int,
    stages: Sequence[str],
    *,
    progress: bool = True,
) -> None:
    """Train what is not trained yet.

    Args:
        config: the whole run.
        run: its folder.
        patches: training patches.
        side: canvas side in pixels, see `canvas_size`.
        stages: which of `craanet`, `pseudo`, `pfscnet`.
        progress: show a bar where training patches are looked at once more.
    """
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
        of_first(lambda: keep_distribution(config, run, patches, side, progress=progress))


def _train_stage2(config: RunConfig, run: RunFolder, patches: Sequence[Patch], side: int) -> None:
    if not of_first((run.pseudo_labels / "manifest.csv").is_file):
        raise DataError(
            f"{run.pseudo_labels}: there are no pseudo labels yet. Run `patch2tissue train` without --stage."
        )
    masks = PatchFiles(run.pseudo_labels / "masks", patches)
    confidences = PatchFiles(run.pseudo_labels / "confidence", patches)
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
            PatchFiles(run.pseudo_labels / "variants" / "cam", patches),
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
