"""Rounds of stage 2: train, let the network label its own training patches, train again from the same start."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from patch2tissue.config import RunConfig
from patch2tissue.data.patches import Patch, PatchFiles
from patch2tissue.distributed.group import of_first
from patch2tissue.pfscnet.network import PFSCNet, load_pfscnet
from patch2tissue.pfscnet.training import train_pfscnet
from patch2tissue.pseudo_labels.second_round import generate_second_round
from patch2tissue.run_folder import ROUND_VARIANTS, RunFolder


def train_rounds(
    config: RunConfig,
    run: RunFolder,
    patches: Sequence[Patch],
    *,
    side: int,
    validate: Callable[[PFSCNet], float] | None = None,
) -> None:
    """Train PFSCNet `pfscnet.rounds` times; each round's predictions label the patches of the next [our reading].

    Every round starts from the same weights and sees the patches in the same order; only labels and confidences
    differ. The last round's network is in `run.pfscnet`, those before in `round-1` and so on inside it. What is done is
    passed over, so a run that was stopped goes on where it was.

    Args:
        config: the run's configuration.
        run: run folder with the pseudo labels of stage 1.
        patches: training patches.
        side: canvas side in pixels, see `canvas_size`.
        validate: see `PFSCNetStage`; used in every round.

    Raises:
        ConfigError, DataError, TrainingError: see `fit`.
    """
    rounds = config.pfscnet.rounds
    for number in range(1, rounds + 1):
        labels = run.round_labels(number)
        if number > 1:
            _label_round(config, run, patches, side, number)
        train_pfscnet(
            config,
            patches,
            PatchFiles(labels / "masks", patches),
            run.pfscnet if number == rounds else run.pfscnet / f"round-{number}",
            side=side,
            title="PFSCNet" if rounds == 1 else f"PFSCNet, round {number}",
            confidences=PatchFiles(labels / "confidence", patches),
            craanet=run.craanet,
            validate=validate,
        )


def _label_round(config: RunConfig, run: RunFolder, patches: Sequence[Patch], side: int, number: int) -> None:
    """Let the network of the round before label the patches, unless they are labelled."""
    labels = run.round_labels(number)
    if of_first((labels / "manifest.csv").is_file):
        return
    generate_second_round(
        patches,
        config.tissue_set(),
        load_pfscnet(run.pfscnet / f"round-{number - 1}"),
        labels,
        side=side,
        config=config.pseudo_labels,
        hardware=config.hardware,
        symmetries=config.pseudo_labels.symmetries,
        variant=ROUND_VARIANTS[number],
    )
