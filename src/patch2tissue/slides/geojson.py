"""Pieces of tissue as GeoJSON that QuPath imports, and annotations read from it.

QuPath wants, of each feature, a classification with a name and a colour, and its type inside the properties; rings that
are closed, polygons that are valid, and multi-polygons of two parts or more. It counts pixels of the slide's full size
from the left upper corner of the scanned area.
"""

from __future__ import annotations

import gzip
import json
import math
import tempfile
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from patch2tissue.atomic import atomic_path
from patch2tissue.errors import DataError
from patch2tissue.slides.polygons import Piece
from patch2tissue.tissues import TissueSet

MOST_ANNOTATIONS = 10_000
"""Pieces up to which they are annotations, which a person edits in QuPath; more are detections, which it draws fast."""

_NAMESPACE = uuid.UUID("8f7a2a0e-6c0b-5d43-9a77-1f3f6a5d2c11")
_DECIMALS = 2
_KIND = "\0"
_LARGEST = 2**31
_DEEPEST = 16
_PART = 2**20

IN_PIXELS = "Its coordinates must be in pixels of the slide's full size, from the left upper corner."
"""What to say of areas that do not lie where the slide is."""

LARGEST_TEXT = 2**30
"""Most bytes of a file once it is unpacked; a thousandth of that, compressed, would fill the memory otherwise."""


@dataclass
class TissueSummary:
    """Pieces of one tissue and the length of their outlines in mm, holes included."""

    pieces: int = 0
    perimeter_mm: float = 0.0


@dataclass
class GeoJSONSummary:
    """What was written: `annotation` or `detection`, and the tissues by name."""

    kind: str = "annotation"
    tissues: dict[str, TissueSummary] = field(default_factory=dict)


def write_geojson(
    path: Path,
    pieces: Iterable[Piece],
    tissues: TissueSet,
    *,
    scale: tuple[float, float],
    um_per_pixel: tuple[float, float],
    size: tuple[int, int] | None = None,
    most_annotations: int = MOST_ANNOTATIONS,
) -> GeoJSONSummary:
    """Write pieces as a feature collection, atomically and one by one; same pieces, same bytes.

    Args:
        path: the file; compressed if its name ends in `.gz`.
        pieces: in map pixels.
        tissues: gives names and colours.
        scale: (sx, sy), level-0 pixels per map pixel.
        um_per_pixel: (x, y) of the map.
        size: (width, height) of the slide in level-0 pixels: outlines end there, where the map's last pixels may reach
            over it by a part of themselves; None: they are not cut.
        most_annotations: see `MOST_ANNOTATIONS`.
    """
    summary = GeoJSONSummary(tissues={name: TissueSummary() for name in tissues.names})
    with tempfile.TemporaryFile("w+", encoding="utf-8", dir=Path(path).parent) as spool:
        count = 0
        for piece in pieces:
            tissue = tissues.tissues[piece.tissue]
            perimeter = piece.perimeter(um_per_pixel)
            area = piece.pixels * um_per_pixel[0] * um_per_pixel[1]
            spool.write(_feature(piece, tissue.name, tissue.color, scale, size, area, perimeter) + "\n")
            entry = summary.tissues[tissue.name]
            entry.pieces, entry.perimeter_mm = entry.pieces + 1, entry.perimeter_mm + perimeter / 1000
            count += 1
        summary.kind = "annotation" if count <= most_annotations else "detection"
        spool.seek(0)
        with atomic_path(Path(path)) as temporary, _text_writer(temporary, str(path).endswith(".gz")) as file:
            file.write('{"type":"FeatureCollection","features":[')
            for number, line in enumerate(spool):
                file.write(("," if number else "") + "\n" + line.rstrip("\n").replace(_KIND, summary.kind, 1))
            file.write("\n]}\n")
    return summary


class _text_writer:
    """A UTF-8 text file, compressed without a time of day in it if wanted."""

    def __init__(self, path: Path, compressed: bool) -> None:
        self._raw = path.open("wb")
        self._packed = gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, mtime=0) if compressed else None

    def __enter__(self) -> _text_writer:
        return self

    def write(self, text: str) -> None:
        (self._packed or self._raw).write(text.encode("utf-8"))

    def __exit__(self, *error: object) -> None:
        if self._packed is not None:
            self._packed.close()
        self._raw.close()


