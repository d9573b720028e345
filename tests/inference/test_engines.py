from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import real_run

from patch2tissue.config import EncoderConfig
from patch2tissue.errors import ConfigError
from patch2tissue.inference.engines import ENGINES, make_engine
from patch2tissue.inference.engines.engine import optional_package
from patch2tissue.inference.predictor import Predictor
from patch2tissue.pfscnet.network import PFSCNet

pytestmark = pytest.mark.extras  # those of ONNX Runtime need it

CPU = torch.device("cpu")
NEEDS = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino", "onnx", "onnxscript")}
SIZES = [(3, 64, 96), (1, 96, 64), (5, 64, 96), (2, 32, 32)]


@pytest.fixture(scope="module")
def network() -> PFSCNet:
    torch.manual_seed(0)
    return PFSCNet(EncoderConfig(name="resnet10t", output_stride=8), 4, decoder_channels=16).eval()


def skip_without(engine: str) -> None:
    missing = [name for name in NEEDS.get(engine, ()) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'patch2tissue[{engine.removesuffix('runtime')}]'")
    if engine == "compile" and shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler")


@pytest.mark.parametrize(
    "name",
    ["torch", "onnxruntime", "openvino", pytest.param("compile", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("features", [False, True])
def test_engines_agree_with_the_network_at_several_sizes(network: PFSCNet, name: str, features: bool) -> None:
    skip_without(name)
    engine = make_engine(name, network, device=CPU, dtype=None, features=features)
    for batch, height, width in SIZES:
        images = torch.rand(batch, 3, height, width).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            logits, fine = network.segment_with_features(images)
            if features:
                found, seen = engine.segment_with_features(images)
                torch.testing.assert_close(seen.float(), fine, rtol=1e-4, atol=1e-4)
            else:
                found = engine.segment(images)
        torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)
        assert (found.argmax(dim=1) == logits.argmax(dim=1)).float().mean() > 0.999


def test_openvino_in_bfloat16_draws_nearly_the_same(network: PFSCNet) -> None:
    skip_without("openvino")
    engine = make_engine("openvino", network, device=CPU, dtype=torch.bfloat16, features=False)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        found, logits = engine.segment(images), network.segment(images)
    assert (found.argmax(dim=1) == logits.argmax(dim=1)).float().mean() > 0.95


def test_an_engine_of_a_run_draws_the_same_maps(tmp_path: Path) -> None:
    skip_without("openvino")
    image = np.random.default_rng(0).integers(0, 256, (100, 70, 3), dtype=np.uint8)
    run = real_run(tmp_path / "run")
    one, other = (
        Predictor.from_run(run, engine=name, symmetries=True).predict_array(image) for name in ("torch", "openvino")
    )
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)
    assert (one.mask == other.mask).mean() > 0.999


def test_openvino_is_imported_without_its_telemetry() -> None:
    skip_without("openvino")
    text = (
        "import sys; from patch2tissue.inference.engines.open_vino import _library; _library()\n"
        "assert 'openvino' in sys.modules and not [n for n in sys.modules if n.startswith('openvino_telemetry')]"
    )
    subprocess.run([sys.executable, "-c", text], check=True)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_missing_package_is_told_with_its_extra(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    extra = {"onnxruntime": "onnx"}.get(engine, engine)
    with pytest.raises(ConfigError, match=rf"pip install 'patch2tissue\[{extra}\]'") as raised:
        Predictor.from_run(real_run(tmp_path / "run", engine=engine))
    assert raised.value.exit_code == 2


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="nonsense_package, which is not installed"):
        optional_package("nonsense_package", "openvino", "openvino")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_of_the_cpu_refuse_other_devices(network: PFSCNet, engine: str) -> None:
    with pytest.raises(ConfigError, match="on the CPU only"):
        make_engine(engine, torch.nn.Identity(), device=torch.device("cuda"), dtype=None, features=False)


def test_unknown_engines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown engine 'fast'"):
        Predictor.from_run(real_run(tmp_path / "run"), engine="fast")
    assert "auto" in ENGINES


def test_a_compiler_that_fails_is_told(network: PFSCNet, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.exc import InvalidCxxCompiler

    def broken(*arguments: object, **options: object) -> object:
        def call(images: torch.Tensor) -> object:
            raise InvalidCxxCompiler

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ConfigError, match=r"No working C.. compiler found.*use the engine torch"):
        make_engine("compile", network, device=CPU, dtype=None, features=False)
