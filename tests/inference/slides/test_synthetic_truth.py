"""Areas, outlines and scores where the segmentation is right by construction: the truth's colours go in as a slide."""

from __future__ import annotations

import json

import numpy as np
import openslide
import pytest
import shapely
import tifffile

import patch2tissue.inference.predictor as predictor_module
from inference.tiny_run import COLOURS, ColourNetwork, write_config
from patch2tissue import Annotations, annotate_tissue, evaluate_slides, predict_slide, to_spatialdata
from patch2tissue.data.synthetic.slide_files import SlideFiles, write_synthetic_slide
from patch2tissue.inference.slides.predict import SlideOptions
from patch2tissue.inference.slides.result import SlideResult
from patch2tissue.slides.geojson import read_geojson, validate_qupath
from patch2tissue.slides.map_file import MapFile
from patch2tissue.slides.pyramid import write_picture_tiff
from patch2tissue.slides.rows import ArrayRows
from patch2tissue.tissues import BUILT_IN

TISSUES = BUILT_IN["bcss-wsss"]
SIZE = (3000, 2200)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[SlideFiles, SlideResult]:
    """A synthetic slide's truth, and the map of a slide in the truth's colours."""
    folder = tmp_path_factory.mktemp("truth")
    files = write_synthetic_slide(folder / "a.tif", *SIZE, seed=2)
    with MapFile(files.truth, TISSUES) as opened:
        truth = opened.read(0, SIZE[1])
    shown = np.full((256, 3), 245, np.uint8)
    shown[:4] = COLOURS
    write_picture_tiff(folder / "colours.tif", ArrayRows(shown[truth]), (0.5, 0.5), quality=95)
    run = write_config(folder / "run", "bcss-wsss", tile=256)
    (run / "pfscnet").mkdir()
    (run / "pfscnet" / "network.json").write_text("{}")
    (run / "pfscnet" / "weights.safetensors").write_bytes(b"weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor_module, "load_pfscnet", lambda *arguments: ColourNetwork())
        options = SlideOptions(um_per_pixel=0.5, workers=0)
        result = predict_slide(run, folder / "colours.tif", folder / "out", options=options, progress=False)
    return files, result


def test_areas_are_the_truths(mapped: tuple[SlideFiles, SlideResult]) -> None:
    files, result = mapped
    told = json.loads(files.description.read_text(encoding="utf-8"))["tissues"]
    for area in result.areas:
        assert area.area_mm2 == pytest.approx(told[area.tissue]["area_mm2"], rel=0.02), area.tissue


def test_outlines_have_the_maps_areas(mapped: tuple[SlideFiles, SlideResult]) -> None:
    _, result = mapped
    assert result.files is not None and validate_qupath(result.files["geojson"]) == []
    areas = dict.fromkeys(TISSUES.names, 0.0)
    for name, shape in read_geojson(result.files["geojson"]):
        assert shape.is_valid
        areas[str(name)] += shape.area
    for area in result.areas:
        assert areas[area.tissue] == pytest.approx(area.pixels, rel=0.005), area.tissue


def test_scores_are_nearly_perfect(mapped: tuple[SlideFiles, SlideResult]) -> None:
    files, result = mapped
    assert result.files is not None
    for truth in (files.truth, files.truth_geojson):
        scores = evaluate_slides(result.files["classes"], Annotations(truth), TISSUES).scores
        assert scores.values["miou"] > 0.98


def test_map_is_read_back_by_other_libraries(mapped: tuple[SlideFiles, SlideResult]) -> None:
    """Areas from NAME_classes.tif by OpenSlide (colours), tifffile and tiffslide (indices), at the finest level."""
    _, result = mapped
    assert result.files is not None
    path, wanted = result.files["classes"], [area.pixels for area in result.areas]
    assert np.bincount(tifffile.imread(path, level=0).ravel(), minlength=256)[:4].tolist() == wanted
    with openslide.OpenSlide(str(path)) as opened:
        assert opened.dimensions == SIZE and opened.level_count == 3
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.5, rel=1e-4)
        colours = np.asarray(opened.read_region((0, 0), 0, SIZE).convert("RGB"))
    assert [int((colours == color).all(axis=2).sum()) for color in TISSUES.colors] == wanted
    tiffslide = pytest.importorskip("tiffslide", reason="tiffslide is not installed (make readers)")
    with tiffslide.TiffSlide(path) as opened:
        assert opened.dimensions == SIZE and opened.level_count == 3
        assert opened.properties["tiffslide.mpp-x"] == pytest.approx(0.5, rel=1e-4)
        indices = np.asarray(opened.read_region((0, 0), 0, SIZE, as_array=True))
    assert np.bincount(indices.ravel(), minlength=256)[:4].tolist() == wanted


