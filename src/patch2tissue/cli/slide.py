"""`patch2tissue slide …`: the commands for whole slides."""

from __future__ import annotations

import typer

from patch2tissue.cli.slide_evaluate import slide_evaluate
from patch2tissue.cli.slide_predict import slide_predict
from patch2tissue.cli.slide_tiles import slide_tiles
from patch2tissue.cli.slide_to_spatialdata import slide_to_spatialdata

app = typer.Typer(
    name="slide",
    help="Whole slides: cut tiles to label, draw tissue maps that QuPath opens, score them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("tiles")(slide_tiles)
app.command("predict")(slide_predict)
app.command("evaluate")(slide_evaluate)
app.command("to-spatialdata")(slide_to_spatialdata)
