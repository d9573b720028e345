"""`patch2tissue synthetic`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DifficultyName(StrEnum):
    """Levels of difficulty."""

    easy = "easy"
    medium = "medium"
    hard = "hard"


def synthetic(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    train: Annotated[int, typer.Option(min=0, help="Patches to train on.")] = 600,
    val: Annotated[int, typer.Option(min=0, help="Patches for validation.")] = 0,
    test: Annotated[int, typer.Option(min=0, help="Patches to test on, of other patients.")] = 120,
    size: Annotated[int, typer.Option(min=32, help="Side of a patch in pixels of 0.5 µm.")] = 128,
    difficulty: Annotated[
        DifficultyName, typer.Option(help="How much slides differ, tissues mix and one looks like another.")
    ] = DifficultyName.hard,
    seed: Annotated[int, typer.Option(min=0, help="Same seed and settings, same files.")] = 0,
) -> None:
    """Make a data set of drawn H&E patches, with masks, to try everything without any data.

    Tumour, stroma, lymphocytic infiltrate and necrosis, in the folders and file names of BCSS-WSSS. The pictures are
    drawn by a program: scores on them say how well the software works, not how well it would do on patients.
    """
    from rich.progress import Progress

    from patch2tissue.data.synthetic import make_synthetic
    from patch2tissue.progress import console

    with Progress(console=console) as bars:
        bar = bars.add_task("Drawing tissue", total=train + val + test)
        make_synthetic(
            out,
            train=train,
            val=val,
            test=test,
            size=size,
            difficulty=difficulty.value,
            seed=seed,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
        bars.update(bar, completed=train + val + test)
    console.print(f"Made {train + val + test} patches in [bold]{out}[/bold].", highlight=False)
