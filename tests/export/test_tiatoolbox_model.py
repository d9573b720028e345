"""The model class in TIAToolbox itself, for `make tiatoolbox`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tests.export.varied_run import varied_run
from tests.slides.pictures import write_ome

from patch2tissue.export import export_run
from patch2tissue.export.checking import TOLERANCE, check_pictures
from patch2tissue.inference.predictor import Predictor

pytest.importorskip("tiatoolbox", reason="TIAToolbox is not installed: `make tiatoolbox`")

SIDE = 64


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return varied_run(tmp_path_factory.mktemp("tiatoolbox") / "run", tile=SIDE)


@pytest.fixture(scope="module")
def module(run: Path) -> Iterator[ModuleType]:
    export_run(run, run.parent / "model", ["tiatoolbox"])
    sys.path.insert(0, str(run.parent / "model"))
    import patch2tissue_model  # type: ignore[import-not-found]

    yield patch2tissue_model
    sys.path.remove(str(run.parent / "model"))
    del sys.modules["patch2tissue_model"]


def test_a_batch_is_what_the_run_gives(run: Path, module: ModuleType) -> None:
    model = module.TissueSegmentor()
    assert model.class_dict[0] == "tumour epithelium" and len(model.class_dict) == 4
    pictures = check_pictures()[1][:, :SIDE, :SIDE]
    found = model.infer_batch(model, pictures, device="cpu")
    assert found.shape == (2, SIDE, SIDE, 4) and found.dtype == np.float32
    predictor = Predictor.from_run(run)
    for picture, probabilities in zip(pictures, found, strict=True):
        expected = predictor.predict_array(picture).probabilities
        np.testing.assert_allclose(probabilities.transpose(2, 0, 1), expected, atol=TOLERANCE)
        np.testing.assert_array_equal(model.postproc(probabilities), probabilities.argmax(axis=-1))


def test_a_slide_goes_through_the_segmentor(run: Path, module: ModuleType, tmp_path: Path) -> None:
    import zarr
    from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor

    picture = np.tile(check_pictures()[0][0], (2, 1, 1))
    slide = write_ome(tmp_path / "a.ome.tif", picture, 1.0)
    model = module.TissueSegmentor()
    engine = SemanticSegmentor(model=model, batch_size=4, num_workers=0, verbose=False)
    written = engine.run(
        [slide],
        patch_mode=False,
        ioconfig=model.io_config(),
        device="cpu",
        save_dir=tmp_path / "out",
        output_type="zarr",
        auto_get_mask=False,
        return_probabilities=True,
    )
    found = zarr.open(str(next(iter(written.values()))), mode="r")
    mask, corners = np.asarray(found["predictions"]), np.asarray(found["coordinates"])
    # TIAToolbox averages tiles where they overlap: the same by hand, of what the run gives for each of its tiles
    predictor = Predictor.from_run(run)
    height, width = picture.shape[:2]
    total = np.zeros((4, height, width))
    for left, top, right, bottom in corners:
        tile = np.full((SIDE, SIDE, 3), 255, np.uint8)
        part = picture[top:bottom, left:right]
        tile[: part.shape[0], : part.shape[1]] = part
        probabilities = predictor.predict_array(tile).probabilities
        total[:, top:bottom, left:right] += probabilities[:, : part.shape[0], : part.shape[1]]
    assert mask.shape[0] >= height and mask.shape[1] >= width
    assert len(np.unique(mask[:height, :width])) == 4
    assert (mask[:height, :width] == total.argmax(axis=0)).mean() > 0.97


def test_a_model_that_does_not_tell_its_resolution_asks_for_it(module: ModuleType) -> None:
    model = module.TissueSegmentor()
    assert model.io_config().input_resolutions == [{"units": "mpp", "resolution": 1.0}]
    assert list(model.io_config(0.5).patch_input_shape) == [SIDE, SIDE]
    model.description["um_per_pixel"] = None
    with pytest.raises(ValueError, match="give um_per_pixel"):
        model.io_config()