def _feature(
    piece: Piece,
    name: str,
    color: tuple[int, int, int],
    scale: tuple[float, float],
    size: tuple[int, int] | None,
    area: float,
    perimeter: float,
) -> str:
    shape = _rounded(piece.polygon, scale, size)
    rings = [_coordinates(ring) for ring in (shape.exterior, *shape.interiors)]
    identity = f"{name}:{piece.pixels}:{rings[0][:2]}"
    feature = {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, identity)),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": "@",
            "classification": {"name": name, "color": list(color)},
            "isLocked": False,
            "measurements": {"Area µm^2": round(area, 3), "Perimeter µm": round(perimeter, 3)},
        },
    }
    text = json.dumps(feature, separators=(",", ":"), ensure_ascii=False)
    return text.replace('"objectType":"@"', f'"objectType":"{_KIND}"', 1)


def _rounded(
    polygon: shapely.Polygon, scale: tuple[float, float], size: tuple[int, int] | None = None
) -> shapely.Polygon:
    """The polygon in level-0 pixels to two decimals; with all its digits where rounding would make it invalid."""
    # the last pixel of a map begins inside the slide, so that nothing is pressed flat
    end = (math.inf, math.inf) if size is None else size
    scaled = shapely.transform(polygon, lambda points: np.minimum(points * scale, end))
    rounded = shapely.transform(scaled, lambda points: np.round(points, _DECIMALS))
    return rounded if rounded.is_valid else scaled


def _coordinates(ring: shapely.LinearRing) -> list[list[float]]:
    points = shapely.get_coordinates(ring)
    whole = np.rint(points)
    listed: list[list[float]] = (whole.astype(np.int64) if np.array_equal(points, whole) else points).tolist()
    return listed


def read_geojson(path: Path) -> list[tuple[str | None, shapely.Polygon | shapely.MultiPolygon]]:
    """Read areas: a feature collection, a list of features, or one feature or geometry, as QuPath and others write.

    Points and lines hold no area and are passed over.

    Args:
        path: `.geojson`, `.json`, or either with `.gz`.

    Returns:
        (name of the classification or None, valid shape in level-0 pixels), in the file's order.

    Raises:
        DataError: if the file is no GeoJSON, or a shape makes no sense.
    """
    return [(_classification(feature), shape) for feature, shape in read_features(path)]


def read_features(path: Path) -> list[tuple[dict[str, Any], shapely.Polygon | shapely.MultiPolygon]]:
    """Features that hold an area, as the file has them, each with its valid shape; see `read_geojson`."""
    path = Path(path)
    found = []
    for number, feature in enumerate(_features(path, _loaded(path)), start=1):
        geometry = feature.get("geometry", feature if {"coordinates", "geometries"} & feature.keys() else None)
        if not isinstance(geometry, dict):
            raise DataError(f"{path}, feature {number}: has no geometry. Remove it, or draw it again.")
        shape = _shape(geometry, f"{path}, feature {number}")
        if shape is not None:
            found.append((feature, shape))
    return found


