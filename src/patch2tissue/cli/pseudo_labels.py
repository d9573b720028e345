"""`patch2tissue pseudo-labels`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pseudo_labels(
    run: Annotated[Path, typer.Argument(help="Run folder whose first stage (CRAANet) is trained.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change one field, for example pseudo_labels.margin=0.1.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make them again, also if they are there.")] = False,
) -> None:
    """Turn accumulated attention into pseudo labels: palette PNGs, confidence PNGs and a manifest.

    `train` does this by itself. Use it to try other thresholds or refinements without training stage 1 again; with
    changed settings, the second stage has to be trained again from the new labels.
    """
    import shutil

    from patch2tissue.atomic import remove_abandoned, write_text
    from patch2tissue.config import load_config
    from patch2tissue.data.canvas import canvas_size
    from patch2tissue.errors import ConfigError
    from patch2tissue.links import refuse_to_write_through_links
    from patch2tissue.progress import console
    from patch2tissue.run_folder import RunFolder
    from patch2tissue.training_data import training_patches

    folder = RunFolder(run)
    old = folder.config()
    refuse_to_write_through_links(folder.path)
    config = load_config(folder.config_file, overrides)
    if config.model_copy(update={"pseudo_labels": old.pseudo_labels, "hardware": old.hardware}) != old:
        raise ConfigError("pseudo-labels can only change fields under pseudo_labels and hardware.")
    changed = config.pseudo_labels != old.pseudo_labels
    if changed and folder.pseudo_labels.exists() and not fresh:
        raise ConfigError(f"{folder.pseudo_labels}: was made with other settings. Add --fresh to replace it.")
    if fresh:
        shutil.rmtree(folder.pseudo_labels, ignore_errors=True)
    if changed:
        # what was trained on the old labels no longer belongs to this run
        for stale in (folder.pfscnet, folder.comparison("cross_entropy_only"), folder.path / "predictions"):
            shutil.rmtree(stale, ignore_errors=True)
        for file in (folder.scores_file, folder.report_file):
            file.unlink(missing_ok=True)
        write_text(folder.config_file, config.to_yaml())
    remove_abandoned(folder.pseudo_labels)
    patches = training_patches(config)
    side = canvas_size(patches, config.data.patch_size)
    with console.status("Loading the network ..."):
        from patch2tissue.pseudo_labels.of_run import make_pseudo_labels
    make_pseudo_labels(config, folder, patches, side)
    console.print(f"Pseudo labels are in [bold]{folder.pseudo_labels}[/bold] (manifest.csv lists them).")
