from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patch2tissue.cli.app import main
from patch2tissue.config import EncoderConfig, config_from_dict
from patch2tissue.craanet.network import CRAANet, save_craanet
from patch2tissue.pfscnet.network import PFSCNet, save_pfscnet
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("bcss-wsss")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with untrained networks."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    folder.mkdir()
    plain = {
        "output": str(folder),
        "tissues": "bcss-wsss",
        "data": {"path": "data"},
        "inference": {"tile": 32},
        "hardware": {"device": "cpu", "threads": 1},
    }
    (folder / "config.yaml").write_text(config_from_dict(plain).to_yaml(), encoding="utf-8")
    encoder = EncoderConfig(name="resnet10t", output_stride=8)
    save_pfscnet(PFSCNet(encoder, 4, decoder_channels=16, embedding_dimensions=8), folder / "pfscnet")
    save_craanet(CRAANet(encoder, 4), folder / "craanet")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (20, 24)), ("b.tif", (50, 40))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(["predict", *map(str, arguments)])
    return int(leaving.value.code or 0)


def test_writes_masks_overlays_and_areas(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert call(run, images, "--out", out, "--symmetries", "--gate", "0.1", "--mpp", "0.5") == 0
    assert {path.name for path in out.iterdir()} == {
        *(f"{stem}_{kind}.png" for stem in "ab" for kind in ("mask", "confidence", "overlay")),
        "areas.csv",
        "images.csv",
    }
    lines = (out / "areas.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "image,tissue,pixels,share,area_um2,area_mm2"
    assert len(lines) == 1 + 2 * len(TISSUES)


def test_json_is_all_there_is_on_stdout(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(images / "*.png"), images / "b.tif"]
    assert call(run, *files, "--out", tmp_path / "out", "--no-overlay", "--mpp", "0.26", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert [Path(item["image"]).name for item in answer] == ["a.png", "b.tif"]
    for item, pixels in zip(answer, (20 * 24, 50 * 40), strict=True):
        assert Path(item["mask"]).is_file()
        assert item["error"] is None
        assert list(item["shares"]) == list(TISSUES.names)
        assert sum(item["shares"].values()) == pytest.approx(1.0)
        assert sum(item["area_um2"].values()) == pytest.approx(0.26**2 * pixels)
    assert not list((tmp_path / "out").glob("*_overlay.png"))


def test_a_bad_image_is_reported_at_the_end_with_exit_code_2(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes(b"no picture")
    assert call(run, images, "--out", tmp_path / "out", "--json") == 2
    printed = capsys.readouterr()
    assert str(images / "broken.png") in printed.err
    assert "1 of 3" in printed.err
    assert "Traceback" not in printed.err
    answer = {Path(item["image"]).name: item for item in json.loads(printed.out)}
    assert answer["broken.png"]["mask"] is None
    assert answer["broken.png"]["error"]
    assert (tmp_path / "out" / "a_mask.png").is_file()
    assert (tmp_path / "out" / "b_mask.png").is_file()


def test_resume(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call(run, images, "--out", out) == 0
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("*.png")}
    assert call(run, images, "--out", out, "--resume") == 0
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("*.png")} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{run}", "{images}/*.webp", "--out", "{out}"], "*.webp"),
        (["{run}", "{images}/absent.png", "--out", "{out}"], "absent.png"),
        (["{images}", "{images}/a.png", "--out", "{out}"], "not a run folder"),
        (["{run}", "{images}/a.png", "--out", "{out}", "--device", "tpu"], "tpu"),
        (["{run}", "{images}/a.png", "--out", "{images}/b.tif"], "b.tif"),
        (["{run}", "{images}/a.png", "--out", "{out}", "--mpp", "nan"], "--mpp"),
        (["{run}", "{images}/a.png", "--out", "{out}", "--gate", "2"], "gate"),
        (["{run}", "{images}/a.png"], "--out"),
        (["{run}", "--out", "{out}"], "images"),
    ],
)
def test_wrong_input_is_exit_code_2_and_says_what_is_wrong(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    places = {"run": run, "images": images, "out": tmp_path / "out"}
    assert call(*(argument.format(**places) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_help_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    shown = capsys.readouterr().out
    for word in ("--out", "--symmetries", "--gate", "--mpp", "--resume", "areas"):
        assert word in shown


@pytest.mark.parametrize("engine", ["openvino", "fast"])
def test_an_engine_that_is_not_there_ends_with_2_before_anything_is_written(
    run: Path, images: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert call(run, images, "--out", tmp_path / "out", "--engine", engine) == 2
    assert not (tmp_path / "out").exists()
    assert call(run, images, "--out", tmp_path / "out", "--engine", "torch") == 0
