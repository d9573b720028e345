"""`patch2tissue label`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patch2tissue.cli.page import AllowOtherHosts, FollowLinks, Host, OpenBrowser

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
    host: Host = "127.0.0.1",
    allow_other_hosts: AllowOtherHosts = False,
    browser: OpenBrowser = True,
    follow_links: FollowLinks = False,
) -> None:
    """Open a page to say which tissues are on which patch: number keys tick, Space goes on, U undoes.

    Answers are saved at once in labels.sqlite beside the patches. `patch2tissue labels export` writes the labels.csv
    that training reads. Ctrl-C ends the page.
    """
    from urllib.parse import quote

    from patch2tissue.cli.page import check_host, load_extra, open_page

    load_extra("patch2tissue.label_page.server")
    from patch2tissue.label_page.server import label_app
    from patch2tissue.label_page.session import LabelSession
    from patch2tissue.slides.opening import find_slides
    from patch2tissue.tissues import load_tissue_set

    check_host(host, allow_other_hosts)  # before anything is made
    files = {file.path.name: file.path for file in find_slides(slides)} if slides else {}
    session = LabelSession(
        patches,
        load_tissue_set(tissues),
        run=run,
        slides=files,
        seed=seed,
        random_share=random_share,
        follow_links=follow_links,
    )
    try:
        open_page(
            lambda token, hosts: label_app(session, token, hosts),
            f"{len(session.patches)} patches",
            host=host,
            port=DEFAULT_PORT if port is None else port,
            or_any=port is None,
            query=f"?annotator={quote(annotator)}" if annotator else "",
            allow_other_hosts=allow_other_hosts,
            browser=browser,
        )
    finally:
        session.close()
