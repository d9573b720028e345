"""Tissues at points are those of the map's pixels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from patch2tissue import annotate_tissue, tissue_at
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.spatial import points
from patch2tissue.spatial.slide_maps import open_slide_map
from spatial.written_map import SCALE, TISSUES, UM_PER_PIXEL, drawn, write_map


def places(count: int = 500) -> np.ndarray:
    """Places in map pixels, some of them outside."""
    values, _ = drawn()
    return np.random.default_rng(1).uniform(-10, 10 + np.array(values.shape[::-1]), (count, 2))


@pytest.mark.parametrize("form", ["tiff", "ome"])
def test_they_are_the_maps(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "_STRIP", 50)
    values, sure = write_map(tmp_path, form=form), drawn()[1]
    xy = places()
    in_pixels = tissue_at(tmp_path, xy * SCALE)
    in_um = tissue_at(tmp_path, (xy * UM_PER_PIXEL).tolist(), "um")
    seen = set()
    for number, (x, y) in enumerate(np.floor(xy).astype(int)):
        inside = 0 <= x < values.shape[1] and 0 <= y < values.shape[0]
        wanted = None if not inside or values[y, x] == 255 else TISSUES.names[values[y, x]]
        seen.add(wanted)
        assert in_pixels.tissue[number] == in_um.tissue[number] == wanted
        expected = np.nan if wanted is None else sure[y, x] / 255
        assert in_pixels.probability[number] == pytest.approx(expected, nan_ok=True)
    assert seen == {None, *TISSUES.names}


def test_without_a_confidence_picture_the_probability_is_unknown(tmp_path: Path) -> None:
    write_map(tmp_path, more=False)
    found = tissue_at(tmp_path / "a_classes.tif", places())
    assert np.isnan(found.probability).all() and any(tissue is not None for tissue in found.tissue)


def test_places_that_are_not_numbers_have_no_tissue(tmp_path: Path) -> None:
    write_map(tmp_path)
    found = tissue_at(tmp_path, [[np.nan, 3.0], [np.inf, 3.0], [3.0, 1e300]])
    assert found.tissue.tolist() == [None] * 3 and np.isnan(found.probability).all()
    assert tissue_at(tmp_path, np.zeros((0, 2))).tissue.shape == (0,)


def test_a_slide_is_chosen_by_its_name(tmp_path: Path) -> None:
    write_map(tmp_path, "a")
    write_map(tmp_path, "b", more=False)
    with pytest.raises(DataError, match=r"maps of 2 slides\. Name one of them: a, b"):
        tissue_at(tmp_path, places())
    with pytest.raises(DataError, match=r"no map of 'c'\. It has a, b"):
        tissue_at(tmp_path, places(), slide="c")
    assert open_slide_map(tmp_path, "a").confidence_file is not None
    assert open_slide_map(tmp_path, "b").confidence_file is None


def test_what_makes_no_sense_is_told(tmp_path: Path) -> None:
    write_map(tmp_path)
    with pytest.raises(DataError, match=r"\[n, 2\]"):
        tissue_at(tmp_path, [1.0, 2.0])
    with pytest.raises(ConfigError, match="not 'mm'"):
        tissue_at(tmp_path, places(), "mm")  # type: ignore[arg-type]
    (tmp_path / "a_confidence.tif").write_bytes(b"II*")
    with pytest.raises(DataError, match=r"a_confidence\.tif: cannot be read"):
        tissue_at(tmp_path, places())
    with pytest.raises(DataError, match="holds no maps"):
        tissue_at(tmp_path / "..", places())


@pytest.mark.extras
def test_an_anndata_gets_them(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write_map(tmp_path)
    spots = places(40) * SCALE
    adata = SimpleNamespace(obs=pandas.DataFrame(index=range(40)), obsm={"spatial": spots}, uns={})
    annotate_tissue(adata, tmp_path)
    wanted = tissue_at(tmp_path, spots)
    assert (
        adata.obs["tissue"].astype(object).where(adata.obs["tissue"].notna(), None).tolist() == wanted.tissue.tolist()
    )
    assert list(adata.obs["tissue"].cat.categories) == list(TISSUES.names)
    assert np.array_equal(adata.obs["tissue_probability"], wanted.probability, equal_nan=True)
    assert len(adata.uns["tissue_colors"]) == len(TISSUES)
    with pytest.raises(DataError, match=r"obsm\['X_umap'\]. It has spatial"):
        annotate_tissue(adata, tmp_path, key="X_umap")
