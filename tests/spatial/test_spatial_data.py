"""SpatialData of a map, written and read back by spatialdata itself. Run by `make readers`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patch2tissue.errors import ConfigError, DataError
from patch2tissue.spatial import spatial_data
from patch2tissue.spatial.spatial_data import to_spatialdata, write_spatialdata
from spatial.written_map import SCALE, TISSUES, UM_PER_PIXEL, drawn, write_map


def test_without_spatialdata_it_is_said_what_to_install(
    tmp_path: Path, run_command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "spatialdata", None)  # type: ignore[arg-type]
    write_map(tmp_path)
    with pytest.raises(ConfigError, match=r"patch2tissue\[spatial\]"):
        to_spatialdata(tmp_path)
    assert run_command("slide", "to-spatialdata", tmp_path, tmp_path / "a.zarr") == 2
    assert "needs the package spatialdata" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "a.zarr").exists()


@pytest.fixture(scope="module")
def read_back(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, np.ndarray, Path]:
    """What spatialdata reads of what was written, the map, and its folder."""
    spatialdata = pytest.importorskip("spatialdata", reason="spatialdata is not installed (make readers)")
    folder = tmp_path_factory.mktemp("spatial")
    values = write_map(folder / "maps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spatial_data, "_CHUNK", 64)
        patch.setattr(spatial_data, "_SMALLEST_LEVEL", 100)
        write_spatialdata(folder / "maps", folder / "a.zarr")
    return spatialdata.read_zarr(folder / "a.zarr"), values, folder


def corners(element: Any, system: str) -> list[float]:
    """Least and greatest x, least and greatest y."""
    import spatialdata

    extent = spatialdata.get_extent(element, system)
    return [float(end) for axis in ("x", "y") for end in extent[axis]]


def test_labels_are_the_map(read_back: tuple[Any, np.ndarray, Path]) -> None:
    sdata, values, _ = read_back
    pyramid = sdata.labels["tissue"]
    finest = np.asarray(pyramid["scale0"]["image"])
    assert np.array_equal(finest, np.where(values == 255, 0, values + 1))
    assert len(pyramid) >= 2 and pyramid["scale1"]["image"].shape == (96, 160)
    height, width = values.shape
    assert corners(pyramid, "global") == pytest.approx([0.0, width * SCALE[0], 0.0, height * SCALE[1]])
    assert corners(pyramid, "um") == pytest.approx([0.0, width * UM_PER_PIXEL[0], 0.0, height * UM_PER_PIXEL[1]])
    table = sdata.tables["tissue_table"].obs
    assert list(table["tissue"]) == list(TISSUES.names)
    assert table["pixels"].tolist() == [int((values == k).sum()) for k in range(len(TISSUES))]
    assert table["area_mm2"].sum() == pytest.approx((values != 255).sum() * 1.25e-6)


def test_regions_are_the_outlines(read_back: tuple[Any, np.ndarray, Path]) -> None:
    sdata, values, folder = read_back
    features = json.loads((folder / "maps" / "a.geojson").read_text(encoding="utf-8"))["features"]
    regions, table = sdata.shapes["regions"], sdata.tables["region_table"]
    assert len(regions) == len(table) == len(features)
    assert table.obs["id"].tolist() == [feature["id"] for feature in features]
    for (index, region), (_, row), feature in zip(regions.iterrows(), table.obs.iterrows(), features, strict=True):
        assert index == row["instance_id"] and region["classification"] == row["tissue"]
        assert row["tissue"] == feature["properties"]["classification"]["name"]
        assert row["area_um2"] == feature["properties"]["measurements"]["Area µm^2"]
        assert region.geometry.area == pytest.approx(row["area_um2"] / 0.25)  # 0.5 µm per pixel of the slide
    for k, name in enumerate(TISSUES.names):
        area = table.obs.loc[table.obs["tissue"] == name, "area_um2"].sum()
        assert area == pytest.approx((values == k).sum() * UM_PER_PIXEL[0] * UM_PER_PIXEL[1])
    in_pixels, in_um = corners(regions, "global"), corners(regions, "um")
    assert in_um == pytest.approx([end / 2 for end in in_pixels])
    assert table.uns["tissue_colors"][0] == "#{:02x}{:02x}{:02x}".format(*TISSUES.colors[0])


def test_regions_lie_where_the_map_has_them(read_back: tuple[Any, np.ndarray, Path]) -> None:
    sdata, values, _ = read_back
    sure, table = drawn()[1], sdata.tables["region_table"]
    for (x, y), (_, row) in zip(table.obsm["spatial"], table.obs.iterrows(), strict=True):
        place = int(y / SCALE[1]), int(x / SCALE[0])
        assert TISSUES.names[values[place]] == row["tissue"]
        assert 100 / 255 <= row["probability"] <= 1
        if row["area_um2"] == 16 * 16 * 1.25:  # one block
            assert row["probability"] == pytest.approx(sure[place] / 255, abs=1e-6)
    assert corners(sdata.images["confidence"], "um") == pytest.approx(corners(sdata.labels["tissue"], "um"))


def test_it_is_found_by_queries_of_spatialdata(read_back: tuple[Any, np.ndarray, Path]) -> None:
    import spatialdata

    sdata, values, _ = read_back
    box = spatialdata.bounding_box_query(
        sdata, axes=("x", "y"), min_coordinate=[0, 0], max_coordinate=[80, 60], target_coordinate_system="um"
    )
    inside = values[:48, :80]
    found = np.asarray(box.labels["tissue"]["scale0"]["image"])
    assert np.array_equal(found, np.where(inside == 255, 0, inside + 1))
    joined = spatialdata.get_values("tissue", sdata=sdata, element_name="regions", table_name="region_table")
    assert len(joined) == len(sdata.shapes["regions"])


def test_maps_without_outlines_have_none(tmp_path: Path) -> None:
    pytest.importorskip("spatialdata", reason="spatialdata is not installed (make readers)")
    write_map(tmp_path, more=False)
    sdata = to_spatialdata(tmp_path)
    assert {name for _, name, _ in sdata.gen_elements()} == {"tissue", "tissue_table"}


def test_the_command_writes_it_once(
    tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("spatialdata", reason="spatialdata is not installed (make readers)")
    write_map(tmp_path / "maps")
    write_map(tmp_path / "maps", "b")
    assert run_command("slide", "to-spatialdata", tmp_path / "maps", tmp_path / "b.zarr", "--slide", "b") == 0
    assert "regions" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name != "maps"] == ["b.zarr"]
    with pytest.raises(DataError, match="is there already"):
        write_spatialdata(tmp_path / "maps", tmp_path / "b.zarr", "b")
    plain = (tmp_path / "maps" / "a.geojson").read_text(encoding="utf-8")
    (tmp_path / "maps" / "a.geojson").write_text(plain.replace("Area", "area"), encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.geojson, feature 1: is not as"):
        write_spatialdata(tmp_path / "maps", tmp_path / "a.zarr", "a")
    assert not (tmp_path / "a.zarr").exists()