def _loaded(path: Path) -> Any:
    try:
        return json.loads(_content(path).decode("utf-8-sig"))
    except (EOFError, ValueError, RecursionError, gzip.BadGzipFile, zlib.error) as error:
        told = str(error).splitlines()
        raise DataError(
            f"{path}: is no GeoJSON ({told[0] if told else type(error).__name__}). Export it again."
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None


def _content(path: Path) -> bytes:
    """The bytes of a file, unpacked; a part at a time, so that what is too much never is in memory."""
    parts, length = [], 0
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        opened = gzip.GzipFile(fileobj=file) if packed else file
        while part := opened.read(_PART):
            parts.append(part)
            length += len(part)
            if length > LARGEST_TEXT:
                raise DataError(f"{path}: holds more than {LARGEST_TEXT // 2**20} MiB of text. Export it in parts.")
    return b"".join(parts)


def _features(path: Path, plain: Any) -> Iterator[dict[str, Any]]:
    if isinstance(plain, dict) and plain.get("type") == "FeatureCollection":
        plain = plain.get("features")
    elif isinstance(plain, dict) and "type" in plain:
        plain = [plain]
    if not isinstance(plain, list) or not all(isinstance(item, dict) for item in plain):
        raise DataError(f"{path}: is no GeoJSON: it holds neither a feature collection nor features. Export it again.")
    yield from plain


def _shape(geometry: dict[str, Any], where: str, depth: int = 0) -> shapely.Polygon | shapely.MultiPolygon | None:
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        inner = geometry.get("geometries")
        if not isinstance(inner, list) or depth == _DEEPEST:
            raise DataError(f"{where}: has a collection that makes no area. Draw it again.")
        parts = [_shape(part, where, depth + 1) for part in inner if isinstance(part, dict)]
        return _area([part for part in parts if part is not None], where)
    if kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
        return None
    if kind not in ("Polygon", "MultiPolygon"):
        raise DataError(f"{where}: has a geometry of the unknown type '{str(kind)[:40]}'. Draw it as a polygon.")
    coordinates: Any = geometry.get("coordinates")
    try:
        polygons = [[_ring(ring) for ring in rings] for rings in (coordinates if kind != "Polygon" else [coordinates])]
        shapes = [shapely.Polygon(rings[0], rings[1:]) for rings in polygons]
    except (TypeError, ValueError, IndexError, KeyError, OverflowError, shapely.GEOSException):
        raise DataError(
            f"{where}: has coordinates that make no polygon: each ring is a list of three or more [x, y] in pixels of "
            "the slide's full size. Draw it again."
        ) from None
    return _area(shapes, where)


def _ring(points: Any) -> np.ndarray:
    ring = np.array([_numbers(point) for point in points], np.float64)
    if len(ring) < 3 or not np.isfinite(ring).all() or np.abs(ring).max() > _LARGEST:
        raise ValueError
    return ring


def _numbers(point: Any) -> tuple[float, float]:
    x, y = point[0], point[1]
    # not what float() takes as well: "12" and True are no coordinates
    if type(x) not in (int, float) or type(y) not in (int, float):
        raise TypeError
    return float(x), float(y)


def _area(shapes: list[Any], where: str) -> shapely.Polygon | shapely.MultiPolygon | None:
    """The polygonal part of shapes, None if they hold no area."""
    try:
        shape = shapely.union_all([shapely.make_valid(shape) for shape in shapes])
        if isinstance(shape, shapely.GeometryCollection):
            shape = shapely.union_all([part for part in shape.geoms if part.area > 0])
    except shapely.GEOSException:
        raise DataError(f"{where}: has outlines that cannot be put in order. Draw it again.") from None
    if not isinstance(shape, (shapely.Polygon, shapely.MultiPolygon)) or shape.is_empty:
        return None
    return shape


def _classification(feature: dict[str, Any]) -> str | None:
    properties = feature.get("properties")
    found = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(found, dict):
        names = found.get("names")
        name = ": ".join(map(str, names)) if isinstance(names, list) and names else found.get("name")
        return None if name is None else str(name)
    return found if isinstance(found, str) else None


def validate_qupath(path: Path) -> list[str]:
    """What QuPath's reader would refuse or misread in a file; an empty list if it takes all of it."""
    problems = []
    for number, feature in enumerate(_features(Path(path), _loaded(Path(path))), start=1):
        try:
            problems += [f"feature {number}: {problem}" for problem in _problems(feature)]
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError, shapely.GEOSException):
            problems.append(f"feature {number}: is not formed as GeoJSON says")
    return problems


def _problems(feature: dict[str, Any]) -> Iterator[str]:
    if feature.get("type") != "Feature":
        yield "is not of the type 'Feature'"
    try:
        uuid.UUID(str(feature.get("id")))
    except ValueError:
        yield "has an id that is no UUID"
    properties = feature.get("properties") or {}
    if properties.get("objectType") not in ("annotation", "detection"):
        yield "does not say inside its properties whether it is an annotation or a detection"
    classification = properties.get("classification")
    if not isinstance(classification, dict) or not classification.get("name"):
        yield "has no classification with a name"
    elif not _is_color(classification.get("color")):
        yield "has a classification without a colour of three whole numbers from 0 to 255"
    values = (properties.get("measurements") or {}).values()
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        yield "has a measurement that is no number"
    geometry = feature.get("geometry") or {}
    polygons = geometry.get("coordinates") or []
    if geometry.get("type") == "Polygon":
        polygons = [polygons]
    elif geometry.get("type") != "MultiPolygon" or len(polygons) < 2:
        yield "is neither a polygon nor a multi-polygon of two parts or more"
        return
    for rings in polygons:
        if any(len(ring) < 4 or ring[0] != ring[-1] for ring in rings):
            yield "has a ring that is not closed"
        elif not shapely.Polygon(rings[0], rings[1:]).is_valid:
            yield "has an invalid polygon"


def _is_color(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(part) is int and 0 <= part <= 255 for part in value)
