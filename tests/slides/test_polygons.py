"""Outlines of maps: exact along the pixels' edges, whatever the strips, and within the tolerance when simplified."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from tests.slides.pictures import blobs

from patch2tissue.slides.polygons import Piece, trace
from patch2tissue.slides.rows import ArrayRows

EDGES = ndimage.generate_binary_structure(2, 1)


def squares(mask: np.ndarray) -> shapely.Geometry:
    """The union of the pixels, one by one: the slow way."""
    y, x = np.nonzero(mask)
    return shapely.union_all(shapely.box(x, y, x + 1, y + 1))


small_maps = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 255]))
)


@settings(max_examples=200, deadline=None)
@given(small_maps, st.integers(1, 60))
def test_pieces_are_the_connected_regions_pixel_by_pixel(classes: np.ndarray, strip_pixels: int) -> None:
    pieces = list(trace(ArrayRows(classes), 2, strip_pixels=strip_pixels))
    for tissue in range(2):
        own = [piece for piece in pieces if piece.tissue == tissue]
        labels, count = ndimage.label(classes == tissue, EDGES)
        assert len(own) == count
        assert sorted(piece.pixels for piece in own) == sorted(np.bincount(labels.ravel())[1:].tolist())
        for piece in own:
            assert piece.polygon.is_valid
            assert piece.polygon.area == piece.pixels
            inside = piece.polygon.representative_point()
            label = labels[int(inside.y), int(inside.x)]
            assert label > 0
            assert piece.polygon.symmetric_difference(squares(labels == label)).area == 0


@settings(max_examples=50, deadline=None)
@given(small_maps, st.integers(1, 60))
def test_the_strips_do_not_matter(classes: np.ndarray, strip_pixels: int) -> None:
    def found(pixels: int) -> set[str]:
        return {piece.polygon.normalize().wkt for piece in trace(ArrayRows(classes), 2, strip_pixels=pixels)}

    assert found(strip_pixels) == found(10_000)


def test_nested_holes_and_touching_corners() -> None:
    classes = np.full((9, 9), 255, np.uint8)
    classes[1:8, 1:8] = 0
    classes[2:7, 2:7] = 255  # a hole,
    classes[3:6, 3:6] = 0  # a piece inside it,
    classes[4, 4] = 255  # and a hole in that one
    classes[0, 0] = 0  # touches the first at a corner only
    pieces = sorted(trace(ArrayRows(classes), 1), key=lambda piece: piece.pixels)
    assert [piece.pixels for piece in pieces] == [1, 8, 24]
    assert [len(piece.polygon.interiors) for piece in pieces] == [0, 1, 1]


def test_empty_and_full_maps() -> None:
    assert list(trace(ArrayRows(np.full((5, 7), 255, np.uint8)), 3)) == []
    (piece,) = trace(ArrayRows(np.zeros((5, 7), np.uint8)), 3)
    assert piece.polygon.equals(shapely.box(0, 0, 7, 5))
    assert len(piece.polygon.exterior.coords) == 5, "corners only"


def test_perimeter_counts_holes_and_each_axis() -> None:
    polygon = shapely.Polygon([(0, 0), (10, 0), (10, 6), (0, 6)], [[(2, 2), (2, 4), (5, 4), (5, 2)]])
    assert Piece(0, polygon, 54).perimeter() == 2 * (10 + 6) + 2 * (3 + 2)
    assert Piece(0, polygon, 54).perimeter((0.5, 2.0)) == 2 * (5 + 12) + 2 * (1.5 + 4)


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0])
def test_simplified_outlines_stay_within_the_tolerance(tolerance: float) -> None:
    classes = blobs(300, 400, 3, 6.0)
    exact = list(trace(ArrayRows(classes), 3))
    simple = list(trace(ArrayRows(classes), 3, simplify=tolerance))
    assert len(exact) == len(simple)
    for before, after in zip(exact, simple, strict=True):
        assert after.polygon.is_valid and after.pixels == before.pixels
        assert before.polygon.exterior.hausdorff_distance(after.polygon.exterior) <= tolerance + 1e-9
    assert sum(shapely.get_num_coordinates(p.polygon) for p in simple) < 0.9 * sum(
        shapely.get_num_coordinates(p.polygon) for p in exact
    )


def test_areas_agree_with_the_raster() -> None:
    classes = blobs(600, 800, 3, 8.0, seed=1)
    for simplify, within in ((0.0, 0.0), (1.0, 0.005)):
        areas = np.zeros(3)
        for piece in trace(ArrayRows(classes), 3, simplify=simplify):
            areas[piece.tissue] += piece.polygon.area
        counts = np.bincount(classes.ravel(), minlength=3)[:3]
        assert np.abs(areas / counts - 1).max() <= within


def test_perimeter_of_a_simplified_disc_is_close_to_the_true_one() -> None:
    y, x = np.mgrid[:400, :400]
    disc = np.where((x - 199.5) ** 2 + (y - 199.5) ** 2 < 150**2, 0, 255).astype(np.uint8)
    (edges,) = trace(ArrayRows(disc), 1)
    (smooth,) = trace(ArrayRows(disc), 1, simplify=1.0)
    true = 2 * np.pi * 150
    assert edges.perimeter() == pytest.approx(4 / np.pi * true, rel=0.01), "as the docstring says"
    assert smooth.perimeter() == pytest.approx(true, rel=0.05)
