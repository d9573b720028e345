"""Scoring maps of slides: the same as scoring the whole map at once, and only what is annotated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from tests.slides.pictures import blobs

import patch2tissue.evaluation.slides as slides_module
from patch2tissue.data.images import write_mask
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.evaluation.folders import evaluate_folders
from patch2tissue.evaluation.slides import Annotations, evaluate_slides
from patch2tissue.slides.geojson import write_geojson
from patch2tissue.slides.polygons import trace
from patch2tissue.slides.pyramid import write_classes_tiff
from patch2tissue.slides.rows import ArrayRows
from patch2tissue.tissues import BUILT_IN

TISSUES = BUILT_IN["bcss-wsss"]
TUMOUR, STROMA = TISSUES.names[:2]
SHAPE = (330, 410)


def truth_and_map(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    truth = blobs(*SHAPE, 4, 7.0, seed)
    return truth, np.where(np.roll(truth, 3, axis=1) == 255, 1, np.roll(truth, 3, axis=1)).astype(np.uint8)


def write_map(path: Path, classes: np.ndarray, scale: tuple[float, float] = (1.0, 1.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_classes_tiff(path, ArrayRows(classes), TISSUES, (0.5 * scale[0], 0.5 * scale[1]), scale=scale)
    return path


def feature(name: str | None, geometry: shapely.Geometry) -> dict[str, Any]:
    properties = {} if name is None else {"classification": {"name": name}}
    return {"type": "Feature", "geometry": json.loads(shapely.to_geojson(geometry)), "properties": properties}


def write_features(path: Path, *features: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def thin_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several strips in small maps."""
    monkeypatch.setattr(slides_module, "_STRIP_PIXELS", 410 * 64)


@pytest.mark.parametrize("kind", ["geojson", "tif", "png"])
def test_scores_are_those_of_the_whole_picture(tmp_path: Path, kind: str) -> None:
    for number, name in enumerate(("TCGA-A1-A0SK-DX1", "TCGA-A1-A0SP-DX1")):
        truth, predicted = truth_and_map(number)
        write_map(tmp_path / "maps" / f"{name}_classes.tif", predicted)
        write_mask(tmp_path / "masks" / f"{name}.png", truth, TISSUES)
        write_mask(tmp_path / "pred" / f"{name}_mask.png", predicted, TISSUES)
        if kind == "tif":
            write_map(tmp_path / "truth" / f"{name}.tif", truth)
        elif kind == "geojson":
            (tmp_path / "truth").mkdir(exist_ok=True)
            pieces = trace(ArrayRows(truth), 4)
            path = tmp_path / "truth" / f"{name}.geojson"
            write_geojson(path, pieces, TISSUES, scale=(1, 1), um_per_pixel=(0.5, 0.5))
    folder = tmp_path / ("masks" if kind == "png" else "truth")
    seen: list[tuple[str, int, int]] = []
    found = evaluate_slides(tmp_path / "maps", Annotations(folder), TISSUES, progress=lambda *told: seen.append(told))
    wanted = evaluate_folders(tmp_path / "pred", tmp_path / "masks", TISSUES)
    assert found.scores.values == wanted.values
    np.testing.assert_array_equal(found.scores.confusion, wanted.confusion)
    assert found.scores.grouped_by == "patient" and found.scores.groups == 2
    assert len(seen) >= 10 and seen[-1] == ("TCGA-A1-A0SP-DX1", 330, 330)
    # areas in what is scored
    pixels = {(area["slide"], area["tissue"]): area for area in found.areas}
    truth, predicted = truth_and_map(0)
    area = pixels["TCGA-A1-A0SK-DX1", STROMA]
    assert area["true_mm2"] == pytest.approx((truth == 1).sum() * 0.25e-6)
    assert area["predicted_mm2"] == pytest.approx(((predicted == 1) & (truth < 4)).sum() * 0.25e-6)


def test_a_file_that_says_truth_comes_before_the_slide_beside_it(tmp_path: Path) -> None:
    truth, predicted = truth_and_map()
    write_map(tmp_path / "maps" / "a_classes.tif", predicted)
    write_map(tmp_path / "slides" / "a.tif", predicted)
    write_map(tmp_path / "slides" / "a_truth.tif", truth)
    beside = evaluate_slides(tmp_path / "maps", Annotations(tmp_path / "slides"), TISSUES)
    named = evaluate_slides(tmp_path / "maps", Annotations(tmp_path / "slides" / "a_truth.tif"), TISSUES)
    assert beside.to_dict() == named.to_dict()
    assert beside.scores.miou < 1


