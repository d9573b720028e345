"""The MONAI bundle: its layout, and its inference by MONAI itself beside ours."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.export.varied_run import varied_run

from patch2tissue.export import export_run
from patch2tissue.export.checking import TOLERANCE, check_pictures
from patch2tissue.inference.predictor import Predictor
from patch2tissue.pfscnet.network import load_pfscnet

pytestmark = pytest.mark.extras

SIDE = 64


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("monai")
    return varied_run(tmp_path_factory.mktemp("monai") / "run", tile=SIDE)


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    export_run(run, run.parent / "model", ["monai-bundle"], licence="Apache-2.0")
    return run.parent / "model" / "monai_bundle"


@pytest.fixture(scope="module")
def images(run: Path) -> Path:
    """A picture of one tile, and one of several that is no square, with transparency."""
    folder = run.parent / "images"
    folder.mkdir()
    Image.fromarray(check_pictures()[0][0][:SIDE, :SIDE]).save(folder / "one.png")
    Image.fromarray(check_pictures()[0][0][:100, :150]).convert("RGBA").save(folder / "several.png")
    return folder


def test_layout_and_required_fields(run: Path, bundle: Path) -> None:
    from monai.bundle.properties import InferProperties

    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    # of MONAI's schema, which is on the internet
    required = {"schema", "version", "monai_version", "pytorch_version", "numpy_version", "network_data_format"}
    described = {"name", "task", "description", "authors", "copyright", "changelog", "required_packages_version"}
    assert required | described <= metadata.keys()
    image = metadata["network_data_format"]["inputs"]["image"]
    pred = metadata["network_data_format"]["outputs"]["pred"]
    for part in (image, pred):
        keys = {
            "type",
            "format",
            "num_channels",
            "spatial_shape",
            "dtype",
            "value_range",
            "is_patch_data",
            "channel_def",
        }
        assert keys <= part.keys() and part["num_channels"] == len(part["channel_def"])
    assert pred["channel_def"]["0"] == "tumour epithelium" and image["value_range"] == [0, 1]
    inference = json.loads((bundle / "configs" / "inference.json").read_text(encoding="utf-8"))
    assert {name for name, one in InferProperties.items() if one["required"]} <= inference.keys()
    assert "Apache-2.0" in (bundle / "LICENSE").read_text() and (bundle / "docs" / "README.md").is_file()
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    for name, tensor in load_pfscnet(run / "pfscnet").state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0)


def test_a_name_is_never_an_expression(run: Path, tmp_path: Path) -> None:
    from monai.bundle import ConfigParser

    from patch2tissue.export.monai_bundle import _metadata

    names = ["$open('ran', 'w')", "@device", "%file.json::key", "a $b"]
    tissues = {"tissues": [{"name": name} for name in names]}
    tiles = {"tiles": {"side": SIDE}}
    described = {"tissues": tissues, "um_per_pixel": None, "not_in_the_graph": tiles, "patch2tissue": "1", "name": "$1"}
    parser = ConfigParser(_metadata(described))
    channels = parser.get_parsed_content("network_data_format::outputs::pred::channel_def")
    assert [name.lstrip() for name in channels.values()] == names
    assert parser.get_parsed_content("name") == " $1"


def test_network_and_inferer_of_the_configuration(run: Path, bundle: Path, images: Path) -> None:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.read_meta(bundle / "configs" / "metadata.json")
    parser["bundle_root"], parser["dataset_dir"] = str(bundle), str(images)
    for required in ("device", "dataset", "network_def", "inferer", "preprocessing"):
        assert required in parser
    data = parser.get_parsed_content("dataset")
    network, inferer = (parser.get_parsed_content(name) for name in ("network_def", "inferer"))
    predictor = Predictor.from_run(run)
    for name, item in zip(("one", "several"), data, strict=True):
        picture = np.asarray(Image.open(images / f"{name}.png").convert("RGB"))
        assert item["image"].shape == (3, *picture.shape[:2])
        with torch.inference_mode():
            found = inferer(item["image"][None].as_tensor(), network)[0].numpy()
        expected = predictor.predict_array(picture).probabilities
        if name == "one":
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)
        # MONAI bounds its window otherwise in the corners of tiles, and the network changes much from tile to tile
        assert (found.argmax(axis=0) == expected.argmax(axis=0)).mean() > 0.95
        assert len(np.unique(found.argmax(axis=0))) == 4


def test_the_bundle_runs(run: Path, bundle: Path, images: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("ignite") is None:
        pytest.skip("pytorch-ignite is not installed")
    from monai.bundle import run as run_bundle

    run_bundle(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        bundle_root=str(bundle),
        dataset_dir=str(images),
        output_dir=str(tmp_path),
    )
    predictor = Predictor.from_run(run)
    for name, least in (("one", 0.999), ("several", 0.95)):
        picture = np.asarray(Image.open(images / f"{name}.png").convert("RGB"))
        mask = np.asarray(Image.open(tmp_path / f"{name}_mask.png"))
        assert mask.shape == picture.shape[:2]
        assert (mask == predictor.predict_array(picture).probabilities.argmax(axis=0)).mean() > least
