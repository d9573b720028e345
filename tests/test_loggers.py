"""Loggers get the curves of `metrics.csv`, also of a training that was killed and goes on."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.utilities.rank_zero import rank_zero_only

from conftest import RECIPES, TINY
from killing import killed_at
from patch2tissue import loggers
from patch2tissue.config import RunConfig, load_config
from patch2tissue.craanet import training as craanet_training
from patch2tissue.errors import ConfigError
from patch2tissue.loggers import Tracker, finishing, stage_loggers
from patch2tissue.pfscnet import training as pfscnet_training
from patch2tissue.pipeline import run_training

Curves = dict[str, dict[str, dict[int, float]]]


def configured(folder: Path, *settings: str) -> RunConfig:
    changes = [f"output={folder / 'run'}", f"data.path={folder / 'data'}", "data.layout=bcss-wsss", *TINY, *settings]
    return load_config(RECIPES / "bcss-wsss.yaml", changes)


def table(run: Path) -> Curves:
    """`metrics.csv` by stage, name and epoch."""
    curves: Curves = {}
    for row in csv.DictReader((run / "metrics.csv").open(encoding="utf-8")):
        curves.setdefault(row["stage"], {}).setdefault(row["name"], {})[int(row["epoch"])] = float(row["value"])
    return curves


def same(found: dict[str, dict[int, float]], wanted: dict[str, dict[int, float]]) -> bool:
    return set(found) == set(wanted) and all(found[name] == pytest.approx(wanted[name], rel=1e-5) for name in wanted)


class Remembering(Logger):
    """Remembers what it is told; fails from the n-th call on."""

    name, version = "remembering", "0"

    def __init__(self, fails_after: int = 1000) -> None:
        self.calls: list[Any] = []
        self.fails_after = fails_after

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if len(self.calls) >= self.fails_after:
            raise ConnectionError("no route to host")
        self.calls.append((dict(metrics), step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.calls.append(params)

    def finalize(self, status: str) -> None:
        self.calls.append(status)


def test_a_tracker_is_told_nothing_twice() -> None:
    inner = Remembering()
    tracker = Tracker("T", inner, lambda name, step: step < 2 or (name, step) == ("loss", 2))
    for step in (1, 2, 3):
        tracker.log_metrics({"loss": 0.5, "rate": 0.1}, step)
    assert inner.calls == [({"rate": 0.1}, 2), ({"loss": 0.5, "rate": 0.1}, 3)]


def test_a_tracker_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    inner, ends = Remembering(fails_after=1), list[str]()
    tracker = Tracker("T", inner, lambda name, step: False, ends.append)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            tracker.log_metrics({"loss": 0.5}, step)
        tracker.finalize("success")
    assert [record.getMessage() for record in caplog.records] == [
        "T no longer takes curves (ConnectionError: no route to host); training goes on, and they are in metrics.csv"
    ]
    assert len(inner.calls) == 1 and ends == []


@pytest.mark.parametrize(
    ("error", "status"), [(None, "success"), (ValueError, "failed"), (KeyboardInterrupt, "KILLED")]
)
def test_loggers_learn_how_it_ended(error: type[BaseException] | None, status: str) -> None:
    logger = Remembering()
    if error is None:
        with finishing([logger]):
            pass
    else:
        with pytest.raises(error), finishing([logger]):
            raise error
    assert logger.calls == [status]


def test_only_the_first_process_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path, "loggers.mlflow=true", "loggers.wandb=true")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert stage_loggers(config, tmp_path / "run" / "craanet") == []


def test_sections_are_switched_by_true_and_false(tmp_path: Path) -> None:
    config = configured(tmp_path, "loggers.mlflow=true", "loggers.wandb=false", "loggers.tensorboard=false")
    assert config.loggers.mlflow is not None and config.loggers.mlflow.uri is None and config.loggers.wandb is None
    assert stage_loggers(configured(tmp_path, "loggers.tensorboard=false"), tmp_path / "run" / "craanet") == []


@pytest.mark.parametrize("uri", ["https://me:secret@example.org/mlflow", "http://token@example.org"])
def test_passwords_are_not_kept(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD"):
        configured(tmp_path, f"loggers.mlflow.uri={uri}")


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_told_of_before_anything_is_done(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"loggers\.{name} needs the package {name}.*patch2tissue\[tracking\]"):
        run_training(configured(tmp_path, f"loggers.{name}=true"), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_was_never_reached_is_an_error_and_one_that_was_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(*arguments: object) -> Any:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(loggers, "_open_mlflow", unreachable)
    config = configured(tmp_path, "loggers.mlflow=true", "loggers.tensorboard=false")
    with pytest.raises(ConfigError, match=r"loggers\.mlflow: cannot be reached.*no route to host"):
        stage_loggers(config, tmp_path / "run" / "craanet")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "loggers.json").write_text(json.dumps({"craanet": {"mlflow": {"run_id": "1"}}}))
    assert stage_loggers(config, tmp_path / "run" / "pfscnet") == []
    assert "pfscnet is trained without it" in caplog.text


def test_they_may_change_when_a_run_is_resumed(trained_runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, trained, _ = trained_runs
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    config = load_config(run / "config.yaml", [f"output={run}", f"data.path={data}", "loggers.tensorboard=false"])
    assert not run_training(config, progress=False).config().loggers.tensorboard


def event_curves(folder: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert "config/text_summary" in events.Tags()["tensors"]
    return {name: {e.step: e.value for e in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_tensorboard_has_the_curves(trained_runs: tuple[Path, Path, Path]) -> None:
    _, run, _ = trained_runs
    curves = table(run)
    assert set(curves) >= {"craanet", "pfscnet"}
    assert all(same(event_curves(run / stage), curves[stage]) for stage in ("craanet", "pfscnet"))


def interrupted(config: RunConfig, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that is killed in both stages, and ends."""
    fabricate(Path(config.data.path), "bcss-wsss")
    killed_at(monkeypatch, craanet_training.CRAANetStage, 5, lambda: run_training(config, progress=False))
    killed_at(monkeypatch, pfscnet_training.PFSCNetStage, 5, lambda: run_training(config, progress=False))
    return run_training(config, progress=False).path


