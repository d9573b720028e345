"""Tiles of slides: the right pixels under the right names, gone on with, and drawn evenly."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.slides.pictures import write_tiled

from patch2tissue.data.synthetic.whole_slides import WholeSlide
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.slides.cut_tiles import TileSettings, cut_tile_at, cut_tiles
from patch2tissue.slides.opening import SlideFile, open_slide

SETTINGS = TileSettings(um_per_pixel=0.5, size=128, stride=128)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WholeSlide]:
    whole = WholeSlide(1100, 900, seed=1)
    path = tmp_path_factory.mktemp("slides") / "case 1.tif"
    return write_tiled(path, whole.picture.read(0, 900)), whole


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "tiles.csv").open(encoding="utf-8")))


def test_tiles_are_the_slides_pixels(tmp_path: Path, slide: tuple[Path, WholeSlide]) -> None:
    path, whole = slide
    out = tmp_path / "out"
    summary = cut_tiles([SlideFile(path)], out, SETTINGS)
    image, truth = whole.picture.read(0, 900), whole.truth.read(0, 900)
    listed = rows(out)
    assert len(listed) == len(summary.tiles) == summary.per_slide["case 1.tif"] > 8
    assert sorted(row["path"] for row in listed) == sorted(f"train/{file.name}" for file in (out / "train").iterdir())
    for row in listed:
        x, y = int(row["x"]), int(row["y"])
        assert row["path"] == f"train/case 1_x{x:06d}_y{y:06d}_mpp0.5.png" and row["slide"] == "case 1.tif"
        assert x % 128 == 0 or x == 1100 - 128
        region = image[y : y + 128, x : x + 128]
        np.testing.assert_array_equal(np.asarray(Image.open(out / row["path"])), region)
        tissue = (truth[y : y + 128, x : x + 128] != 255).mean()
        assert float(row["tissue_share"]) >= 0.5 and abs(float(row["tissue_share"]) - tissue) < 0.2
    for name in ("case 1_tissue.png", "case 1_tissue_mask.png"):
        assert (out / "slides" / name).is_file()


def test_tiles_at_half_the_resolution(tmp_path: Path, slide: tuple[Path, WholeSlide]) -> None:
    path, whole = slide
    cut_tiles([SlideFile(path)], tmp_path / "out", replace(SETTINGS, um_per_pixel=1.0, tissue="everywhere"))
    image = whole.picture.read(0, 900)
    listed = rows(tmp_path / "out")
    assert len(listed) == 5 * 4 and {row["width"] for row in listed} == {"256.0"}
    row = listed[6]
    x, y = int(row["x"]), int(row["y"])
    # write_tiled's second level is every other pixel
    tile = np.asarray(Image.open(tmp_path / "out" / row["path"]))
    np.testing.assert_array_equal(tile, image[::2, ::2][y // 2 : y // 2 + 128, x // 2 : x // 2 + 128])


def test_sample_is_drawn_evenly_and_again_the_same(tmp_path: Path, slide: tuple[Path, WholeSlide]) -> None:
    path, _ = slide
    settings = replace(SETTINGS, size=64, stride=32, tissue="everywhere", sample=16)
    names = []
    for number, seed in enumerate((0, 0, 1)):
        cut_tiles([SlideFile(path)], tmp_path / str(number), replace(settings, seed=seed))
        names.append([row["path"] for row in rows(tmp_path / str(number))])
    assert names[0] == names[1] != names[2] and len(names[0]) == 16
    # one tile in each cell of a 4 × 4 grid
    drawn = rows(tmp_path / "0")
    cells = {(int(row["x"]) * 4 // (1100 - 63), int(row["y"]) * 4 // (900 - 63)) for row in drawn}
    assert len(cells) == 16


def test_what_is_there_is_kept(tmp_path: Path, slide: tuple[Path, WholeSlide]) -> None:
    path, _ = slide
    out = tmp_path / "out"
    cut_tiles([SlideFile(path)], out, SETTINGS)
    tiles = sorted((out / "train").iterdir())
    tiles[0].write_bytes(b"kept")
    tiles[1].unlink()
    cut_tiles([SlideFile(path)], out, SETTINGS)
    assert tiles[0].read_bytes() == b"kept" and tiles[1].stat().st_size > 100
    with pytest.raises(DataError, match="other settings \\(size\\)"):
        cut_tiles([SlideFile(path)], out, replace(SETTINGS, size=64))


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, slide: tuple[Path, WholeSlide]) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="holds something else"):
        cut_tiles([SlideFile(slide[0])], tmp_path, SETTINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    "wrong",
    [{"um_per_pixel": 0.0}, {"size": 4}, {"stride": 0}, {"least_tissue": 1.5}, {"sample": 0}, {"image_format": "bmp"}],
)
def test_settings_that_make_no_sense(tmp_path: Path, slide: tuple[Path, WholeSlide], wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        cut_tiles([SlideFile(slide[0])], tmp_path / "out", replace(SETTINGS, **wrong))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_command_tells_of_bad_slides_and_cuts_the_others(
    tmp_path: Path,
    slide: tuple[Path, WholeSlide],
    run_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"no slide")
    out = tmp_path / "out"
    options = ("--size", 128, "--format", "jpg", "--tissue-share", 0.7)
    assert run_command("slide", "tiles", bad, slide[0], "--out", out, *options, "--json") == 2
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["slides"] == {"case 1.tif": answer["tiles"]} and answer["tiles"] > 5
    assert str(bad) in answer["errors"][0] and str(bad) in printed.err and "Traceback" not in printed.err
    assert all(float(row["tissue_share"]) >= 0.7 for row in rows(out))
    assert {file.suffix for file in (out / "train").iterdir()} == {".jpg"}
    assert run_command("slide", "tiles", slide[0], "--out", out, "--everywhere", "--tissue-mask", bad) == 2


def test_earlier_tiles_stay_listed(tmp_path: Path, slide: tuple[Path, WholeSlide]) -> None:
    path, whole = slide
    other = write_tiled(tmp_path / "other.tif", whole.picture.read(0, 900))
    out = tmp_path / "out"
    cut_tiles([SlideFile(path)], out, replace(SETTINGS, sample=3))
    cut_tiles([SlideFile(other)], out, replace(SETTINGS, sample=3))
    assert [row["slide"] for row in rows(out)] == ["other.tif"] * 3 + ["case 1.tif"] * 3
    (out / rows(out)[-1]["path"]).unlink()
    cut_tiles([SlideFile(other)], out, replace(SETTINGS, sample=3))
    assert [row["slide"] for row in rows(out)] == ["other.tif"] * 3 + ["case 1.tif"] * 2


@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_a_tile_for_a_place_is_one_of_the_grid(tmp_path: Path, slide: tuple[Path, WholeSlide], mpp: float) -> None:
    path, _ = slide
    every, out = tmp_path / "every", tmp_path / "out"
    cut_tiles([SlideFile(path)], every, replace(SETTINGS, um_per_pixel=mpp, tissue="everywhere", least_tissue=0.0))
    cut_tiles([SlideFile(path)], out, replace(SETTINGS, um_per_pixel=mpp, sample=1))
    before = rows(out)
    grid = {row["path"]: row for row in rows(every)}
    rng = np.random.default_rng(0)
    with open_slide(path) as opened:
        for x, y in [(0, 0), (1099.9, 899.9), *(rng.random((20, 2)) * (1100, 900)).tolist()]:
            tile = cut_tile_at(opened, out, x, y)
            assert tile.x <= x < tile.x + tile.width and tile.y <= y < tile.y + tile.height
            same = grid[tile.path]
            assert (tile.x, tile.y, tile.width) == (int(same["x"]), int(same["y"]), float(same["width"]))
            assert (out / tile.path).read_bytes() == (every / tile.path).read_bytes()
        for place in [(-1, 5), (5, 900), (float("nan"), 5)]:
            with pytest.raises(DataError, match="there is nothing at"):
                cut_tile_at(opened, out, *place)
        with pytest.raises(DataError, match="was not cut with `patch2tissue slide tiles`"):
            cut_tile_at(opened, tmp_path, 5, 5)
    listed = [row["path"] for row in rows(out)]
    assert len(listed) == len(set(listed)) > len(before) and before[0]["path"] in listed


def test_between_tiles_that_do_not_touch_one_is_cut_around_the_place(
    tmp_path: Path, slide: tuple[Path, WholeSlide]
) -> None:
    out = tmp_path / "out"
    cut_tiles([SlideFile(slide[0])], out, replace(SETTINGS, stride=400, tissue="everywhere"))
    with open_slide(slide[0]) as opened:
        tile = cut_tile_at(opened, out, 250, 250)
    assert (tile.x, tile.y) == (186, 186)
