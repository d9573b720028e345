"""The model folder: what it holds, what uses it, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from tests.export.varied_run import TEMPERATURE, varied_run
from tests.slides.pictures import write_tiled

import patch2tissue
from patch2tissue.config import config_from_dict
from patch2tissue.errors import ConfigError, DataError, Patch2TissueError
from patch2tissue.export import export_run, torchscript
from patch2tissue.export.checking import SIZES, TOLERANCE, check_pictures, to_graph_input
from patch2tissue.export.qupath import groovy_string
from patch2tissue.export.run_copy import portable_config
from patch2tissue.inference.predictor import Predictor
from patch2tissue.inference.slides.predict import SlideOptions, predict_slide
from patch2tissue.pfscnet.network import load_pfscnet


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return varied_run(tmp_path_factory.mktemp("exported") / "run", gate=0.3)


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    export_run(run, run.parent / "model", ["tiatoolbox"], licence="CC-BY-4.0")
    return run.parent / "model"


def test_torchscript_runs_without_patch2tissue_as_the_run_does(run: Path, model: Path, tmp_path: Path) -> None:
    facts = json.loads((model / "export.json").read_text(encoding="utf-8"))
    found = facts["formats"]["torchscript"]
    assert found["max_abs_difference"] <= TOLERANCE and found["sizes"] == [list(size) for size in SIZES]
    assert facts["output"]["temperature"] == TEMPERATURE
    inputs = {f"{place}": to_graph_input(check_pictures()[place]) for place in (1, 2)}
    torch.save(inputs, tmp_path / "inputs.pt")
    code = (
        "import sys, json, warnings\n"
        "for name in ('patch2tissue', 'timm', 'segmentation_models_pytorch'): sys.modules[name] = None\n"
        "warnings.simplefilter('ignore')\n"
        "import torch\n"
        "extra = {'export.json': ''}\n"
        f"network = torch.jit.load({str(model / 'torchscript.pt')!r}, _extra_files=extra)\n"
        "assert json.loads(extra['export.json'])['kind'] == 'patch2tissue model'\n"
        f"inputs = torch.load({str(tmp_path / 'inputs.pt')!r}, weights_only=True)\n"
        "with torch.inference_mode(): found = {name: network(images) for name, images in inputs.items()}\n"
        f"torch.save(found, {str(tmp_path / 'found.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
    outputs = torch.load(tmp_path / "found.pt", weights_only=True)
    predictor = Predictor.from_run(run, gate=0.0)
    predictor.settings.tile = 1024  # whole images
    for place in (1, 2):
        for picture, probabilities in zip(check_pictures()[place], outputs[f"{place}"].numpy(), strict=True):
            expected = predictor.predict_array(picture).probabilities
            assert len(np.unique(expected.argmax(axis=0))) > 1
            np.testing.assert_allclose(probabilities, expected, atol=TOLERANCE)


def test_graph_agrees_on_a_gpu_too(model: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    images = to_graph_input(check_pictures()[2])
    network = torch.jit.load(str(model / "torchscript.pt"))
    with torch.inference_mode():
        expected, found = network(images), network.cuda()(images.cuda()).cpu()
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)  # TF32 convolutions


def test_predict_takes_the_folder_for_a_run(
    run: Path, model: Path, tmp_path: Path, run_command: Callable[..., int]
) -> None:
    Image.fromarray(check_pictures()[0][0][:100, :60]).save(tmp_path / "a.png")
    for folder, out in ((run, "of_run"), (model, "of_model")):
        assert run_command("predict", folder, tmp_path / "a.png", "--out", tmp_path / out) == 0
    for name in ("a_mask.png", "a_confidence.png", "areas.csv"):
        assert (tmp_path / "of_run" / name).read_bytes() == (tmp_path / "of_model" / name).read_bytes()
    assert len(np.unique(np.asarray(Image.open(tmp_path / "of_model" / "a_mask.png")))) > 1


def test_slide_predict_takes_the_folder_for_a_run(run: Path, model: Path, tmp_path: Path) -> None:
    slide = write_tiled(tmp_path / "a.tif", check_pictures()[0][0][:64, :90], (1.0, 1.0))
    options = SlideOptions(tissue="everywhere", workers=0)
    results = [predict_slide(folder, slide, tmp_path / folder.name, options=options) for folder in (run, model)]
    assert [result.status for result in results] == ["done", "done"]
    assert results[0].areas == results[1].areas


def test_nothing_in_the_folder_tells_of_the_machine(run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    config = (run / "config.yaml").read_text(encoding="utf-8")
    config = config.replace("path: data", f"path: {tmp_path}/secret").replace("workers: 0", "workers: 7")
    (run / "config.yaml").write_text(config.replace("weights: null", f"weights: {tmp_path}/w.safetensors"))
    network = json.loads((run / "pfscnet" / "network.json").read_text())
    network["encoder"]["weights"] = f"{tmp_path}/w.safetensors"
    (run / "pfscnet" / "network.json").write_text(json.dumps(network))
    export_run(run, tmp_path / "model", ["torchscript"])
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert {path.name for path in files} > {"config.yaml", "README.md", "export.json", "weights.safetensors"}
    for path in files:
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content and b"secret" not in content, path
    with zipfile.ZipFile(tmp_path / "model" / "torchscript.pt") as archive:
        assert archive.testzip() is None
        source = str(Path(patch2tissue.__file__).parents[1]).encode()
        assert not [name for name in archive.namelist() if source in archive.read(name)]
        for entry in archive.infolist():  # as PyTorch lays tensors out
            assert (entry.header_offset + 30 + len(entry.filename) + len(entry.extra)) % 64 == 0
    assert "weights of the file w.safetensors" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_tissues_of_a_file_go_along(tmp_path: Path) -> None:
    plain = {"name": "own", "tissues": [{"name": "a", "color": [1, 2, 3]}, {"name": "b", "color": [4, 5, 6]}]}
    (tmp_path / "own.yaml").write_text(json.dumps(plain))
    source = {"kind": "regions", "path": str(tmp_path / "regions")}
    data = {"path": str(tmp_path / "data"), "source": source, "test_path": str(tmp_path), "um_per_pixel": 0.7}
    config = config_from_dict({"output": str(tmp_path), "tissues": str(tmp_path / "own.yaml"), "data": data})
    text = portable_config(config).to_yaml()
    assert str(tmp_path) not in text
    again = config_from_dict(yaml.safe_load(text))
    assert again.tissue_set() == config.tissue_set() and again.tissue_set().um_per_pixel == 0.7


def test_awkward_names_go_along(run: Path, tmp_path: Path, run_command: Callable[..., int]) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    names = ['tumour\'s "edge"', "$(rm) `x` | y", "肿瘤 \\ 组织", "--- {{ 1 }}"]
    plain = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    own = [{"name": name, "color": [place, 2, 3]} for place, name in enumerate(names)]
    plain["tissues"] = {"name": "own", "tissues": own}
    (run / "config.yaml").write_text(yaml.safe_dump(plain, allow_unicode=True), encoding="utf-8")
    assert run_command("export", run, "--out", tmp_path / "model", "--name", "a: [b] 'c'") == 0
    described = json.loads((tmp_path / "model" / "export.json").read_text(encoding="utf-8"))
    assert [tissue["name"] for tissue in described["tissues"]["tissues"]] == names
    assert Predictor.from_run(tmp_path / "model").tissues.names == tuple(names)
    assert ModelCard.load(tmp_path / "model" / "README.md").data.library_name == "patch2tissue"
    script = (tmp_path / "model" / "patch2tissue.groovy").read_text(encoding="ascii")
    assert all(f"[{groovy_string(name)}, {place}, 2, 3]," in script for place, name in enumerate(names))


def test_a_model_folder_can_be_exported_again_and_keeps_its_facts(model: Path, tmp_path: Path) -> None:
    facts = json.loads((model / "export.json").read_text(encoding="utf-8"))["facts"]
    export_run(model, tmp_path / "again", name="Again")
    again = json.loads((tmp_path / "again" / "export.json").read_text(encoding="utf-8"))
    assert again["facts"] == facts and again["name"] == "Again" and again["formats"] == {}
    one, other = (folder / "pfscnet" / "weights.safetensors" for folder in (model, tmp_path / "again"))
    assert one.read_bytes() == other.read_bytes()


def test_what_is_in_the_way_is_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    export_run(run, out, name="first")
    with pytest.raises(DataError, match=r"is a model folder already.*--fresh"):
        export_run(run, out)
    export_run(run, out, name="second", fresh=True)
    assert json.loads((out / "export.json").read_text(encoding="utf-8"))["name"] == "second"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(DataError, match="is no model folder"):
            export_run(run, tmp_path / "other", fresh=fresh)
        with pytest.raises(DataError, match="is no model folder"):
            export_run(run, run, fresh=fresh)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    export_run(run, tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "model", "other"]


def test_a_model_that_differs_is_not_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(network: torch.nn.Module) -> torch.nn.Module:
        changed = load_pfscnet(run / "pfscnet")
        with torch.no_grad():
            changed.classifier.bias[0] += 0.01
        return real(changed)

    real = torchscript.logits_module
    monkeypatch.setattr(torchscript, "logits_module", other)
    with pytest.raises(Patch2TissueError, match=r"TorchScript model differs .* by up to 0\.00") as raised:
        export_run(run, tmp_path / "model", ["torchscript"])
    assert raised.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_is_refused(run: Path, tmp_path: Path, run_command: Callable[..., int]) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    (run / "pfscnet" / "finished").unlink()
    with pytest.raises(DataError, match="holds no trained network"):
        export_run(run, tmp_path / "model")
    assert run_command("export", run, "--out", tmp_path / "model") == 2
    assert run_command("export", tmp_path / "nothing", "--out", tmp_path / "model") == 2
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_told_before_anything_is_written(
    run: Path, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    with pytest.raises(ConfigError, match=rf"needs the package {package},.*pip install 'patch2tissue\[onnx\]'"):
        export_run(run, tmp_path / "model", ["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_wrong_requests_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Unknown format 'tflite'\. Choose of onnx, torchscript"):
        export_run(run, tmp_path / "model", ["tflite"])
    for licence in ("", "CC BY 4.0", "a\nb: c", "-x"):
        with pytest.raises(ConfigError, match="is no SPDX identifier"):
            export_run(run, tmp_path / "model", licence=licence)
    for name in (" ", "a\nb"):
        with pytest.raises(ConfigError, match="is no name for a model"):
            export_run(run, tmp_path / "model", name=name)
    assert list(tmp_path.iterdir()) == []


def test_a_gate_without_its_classifier_is_told(run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    (run / "craanet" / "weights.safetensors").unlink()
    with pytest.raises(DataError, match=r"is missing, but inference\.gate"):
        export_run(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()