@pytest.mark.extras
def test_mlflow_has_the_curves(tmp_path: Path, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = interrupted(configured(tmp_path, "loggers.mlflow=true"), fabricate, monkeypatch)
    assert "MLFLOW_TRACKING_URI" not in os.environ, "the next run would go there, too"
    from mlflow.tracking import MlflowClient

    client, curves = MlflowClient((tmp_path / "mlruns").as_uri()), table(run)
    experiment = client.get_experiment_by_name("patch2tissue")
    found = {r.data.tags["patch2tissue.stage"]: r for r in client.search_runs([experiment.experiment_id])}
    assert set(found) == set(curves) == {"craanet", "pfscnet"}  # one run per stage, however often it was begun
    for stage, of_stage in found.items():
        history = {name: client.get_metric_history(of_stage.info.run_id, name) for name in of_stage.data.metrics}
        assert all(len(points) == len({point.step for point in points}) for points in history.values())
        assert same({n: {p.step: p.value for p in points} for n, points in history.items()}, curves[stage])
        assert of_stage.info.status == "FINISHED" and of_stage.info.run_name == f"run/{stage}"
        assert of_stage.data.params["craanet/epochs"] == "3"


@pytest.mark.extras
def test_a_run_that_was_deleted_in_mlflow_is_begun_anew(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    config, stage = (
        configured(tmp_path, "loggers.mlflow=true", "loggers.tensorboard=false"),
        tmp_path / "run" / "craanet",
    )
    (first,) = stage_loggers(config, stage)
    (again,) = stage_loggers(config, stage)
    assert again.version == first.version
    first.inner.experiment.delete_run(first.version)  # type: ignore[attr-defined]
    (new,) = stage_loggers(config, stage)
    assert new.version != first.version
    (other,) = stage_loggers(configured(tmp_path, "loggers.mlflow.experiment=b", "loggers.tensorboard=false"), stage)
    assert other.version != new.version


@pytest.mark.extras
def test_a_database_of_mlflow_needs_the_whole_package(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    config = configured(tmp_path, f"loggers.mlflow.uri=sqlite:///{tmp_path / 'm.db'}", "loggers.tensorboard=false")
    with pytest.raises(ConfigError, match=r"sqlite.*needs the package (sqlalchemy|alembic).*pip install mlflow"):
        stage_loggers(config, tmp_path / "run" / "craanet")


def records(file: Path) -> Iterator[bytes]:
    """Records of a `.wandb` file: LevelDB's log format after a head of seven bytes."""
    data, position, record = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 2**15 - position % 2**15 < 7:
            position += 2**15 - position % 2**15
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last of several parts
            yield record
            record = b""


def offline_curves(file: Path) -> dict[str, dict[int, float]]:
    """What `wandb sync` would send of a run that was logged offline."""
    from wandb.proto import wandb_internal_pb2

    curves: dict[str, dict[int, float]] = {}
    for data in records(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            step = row["trainer/global_step"]
            for name in row.keys() - {"trainer/global_step", "_step", "_runtime", "_timestamp", "_wandb"}:
                assert step not in curves.setdefault(name, {})
                curves[name][step] = row[name]
    return curves


@pytest.mark.extras
def test_wandb_has_the_curves_without_a_network(
    tmp_path: Path, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = interrupted(configured(tmp_path, "loggers.wandb=true"), fabricate, monkeypatch)
    curves, ids = table(run), json.loads((run / "loggers.json").read_text(encoding="utf-8"))
    assert set(ids) == set(curves) == {"craanet", "pfscnet"}
    # offline-run-DATE_TIME-ID, and -1 behind it if the same run was opened twice within a second
    folders = [(folder.name.split("-")[3], folder) for folder in sorted((tmp_path / "wandb").glob("offline-run-*"))]
    assert {run_id for run_id, _ in folders} == {of["wandb"]["id"] for of in ids.values()}
    for stage, of_stage in ids.items():
        # the last process's file has everything, so that it makes good what an earlier one sent
        last = [folder for run_id, folder in folders if run_id == of_stage["wandb"]["id"]][-1]
        assert same(offline_curves(last / f"run-{of_stage['wandb']['id']}.wandb"), curves[stage])
