"""Whole slides and tissue maps that are broken, or lie about themselves."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import tifffile
from tests.bad_input.faults import Fault, Maker, content
from tests.slides.pictures import blobs, picture, write_ome, write_tiled

from patch2tissue.slides.pyramid import write_classes_tiff
from patch2tissue.slides.rows import ArrayRows
from patch2tissue.tissues import load_tissue_set

IMAGE = picture()


def _aperio(told: str) -> Maker:
    """A slide as one maker of scanners writes it, that tells something of itself."""
    text = f"Aperio Image Library v1\n420x300 [0,0 420x300] (64x64) JPEG/RGB Q=70|{told}"

    def make(path: Path) -> None:
        with tifffile.TiffWriter(path) as file:
            file.write(IMAGE, tile=(64, 64), photometric="rgb", compression="jpeg", description=text, metadata=None)

    return make


def _ome(um_per_pixel: float, unit: str = "µm") -> Maker:
    return lambda path: write_ome(path, IMAGE, um_per_pixel, unit)


def _cut(make: Maker, share: float) -> Maker:
    def cut(path: Path) -> None:
        make(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])

    return cut


def _tag(make: Maker, code: int, value: int, page: int = 0) -> Maker:
    """A slide one of whose tags says something else."""

    def lie(path: Path) -> None:
        make(path)
        with tifffile.TiffFile(path) as file:
            tag = file.pages[page].tags[code]
            form, where = {3: "<H", 4: "<I"}[int(tag.dtype)], tag.valueoffset
        raw = bytearray(path.read_bytes())
        raw[where : where + struct.calcsize(form)] = struct.pack(form, value)
        path.write_bytes(bytes(raw))

    return lie


def _tiled(path: Path) -> None:
    write_tiled(path, IMAGE)


def _deep(path: Path) -> None:
    tifffile.imwrite(
        path, IMAGE.astype(np.uint16), ome=True, photometric="rgb", metadata={"axes": "YXS"}, tile=(64, 64)
    )


def _slide(name: str, file: str, make: Maker, *says: str, accepted: bool = False) -> Fault:
    return Fault("slides", name, file, make, says, accepted)


_COPY = "copy it again"
_NOT_TOLD = ("does not tell its resolution", "Pass --mpp")
_NO_SLIDE = ("which no slide has", "Pass --mpp")

SLIDES = [
    _slide("nothing in it", "s.svs", content(b""), "is empty", "Copy it again"),
    _slide(
        "another file called .svs", "s.svs", content(b"no slide" * 99), "is no slide that can be read", "Copy it again"
    ),
    _slide(
        "another file called .ndpi", "s.ndpi", content(b"\0" * 5000), "is no slide that can be read", "Copy it again"
    ),
    _slide(
        "an index without its slides", "s.mrxs", content(b"\xff\xd8\xff\xe0JFIF"), "is no slide that can", "Copy it"
    ),
    _slide("SVS cut at a third", "s.svs", _cut(_aperio("MPP = 0.5"), 0.3), "cannot be read as a slide", _COPY),
    _slide("SVS cut near its end", "s.svs", _cut(_aperio("MPP = 0.5"), 0.95), "cannot be read as a slide", _COPY),
    _slide("tiled TIFF cut at a third", "s.tif", _cut(_tiled, 0.3), "cannot be read as", _COPY),
    _slide("tiled TIFF cut near its end", "s.tif", _cut(_tiled, 0.95), "cannot be read as a slide", _COPY),
    _slide("OME-TIFF cut at a third", "s.ome.tif", _cut(_ome(0.5), 0.3), "cannot be read as", _COPY),
    _slide("tiles without width", "s.tif", _tag(_tiled, 322, 0), "cannot be read as a slide", _COPY),
    _slide("tiles of another size than stored", "s.tif", _tag(_tiled, 322, 1), "cannot be read as a slide", _COPY),
    _slide("a picture without width", "s.tif", _tag(_tiled, 256, 0), "cannot be read as a slide", _COPY),
    _slide("a width of two billion", "s.tif", _tag(_tiled, 256, 2**31), "cannot be read as a slide", _COPY),
    _slide("16 terapixels", "s.ome.tif", _tag(_tag(_ome(0.5), 256, 2**22), 257, 2**22), "which no slide has", _COPY),
    _slide("an unknown compression", "s.tif", _tag(_tiled, 259, 60000), "compression", _COPY),
    _slide("one colour", "s.tif", _tag(_tiled, 277, 1), "cannot be read as a slide", _COPY),
    _slide("OME-TIFF without width", "s.ome.tif", _tag(_ome(0.5), 256, 0), "cannot be read as an OME-TIFF", _COPY),
    _slide("OME-TIFF of another compression", "s.ome.tif", _tag(_ome(0.5), 259, 1), "cannot be read", _COPY),
    _slide("OME-TIFF of 16 bits", "s.ome.tif", _deep, "uint16", "Export it as 8-bit RGB"),
    _slide("OME: 0 µm per pixel", "s.ome.tif", _ome(0), *_NOT_TOLD),
    _slide("OME: -1 µm per pixel", "s.ome.tif", _ome(-1), *_NOT_TOLD),
    _slide("OME: not a number", "s.ome.tif", _ome(float("nan")), *_NOT_TOLD),
    _slide("OME: a billion µm per pixel", "s.ome.tif", _ome(1e9), *_NO_SLIDE),
    _slide("OME: a billionth µm per pixel", "s.ome.tif", _ome(1e-9), *_NO_SLIDE),
    _slide("OME: 1e308 m per pixel", "s.ome.tif", _ome(1e308, "m"), *_NO_SLIDE),
    _slide("OME: half a metre per pixel", "s.ome.tif", _ome(0.5, "m"), *_NO_SLIDE),
    _slide("OME: an unknown unit", "s.ome.tif", _ome(0.5, "ly"), *_NOT_TOLD),
    _slide("Aperio: 0 µm per pixel", "s.svs", _aperio("MPP = 0"), *_NOT_TOLD),
    _slide("Aperio: below 0", "s.svs", _aperio("MPP = -0.5"), *_NOT_TOLD),
    _slide("Aperio: not a number", "s.svs", _aperio("MPP = nan"), *_NOT_TOLD),
    _slide("Aperio: a billion", "s.svs", _aperio("MPP = 1e9"), *_NO_SLIDE),
    _slide("Aperio: an objective of a billion", "s.svs", _aperio("AppMag = 1e9"), *_NO_SLIDE),
    _slide("Aperio: an objective of 0", "s.svs", _aperio("AppMag = 0"), *_NOT_TOLD),
    _slide("Aperio: half a micron", "s.svs", _aperio("MPP = 0.5"), accepted=True),
    _slide("Aperio: no resolution but an objective", "s.svs", _aperio("AppMag = 20|MPP = abc"), accepted=True),
    _slide("a level of another shape", "s.tif", _tag(_tiled, 256, 70, page=1), "level 1 has 70 × 150", accepted=True),
    _slide("name with spaces and a line end", "a  b\nc.svs", _aperio("MPP = 0.5"), accepted=True),
]

# --- maps -------------------------------------------------------------------------------------------------------------

BCSS = load_tissue_set("bcss-wsss")


def _map(path: Path) -> None:
    write_classes_tiff(path, ArrayRows(blobs(150, 210, 4)), BCSS, (1.0, 1.0), scale=(2.0, 2.0))


def _other_set(path: Path) -> None:
    classes = np.minimum(blobs(150, 210, 4), 1)
    write_classes_tiff(path, ArrayRows(classes), load_tissue_set("glas"), (1.0, 1.0), scale=(2.0, 2.0))


def _told(**changes: object) -> Maker:
    """A map that tells something else of itself."""

    def make(path: Path) -> None:
        plain = {"tissues": list(BCSS.names), "slide_pixels_per_pixel": [2.0, 2.0]} | changes
        colours = np.zeros((3, 256), np.uint16)
        tifffile.imwrite(
            path,
            blobs(150, 210, 4) % 4,
            photometric="palette",
            colormap=colours,
            tile=(64, 64),
            description=json.dumps(plain),
            metadata=None,
        )

    return make


def _of(name: str, make: Maker, *says: str, accepted: bool = False) -> Fault:
    return Fault("maps", name, "a_classes.tif", make, says, accepted)


MAPS = [
    _of("nothing in it", content(b""), "cannot be read as a tissue map", "Make it again"),
    _of("text", content(b"no map"), "cannot be read as a tissue map", "Make it again"),
    _of("cut at a third", _cut(_map, 0.3), "again"),
    _of("cut near its end", _cut(_map, 0.7), "again"),
    _of("a picture", _tiled, "does not tell how its pixels lie", "Pass --mpp"),
    _of("of 16 bits", lambda p: tifffile.imwrite(p, np.zeros((64, 64), np.uint16), tile=(64, 64)), "uint16", "again"),
    _of("tiles without width", _tag(_map, 322, 0), "again"),
    _of("of another tissue set", _other_set, "is a map of gland, surrounding tissue", "Pass --tissues"),
    _of("a scale of 0", _told(slide_pixels_per_pixel=[0, 0]), "does not tell how its pixels lie", "Pass --mpp"),
    _of("a scale below 0", _told(slide_pixels_per_pixel=[-2, 2]), "does not tell how its pixels lie", "Pass --mpp"),
    _of(
        "a scale that is no number", _told(slide_pixels_per_pixel=[float("nan"), 1]), "does not tell how", "Pass --mpp"
    ),
    _of("an infinite scale", _told(slide_pixels_per_pixel=[float("inf"), 1]), "does not tell how", "Pass --mpp"),
    _of("a scale that is text", _told(slide_pixels_per_pixel="two"), "does not tell how its pixels lie", "Pass --mpp"),
    _of("no tissues", _told(tissues=[]), "does not tell how its pixels lie", "Pass --mpp"),
]
