"""Inputs that fuzzing starts from, made by code: `python -m fuzz.seeds` writes them into fuzz/corpus/.

Words of each language are given to the fuzzer as well, since it would take long to find them letter by letter.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import yaml

from patch2tissue.config import RunConfig
from patch2tissue.tissues import BUILT_IN

CORPUS = Path(__file__).parent / "corpus"

_POLYGON = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9.5], [0, 0]], [[2, 1], [3, 1], [3, 2], [2, 1]]]}
_FEATURE = {
    "type": "Feature",
    "id": "8f7a2a0e-6c0b-5d43-9a77-1f3f6a5d2c11",
    "geometry": _POLYGON,
    "properties": {"objectType": "annotation", "classification": {"name": "gland", "color": [1, 2, 3]}},
}
_COLLECTION = {
    "type": "GeometryCollection",
    "geometries": [_POLYGON, {"type": "MultiPolygon", "coordinates": [_POLYGON["coordinates"]]}, {"type": "Point"}],
}
_RECIPE = {
    "output": "runs/a",
    "tissues": "glas",
    "data": {"path": "data", "source": {"kind": "synthetic", "train": 8}},
    "craanet": {"epochs": 2, "encoder": {"name": "resnet10t", "options": {"a": 1}}, "temperatures": [1.0]},
    "pfscnet": {"correction": {"mode": "off"}, "rounds": 2},
}


def seeds() -> dict[str, list[bytes]]:
    """Inputs by target."""
    own_set = BUILT_IN["luad-histoseg"].to_dict()
    anchors = "a: &a {path: data}\noutput: b\ntissues: glas\ndata:\n  <<: *a\n  cache: false\n"
    return {
        "label_names": [
            b"1031280-2300-27920-[1 0]",
            b"TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[11]",
            b"436720-1-17-[1, 0]",
            b"SYN-A1-0003-DX1_x000112_y000056[01]",
        ],
        "label_table": [
            b"path,gland,surrounding tissue\na.png,1,0\nb/c.png,0,1\n",
            b'\xef\xbb\xbfPath;SUR;GLA\r\n"a;b.png";1;0\r\n\r\n',
            b"path\tgland\tSUR\nx\\y.png\t1\t1\n",
        ],
        "slide_list": [b"wsi,mpp\na.svs,0.25\nb.tif,\n", b"\xef\xbb\xbfwsi;mpp\r\na.svs;0,5\r\n", b"wsi\na.svs\n"],
        "configuration": [
            yaml.safe_dump(_RECIPE).encode(),
            json.dumps({**_RECIPE, "tissues": own_set, "pretraining": {"epochs": 1}}).encode(),
            anchors.encode(),
        ],
        "tissue_set": [yaml.safe_dump(own_set).encode(), json.dumps(BUILT_IN["glas"].to_dict()).encode()],
        "geojson": [
            json.dumps({"type": "FeatureCollection", "features": [_FEATURE]}).encode(),
            json.dumps([{**_FEATURE, "geometry": _COLLECTION}]).encode(),
            json.dumps(_POLYGON).encode(),
            gzip.compress(json.dumps(_FEATURE).encode(), mtime=0),
        ],
    }


def words() -> dict[str, list[str]]:
    """Words of each target's language."""
    keys: set[str] = set()

    def gather(schema: object) -> None:
        if isinstance(schema, dict):
            keys.update(schema.get("properties", {}))
            keys.update(str(choice) for choice in schema.get("enum", []))
            for part in schema.values():
                gather(part)
        elif isinstance(schema, list):
            for part in schema:
                gather(part)

    gather(RunConfig.model_json_schema())
    of_yaml = [
        "&a ",
        "*a",
        "<<: ",
        "!!int ",
        "!!float ",
        "!!set ",
        "!!timestamp ",
        ".inf",
        ".nan",
        "|\n",
        "? ",
        "- ",
        "%",
    ]
    of_sets = ["name", "tissues", "color", "abbreviation", "background", "index", "white_above", "um_per_pixel"]
    of_json = ["NaN", "Infinity", "1e999", "null", "true", "[[[0,0],[9,0],[9,9],[0,0]]]", "\\ud800", "coordinates"]
    of_json += [
        "geometry",
        "geometries",
        "features",
        "properties",
        "classification",
        "names",
        "MultiPolygon",
        "Polygon",
    ]
    of_json += ["GeometryCollection", "FeatureCollection", "Feature", "LineString", "measurements", "type"]
    return {
        "label_names": ["[1 0]", "[10]", "[1, 0]", "TCGA-A1-A0SK", "-DX1", "_x1_y2", "SYN-", "1031280-2300-27920"],
        "label_table": ["path", "gland", "GLA", "SUR", "surrounding tissue", "\r\n", '"', "=1+1", "\0"],
        "slide_list": ["wsi", "mpp", "0.25", "0,25", "nan", "inf", "1e9", "-1", ".svs"],
        "configuration": sorted(keys) + of_yaml,
        "tissue_set": of_sets + of_yaml,
        "geojson": of_json,
    }


def write_seeds(folder: Path = CORPUS) -> None:
    """Write the inputs, one file each."""
    for target, contents in seeds().items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(contents):
            (folder / target / f"{number}.seed").write_bytes(content)


def write_words(path: Path, target: str) -> None:
    """Write the words of a target as libFuzzer reads them."""
    path.write_text("".join(f'"{"".join(map(_escaped, word.encode()))}"\n' for word in words()[target]), "utf-8")


def _escaped(byte: int) -> str:
    if byte in b'"\\':
        return f"\\{chr(byte)}"
    return chr(byte) if 32 <= byte < 127 else f"\\x{byte:02X}"


if __name__ == "__main__":
    write_seeds()
