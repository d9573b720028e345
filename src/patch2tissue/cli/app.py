"""The `patch2tissue` command: collects the commands and turns errors into one message and an exit code."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

import patch2tissue
from patch2tissue.cli.calibrate import calibrate
from patch2tissue.cli.check import check
from patch2tissue.cli.compare import compare
from patch2tissue.cli.demo import demo
from patch2tissue.cli.doctor import doctor
from patch2tissue.cli.encoders import app as encoders_app
from patch2tissue.cli.evaluate import evaluate
from patch2tissue.cli.export import export
from patch2tissue.cli.label import label
from patch2tissue.cli.labels import app as labels_app
from patch2tissue.cli.patches import patches
from patch2tissue.cli.predict import predict
from patch2tissue.cli.pseudo_labels import pseudo_labels
from patch2tissue.cli.report import report
from patch2tissue.cli.rerun import rerun
from patch2tissue.cli.score import score
from patch2tissue.cli.slide import app as slide_app
from patch2tissue.cli.synthetic import synthetic
from patch2tissue.cli.train import train
from patch2tissue.cli.view import view
from patch2tissue.cores import share_cores
from patch2tissue.distributed.place import LOST, joined
from patch2tissue.errors import DISK_FULL, Patch2TissueError, PeerLostError, TrainingError, remedy
from patch2tissue.progress import console as progress_console

DEBUG_VARIABLE = "PATCH2TISSUE_DEBUG"
"""Environment variable that has the effect of --debug when set to anything but 0 or nothing."""

app = typer.Typer(
    name="patch2tissue",
    help="Tissue segmentation of histology images from patch-level labels: you say which tissues a patch holds, "
    "patch2tissue learns where they are.",
    epilog="Start with: patch2tissue doctor, then patch2tissue demo.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_PANELS = {
    "Start here": (doctor, demo),
    "Data": (synthetic, check, patches, label),
    "Train and predict": (train, pseudo_labels, calibrate, predict, export),
    "Judge": (evaluate, score, compare, rerun, report, view),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(_command.__name__.replace("_", "-"), rich_help_panel=_panel)(_command)
app.add_typer(labels_app, rich_help_panel="Data")
app.add_typer(encoders_app, rich_help_panel="Train and predict")
app.add_typer(slide_app, rich_help_panel="Whole slides")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"patch2tissue {patch2tissue.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what is being done.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors, no progress bars.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the program an error came from.")] = False,
) -> None:
    if verbose and quiet:
        raise typer.BadParameter("--verbose and --quiet exclude each other.")
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    progress_console.quiet = quiet
    set_up_logging(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def set_up_logging(level: int) -> None:
    """Send our messages of `level` and above, and other packages' warnings, to stderr."""
    from rich.logging import RichHandler

    # A quiet console would swallow warnings too, so messages have one of their own.
    console = Console(stderr=True) if progress_console.quiet else progress_console
    handler = RichHandler(
        console=console, show_time=level <= logging.DEBUG, show_path=level <= logging.DEBUG, show_level=True
    )
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("patch2tissue").setLevel(level)
    if level > logging.DEBUG:
        # Lightning sets its loggers to INFO when it is imported, but not these two, through which it speaks.
        for name in ("lightning.fabric.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Says, where triton is not to be had, that it will not count operations, which nobody asked for.
        logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
        # What these two say of damaged files, our messages say with the file's name.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.captureWarnings(True)


def _debugging() -> bool:
    return os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")


def _message(error: Exception) -> tuple[str, int]:
    """Return what is shown for an error, and the exit code."""
    if isinstance(error, Patch2TissueError):
        return str(error), error.exit_code
    # By name, since importing torch to compare types would cost seconds in commands that never use it.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "Out of memory. Use a smaller batch_size, patch_size or tile, or close other programs.", 1
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno == errno.ENAMETOOLONG:
            return f"{where}{error.strerror}. Choose a shorter one.", 2
        mendable = error.errno in (*DISK_FULL, errno.EROFS)
        return f"{where}{error.strerror}." + (f" {remedy(error.errno)}" if mendable else ""), 1
    kind = type(error).__name__
    return (
        f"This is a bug in patch2tissue ({kind}: {error}). Run the command again with {DEBUG_VARIABLE}=1 set to see "
        "where it happened, and report that text together with the output of `patch2tissue doctor --json`.",
        1,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process.

    Exit codes: 0 done, 1 failed at run time, 2 wrong usage or input, 130 interrupted.

    Args:
        arguments: command-line arguments without the program's name; None: those of this process.

    Raises:
        SystemExit: always, with the exit code.
    """
    run_and_leave(lambda: app(args=None if arguments is None else list(arguments), prog_name="patch2tissue"))


def run_and_leave(function: Callable[[], object]) -> NoReturn:
    """Run something and leave the process; an error becomes one message and the exit code.

    Raises:
        SystemExit: always, with the exit code.
    """
    share_cores()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that lacks a letter, or a name that is none, ends no command
            stream.reconfigure(errors="backslashreplace")
    try:
        function()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        console = Console(stderr=True, soft_wrap=True)
        if _debugging():
            console.print_exception()
        text, code = _message(error)
        place = joined()
        if place is not None:
            # all processes meet a training's failure, and the first one says it; a lost one is told of by its launcher
            if place.starter == "patch2tissue" and isinstance(error, PeerLostError):
                raise SystemExit(LOST) from None
            if place.rank > 0 and isinstance(error, TrainingError):
                raise SystemExit(code) from None
            text = f"process {place.rank}: {text}" if place.rank > 0 else text
        text = "".join(
            character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1]
            for character in text
        )
        console.print(f"[bold red]Error:[/] {escape(text)}", highlight=False)
        raise SystemExit(code) from None
    sys.exit(0)
