"""The ONNX file by ONNX Runtime, without PyTorch or patch2tissue in the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.export.varied_run import TEMPERATURE, varied_run

import patch2tissue
from patch2tissue.errors import Patch2TissueError
from patch2tissue.export import export_run, onnx_file
from patch2tissue.export.checking import TOLERANCE, check_pictures
from patch2tissue.export.graph import tissue_probabilities
from patch2tissue.inference.predictor import Predictor

pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    return varied_run(tmp_path_factory.mktemp("onnx") / "run", tile=512)


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    export_run(run, run.parent / "model", ["onnx"], name="Größe", licence="MIT")
    return run.parent / "model"


def test_any_size_gives_what_the_run_gives(run: Path, model: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(model / "model.onnx", providers=["CPUExecutionProvider"])
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("images", ["batch", 3, "height", "width"], "tensor(float)")
    assert (taken.name, taken.shape) == ("probabilities", ["batch", 4, "height", "width"])
    predictor = Predictor.from_run(run)
    picture = check_pictures()[0][0]
    for batch, height, width in ((1, 128, 128), (3, 100, 70), (1, 31, 190), (2, 7, 5), (1, 1, 1)):
        pictures = np.stack([picture[shift : shift + height, :width] for shift in range(batch)])
        images = pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255
        (found,) = session.run(None, {"images": images})
        expected = np.stack([predictor.predict_array(one).probabilities for one in pictures])
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_the_file_describes_itself(model: Path) -> None:
    import onnx
    import onnxruntime

    facts = json.loads((model / "export.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(model / "model.onnx", providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert told["name"] == "Größe" and told["licence"] == "MIT" and told["patch2tissue"] == facts["patch2tissue"]
    assert float(told["um_per_pixel"]) == 1.0
    assert json.loads(told["tissues"]) == facts["tissues"] and json.loads(told["input"])["mean"]
    assert json.loads(told["output"])["temperature"] == TEMPERATURE
    assert "215" in json.loads(told["not_in_the_graph"])["background"]
    assert str(Path(patch2tissue.__file__).parents[1]).encode() not in (model / "model.onnx").read_bytes()
    loaded = onnx.load(model / "model.onnx")
    onnx.checker.check_model(loaded, full_check=True)
    assert facts["formats"]["onnx"]["opset"] == loaded.opset_import[0].version >= 18
    assert 0 < facts["formats"]["onnx"]["max_abs_difference"] <= TOLERANCE


def test_a_graph_that_differs_is_not_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onnx_file, "tissue_probabilities", lambda network, temperature: tissue_probabilities(network, 1.1 * temperature)
    )
    with pytest.raises(Patch2TissueError, match="ONNX model differs"):
        export_run(run, tmp_path / "model", ["onnx"])
    assert list(tmp_path.iterdir()) == []
