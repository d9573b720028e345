"""`patch2tissue check`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from patch2tissue.data.check import DataReport, SplitReport

_WARNINGS_SHOWN = 20
_LABELS_SHOWN = 16
_SIZES_SHOWN = 4


class LayoutName(StrEnum):
    """Ways labels are written."""

    auto = "auto"
    luad_histoseg = "luad-histoseg"
    bcss_wsss = "bcss-wsss"
    wsss4luad = "wsss4luad"
    csv = "csv"


def check(
    data: Annotated[Path, typer.Argument(help="Data folder with train/, and val/ or test/.")],
    tissues: Annotated[str, typer.Option("--tissues", help="Tissue set: a name or a YAML file.")],
    layout: Annotated[
        LayoutName, typer.Option("--layout", help="How labels of train are written; auto recognises it.")
    ] = LayoutName.auto,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Files read at a time; without it, one per core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Look through a data set before training: what it holds, and every file that is wrong, with the reason.

    Opens every image and mask. The exit code is 0 if everything can be used (there may be warnings) and 2 if not.
    """
    import json

    from rich.console import Console
    from rich.progress import Progress

    from patch2tissue.data.check import check_data
    from patch2tissue.progress import console
    from patch2tissue.tissues import load_tissue_set

    tissue_set = load_tissue_set(tissues)
    with Progress(console=console) as bars:
        task = bars.add_task("checking", total=None)
        report = check_data(
            data,
            tissue_set,
            layout.value,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
            workers=workers,
        )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), ensure_ascii=False))
    else:
        output = Console()
        for table in _tables(report):
            output.print(table)
        _print_problems(report, output)
    raise typer.Exit(0 if report.clean else 2)


def _tables(report: DataReport) -> list[Table]:
    """One table of splits, one of tissues, one of labels."""
    from rich.markup import escape
    from rich.table import Table

    layout = f", labels as in {report.layout}" if report.layout else ""
    splits = Table("", "images", "labelled", "masks", "patients", "slides", "sizes (px)", title_justify="left")
    splits.title = escape(f"{report.root} ({report.tissue_set}{layout})")
    for name, split in report.splits.items():
        counts = (split.images, split.labelled, split.masks, split.patients or "", split.slides or "")
        splits.add_row(name, *map(str, counts), _sizes(split))
    tables = [splits]
    labelled = {name: split for name, split in report.splits.items() if split.labelled}
    masked = {name: split for name, split in report.splits.items() if sum(split.pixels.values())}
    if labelled or masked:
        columns = [*(f"{name} labels" for name in labelled), *(f"{name} pixels" for name in masked)]
        tissues = Table("tissue", *columns)
        names = {tissue: None for split in labelled.values() for tissue in split.per_tissue}
        names |= {tissue: None for split in masked.values() for tissue in split.pixels}
        for tissue in names:
            tissues.add_row(
                escape(tissue),
                *(_share(split.per_tissue.get(tissue), split.labelled, count=True) for split in labelled.values()),
                *(_share(split.pixels.get(tissue), sum(split.pixels.values())) for split in masked.values()),
            )
        tables.append(tissues)
    if labelled:
        labels = Table("label", *labelled)
        totals: dict[str, int] = {}
        for split in labelled.values():
            for label, count in split.per_label.items():
                totals[label] = totals.get(label, 0) + count
        for label in sorted(totals, key=lambda label: -totals[label])[:_LABELS_SHOWN]:
            labels.add_row(escape(label), *(str(split.per_label.get(label, 0)) for split in labelled.values()))
        if len(totals) > _LABELS_SHOWN:
            labels.caption = f"and {len(totals) - _LABELS_SHOWN} rarer ones"
        tables.append(labels)
    return tables


def _sizes(split: SplitReport) -> str:
    shown = [f"{size} ({count})" for size, count in list(split.sizes.items())[:_SIZES_SHOWN]]
    rest = len(split.sizes) - len(shown)
    return ", ".join(shown) + (f" and {rest} others" if rest > 0 else "")


def _share(part: int | None, whole: int, count: bool = False) -> str:
    if part is None:
        return ""
    share = f"{part / whole:.0%}" if whole else "0%"
    return f"{part} ({share})" if count else share


def _print_problems(report: DataReport, output: Console) -> None:
    """Every error, and the first warnings of each kind, one line each, so that lines can be searched."""
    from rich.markup import escape

    for title, style, problems in (("error", "bold red", report.errors), ("warning", "yellow", report.warnings)):
        shown: dict[str, int] = {}
        for problem in problems:
            shown[problem.kind] = shown.get(problem.kind, 0) + 1
            if title == "error" or shown[problem.kind] <= _WARNINGS_SHOWN:
                output.print(f"[{style}]{title}[/] {escape(str(problem))}", highlight=False, soft_wrap=True)
        for kind, count in shown.items():
            if title == "warning" and count > _WARNINGS_SHOWN:
                output.print(f"[{style}]{title}[/] {count - _WARNINGS_SHOWN} more of kind '{kind}'; --json lists all")
    warnings = _counted(len(report.warnings), "warning")
    if report.clean:
        output.print(f"[green]Everything can be used[/] ({warnings}).", highlight=False)
    else:
        output.print(f"[bold red]{_counted(len(report.errors), 'error')}[/], {warnings}.", highlight=False)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
