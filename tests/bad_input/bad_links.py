"""Links, and what is no file: where data are, and where results go."""

from __future__ import annotations

import os
from pathlib import Path

from tests.bad_input.bad_images import encoded
from tests.bad_input.faults import Fault, Maker


def _linked(picture: Path) -> Path:
    """A picture outside of the data folder."""
    outside = picture.parents[2] / "outside"
    outside.mkdir(exist_ok=True)
    target = outside / "kept elsewhere.png"
    target.write_bytes(encoded("PNG"))
    return target


def _to_a_picture(path: Path) -> None:
    path.symlink_to(_linked(path))


def _to_a_secret(path: Path) -> None:
    target = _linked(path).with_name("secret.txt")
    target.write_text("nobody's business")
    path.symlink_to(target)


def _to(target: str) -> Maker:
    return lambda path: path.symlink_to(target)


def _fault(name: str, make: Maker, *says: str, accepted: bool = False) -> Fault:
    return Fault("links and what is no file", name, "x[1000].png", make, says, accepted)


NOT_READ = [
    _fault("a link to nothing", _to("nowhere.png"), "called like images and are none", accepted=True),
    _fault("a link to itself", _to("x[1000].png"), "called like images and are none", accepted=True),
    _fault("a link to a folder", _to(".."), "called like images and are none", accepted=True),
    _fault("a link to a device", _to("/dev/zero"), "called like images and are none", accepted=True),
    _fault("a folder", lambda path: path.mkdir(), "called like images and are none", accepted=True),
    _fault("a pipe", lambda path: os.mkfifo(path), "called like images and are none", accepted=True),
]
"""Passed over, with a warning."""

LINKED = [
    _fault("a link to a picture elsewhere", _to_a_picture, accepted=True),
    _fault("a link to another file elsewhere", _to_a_secret, "cannot be read as an image", "save it as PNG"),
]


def _output(name: str, file: str, target: str) -> Fault:
    return Fault("links in results", name, file, _to(target), ("is a link that leads out of",))


OUTPUTS = [
    _output("tiles go elsewhere", "tiles/train", "../elsewhere"),
    _output("maps go elsewhere", "maps/work", "../elsewhere"),
    _output("weights go elsewhere", "run/craanet", "../elsewhere"),
    _output("a raster is a file elsewhere", "maps/work/a/classes.raw", "../../../elsewhere/f"),
    _output("answers go elsewhere", "data/labels.sqlite", "../elsewhere/f"),
]
