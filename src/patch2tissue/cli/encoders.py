"""`patch2tissue encoders …`: foundation models of pathology, and their weights as files that are safe to load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="encoders",
    help="Foundation models that `encoder.name` takes: what they expect, their licences, and their weights.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("list")
def encoders_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that is known as JSON.")] = False,
) -> None:
    """List the foundation models, what they expect, what they may be used for and how to get them.

    Other encoders need no entry: `encoder.name` takes every model of timm, and `hf-hub:` names.
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from patch2tissue.foundation_models import FOUNDATION_MODELS

    models = FOUNDATION_MODELS.values()
    if as_json:
        typer.echo(json.dumps([model.to_dict() for model in models], ensure_ascii=False, indent=2))
        return
    table = Table(title="Foundation models", title_justify="left")
    for title in ("name", "parameters", "patch"):
        table.add_column(title, no_wrap=True)
    for title in ("µm/px", "licence", "access", "repository"):
        table.add_column(title, overflow="fold")
    for model in models:
        table.add_row(
            model.name,
            f"{model.parameters / 1e6:,.0f} M",
            f"{model.patch} px",
            " ".join(f"{value:g}" for value in model.um_per_pixel),
            model.licence,
            "gated" if model.gated else "open",
            model.repository,
        )
    console = Console()
    console.print(table)
    console.print(
        "Gated: log in at huggingface.co/REPOSITORY, accept the terms there, then run `hf auth login`. What is trained "
        "with a model's weights is under its licence too. --json tells more, and what should be checked.",
        highlight=False,
    )


@app.command("convert")
def encoders_convert(
    source: Annotated[Path, typer.Argument(help="File with the weights: pytorch_model.bin, .pt, .pth, .safetensors.")],
    target: Annotated[Path, typer.Argument(help="File to write, NAME.safetensors.")],
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="Foundation model or timm name; checks that the weights fit it.")
    ] = None,
) -> None:
    """Write an encoder's weights as safetensors with timm's names, for `encoder.weights`.

    Only tensors are read; a file that holds anything else is refused. Weights of transformers' ViT and DINOv2 models,
    such as Phikon's, are renamed.
    """
    from rich.console import Console

    from patch2tissue.encoder_weights import read_weights, write_weights
    from patch2tissue.errors import DataError

    if target.suffix != ".safetensors":
        raise DataError(f"{target}: the file to write must end in .safetensors.")
    tensors = read_weights(source)
    if encoder is not None:
        from patch2tissue.encoders import check_weights

        check_weights(encoder, tensors, str(source))
    write_weights(tensors, target)
    Console().print(f"{target}: {len(tensors)} tensors", highlight=False)
