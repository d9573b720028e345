"""GeoJSON as QuPath wants it, read back, and from other programs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from tests.slides.pictures import blobs

from patch2tissue.errors import DataError
from patch2tissue.slides.geojson import read_geojson, validate_qupath, write_geojson
from patch2tissue.slides.polygons import trace
from patch2tissue.slides.rows import ArrayRows
from patch2tissue.tissues import BUILT_IN

TISSUES = BUILT_IN["wsss4luad"]
BOX = [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]]


def written(path: Path, *, simplify: float = 0.0, scale: tuple[float, float] = (1.0, 1.0), **options: Any) -> Path:
    pieces = trace(ArrayRows(blobs(120, 160, 3, 4.0)), 3, simplify=simplify)
    write_geojson(path, pieces, TISSUES, scale=scale, um_per_pixel=(0.5, 0.5), **options)
    return path


def features(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["features"]
    return found


@pytest.mark.parametrize("simplify", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (2.0, 2.0), (1.0013, 3.217)])
def test_qupath_takes_it_and_it_reads_back(tmp_path: Path, simplify: float, scale: tuple[float, float]) -> None:
    path = written(tmp_path / "a.geojson", simplify=simplify, scale=scale)
    assert validate_qupath(path) == []
    classes = blobs(120, 160, 3, 4.0)
    pieces = list(trace(ArrayRows(classes), 3, simplify=simplify))
    shapes = read_geojson(path)
    assert len(shapes) == len(pieces)
    for (name, shape), piece in zip(shapes, pieces, strict=True):
        assert name == TISSUES.names[piece.tissue]
        wanted = shapely.transform(piece.polygon, lambda points: points * scale)
        assert shape.area == pytest.approx(wanted.area, rel=2e-3, abs=0.2)
    assert len({feature["id"] for feature in features(path)}) == len(pieces)


def test_outlines_end_where_the_slide_ends(tmp_path: Path) -> None:
    # a slide of an odd number of pixels: the map's last ones reach over it by half of themselves
    path = written(tmp_path / "a.geojson", scale=(2.0, 2.0), size=(319, 239))
    whole = written(tmp_path / "whole.geojson", scale=(2.0, 2.0))
    assert validate_qupath(path) == []
    bounds = np.array([shape.bounds for _, shape in read_geojson(path)])
    assert bounds[:, 2].max() == 319 and bounds[:, 3].max() == 239
    slide = shapely.box(0, 0, 319, 239)
    for (_, shape), (_, longer) in zip(read_geojson(path), read_geojson(whole), strict=True):
        assert shape.equals(longer.intersection(slide))


def test_names_colours_and_measurements(tmp_path: Path) -> None:
    path = written(tmp_path / "a.geojson", scale=(2.0, 2.0))
    for feature in features(path):
        properties = feature["properties"]
        tissue = next(t for t in TISSUES.tissues if t.name == properties["classification"]["name"])
        assert properties["classification"]["color"] == list(tissue.color)
        polygon = shapely.from_geojson(json.dumps(feature["geometry"]))
        # level-0 pixels are 0.25 µm
        assert properties["measurements"]["Area µm^2"] == pytest.approx(polygon.area * 0.25**2, rel=1e-6, abs=1e-3)
        assert properties["measurements"]["Perimeter µm"] == pytest.approx(polygon.length * 0.25, rel=1e-6, abs=1e-3)


def test_many_pieces_are_detections(tmp_path: Path) -> None:
    kinds = []
    for most in (10_000, 3):
        path = written(tmp_path / f"{most}.geojson", most_annotations=most)
        assert validate_qupath(path) == []
        kinds.append({feature["properties"]["objectType"] for feature in features(path)})
    assert kinds == [{"annotation"}, {"detection"}]


def test_same_pieces_same_bytes_also_compressed(tmp_path: Path) -> None:
    for name in ("a.geojson", "b.geojson", "a.geojson.gz", "b.geojson.gz"):
        written(tmp_path / name)
    plain = (tmp_path / "a.geojson").read_bytes()
    assert (tmp_path / "b.geojson").read_bytes() == plain
    packed = (tmp_path / "a.geojson.gz").read_bytes()
    assert (tmp_path / "b.geojson.gz").read_bytes() == packed and gzip.decompress(packed) == plain
    assert len(read_geojson(tmp_path / "a.geojson.gz")) == len(features(tmp_path / "a.geojson"))


def test_no_pieces_make_a_valid_empty_file(tmp_path: Path) -> None:
    write_geojson(tmp_path / "a.geojson", [], TISSUES, scale=(1, 1), um_per_pixel=(1, 1))
    assert validate_qupath(tmp_path / "a.geojson") == [] and read_geojson(tmp_path / "a.geojson") == []


def test_what_other_programs_write(tmp_path: Path) -> None:
    second = [[[[20, 0], [30, 0], [30, 10], [20, 10], [20, 0]]]]
    bow_tie = [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]
    contents: dict[str, tuple[Any, list[tuple[str | None, float]]]] = {
        "list": (
            [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": BOX}, "properties": {}}],
            [(None, 100.0)],
        ),
        "one": (
            {
                "type": "Feature",
                "geometry": {"type": "MultiPolygon", "coordinates": [BOX, *second]},
                "properties": {"classification": {"names": ["Tumor", "Positive"]}},
            },
            [("Tumor: Positive", 200.0)],
        ),
        "geometry": ({"type": "Polygon", "coordinates": BOX}, [(None, 100.0)]),
        "repaired": (
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": bow_tie},
                "properties": {"classification": "Tumor"},
            },
            [("Tumor", 50.0)],
        ),
        "points": (
            {
                "type": "FeatureCollection",
                "features": [
                    {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": None}
                ],
            },
            [],
        ),
        "collection": (
            {
                "type": "Feature",
                "geometry": {
                    "type": "GeometryCollection",
                    "geometries": [
                        {"type": "Polygon", "coordinates": BOX},
                        {"type": "LineString", "coordinates": [[0, 0], [50, 50]]},
                    ],
                },
                "properties": None,
            },
            [(None, 100.0)],
        ),
    }
    for name, (plain, wanted) in contents.items():
        path = tmp_path / f"{name}.json"
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(plain).encode())
        found = read_geojson(path)
        assert [(kind, shape.area) for kind, shape in found] == wanted, name
        assert all(shape.is_valid for _, shape in found)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no GeoJSON"),
        (b"{", "is no GeoJSON"),
        (b"\xff\xfe\x00", "is no GeoJSON"),
        (b"\x1f\x8b broken", "is no GeoJSON"),
        (b"[" * 100_000, "is no GeoJSON"),
        (b"5", "neither a feature collection"),
        (b'{"type": "FeatureCollection", "features": 3}', "neither a feature collection"),
        (b'[{"type": "Feature", "properties": {}}]', "feature 1: has no geometry"),
        (b'{"type": "Circle", "coordinates": []}', "unknown type 'Circle'"),
        (b'{"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}', "make no polygon"),
        (b'{"type": "Polygon", "coordinates": [[["a", 0], [1, 1], [2, 0]]]}', "make no polygon"),
        (b'{"type": "Polygon", "coordinates": [[[0, 0], [1, NaN], [2, 0], [0, 0]]]}', "make no polygon"),
        (b'{"type": "Polygon", "coordinates": [[[0, 0], [1, 1e300], [2, 0], [0, 0]]]}', "make no polygon"),
        (b'{"type": "Polygon", "coordinates": null}', "make no polygon"),
    ],
)
def test_broken_files_are_told_of(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        read_geojson(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_geojson(tmp_path / "none.geojson")


def test_what_qupath_would_refuse_is_found(tmp_path: Path) -> None:
    good = features(written(tmp_path / "a.geojson"))[0]

    def changed(**parts: Any) -> list[str]:
        feature = {**good, **parts}
        (tmp_path / "b.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
        return validate_qupath(tmp_path / "b.geojson")

    properties = good["properties"]
    assert changed() == []
    assert "UUID" in changed(id="7")[0]
    assert "inside its properties" in changed(properties={**properties, "objectType": None}, objectType="annotation")[0]
    assert "name" in changed(properties={**properties, "classification": {}})[0]
    assert "colour" in changed(properties={**properties, "classification": {"name": "a", "color": [0, 0, 300]}})[0]
    assert "closed" in changed(geometry={"type": "Polygon", "coordinates": [BOX[0][:-1]]})[0]
    bow_tie = [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]
    assert "invalid" in changed(geometry={"type": "Polygon", "coordinates": bow_tie})[0]
    assert "two parts" in changed(geometry={"type": "MultiPolygon", "coordinates": [BOX]})[0]


def test_interrupted_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.geojson")
    before = path.read_bytes()

    def failing() -> Any:
        yield from trace(ArrayRows(np.zeros((5, 5), np.uint8)), 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_geojson(path, failing(), TISSUES, scale=(1, 1), um_per_pixel=(1, 1))
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["a.geojson"]