def test_annotations_are_in_pixels_of_the_slides_full_size(tmp_path: Path) -> None:
    truth, predicted = truth_and_map()
    path = write_map(tmp_path / "a_classes.tif", predicted, (2.0, 4.0))
    pieces = trace(ArrayRows(truth), 4)
    write_geojson(tmp_path / "a.geojson", pieces, TISSUES, scale=(2.0, 4.0), um_per_pixel=(1.0, 2.0))
    found = evaluate_slides(path, Annotations(tmp_path / "a.geojson"), TISSUES)
    assert found.scores.confusion.sum() == (truth < 4).sum()
    # a map that does not tell: the resolution of the annotations is given
    import tifffile

    plain = tmp_path / "plain.tif"
    tifffile.imwrite(plain, predicted, tile=(64, 64), resolution=(1e4, 0.5e4), resolutionunit="CENTIMETER")
    with pytest.raises(DataError, match="--mpp"):
        evaluate_slides(plain, Annotations(tmp_path / "a.geojson"), TISSUES)
    again = evaluate_slides(plain, Annotations(tmp_path / "a.geojson", um_per_pixel=0.5), TISSUES)
    np.testing.assert_array_equal(again.scores.confusion, found.scores.confusion)
    with pytest.raises(ConfigError):
        evaluate_slides(plain, Annotations(tmp_path / "a.geojson", um_per_pixel=0.0), TISSUES)


def test_only_the_region_of_interest_counts(tmp_path: Path) -> None:
    truth, predicted = truth_and_map()
    path = write_map(tmp_path / "maps" / "a_classes.tif", predicted)
    inside = shapely.box(100, 50, 300, 250)
    whole = write_features(
        tmp_path / "a.geojson", feature(TUMOUR, shapely.box(0, 0, 410, 330)), feature("Region*", inside)
    )
    by_class = evaluate_slides(path, Annotations(whole), TISSUES).scores
    assert by_class.confusion.sum() == 200 * 200 == by_class.confusion[0].sum()
    assert by_class.confusion[0, 1] == (predicted[50:250, 100:300] == 1).sum()
    # a file of its own comes before, also for a mask
    roi = write_features(tmp_path / "rois" / "a.geojson", feature(None, shapely.box(0, 0, 10, 20)))
    for region in (roi, roi.parent):
        assert evaluate_slides(path, Annotations(whole, region=region), TISSUES).scores.confusion.sum() == 200
    mask = write_map(tmp_path / "a.tif", truth)
    found = evaluate_slides(path, Annotations(mask, region=roi), TISSUES).scores.confusion.sum()
    assert found == (truth[:20, :10] < 4).sum()
    empty = write_features(tmp_path / "empty.geojson")
    with pytest.raises(DataError, match="holds no areas"):
        evaluate_slides(path, Annotations(whole, region=empty), TISSUES)


def test_the_smaller_of_two_annotations_counts(tmp_path: Path) -> None:
    path = write_map(tmp_path / "a_classes.tif", np.zeros(SHAPE, np.uint8))
    large, small = shapely.box(0, 0, 100, 100), shapely.box(10, 10, 20, 20)
    for order in ((feature(TUMOUR, large), feature(STROMA, small)), (feature(STROMA, small), feature(TUMOUR, large))):
        truth = write_features(tmp_path / "a.geojson", *order)
        confusion = evaluate_slides(path, Annotations(truth), TISSUES).scores.confusion
        assert confusion[0].sum() == 100 * 100 - 100 and confusion[1].sum() == 100


