"""Self-supervised pre-training: the loss against a loop, views, learning, resuming, and stage 1 starting from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from patch2tissue.config import EncoderConfig, RunConfig, config_from_dict
from patch2tissue.craanet.network import load_craanet
from patch2tissue.encoders import Encoder
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.pipeline import run_training
from patch2tissue.pretraining.training import PretrainingStage, pretrain_encoder, start_from
from patch2tissue.pretraining.vicreg import vicreg_loss
from patch2tissue.pretraining.views import random_view
from patch2tissue.run_folder import RunFolder
from patch2tissue.training_data import training_patches


def slow_vicreg(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float, float]:
    """The three parts with loops over patches and dimensions."""
    count, dimensions = one.shape
    alike = sum(float((one[i, d] - other[i, d]) ** 2) for i in range(count) for d in range(dimensions))
    spread = repeated = 0.0
    for view in (one, other):
        mean = [sum(float(view[i, d]) for i in range(count)) / count for d in range(dimensions)]

        def covariance(d: int, e: int, view: torch.Tensor = view, mean: list[float] = mean) -> float:
            products = ((float(view[i, d]) - mean[d]) * (float(view[i, e]) - mean[e]) for i in range(count))
            return sum(products) / (count - 1)

        spread += sum(max(0.0, 1.0 - (covariance(d, d) + 1e-4) ** 0.5) for d in range(dimensions)) / dimensions / 2
        pairs = ((d, e) for d in range(dimensions) for e in range(dimensions) if d != e)
        repeated += sum(covariance(d, e) ** 2 for d, e in pairs) / dimensions
    return alike / count / dimensions, spread, repeated


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_equals_a_loop_and_gradients_are_right(seed: int) -> None:
    torch.manual_seed(seed)
    one, other = torch.randn(5, 3, dtype=torch.float64), 0.6 * torch.randn(5, 3, dtype=torch.float64)
    found = vicreg_loss(one, other)
    parts = [float(part) for part in found[1:]]
    assert parts == pytest.approx(slow_vicreg(one, other))
    assert float(found.loss) == pytest.approx(25 * parts[0] + 25 * parts[1] + parts[2])
    views = (one.requires_grad_(), other.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: vicreg_loss(a, b).loss, views)


def test_collapse_costs_more_than_embeddings_that_vary() -> None:
    torch.manual_seed(0)
    varied = torch.randn(64, 8)
    same = varied[:1].expand(64, 8)
    repeated = varied[:, :1].expand(64, 8)
    assert vicreg_loss(same, same).loss > vicreg_loss(repeated, repeated).loss > vicreg_loss(varied, varied).loss
    assert vicreg_loss(varied, varied).loss < vicreg_loss(varied, varied.flip(0)).loss


def test_loss_is_exact_inside_autocast() -> None:
    one = torch.randn(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = vicreg_loss(one, one + 0.01).loss
    assert float(inside) == float(vicreg_loss(one, one + 0.01).loss)


@pytest.mark.parametrize("shapes", [((1, 3), (1, 3)), ((4, 3), (4, 2)), ((4, 3, 1), (4, 3, 1))])
def test_wrong_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="views must both"):
        vicreg_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_views_are_crops_that_repeat_with_the_seed_and_differ_otherwise() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 40, 40)
    settings = {"least_scale": 0.4, "stain": 0.1, "brightness": 0.1}
    views = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        views.append(random_view(images, 32, **settings))
    assert views[0].shape == (3, 3, 32, 32) and views[0].min() >= 0 and views[0].max() <= 1
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])


def test_a_whole_view_without_changes_is_the_patch_up_to_a_symmetry() -> None:
    images = torch.rand(4, 3, 32, 32)
    view = random_view(images, 32, least_scale=1.0, stain=0.0, brightness=0.0)
    # every pixel is there once, whatever the symmetry; stain goes through a logarithm
    torch.testing.assert_close(view.flatten(2).sort().values, images.clamp(min=1 / 255).flatten(2).sort().values)


def test_views_are_exact_inside_autocast() -> None:
    images = torch.rand(2, 3, 40, 40)
    views = []
    for enabled in (False, True):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            views.append(random_view(images, 32, least_scale=0.4, stain=0.1, brightness=0.1))
    assert torch.equal(views[0], views[1])


@pytest.fixture
def config(tmp_path: Path, fabricate: Callable[..., Path]) -> RunConfig:
    data = fabricate(tmp_path / "data", "bcss-wsss", train=12, test=2, side=48)
    return config_from_dict(
        {
            "output": str(tmp_path / "run"),
            "tissues": "bcss-wsss",
            "data": {"path": str(data)},
            "pretraining": {"epochs": 4, "batch_size": 6, "crop": 32, "dimensions": 16},
            "craanet": {"encoder": {"name": "resnet10t"}, "epochs": 1, "batch_size": 6},
            "hardware": {"threads": 1, "precision": "float32"},
        }
    )


def losses(folder: Path) -> list[float]:
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    return [float(value) for _, name, value in rows if name == "loss"]


def test_learns_and_resumes_to_the_same_weights(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = training_patches(config)
    weights = pretrain_encoder(config, patches, tmp_path / "whole", side=48)
    curve = losses(tmp_path / "whole")
    assert len(curve) == 4 and curve[-1] < curve[0]
    step = PretrainingStage.training_step
    calls = []

    def killed(self: PretrainingStage, *arguments: object) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) == 6:  # within the third epoch
            raise KeyboardInterrupt
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PretrainingStage, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain_encoder(config, patches, tmp_path / "killed", side=48)
    again = load_file(pretrain_encoder(config, patches, tmp_path / "killed", side=48))
    assert losses(tmp_path / "killed") == curve
    for name, tensor in load_file(weights).items():
        assert torch.equal(tensor, again[name]), name


def test_a_run_starts_from_it(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run_training(config, stages=["craanet"], progress=False)
    run = RunFolder(Path(config.output))
    weights = run.pretraining / "encoder.safetensors"
    fresh = Encoder(EncoderConfig(name="resnet10t", weights=weights))
    for name, tensor in load_file(weights).items():
        assert torch.equal(fresh.model.state_dict()[name], tensor)
    # one epoch of three steps leaves an encoder near its start, and far from random weights
    trained, start = (load_craanet(run.craanet).encoder.model.state_dict(), load_file(weights))
    other = Encoder(EncoderConfig(name="resnet10t")).model.state_dict()
    names = [name for name in start if name.endswith("weight") and start[name].ndim == 4]
    assert all((trained[n] - start[n]).norm() < 0.5 * (trained[n] - other[n]).norm() for n in names)
    assert "pretraining,1,loss" in run.metrics_file.read_text()
    written = run.config_file.read_text()
    assert "encoder.safetensors" not in written, "a run folder may be moved"


def test_stage_2_starts_from_it_where_its_encoder_is_the_same(config: RunConfig) -> None:
    weights = Path("somewhere.safetensors")
    plain = config.model_dump(mode="json")
    for name, expected in (("resnet10t", weights), ("resnet18", None)):
        plain["pfscnet"]["encoder"] = {"name": name, "output_stride": 16}
        started = start_from(config_from_dict(plain), weights)
        assert started.craanet.encoder.weights == weights
        assert started.pfscnet.encoder is not None and started.pfscnet.encoder.weights == expected


@pytest.mark.parametrize("encoder", [{"name": "resnet10t", "pretrained": True}, {"weights": "a.safetensors"}])
@pytest.mark.parametrize("section", ["craanet", "pfscnet"])
def test_two_starts_are_refused(config: RunConfig, section: str, encoder: dict[str, object]) -> None:
    plain = config.model_dump(mode="json")
    plain[section]["encoder"] = {"name": "resnet10t", **encoder}
    with pytest.raises(ConfigError, match=f"pretraining starts from random weights, but {section}.encoder"):
        config_from_dict(plain)
    plain["pretraining"] = None
    config_from_dict(plain)


def test_stage_2_may_name_weights_of_another_network(config: RunConfig) -> None:
    plain = config.model_dump(mode="json")
    plain["pfscnet"] |= {"encoder": {"name": "resnet18", "weights": "a.safetensors"}, "init": "encoder"}
    assert start_from(config_from_dict(plain), Path("b.safetensors")).stage2_encoder().weights == Path("a.safetensors")


def test_one_patch_is_refused(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 2"):
        pretrain_encoder(config, training_patches(config)[:1], tmp_path / "one", side=48)


def test_without_a_section_there_is_nothing_to_train(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no section 'pretraining'"):
        pretrain_encoder(config.model_copy(update={"pretraining": None}), [], tmp_path, side=48)
