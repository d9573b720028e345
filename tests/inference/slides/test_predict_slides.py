"""Whole slides end to end, by real files: what is written, what a killed process leaves, what bad slides do."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from filelock import FileLock
from tests.slides.pictures import picture, write_tiled

import patch2tissue.inference.predictor as predictor_module
from inference.tiny_run import COLOURS, ColourNetwork, real_run, write_colour_run
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.inference.slides.outputs import OutputOptions
from patch2tissue.inference.slides.predict import SlideOptions, predict_slide, predict_slides

EVERYWHERE = SlideOptions(tissue="everywhere", workers=0)


def tissue_picture(height: int = 260, width: int = 380, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Blobs of the four colours, and the tissue of each pixel."""
    rng = np.random.default_rng(seed)
    from scipy.ndimage import gaussian_filter

    fields = np.stack([gaussian_filter(rng.standard_normal((height, width)), 9) for _ in COLOURS])
    mask = fields.argmax(axis=0).astype(np.uint8)
    return COLOURS[mask], mask


@pytest.fixture
def colour_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose network goes by colour."""
    return write_colour_run(tmp_path / "run", monkeypatch)


def test_everything_is_written_and_agrees(tmp_path: Path, colour_run: Path) -> None:
    image, mask = tissue_picture()
    slide = write_tiled(tmp_path / "one.tif", image, (0.25, 0.25))
    out = tmp_path / "out"
    results = predict_slides(colour_run, [slide], out, options=EVERYWHERE, progress=False)
    (result,) = results
    assert result.status == "done" and result.size == (380, 260) and result.um_per_pixel == (0.25, 0.25)
    assert result.files is not None
    # the map, by three readers
    np.testing.assert_array_equal(tifffile.imread(result.files["classes"], level=0), mask)
    with openslide.OpenSlide(str(result.files["classes"])) as opened:
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        colours = np.asarray(opened.read_region((0, 0), 0, opened.dimensions).convert("RGB"))
    from patch2tissue.tissues import load_tissue_set

    tissues = load_tissue_set("bcss-wsss")
    np.testing.assert_array_equal(colours, np.array(tissues.colors, np.uint8)[mask])
    # how sure the network is of each place, at a quarter of the resolution
    sure = tifffile.imread(result.files["confidence"], level=0)
    assert sure.shape == (65, 95) and sure.min() > 128
    # areas
    counts = np.bincount(mask.ravel(), minlength=4)
    for area, count in zip(result.areas, counts, strict=True):
        assert area.pixels == count
        assert area.area_mm2 == pytest.approx(count * 0.25**2 / 1e6)
        assert area.pieces is not None and area.pieces > 0
    rows = list(csv.DictReader((out / "one_areas.csv").open(encoding="utf-8")))
    assert [int(row["pixels"]) for row in rows] == counts.tolist()
    plain = json.loads((out / "one_areas.json").read_text(encoding="utf-8"))
    assert plain["tissues"][tissues.names[0]]["pixels"] == counts[0]
    # polygons
    import shapely

    features = json.loads((out / "one.geojson").read_text(encoding="utf-8"))["features"]
    for name, count in zip(tissues.names, counts, strict=True):
        shapes = [
            shapely.from_geojson(json.dumps(feature["geometry"]))
            for feature in features
            if feature["properties"]["classification"]["name"] == name
        ]
        assert all(shape.is_valid for shape in shapes)
        assert sum(shape.area for shape in shapes) == pytest.approx(count, rel=0.005)
    for name in ("one_overlay.png", "one_tissue.png", "areas.csv", "summary.md"):
        assert (out / name).stat().st_size > 0
    assert "one.tif" in (out / "summary.md").read_text(encoding="utf-8")
    # nothing large is left behind
    assert not list((out / "work" / "one").glob("*.raw"))


def test_map_is_at_the_resolution_of_the_network(tmp_path: Path, colour_run: Path) -> None:
    image, mask = tissue_picture()
    large = image.repeat(2, axis=0).repeat(2, axis=1)
    slide = write_tiled(tmp_path / "fine.tif", large, (0.125, 0.125))
    result = predict_slide(colour_run, slide, tmp_path / "out", options=EVERYWHERE, progress=False)
    assert result.files is not None and result.um_per_pixel == (0.25, 0.25)
    np.testing.assert_array_equal(tifffile.imread(result.files["classes"], level=0), mask)
    # outlines are in pixels of the slide's full size
    features = json.loads(result.files["geojson"].read_text(encoding="utf-8"))["features"]
    places = np.array([point for feature in features for point in feature["geometry"]["coordinates"][0]])
    assert places.max(axis=0).tolist() == [760, 520]


def test_workers_give_what_one_process_gives(tmp_path: Path, colour_run: Path) -> None:
    image, _ = tissue_picture(200, 300)
    slide = write_tiled(tmp_path / "a.tif", image, (0.25, 0.25))
    maps = []
    for workers in (0, 2):
        options = SlideOptions(tissue="everywhere", workers=workers)
        result = predict_slide(colour_run, slide, tmp_path / str(workers), options=options, progress=False)
        assert result.files is not None
        maps.append({kind: path.read_bytes() for kind, path in result.files.items()})
    assert maps[0] == maps[1]


def test_ome_and_probabilities(tmp_path: Path, colour_run: Path) -> None:
    image, mask = tissue_picture(150, 170)
    slide = write_tiled(tmp_path / "a.tif", image, (0.25, 0.25))
    options = SlideOptions(
        tissue="everywhere", workers=0, outputs=OutputOptions("ome", compress=True, probabilities=True)
    )
    result = predict_slide(colour_run, slide, tmp_path / "out", options=options, progress=False)
    assert result.files is not None
    assert result.files["classes"].name == "a_classes.ome.tif" and result.files["geojson"].name == "a.geojson.gz"
    np.testing.assert_array_equal(tifffile.imread(result.files["classes"], level=0), mask)
    probabilities = tifffile.imread(result.files["probabilities"], level=0)
    assert probabilities.shape == (4, 150, 170)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), mask)


def test_slides_done_are_not_done_again(tmp_path: Path, colour_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = tissue_picture(100, 120)
    slide = write_tiled(tmp_path / "a.tif", image, (0.25, 0.25))
    first = predict_slide(colour_run, slide, tmp_path / "out", options=EVERYWHERE, progress=False)
    networks: list[ColourNetwork] = []

    def kept(*arguments: object) -> ColourNetwork:
        networks.append(ColourNetwork())
        return networks[-1]

    monkeypatch.setattr(predictor_module, "load_pfscnet", kept)
    again = predict_slide(colour_run, slide, tmp_path / "out", options=EVERYWHERE, progress=False)
    assert not networks[-1].seen
    assert again.areas == first.areas and again.files == first.files
    # a file is missing, or a setting has changed
    assert first.files is not None
    first.files["geojson"].unlink()
    predict_slide(colour_run, slide, tmp_path / "out", options=EVERYWHERE, progress=False)
    assert networks[-1].seen and first.files["geojson"].is_file()
    other = SlideOptions(tissue="everywhere", workers=0, outputs=OutputOptions(simplify=0.0))
    predict_slide(colour_run, slide, tmp_path / "out", options=other, progress=False)
    assert networks[-1].seen


def test_one_bad_slide_does_not_stop_the_others(tmp_path: Path, colour_run: Path) -> None:
    image, _ = tissue_picture(100, 120)
    slides = tmp_path / "slides"
    slides.mkdir()
    write_tiled(slides / "a.tif", image, (0.25, 0.25))
    (slides / "b.svs").write_bytes(b"no slide")
    write_tiled(slides / "c.tif", image, None)
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    content = write_tiled(slides / "d.tif", noise, (0.25, 0.25)).read_bytes()
    (slides / "d.tif").write_bytes(content[: len(content) // 2])
    write_tiled(slides / "e.tif", image, (0.25, 0.25))
    results = predict_slides(colour_run, [slides], tmp_path / "out", options=EVERYWHERE, progress=False)
    assert [result.status for result in results] == ["done", "failed", "failed", "failed", "done"]
    summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    for result in results[1:4]:
        assert result.error is not None and str(result.slide) in result.error and result.error in summary
    assert "--mpp" in (results[2].error or "")


def test_two_processes_share_a_folder(tmp_path: Path, colour_run: Path) -> None:
    image, _ = tissue_picture(100, 120)
    slides = [write_tiled(tmp_path / f"{name}.tif", image, (0.25, 0.25)) for name in "ab"]
    out = tmp_path / "out"
    (out / "work" / "a").mkdir(parents=True)
    with FileLock(out / "work" / "a" / "lock"):
        results = predict_slides(colour_run, slides, out, options=EVERYWHERE, progress=False)
    assert [result.status for result in results] == ["busy", "done"]
    results = predict_slides(colour_run, slides, out, options=EVERYWHERE, progress=False)
    assert [result.status for result in results] == ["done", "done"]


def test_resolutions_that_do_not_fit(tmp_path: Path, colour_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    image, _ = tissue_picture(80, 80)
    coarse = write_tiled(tmp_path / "coarse.tif", image, (1.0, 1.0))
    with pytest.raises(DataError, match=r"trained at 0\.25"):
        predict_slide(colour_run, coarse, tmp_path / "out", options=EVERYWHERE, progress=False)
    predict_slide(colour_run, coarse, tmp_path / "out", um_per_pixel=0.4, options=EVERYWHERE, progress=False)
    assert "is enlarged" in caplog.text
    for options in (
        SlideOptions(um_per_pixel=-1.0),
        SlideOptions(workers=-1),
        SlideOptions(outputs=OutputOptions(simplify=-1)),
    ):
        with pytest.raises(ConfigError):
            predict_slide(colour_run, coarse, tmp_path / "out", options=options, progress=False)


def test_run_without_resolution_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = real_run(tmp_path / "run", "bcss-wsss")
    from patch2tissue.tissues import load_tissue_set

    if load_tissue_set("bcss-wsss").um_per_pixel is not None:
        config = (run / "config.yaml").read_text()
        from dataclasses import replace

        import patch2tissue.config as config_module

        original = config_module.load_tissue_set
        monkeypatch.setattr(config_module, "load_tissue_set", lambda name: replace(original(name), um_per_pixel=None))
        assert config
    slide = write_tiled(tmp_path / "a.tif", picture(100, 100), (0.25, 0.25))
    with pytest.raises(ConfigError, match="--model-mpp"):
        predict_slide(run, slide, tmp_path / "out", progress=False)


_PREDICT = """
import sys
from patch2tissue.inference.slides.predict import SlideOptions, predict_slide
options = SlideOptions(tissue="everywhere", workers=int(sys.argv[4]))
predict_slide(sys.argv[1], sys.argv[2], sys.argv[3], options=options, progress=False)
"""


@pytest.mark.parametrize(("workers", "rows"), [(0, 4), (1, 1)])
def test_killed_process_is_gone_on_with_to_the_same_bytes(tmp_path: Path, workers: int, rows: int) -> None:
    run = real_run(tmp_path / "run", "bcss-wsss")
    image, _ = tissue_picture(420, 400)
    noise = np.random.default_rng(1).integers(-30, 30, image.shape)
    slide = write_tiled(tmp_path / "a.tif", np.clip(image + noise, 0, 255).astype(np.uint8), (0.25, 0.25))
    options = SlideOptions(tissue="everywhere", workers=workers)
    whole = predict_slide(run, slide, tmp_path / "whole", options=options, progress=False)

    out = tmp_path / "cut"
    state = out / "work" / "a" / "state.json"
    command = [sys.executable, "-c", _PREDICT, str(run), str(slide), str(out), str(workers)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None and not (state.is_file() and json.loads(state.read_text())["rows_done"] >= rows):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = json.loads(state.read_text())
    resumed = predict_slide(run, slide, out, options=options, progress=False)
    assert before["status"] == "running" and rows <= before["rows_done"] < before["rows"]
    assert whole.files is not None and resumed.files is not None
    for kind, path in whole.files.items():
        assert resumed.files[kind].read_bytes() == path.read_bytes(), kind
