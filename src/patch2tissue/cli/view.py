"""`patch2tissue view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patch2tissue.cli.page import AllowOtherHosts, FollowLinks, Host, OpenBrowser


def view(
    inputs: Annotated[
        list[str], typer.Argument(help="Runs, slides, folders that `slide predict` wrote, or folders of images.")
    ],
    maps: Annotated[
        list[Path] | None, typer.Option("--maps", help="Folder of maps of what is named; twice to compare two.")
    ] = None,
    label_into: Annotated[
        Path | None,
        typer.Option("--label-into", help="Data folder into which places marked as wrong go; default: the run's."),
    ] = None,
    tissues: Annotated[
        str | None, typer.Option("--tissues", help="Tissue set of masks and of --label-into; default: the run's.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option("--mpp", help="µm per pixel of the slides' full size, where they do not tell.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 0,
    host: Host = "127.0.0.1",
    allow_other_hosts: AllowOtherHosts = False,
    browser: OpenBrowser = True,
    follow_links: FollowLinks = False,
) -> None:
    """Look at slides, patches and what was made of them in the browser, and mark what is wrong.

    Of a run: its training and test patches with pseudo labels, the network's map and probabilities, and attention epoch
    by epoch; slides that it predicted. Several runs are compared side by side. "Wrong here" sends the patch at a place
    to `patch2tissue label`. Ctrl-C ends the page.
    """
    from patch2tissue.cli.page import load_extra, open_page

    load_extra("patch2tissue.viewer.server")
    from patch2tissue.errors import ConfigError, DataError
    from patch2tissue.labelling.corrections import Corrections
    from patch2tissue.tissues import load_tissue_set
    from patch2tissue.viewer.runs import ViewedRun, corrections_of
    from patch2tissue.viewer.scenes import find_scenes
    from patch2tissue.viewer.server import STATIC, view_app
    from patch2tissue.viewer.viewer import Viewer

    if not (STATIC / "openseadragon" / "openseadragon.min.js").is_file():
        raise DataError(
            f"{STATIC / 'openseadragon'}: OpenSeadragon is missing from this checkout. Install npm and run `sh "
            "scripts/vendor_openseadragon.sh`; packages from an index have it already."
        )
    runs: dict[Path, ViewedRun] = {}
    scenes = find_scenes(inputs, maps or (), mpp, runs, follow_links=follow_links)
    named = None if tissues is None else load_tissue_set(tissues)
    if label_into is not None:
        tissue_set = named or next((run.tissues for run in runs.values()), None)
        if tissue_set is None:
            raise ConfigError("--label-into needs the tissue set of the folder: name it with --tissues.")
        corrections = [Corrections(label_into, tissue_set)]
    else:
        corrections = corrections_of(runs.values())
    viewer = Viewer(scenes, named, corrections)
    try:
        count = len(viewer.scenes)
        told = viewer.scenes[0].name if count == 1 else f"{count} slides and patches"
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
