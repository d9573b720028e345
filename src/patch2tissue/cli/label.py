"""`patch2tissue label`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_PORT = 8765
"""Always the same, so that a page finds what it could not save to an earlier server."""


def label(
    patches: Annotated[
        Path, typer.Argument(help="Data folder with train/ (as `slide tiles` makes it), or a folder of images.")
    ],
    tissues: Annotated[str, typer.Option("--tissues", help="Tissue set: a name or a YAML file.")],
    run: Annotated[
        Path | None, typer.Option("--run", help="Run whose CRAANet ticks ahead; what it is least sure of comes first.")
    ] = None,
    slides: Annotated[
        list[str] | None,
        typer.Option("--slides", help="Slides the patches were cut from, or their folder: shows what is around them."),
    ] = None,
    annotator: Annotated[str | None, typer.Option("--annotator", help="Your name; the page asks without it.")] = None,
    random_share: Annotated[
        float,
        typer.Option("--random-share", min=0.0, max=1.0, help="With --run: share of patches drawn at random."),
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random order.")] = 0,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help=f"Default: {DEFAULT_PORT}, or any if it is taken.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    allow_other_hosts: Annotated[
        bool, typer.Option("--allow-other-hosts", help="Let other machines in: they need the address with its token.")
    ] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Open a page to say which tissues are on which patch: number keys tick, Space goes on, U undoes.

    Answers are saved at once in labels.sqlite beside the patches. `patch2tissue labels export` writes the labels.csv
    that training reads. Ctrl-C ends the page.
    """
    import webbrowser
    from urllib.parse import quote

    from patch2tissue.errors import ConfigError
    from patch2tissue.progress import console
    from patch2tissue.slides.opening import find_slides
    from patch2tissue.tissues import load_tissue_set

    try:
        from patch2tissue.label_page.server import label_app
        from patch2tissue.label_page.session import LabelSession
        from patch2tissue.web.serving import LOCAL_HOSTS, listening_socket, new_token, serve
    except ImportError as error:
        raise ConfigError(
            f"The labelling page needs the packages of the extra 'viewer' ({error.name} is missing). Install them "
            "with: pip install 'patch2tissue[viewer]'"
        ) from None
    if host not in LOCAL_HOSTS and not allow_other_hosts:
        raise ConfigError(f"{host} can be reached from other machines. Add --allow-other-hosts if that is meant.")
    files = {file.path.name: file.path for file in find_slides(slides)} if slides else {}
    session = LabelSession(
        patches, load_tissue_set(tissues), run=run, slides=files, seed=seed, random_share=random_share
    )
    try:
        token = new_token()
        listener = listening_socket(host, DEFAULT_PORT if port is None else port, or_any=port is None)
        own = host if host not in ("0.0.0.0", "::") else "localhost"
        address = f"http://{f'[{own}]' if ':' in own else own}:{listener.getsockname()[1]}/{token}/"
        if annotator:
            address += f"?annotator={quote(annotator)}"
        if allow_other_hosts:
            console.print(
                "[bold yellow]Warning:[/] other machines can reach this page. Whoever has the address below can see "
                "the patches and label them, and what is sent is not encrypted.",
                highlight=False,
            )
        # on standard output, alone on its line, for scripts
        typer.echo(address)
        console.print(f"{len(session.patches)} patches. Ctrl-C ends the page.", highlight=False)
        if browser:
            webbrowser.open(address)
        serve(label_app(session, token, ("*",) if allow_other_hosts else LOCAL_HOSTS), listener)
    finally:
        session.close()
