"""`patch2tissue labels …`: what was labelled, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="labels",
    help="Labels made with `label`: how far they are, the table for training, labels from elsewhere.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Patches = Annotated[Path, typer.Argument(help="Data folder, as `patch2tissue label` takes it.")]
Tissues = Annotated[str, typer.Option("--tissues", help="Tissue set: a name or a YAML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _opened(patches: Path, tissues: str, *, new: bool = False) -> tuple[Any, Any]:
    """The pool and the store of a folder; one that was never labelled is an error unless labels come in."""
    from patch2tissue.errors import DataError
    from patch2tissue.labelling.pool import find_pool
    from patch2tissue.labelling.store import DATABASE, LabelStore
    from patch2tissue.tissues import load_tissue_set

    tissue_set = load_tissue_set(tissues)
    pool = find_pool(patches)
    if not new and not (patches / DATABASE).is_file():
        raise DataError(f"{patches}: was not labelled yet. Start with `patch2tissue label {patches}`.")
    return pool, LabelStore(patches / DATABASE, tissue_set)


@app.command("status")
def labels_status(patches: Patches, tissues: Tissues, as_json: AsJson = False) -> None:
    """Show how far labelling is, how often each tissue occurs, and how far annotators agree."""
    import json

    from rich.console import Console

    from patch2tissue.labelling.progress import progress

    pool, store = _opened(patches, tissues)
    with store:
        known = {patch.path for patch in pool}
        found = progress([one for one in store.answers() if one.patch in known], len(pool), store.tissues)
        found["flagged"] = sum(flag.patch in known for flag in store.flags())
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    output = Console()
    output.print(f"{found['answered']} of {found['patches']} patches have answers", highlight=False)
    if found["flagged"]:
        output.print(f"{found['flagged']} were marked as wrong and are asked about first", highlight=False)
    for table in _tables(found):
        output.print(table)


def _tables(found: dict[str, Any]) -> list[Any]:
    from rich.markup import escape
    from rich.table import Table

    people = Table("annotator", "labelled")
    for name, count in found["annotators"].items():
        people.add_row(escape(name), str(count))
    shares = Table("tissue", "share of labels")
    for name, share in found["share"].items():
        shares.add_row(escape(name), "" if share is None else f"{share:.0%}")
    tables = [people, shares]
    if found["agreement"]:
        agreement = Table("annotators", "tissue", "patches", "same", "kappa")
        for one in found["agreement"]:
            kappa = "" if one["kappa"] is None else f"{one['kappa']:.2f}"
            names = escape(", ".join(one["annotators"]))
            agreement.add_row(names, escape(one["tissue"]), str(one["patches"]), f"{one['same']:.0%}", kappa)
        tables.append(agreement)
    return tables


@app.command("export")
def labels_export(
    patches: Patches,
    tissues: Tissues,
    annotator: Annotated[
        str | None, typer.Option("--annotator", help="Only this one's labels; without it, what the majority says.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Table to write; default: labels.csv in the folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the labels as the labels.csv that training reads.

    Patches on which annotators are divided, and those that were discarded, are left out. A table that is there already
    is kept under another name.
    """
    import json

    from patch2tissue.labelling.exchange import export_table
    from patch2tissue.progress import console

    pool, store = _opened(patches, tissues)
    with store:
        done = export_table(store, patches, pool, annotator=annotator, path=out)
    if as_json:
        backup = None if done.backup is None else str(done.backup)
        typer.echo(
            json.dumps({"path": str(done.path), "labelled": done.labelled, "left_out": done.left_out, "backup": backup})
        )
        return
    console.print(f"{done.labelled} labels in [bold]{done.path}[/bold]", highlight=False)
    for reason, count in sorted(done.left_out.items()):
        console.print(f"  left out: {count} ({reason})", highlight=False)
    if done.backup is not None:
        console.print(f"  what was there before: {done.backup}", highlight=False)


@app.command("import")
def labels_import(
    patches: Patches,
    tissues: Tissues,
    table: Annotated[
        Path | None, typer.Option("--table", help="CSV path,<tissue>,…; without it, labels in the file names.")
    ] = None,
    annotator: Annotated[str | None, typer.Option("--annotator", help="Whose labels they are.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take over labels from file names, or from a table; doing so again changes nothing."""
    import json

    from patch2tissue.labelling.exchange import import_file_names, import_table
    from patch2tissue.progress import console

    pool, store = _opened(patches, tissues, new=True)
    with store:
        if table is None:
            done = import_file_names(store, patches, pool, annotator or "file names")
        else:
            done = import_table(store, patches, pool, table, annotator or "table")
    if as_json:
        typer.echo(json.dumps({"new": done.new, "known": done.known, "without": done.without}))
        return
    console.print(
        f"{done.new} labels taken over, {done.known} were known; {done.without} patches have none.", highlight=False
    )