def test_outlines_are_read_by_qubalab(mapped: tuple[SlideFiles, SlideResult]) -> None:
    qubalab = pytest.importorskip("qubalab.objects", reason="QuBaLab is not installed (make readers)")
    _, result = mapped
    assert result.files is not None
    plain = json.loads(result.files["geojson"].read_text(encoding="utf-8"))
    found = [qubalab.ImageFeature.create_from_feature(feature) for feature in plain["features"]]
    assert len(found) == sum(area.pieces or 0 for area in result.areas)
    for area, tissue in zip(result.areas, TISSUES.tissues, strict=True):
        own = [feature for feature in found if feature.classification.names == (area.tissue,)]
        assert len(own) == area.pieces
        assert all(tuple(feature.classification.color) == tissue.color for feature in own)
        assert all(feature.object_type.name.lower() == "annotation" for feature in own)
        pixels = sum(shapely.geometry.shape(feature.geometry).area for feature in own)
        assert pixels == pytest.approx(area.pixels, rel=0.005)


def test_outlines_are_read_by_lazyslide(mapped: tuple[SlideFiles, SlideResult]) -> None:
    lazyslide = pytest.importorskip("lazyslide", reason="LazySlide is not installed (make readers)")
    wsidata = pytest.importorskip("wsidata", reason="LazySlide is not installed (make readers)")
    files, result = mapped
    assert result.files is not None
    slide = wsidata.open_wsi(str(files.slide))
    lazyslide.io.load_annotations(slide, str(result.files["geojson"]), min_area=0, key_added="drawn")
    table = slide["drawn"]
    assert set(table["classification_name"]) == set(TISSUES.names)
    assert len(table) == sum(area.pieces or 0 for area in result.areas)
    assert table.geometry.is_valid.all()
    assert table.geometry.area.sum() == pytest.approx(sum(area.pixels for area in result.areas), rel=0.005)


def test_a_predicted_slide_has_the_areas_of_the_truth(mapped: tuple[SlideFiles, SlideResult]) -> None:
    pytest.importorskip("spatialdata", reason="spatialdata is not installed (make readers)")
    files, result = mapped
    assert result.files is not None
    sdata = to_spatialdata(result.files["classes"])
    told = json.loads(files.description.read_text(encoding="utf-8"))["tissues"]
    table, regions = sdata.tables["tissue_table"].obs.set_index("tissue"), sdata.tables["region_table"].obs
    for area in result.areas:
        assert table.loc[area.tissue, "area_mm2"] == pytest.approx(area.area_mm2)
        assert table.loc[area.tissue, "area_mm2"] == pytest.approx(told[area.tissue]["area_mm2"], rel=0.02)
        own = regions[regions["tissue"] == area.tissue]
        assert len(own) == area.pieces and own["area_um2"].sum() / 1e6 == pytest.approx(area.area_mm2, rel=1e-4)


def test_points_agree_with_the_truth(mapped: tuple[SlideFiles, SlideResult]) -> None:
    anndata = pytest.importorskip("anndata", reason="anndata is not installed (make readers)")
    files, result = mapped
    assert result.files is not None
    with MapFile(files.truth, TISSUES) as opened:
        truth = opened.read(0, opened.shape[0])
    spots = np.random.default_rng(0).uniform(0, truth.shape[::-1], (400, 2))
    adata = anndata.AnnData(np.zeros((400, 1)), obsm={"spatial": spots})
    annotate_tissue(adata, result.files["classes"])
    values = truth[spots[:, 1].astype(int), spots[:, 0].astype(int)]
    wanted = [TISSUES.names[value] if value < len(TISSUES) else None for value in values]
    found = adata.obs["tissue"].astype(object).where(adata.obs["tissue"].notna(), None).tolist()
    assert np.mean([one == other for one, other in zip(found, wanted, strict=True)]) > 0.97
    assert adata.obs["tissue_probability"].dropna().between(0.25, 1.0).all()
