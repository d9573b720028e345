"""`patch2tissue demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patch2tissue.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table


def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder to write.")] = Path("runs/demo"),
    config: Annotated[
        Path | None, typer.Option("--config", help="Another recipe than the demo that comes with patch2tissue.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting, for example --set craanet.epochs=3.")
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Delete an earlier run in the same folder first instead of going on with it."),
    ] = False,
    slide: Annotated[
        Path | None,
        typer.Option("--slide", help="Train nothing: write a synthetic whole slide (.tif or .svs) with its truth."),
    ] = None,
    slide_size: Annotated[
        str, typer.Option("--slide-size", metavar="WxH", help="Width and height of that slide in pixels of 0.5 µm.")
    ] = "8192x6144",
    slide_seed: Annotated[int, typer.Option("--slide-seed", min=0, help="Same seed and size, same slide.")] = 0,
) -> None:
    """See the whole method at work on synthetic tissue, from patch labels to a report with pictures and scores.

    Makes synthetic histology patches, trains both stages and the comparisons, scores them against the masks and
    writes report.html. Needs no data, no internet and no graphics card. If it is stopped, the next call goes on
    where it was.
    """
    if slide is not None:
        if config is not None or settings or fresh:
            raise ConfigError("--slide trains nothing: leave out --config, --set and --fresh.")
        _write_slide(slide, _size(slide_size), slide_seed, out)
        return

    import time

    from rich.console import Console

    from patch2tissue.builtin_recipes import recipe
    from patch2tissue.config import load_config
    from patch2tissue.progress import console as messages

    run_config = load_config(config or recipe("demo"), [*(settings or []), f"output={_quoted(out)}"])

    from patch2tissue.pipeline import run_training

    begin = time.monotonic()
    run = run_training(run_config, resume=not fresh)

    # not before there is something to score: what they import takes longer than the first bar should
    from patch2tissue.evaluation.run_scores import score_run
    from patch2tissue.report.build import build_report

    scores = score_run(run)
    with messages.status("Writing the report ..."):
        page = build_report(run)
    console = Console()
    console.print(_table(scores))
    console.print(f"Done in {(time.monotonic() - begin) / 60:.1f} minutes. Scores: {run.scores_file}", highlight=False)
    console.print(f"[bold green]Open {page} in a browser.[/]", highlight=False, soft_wrap=True)


def _size(text: str) -> tuple[int, int]:
    """Width and height of `WxH`."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise ConfigError(f"--slide-size {text}: is no size. Write width x height in pixels, for example 8192x6144.")
    return int(parts[0]), int(parts[1])


def _write_slide(path: Path, size: tuple[int, int], seed: int, run: Path) -> None:
    """Write a synthetic slide, and say what to do with it."""
    import shlex

    from rich.progress import Progress

    from patch2tissue.data.synthetic.drawing import TISSUE_SET
    from patch2tissue.data.synthetic.slide_files import write_synthetic_slide
    from patch2tissue.progress import console

    with Progress(console=console) as bars:
        task = bars.add_task("the picture", total=None)
        files = write_synthetic_slide(
            path,
            *size,
            seed=seed,
            progress=lambda step, done, total: bars.update(task, description=step, completed=done, total=total),
        )
    for file, what in (
        (files.slide, "synthetic slide, opens in QuPath"),
        (files.truth, "its tissues as a map"),
        (files.truth_geojson, "their outlines for QuPath"),
        (files.description, "their areas"),
    ):
        console.print(f"  {file}: {what}", highlight=False, soft_wrap=True)
    maps = path.parent / "maps"
    predict = ["patch2tissue", "slide", "predict", str(run), str(path), "--out", str(maps)]
    judge = ["patch2tissue", "slide", "evaluate", str(maps), str(files.truth), "--tissues", TISSUE_SET]
    console.print("Next, with a trained run:", highlight=False)
    for words in (predict, judge):
        console.print(f"  {shlex.join(words)}", highlight=False, soft_wrap=True)


def _quoted(path: Path) -> str:
    """Path as a YAML value that is text whatever it holds."""
    import json

    return json.dumps(str(path), ensure_ascii=False)


_ROWS = {
    "pseudo_labels": {
        "cam": "plain class activation map",
        "grad_cam": "Grad-CAM",
        "last_epoch": "last epoch's attention",
        "accumulated": "accumulated attention",
        "refined": "final pseudo labels",
    },
    "test": {
        "cam_pipeline": "trained on the plain map",
        "cross_entropy_only": "without the two losses",
        "full_method": "full method",
        "full_supervision": "trained on masks (ceiling)",
    },
}
_TITLES = {"pseudo_labels": "pseudo labels", "test": "test"}


def _table(scores: dict[str, Any]) -> Table:
    """Table of what scores.json holds, in the order of the method."""
    from rich.table import Table

    table = Table(
        "", "", "MIoU", "95% interval", "Dice", "accuracy", title="Scores against masks", title_justify="left"
    )
    for part, rows in _ROWS.items():
        title = _TITLES[part]
        for key, label in rows.items():
            values = scores.get(part, {}).get(key)
            if values is None:
                continue
            low, high = values.get("ci95") or (None, None)
            interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
            table.add_row(
                title, label, f"{values['miou']:.3f}", interval, f"{values['dice']:.3f}", f"{values['acc']:.3f}"
            )
            title = ""
        table.add_section()
    return table
