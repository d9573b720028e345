"""File names, tables, recipes, tissue sets and annotations that are broken, hostile or strange."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

from tests.bad_input.faults import Fault, Maker, content

# --- labels in file names ---------------------------------------------------------------------------------------------

NAMES = [
    Fault("label names", "too many digits", "p9[10001].png", content(b""), ("has 5 digits", "Rename the file")),
    Fault("label names", "a digit that is none", "p9[1020].png", content(b""), ("holds a 2", "0 (absent) or 1")),
    Fault("label names", "no tissue at all", "p9[0000].png", content(b""), ("no tissue",)),
    Fault("label names", "no label", "p9.png", content(b""), ("no label",)),
    Fault("label names", "another layout", "p9-[1 0 0 1].png", content(b""), ("no label",)),
    Fault("label names", "digits of another script", "p9[١٠٠١].png", content(b""), ("no label",)),
    Fault("label names", "a space after the label", "p9[1001] .png", content(b""), ("no label",)),
    Fault("label names", "a second label before it", "a[0110]b[1001].png", content(b""), accepted=True),
    Fault("label names", "brackets of something else", "scan[2023]b[1001].png", content(b""), accepted=True),
    Fault("label names", "a line end before it", "a\nb[1001].png", content(b""), accepted=True),
    Fault("label names", "a name like an option", "--help[1001].png", content(b""), accepted=True),
    Fault("label names", "a name like markup", "[bold red]x[1001].png", content(b""), accepted=True),
    Fault("label names", "a name like a formula", "=1+1[1001].png", content(b""), accepted=True),
]

# --- tables of labels -------------------------------------------------------------------------------------------------

HEADER = "path,tumour,stroma,lymphocytic infiltrate,necrosis\n"
ROWS = "".join(
    f"train/p{k}[{''.join(str(int(k == t)) for t in range(4))}].png,{','.join(str(int(k == t)) for t in range(4))}\n"
    for k in range(4)
)
FIRST = ROWS.splitlines()[0]


def _table(name: str, text: str | bytes, *says: str, accepted: bool = False) -> Fault:
    return Fault("tables of labels", name, "labels.csv", content(text), says, accepted)


_UTF8 = "Save it as 'CSV UTF-8'"
_LABEL = "write 0 or 1"

TABLES = [
    _table("nothing in it", "", "is empty", "The first line must be path"),
    _table("spaces alone", " \n \n", "is empty", "The first line must be path"),
    _table("no column of files", HEADER.replace("path", "file") + ROWS, "no column 'path'", "It must read path,"),
    _table("two columns of files", HEADER.replace("tumour", "path") + ROWS, "two columns 'path'", "It must read path,"),
    _table(
        "a tissue is missing", "path,tumour,stroma\n", "no column for the tissue 'lymphocytic", "It must read path,"
    ),
    _table("another set's tissues", "path,gland,surrounding tissue\n", "no column for the", "It must read path,"),
    _table("a column too many", HEADER[:-1] + ",fat\n" + ROWS, "'fat' is no tissue", "It must read path,"),
    _table(
        "a line too short",
        HEADER + ROWS + "train/x.png,1\n",
        "line 6: has 2 values instead of 5",
        "one for each column",
    ),
    _table(
        "a line too long",
        HEADER + ROWS + "train/x.png,1,0,0,0,0\n",
        "line 6: has 6 values instead of 5",
        "one for each column",
    ),
    _table("words for labels", HEADER + ROWS + "train/x.png,yes,no,no,no\n", "'yes' is not a label", _LABEL),
    _table("numbers for labels", HEADER + ROWS + "train/x.png,0.7,0,0,0\n", "'0.7' is not a label", _LABEL),
    _table("formulas for labels", HEADER + ROWS + "train/x.png,=1+0,0,0,0\n", "'=1+0' is not a label", _LABEL),
    _table("a field of 10 MB", HEADER + ROWS + f"train/{'x' * 10**7}.png,1,0,0,0\n", "field larger than", _UTF8),
    _table("a label of 100 kB", HEADER + ROWS + f"train/x.png,{'1' * 10**5},0,0,0\n", "1…' is not a label", _LABEL),
    _table(
        "a name too long for a file", HEADER + ROWS + f"{'x' * 300}.png,1,0,0,0\n", "line 6: ", "File name too long"
    ),
    _table("a file listed twice", HEADER + ROWS + FIRST + "\n", "is listed twice (first in line 2)", "Remove one"),
    _table(
        "a file listed twice by other ways", HEADER + ROWS + f"./test/../{FIRST}\n", "is listed twice (first in line"
    ),
    _table(
        "a file that is not there",
        HEADER + ROWS + "train/x.png,1,0,0,0\n",
        "x.png",
        "there is no such file",
        "Correct or remove",
    ),
    _table(
        "a folder for a file", HEADER + ROWS + "train,1,0,0,0\n", "train", "there is no such file", "Correct or remove"
    ),
    _table("a quote that never ends", HEADER + ROWS + '"train/x.png,1,0,0,0\n', "is not valid CSV", _UTF8),
    _table(
        "a NUL character in a name",
        HEADER + ROWS + "train/x\0.png,1,0,0,0\n",
        "holds a NUL character",
        "save it as 'CSV UTF-8'",
    ),
    _table("a NUL character in a label", HEADER + ROWS + "train/x.png,\0,0,0,0\n", "is not a label", _LABEL),
    _table("Latin-1", (HEADER + "train/é.png,1,0,0,0\n").encode("latin-1"), "is not UTF-8 text", _UTF8),
    _table("UTF-16", (HEADER + ROWS).encode("utf-16"), "is not UTF-8 text", _UTF8),
    _table("a workbook called .csv", b"PK\x03\x04\x14\0\x06\0\x08\0\0\0!\0\xff\xfe", "is not UTF-8 text", _UTF8),
    _table("a byte order mark", b"\xef\xbb\xbf" + (HEADER + ROWS).encode(), accepted=True),
    _table("Windows line ends", (HEADER + ROWS).replace("\n", "\r\n"), accepted=True),
    _table("line ends of old Macs", (HEADER + ROWS).replace("\n", "\r"), accepted=True),
    _table("semicolons", (HEADER + ROWS).replace(",", ";"), accepted=True),
    _table("tabs", (HEADER + ROWS).replace(",", "\t"), accepted=True),
    _table("empty lines, no last line end", HEADER + "\n\n" + ROWS.rstrip("\n"), accepted=True),
    _table("Windows paths", HEADER + ROWS.replace("/", "\\"), accepted=True),
    _table("abbreviations in any case", "PATH,tum,STR,Lym,nec\n" + ROWS, accepted=True),
]

# --- recipes and tissue sets ------------------------------------------------------------------------------------------

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{this}: &{this} [{','.join([f'*{last}'] * 9)}]\n" for last, this in zip("abcdefgh", "bcdefghi", strict=True)
)
_MERGES = "a: &a {k: v}\n" + "".join(
    f"{this}: &{this} {{<<: [{','.join([f'*{last}'] * 9)}], {this}: x}}\n"
    for last, this in zip("abcdefgh", "bcdefghi", strict=True)
)


def _yaml(what: str) -> Callable[..., Fault]:
    def fault(name: str, text: str | bytes, *says: str, accepted: bool = False) -> Fault:
        return Fault(what, name, "given.yaml", content(text), says, accepted)

    return fault


def _not_yaml(what: str) -> list[Fault]:
    """What is wrong with any YAML file."""
    fault = _yaml(what)
    look = "Compare it with a recipe"
    return [
        fault("nothing in it", "", "is a mapping with the keys"),
        fault("a list", "- a\n- b\n", "is a mapping with the keys"),
        fault("broken syntax", "a: [1, 2\nb: 3\n", "is not readable as YAML", look),
        fault("tabs for indentation", "a:\n\tb: 1\n", "line 2", look),
        fault("a key twice", "output: a\noutput: b\n", "'output' is there twice", look),
        fault("a bomb of anchors", BOMB, "more than 20000 values", "without anchors"),
        fault("a bomb of merges", _MERGES, "more than 20000 values", "without anchors"),
        fault("an anchor that holds itself", "a: &a [*a]\n", "holds itself", look),
        fault("a thousand levels", "a: " + "[" * 1000 + "]" * 1000, "more than 32 levels", look),
        fault("a megabyte", "a: " + "x" * 2**20, "has more than 256 kB"),
        fault(
            "an object of Python", "a: !!python/object/apply:os.system ['touch canary']\n", "could not determine", look
        ),
        fault("a date that is none", "a: 2026-13-41\n", "not of the form", look),
        fault("a tag without a value", "a: !!int ''\n", "not of the form", look),
        fault("half a character", 'a: "\\ud800"\n', "half a character", look),
        fault("a NUL character", 'a: "x\\0"\n', "NUL character", look),
        fault("binary data", "a: !!binary gA==\n", "binary data", look),
        fault("Latin-1", "a: é\n".encode("latin-1"), "is not UTF-8 text", "Save it as UTF-8"),
        fault("bytes of a picture", b"\x89PNG\r\n\x1a\n\xff\xfe", "is not UTF-8 text", "Save it as UTF-8"),
    ]


def _recipe(more: str) -> str:
    return f"output: new\ntissues: bcss-wsss\ndata: {{path: data}}\n{more}"


_config = _yaml("recipes")
_WRONG = "the configuration is not valid"

RECIPES = [
    *_not_yaml("recipes"),
    _config("no output", "tissues: glas\ndata: {path: data}\n", _WRONG, "output: Field required"),
    _config("a field that is none", _recipe("craanet: {epoch: 3}\n"), _WRONG, "craanet.epoch: unknown field"),
    _config("a section that is none", _recipe("trainer: {}\n"), _WRONG, "trainer: unknown field"),
    _config(
        "text for a number", _recipe("craanet: {epochs: many}\n"), "craanet.epochs: Input should be a valid integer"
    ),
    _config("a list for a section", _recipe("craanet: [1]\n"), "craanet: Input should be a valid dictionary"),
    _config("a number below its range", _recipe("craanet: {epochs: 0}\n"), "craanet.epochs: Input should be greater"),
    _config("not a number", _recipe("craanet: {learning_rate: .nan}\n"), "craanet.learning_rate: Input should be"),
    _config("infinite", _recipe("craanet: {learning_rate: .inf}\n"), "craanet.learning_rate: Input should be a finite"),
    _config("a seed of 100 digits", _recipe(f"seed: {'9' * 100}\n"), "seed: Input should be less than"),
    _config("an unknown tissue set", _recipe("").replace("bcss-wsss", "nonsense"), "Unknown tissue set 'nonsense'"),
    _config("an unknown encoder", _recipe("craanet: {encoder: {name: resnet1}}\n"), "timm has no model 'resnet1'"),
    _config("numbers for keys", _recipe("1: 2\n"), _WRONG, "1: "),
]

_SET = "name: mine\ntissues:\n- {name: tumour, color: [255, 0, 0]}\n- {name: stroma, color: [0, 255, 0]}\n"
_set = _yaml("tissue sets")

SETS = [
    *_not_yaml("tissue sets"),
    _set("one tissue", "name: mine\ntissues: [{name: a, color: [1, 2, 3]}]\n", "not a valid tissue set", "at least 2"),
    _set("two names alike", _SET.replace("stroma", "Tumour"), "two tissues have the same name"),
    _set("two colours alike", _SET.replace("[0, 255, 0]", "[255, 0, 0]"), "two entries have the same colour"),
    _set("a colour out of range", _SET.replace("[0, 255, 0]", "[0, 256, 0]"), "is not three integers in 0..255"),
    _set("a colour by name", _SET.replace("[0, 255, 0]", "green"), "tissues.1.color"),
    _set("a name of two lines", _SET.replace("stroma", '"a\\nb"'), "is not a name"),
    _set("a name with a space behind", _SET.replace("stroma", '"stroma "'), "is not a name"),
    _set("a tissue called path", _SET.replace("stroma", "path"), "cannot be a tissue's name"),
    _set("a tissue called none", _SET.replace("stroma", "None"), "cannot be a tissue's name"),
    _set("a resolution that is infinite", _SET + "um_per_pixel: .inf\n", "um_per_pixel: Input should be a finite"),
    _set("background among the tissues", _SET + "background: {index: 1}\n", "background index 1 must be in 2..254"),
    _set("an unknown key", _SET + "colour: red\n", "colour: Extra inputs are not permitted"),
]

# --- annotations ------------------------------------------------------------------------------------------------------

SQUARE = [[0, 0], [64, 0], [64, 64], [0, 64], [0, 0]]


def feature(coordinates: object = None, kind: object = "Polygon", name: object = "tumour") -> dict[str, object]:
    geometry = {"type": kind, "coordinates": [SQUARE] if coordinates is None else coordinates}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": name}}}


def _collection(*features: object) -> str:
    return json.dumps({"type": "FeatureCollection", "features": list(features)})


def _shape(name: str, text: str | bytes, *says: str, accepted: bool = False, file: str = "a.geojson") -> Fault:
    return Fault("annotations", name, file, content(text), says, accepted)


def _gzip_bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(b" " * 2**24))


def _nested(levels: int) -> str:
    inner = '{"type":"GeometryCollection","geometries":['
    return '{"type":"Feature","geometry":' + inner * levels + "]}" * levels + "}"


_AGAIN = "Export it again"
_DRAW = "Draw it again"
_PIXELS = "in pixels of the slide's full size"
_PACKED = gzip.compress(_collection(feature()).encode(), mtime=0)

SHAPES = [
    _shape("nothing in it", "", "is no GeoJSON", _AGAIN),
    _shape("another text", "<kml></kml>", "is no GeoJSON", _AGAIN),
    _shape("JSON of something else", '{"a": 1}', "is no GeoJSON", _AGAIN),
    _shape("a number", "1e999", "is no GeoJSON", _AGAIN),
    _shape("cut in half", _collection(feature())[:80], "is no GeoJSON", _AGAIN),
    _shape("Latin-1", _collection(feature(name="é")).replace("\\u00e9", "é").encode("latin-1"), "no GeoJSON", _AGAIN),
    _shape("UTF-16", _collection(feature()).encode("utf-16"), "is no GeoJSON", _AGAIN),
    _shape("100 000 levels", "[" * 100_000, "is no GeoJSON", _AGAIN),
    _shape("collections in collections", _nested(450), "has a collection that makes no area", _DRAW),
    _shape("a collection of a number", '{"type":"GeometryCollection","geometries":3}', "makes no area", _DRAW),
    _shape("a feature without geometry", _collection({"type": "Feature", "geometry": None}), "no geometry", "draw it"),
    _shape("an unknown shape", _collection(feature(kind="Circle")), "unknown type 'Circle'", "Draw it as a polygon"),
    _shape("a shape that is a list", _collection(feature(kind=["Polygon"])), "unknown type", "Draw it as a polygon"),
    _shape("coordinates that are none", _collection(feature([[["a", "b"]] * 4])), "make no polygon", _PIXELS, _DRAW),
    _shape("coordinates as text", _collection(feature([[["1", "2"]] * 4])), "make no polygon", _PIXELS, _DRAW),
    _shape("coordinates that are null", _collection(feature([[None] * 4])), "make no polygon", _PIXELS, _DRAW),
    _shape("two corners", _collection(feature([[[0, 0], [9, 9]]])), "make no polygon", _PIXELS, _DRAW),
    _shape("not a number", _collection(feature([[[0, 0], [float("nan"), 9], [9, 9]]])), "make no polygon", _DRAW),
    _shape("infinite", _collection(feature([[[0, 0], [float("inf"), 9], [9, 9]]])), "make no polygon", _DRAW),
    _shape("a number of 400 digits", _collection(feature([[[0, 0], [10**400, 9], [9, 9]]])), "make no polygon", _DRAW),
    _shape("a coordinate of 1e300", _collection(feature([[[0, 0], [1e300, 9], [9, 9]]])), "make no polygon", _DRAW),
    _shape("degrees for pixels", _collection(feature([[[11.57, 48.13], [11.58, 48.13], [11.58, 48.14]]])), _PIXELS),
    _shape("beyond the slide", _collection(feature([[[9e6, 9e6], [9.1e6, 9e6], [9.1e6, 9.1e6]]])), _PIXELS),
    _shape("points alone", _collection(feature([5, 5], kind="Point")), _PIXELS),
    _shape("packed and cut short", _PACKED[:-10], "is no GeoJSON", _AGAIN, file="a.geojson.gz"),
    _shape("packed and damaged", _PACKED[:20] + b"\xff" * 20, "is no GeoJSON", _AGAIN, file="a.geojson.gz"),
    Fault("annotations", "16 MB packed into 16 kB", "a.geojson.gz", _gzip_bomb, ("MiB of text", "Export it in parts")),
    _shape(
        "a ring that crosses itself",
        _collection(feature([[[0, 0], [64, 64], [64, 0], [0, 64], [0, 0]]])),
        accepted=True,
    ),
    _shape("a ring that is not closed", _collection(feature([SQUARE[:-1]])), accepted=True),
    _shape("a hole outside", _collection(feature([SQUARE, [[70, 70], [80, 70], [80, 80]]])), accepted=True),
    _shape("a byte order mark", b"\xef\xbb\xbf" + _collection(feature()).encode(), accepted=True),
    _shape("packed without a hint", _PACKED, accepted=True),
]


def _list(name: str, text: str | bytes, *says: str, accepted: bool = False) -> Fault:
    return Fault("lists of slides", name, "slides.csv", content(text), says, accepted)


def _long_field() -> Maker:
    return content(f"wsi,mpp\n{'x' * 10**6}.svs,0.25\n")


LISTS = [
    _list("nothing in it", "", "no column 'wsi'", "The first line must read wsi,mpp"),
    _list("no column of slides", "slide,mpp\na.tif,0.5\n", "no column 'wsi'", "The first line must read wsi,mpp"),
    _list("no slides", "wsi,mpp\n", "lists no slides", "comes a line for each slide"),
    _list("a word for a resolution", "wsi,mpp\na.tif,40x\n", "line 2: '40x' is no number", "Leave it empty"),
    _list("a resolution of 0", "wsi,mpp\na.tif,0\n", "line 2: 0 µm per pixel is no resolution", "0.25 for most"),
    _list(
        "a resolution below 0", "wsi,mpp\na.tif,-0.5\n", "line 2: -0.5 µm per pixel is no resolution", "0.25 for most"
    ),
    _list("a resolution of a billion", "wsi,mpp\na.tif,1e9\n", "line 2: 1e+09 µm per pixel is no", "0.25 for most"),
    _list("a resolution that is no number", "wsi,mpp\na.tif,nan\n", "line 2: nan µm per pixel is no", "0.25 for most"),
    _list("a slide that is not there", "wsi,mpp\nx.svs,0.5\n", "x.svs", "there is no such file"),
    _list("two slides of one name", "wsi,mpp\na.tif,0.5\nb/a.tif,0.5\n", "has the same name", "into different folders"),
    _list("a NUL character", "wsi,mpp\na\0.tif,0.5\n", "line 2: holds a NUL character", "Save it as 'CSV UTF-8'"),
    _list("Latin-1", "wsi,mpp\né.tif,0.5\n".encode("latin-1"), "is not UTF-8 text", "Save it as 'CSV UTF-8'"),
    Fault(
        "lists of slides", "a field of 1 MB", "slides.csv", _long_field(), ("field larger", "Save it as 'CSV UTF-8'")
    ),
    _list("a quote that never ends", 'wsi,mpp\n"a.tif,0.5\n', "is not valid CSV", "Save it as 'CSV UTF-8'"),
    _list("byte order mark, semicolons, commas", "\ufeffWSI;MPP\r\na.tif;0,5\r\n", accepted=True),
    _list("more columns and short lines", "wsi,mpp,note\na.tif\n", accepted=True),
]
