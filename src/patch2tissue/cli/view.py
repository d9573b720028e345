"""`patch2tissue view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def view(
    inputs: Annotated[
        list[str], typer.Argument(help="Slides, folders that `slide predict` wrote, or runs that predicted slides.")
    ],
    maps: Annotated[
        list[Path] | None, typer.Option("--maps", help="Folder of maps of the slides; twice to compare two.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option("--mpp", help="µm per pixel of the slides' full size, where they do not tell.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 0,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    allow_other_hosts: Annotated[
        bool, typer.Option("--allow-other-hosts", help="Let other machines in: they need the address with its token.")
    ] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Look at slides and their tissue maps in the browser: zoom, opacity, tissues on and off, areas, two maps at once.

    Ctrl-C ends the page.
    """
    from patch2tissue.cli.page import load_extra, open_page

    load_extra("patch2tissue.viewer.server")
    from patch2tissue.errors import DataError
    from patch2tissue.viewer.scenes import Viewer, find_scenes
    from patch2tissue.viewer.server import STATIC, view_app

    if not (STATIC / "openseadragon" / "openseadragon.min.js").is_file():
        raise DataError(
            f"{STATIC / 'openseadragon'}: OpenSeadragon is missing from this checkout. Install npm and run `sh "
            "scripts/vendor_openseadragon.sh`; packages from an index have it already."
        )
    viewer = Viewer(find_scenes(inputs, maps or (), mpp))
    try:
        count = len(viewer.scenes)
        told = f"{count} slide{'' if count == 1 else 's'}, {sum(len(scene.maps) for scene in viewer.scenes)} maps"
        open_page(
            lambda token, hosts: view_app(viewer, token, hosts),
            told,
            host=host,
            port=port,
            allow_other_hosts=allow_other_hosts,
            browser=browser,
        )
    finally:
        viewer.close()
