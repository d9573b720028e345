"""Simplified outlines: valid, as near as promised, with all their holes, whichever way they are simplified."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.slides.pictures import blobs

from patch2tissue.slides import simplify
from patch2tissue.slides.polygons import trace
from patch2tissue.slides.rows import ArrayRows
from patch2tissue.slides.simplify import simplified


def outlines(classes: np.ndarray) -> list[shapely.Polygon]:
    return [piece.polygon for piece in trace(ArrayRows(classes), int(classes[classes < 255].max()) + 1)]


def check(exact: shapely.Polygon, tolerance: float, large: int) -> shapely.Polygon:
    simple = simplified(exact, tolerance, large=large)
    assert isinstance(simple, shapely.Polygon) and simple.is_valid and simple.area > 0
    assert len(simple.interiors) == len(exact.interiors)
    corners = shapely.points(shapely.get_coordinates(exact))
    assert shapely.distance(simple.boundary, corners).max() <= tolerance + 1e-9
    kept = shapely.points(shapely.get_coordinates(simple))
    assert shapely.distance(exact.boundary, kept).max() <= 1e-9, "corners are left out, and none is moved"
    return simple


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0.2, 0.8),
    tolerance=st.sampled_from([0.4, 1.0, 1.7, 4.0]),
    large=st.sampled_from([0, 10**9]),
)
def test_of_pixel_noise_with_necks_and_holes_of_one_pixel(
    seed: int, share: float, tolerance: float, large: int
) -> None:
    noise = np.random.default_rng(seed).random((24, 31))
    noise[0, 0] = 0  # there is always a piece
    for exact in outlines(np.where(noise < share, 0, 255).astype(np.uint8)):
        check(exact, tolerance, large)


@pytest.mark.parametrize("tolerance", [1.0, 3.0])
@pytest.mark.parametrize("smooth", [1.0, 2.0, 6.0])
def test_arcs_do_what_geos_does(smooth: float, tolerance: float) -> None:
    for exact in outlines(blobs(260, 340, 3, smooth, seed=3)):
        arcs, whole = check(exact, tolerance, 0), check(exact, tolerance, 10**9)
        # how far areas are from each other is told by the outline's length and the tolerance
        assert arcs.area == pytest.approx(whole.area, rel=0.02, abs=0.35 * tolerance * exact.length)
        if shapely.get_num_coordinates(exact) > 400:
            most = 1.25 * shapely.get_num_coordinates(whole) + 8
            assert shapely.get_num_coordinates(arcs) <= most


def test_large_outlines_go_by_arcs(monkeypatch: pytest.MonkeyPatch) -> None:
    (largest,) = sorted(outlines(blobs(500, 500, 1, 3.0)), key=shapely.get_num_coordinates)[-1:]
    assert shapely.get_num_coordinates(largest) > simplify.LARGE
    found = simplify._by_arcs(largest, 1.0)
    assert found is not None
    monkeypatch.setattr(shapely, "simplify", _only_plain)
    assert simplified(largest, 1.0).equals(found)


def _only_plain(
    geometry: np.ndarray, tolerance: float, preserve_topology: bool = True, original: object = shapely.simplify
) -> np.ndarray:
    assert not preserve_topology, "GEOS takes minutes for large outlines"
    return np.asarray(original(geometry, tolerance, preserve_topology=False))  # type: ignore[operator]


def test_nothing_is_simplified_without_a_tolerance() -> None:
    for exact in outlines(blobs(60, 60, 2, 2.0)):
        assert simplified(exact, 0.0, large=0) is exact