def test_names_of_classes(tmp_path: Path) -> None:
    path = write_map(tmp_path / "a_classes.tif", np.zeros(SHAPE, np.uint8))
    truth = write_features(
        tmp_path / "a.geojson",
        feature("Tumor", shapely.box(0, 0, 10, 10)),
        feature(STROMA.upper(), shapely.box(20, 0, 30, 10)),
        feature("Artifact", shapely.box(40, 0, 50, 10)),
    )
    with pytest.raises(DataError, match=r"Artifact, Tumor, which are no tissues.*--class NAME=TISSUE"):
        evaluate_slides(path, Annotations(truth), TISSUES)
    classes = {"tumor": TISSUES.abbreviations[0], "Artifact": "none"}
    confusion = evaluate_slides(path, Annotations(truth, classes), TISSUES).scores.confusion
    assert confusion.sum(axis=1).tolist() == [100, 100, 0, 0]
    with pytest.raises(ConfigError, match="'bone' is no tissue"):
        evaluate_slides(path, Annotations(truth, {"Tumor": "bone"}), TISSUES)
    nameless = write_features(tmp_path / "b.geojson", feature(None, shapely.box(0, 0, 10, 10)))
    with pytest.raises(DataError, match="without a class must get one"):
        evaluate_slides(path, Annotations(nameless), TISSUES)


def test_a_mask_of_another_size_is_laid_over_the_map(tmp_path: Path) -> None:
    classes = blobs(90, 120, 4, 4.0)
    path = write_map(tmp_path / "a_classes.tif", classes.repeat(4, axis=0).repeat(4, axis=1))
    write_mask(tmp_path / "small.png", classes, TISSUES)
    scores = evaluate_slides(path, Annotations(tmp_path / "small.png"), TISSUES).scores
    assert scores.values["miou"] == 1.0 and scores.confusion.sum() == 16 * (classes < 4).sum()
    write_mask(tmp_path / "square.png", classes[:, :90], TISSUES)
    with pytest.raises(DataError, match=r"square\.png: is 90 × 90 pixels.*480 × 360"):
        evaluate_slides(path, Annotations(tmp_path / "square.png"), TISSUES)


def test_what_is_missing_or_wrong_is_told_of(tmp_path: Path) -> None:
    truth, predicted = truth_and_map()
    path = write_map(tmp_path / "maps" / "a_classes.tif", predicted)
    (tmp_path / "other").mkdir()
    for maps, drawn, told in (
        (tmp_path / "none", path, "no such file or folder"),
        (tmp_path / "other", path, "holds no maps"),
        (path, tmp_path / "none.geojson", "no such file or folder"),
        (path, tmp_path / "other", r"holds nothing for a_classes\.tif"),
        (path, path.parent, "folder of their own"),
    ):
        with pytest.raises(DataError, match=told):
            evaluate_slides(maps, Annotations(drawn), TISSUES)
    nothing = write_map(tmp_path / "nothing.tif", np.full_like(truth, 255))
    with pytest.raises(DataError, match="marks no tissue on a_classes"):
        evaluate_slides(path, Annotations(nothing), TISSUES)
    with pytest.raises(DataError, match=r"is a map of tumour.*'glas' has gland"):
        evaluate_slides(path, Annotations(nothing), BUILT_IN["glas"])


def test_command(tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    truth, predicted = truth_and_map()
    path = write_map(tmp_path / "maps" / "a_classes.tif", predicted)
    mask = write_map(tmp_path / "a.tif", truth)
    out = tmp_path / "scores.json"
    assert run_command("slide", "evaluate", path, mask, "--tissues", "bcss-wsss", "--json", "--out", out) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text()) and len(printed["areas"]) == 4
    # `evaluate` knows maps of slides, too
    assert run_command("evaluate", path.parent, mask, "--tissues", "bcss-wsss", "--json") == 0
    assert json.loads(capsys.readouterr().out) == printed
    assert run_command("slide", "evaluate", path.parent, mask, "--tissues", "bcss-wsss") == 0
    told = capsys.readouterr()
    assert all(word in told.out for word in ("annotated", "MIoU", "1 slide")) and "No interval" in told.err
    drawn = write_features(tmp_path / "a.geojson", feature("Tumor", shapely.box(0, 0, 50, 50)))
    arguments = ("slide", "evaluate", path, drawn, "--tissues", "bcss-wsss")
    assert run_command(*arguments) == 2
    assert "--class NAME=TISSUE" in capsys.readouterr().err
    assert run_command(*arguments, "--class", "Tumor=tumour") == 0
    for wrong in ("Tumor", "=tumour", "Tumor="):
        assert run_command(*arguments, "--class", wrong) == 2
