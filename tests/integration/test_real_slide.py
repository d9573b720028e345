"""The real slide beside the repository, from the scanner's file to tiles, map, outlines, areas and scores."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from inference.tiny_run import real_run
from patch2tissue.cli.app import main
from patch2tissue.slides.geojson import read_geojson, validate_qupath
from patch2tissue.tissues import BUILT_IN

NAME = "cmu-1-small-region"
TISSUES = BUILT_IN["luad-histoseg"]


@pytest.fixture(scope="module")
def slides(shared_data: Path) -> Path:
    return shared_data / "slides"


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory, slides: Path) -> Path:
    """Folder of what `slide predict` wrote about both files, of which one is no slide."""
    folder = tmp_path_factory.mktemp("real-slide")
    run = real_run(folder / "run", "luad-histoseg", tile=256)
    assert call("slide", "predict", run, slides, "--out", folder / "maps", "--workers", "1") == 2
    return folder / "maps"


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as leaving:
        main([str(argument) for argument in arguments])
    return int(leaving.value.code or 0)


def test_tiles(tmp_path: Path, slides: Path) -> None:
    slide, out = slides / f"{NAME}.svs", tmp_path / "tiles"
    assert call("slide", "tiles", slide, "--out", out, "--tile-mpp", "1", "--size", "112") == 0
    with (out / "tiles.csv").open(encoding="utf-8", newline="") as stream:
        tiles = list(csv.DictReader(stream))
    assert 20 < len(tiles) <= 9 * 13  # of 1110 × 1484 pixels at 1 µm
    picture = np.asarray(openslide.OpenSlide(str(slide)).read_region((0, 0), 0, (2220, 2967)).convert("RGB"))
    for tile in tiles[::7]:
        with Image.open(out / tile["path"]) as opened:
            found = np.asarray(opened.convert("RGB"))
        assert found.shape == (112, 112, 3)
        x, y, side = int(tile["x"]), int(tile["y"]), round(float(tile["width"]))
        region = picture[y : y + side, x : x + side]
        assert found.mean() == pytest.approx(region.mean(), abs=1.5), "the tile shows the place it names"
    assert (out / "slides" / f"{NAME}_tissue.png").is_file()


def test_map_is_read_back(maps: Path) -> None:
    with (maps / f"{NAME}_areas.json").open(encoding="utf-8") as stream:
        told = json.load(stream)
    wanted = [told["tissues"][name]["pixels"] for name in TISSUES.names]
    classes = maps / f"{NAME}_classes.tif"
    indices = tifffile.imread(classes, level=0)
    assert indices.shape == (told["height"], told["width"]) == (1484, 1110)
    assert sum(wanted) > 0 and np.bincount(indices.ravel(), minlength=256)[:4].tolist() == wanted
    with openslide.OpenSlide(str(classes)) as opened:
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.998, rel=1e-3)
        colours = np.asarray(opened.read_region((0, 0), 0, opened.dimensions).convert("RGB"))
    assert [int((colours == color).all(axis=2).sum()) for color in TISSUES.colors] == wanted
    tiffslide = pytest.importorskip("tiffslide", reason="tiffslide is not installed (make readers)")
    with tiffslide.TiffSlide(classes) as opened:
        again = np.asarray(opened.read_region((0, 0), 0, opened.dimensions, as_array=True))
    assert np.bincount(again.ravel(), minlength=256)[:4].tolist() == wanted


def test_outlines_lie_on_the_slide(maps: Path) -> None:
    geojson = maps / f"{NAME}.geojson"
    assert validate_qupath(geojson) == []
    shapes = [shape for _, shape in read_geojson(geojson)]
    assert max(shape.bounds[2] for shape in shapes) <= 2220 and max(shape.bounds[3] for shape in shapes) <= 2967
    told = json.loads((maps / f"{NAME}_areas.json").read_text(encoding="utf-8"))
    # two pixels of the slide along each pixel of the map; outlines are simplified within a pixel of it
    mapped = 4 * sum(area["pixels"] for area in told["tissues"].values())
    assert sum(shape.area for shape in shapes) == pytest.approx(mapped, rel=0.005)


def test_a_map_agrees_with_its_own_outlines(tmp_path: Path, maps: Path) -> None:
    out = tmp_path / "scores.json"
    classes, geojson = maps / f"{NAME}_classes.tif", maps / f"{NAME}.geojson"
    assert call("slide", "evaluate", classes, geojson, "--tissues", TISSUES.name, "--out", out) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["acc"] > 0.98


def test_what_is_no_slide_is_told_of(maps: Path) -> None:
    summary = (maps / "summary.md").read_text(encoding="utf-8")
    assert "| broken.svs | failed |" in summary and f"| {NAME}.svs | done |" in summary
    assert "broken.svs: is no slide that can be read" in summary
    assert not list(maps.glob("broken*"))
