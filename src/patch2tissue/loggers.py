"""Where curves go beside `metrics.csv`: Lightning's loggers for TensorBoard, MLflow and W&B, as a run asks for them.

Each training of a run (stage 1, stage 2, a comparison) is a run of its own for MLflow and W&B, grouped by the name of
the run folder, whose `loggers.json` keeps their ids: a training that resumes goes on in the same one, and tells it only
what is missing there. Nothing leaves the machine unless the configuration, or `MLFLOW_TRACKING_URI`, names a server or
says `mode: online`; both packages' reports of their own use are off unless the environment says otherwise.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import Logger
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from lightning.fabric.utilities.rank_zero import rank_zero_only

from patch2tissue.atomic import write_text
from patch2tissue.config import RunConfig
from patch2tissue.config_sections import MLflowConfig, WandbConfig
from patch2tissue.errors import ConfigError
from patch2tissue.optional import optional_import
from patch2tissue.plain_files import read_json, reason

log = logging.getLogger(__name__)

IDS_FILE = "loggers.json"
"""File of a run folder with the ids of its runs in MLflow and W&B, by stage."""

Ids = dict[str, dict[str, dict[str, str]]]
"""Of each stage and tracker what tells its run: `{"craanet": {"mlflow": {"uri": …, "run_id": …}}}`."""


def tensorboard(folder: Path) -> TensorBoardLogger:
    """Event files in `tensorboard/` of a stage's folder."""
    return TensorBoardLogger(root_dir=folder, name="tensorboard", version="")


def stage_loggers(config: RunConfig, folder: Path) -> list[Logger]:
    """Open the loggers that a run asks for, for one of its trainings.

    Args:
        config: the run's configuration; it is logged as hyper-parameters.
        folder: the stage's folder.

    Returns:
        Loggers of Lightning, to be given to Fabric; none in processes other than the first of a distributed training.

    Raises:
        ConfigError: if a package is missing, or a tracker cannot be reached that never was reached in this run. One
            that was, and is not now, is left out with a warning: curves are in `metrics.csv` in any case.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        return []
    wanted, found = config.loggers, list[Logger]()
    if wanted.tensorboard:
        found.append(tensorboard(folder))
        if not (folder / "tensorboard").is_dir():
            found[0].experiment.add_text("config", f"```yaml\n{config.to_yaml()}```")  # type: ignore[attr-defined]
    openers: dict[str, Callable[[dict[str, str]], tuple[Tracker, dict[str, str]]]] = {}
    stage = _stage_name(config, folder)
    if wanted.mlflow is not None:
        mlflow = wanted.mlflow
        openers["mlflow"] = lambda known: _open_mlflow(config, mlflow, stage, known)
    if wanted.wandb is not None:
        wandb = wanted.wandb
        openers["wandb"] = lambda known: _open_wandb(config, wandb, stage, known)
    file = Path(config.output) / IDS_FILE
    for name, opener in openers.items():
        ids = _read_ids(file)
        try:
            tracker, known = opener(ids.get(stage, {}).get(name, {}))
        except ConfigError:
            raise
        except Exception as error:  # servers, credentials and stores fail in every way
            told = f"loggers.{name}: cannot be reached ({type(error).__name__}: {reason(error)})"
            if any(name in of_stage for of_stage in ids.values()):
                log.warning("%s; %s is trained without it", told, stage)
                continue
            raise ConfigError(f"{told}. Mend it, or set loggers.{name} to null.") from None
        ids.setdefault(stage, {})[name] = known
        write_text(file, json.dumps(ids, indent=2))
        found.append(tracker)
    return found


@contextmanager
def finishing(loggers: Iterable[Logger]) -> Iterator[None]:
    """Tell loggers, at the end of the block, how it ended: `success`, `failed`, or `KILLED` by the keyboard."""
    status = "failed"
    try:
        yield
        status = "success"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        for logger in loggers:
            logger.finalize(status)


class Tracker(Logger):
    """A logger of Lightning that is told nothing twice, and whose failure does not end a training.

    Args:
        name: of the tracker, for messages.
        inner: Lightning's logger.
        known: whether the tracker has a value already, by name and step.
        end: called with the status after the logger was.
    """

    def __init__(
        self,
        name: str,
        inner: Logger,
        known: Callable[[str, int], bool],
        end: Callable[[str], object] = lambda status: None,
    ) -> None:
        self._name, self._inner, self._known, self._end = name, inner, known, end
        self._failed = False

    @property
    def inner(self) -> Logger:
        """Lightning's logger."""
        return self._inner

    @property
    def name(self) -> str | None:
        """Name of the experiment or project."""
        return self._inner.name

    @property
    def version(self) -> int | str | None:
        """Id of the run."""
        return self._inner.version

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log what is not known yet."""
        new = {name: value for name, value in metrics.items() if step is None or not self._known(name, step)}
        if new:
            self._guarded(self._inner.log_metrics, new, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log hyper-parameters."""
        self._guarded(self._inner.log_hyperparams, params)

    def finalize(self, status: str) -> None:
        """End the run."""
        self._guarded(self._inner.finalize, status)
        self._guarded(self._end, status)

    def _guarded(self, call: Callable[..., object], *arguments: object) -> None:
        if self._failed:
            return
        try:
            call(*arguments)
        except Exception as error:  # servers and stores fail in every way
            self._failed = True
            log.warning(
                "%s no longer takes curves (%s: %s); training goes on, and they are in metrics.csv",
                self._name,
                type(error).__name__,
                reason(error),
            )


def _stage_name(config: RunConfig, folder: Path) -> str:
    """The stage's folder as seen from the run's, for example `comparisons/cam`."""
    try:
        return folder.resolve().relative_to(Path(config.output).resolve()).as_posix()
    except ValueError:
        return folder.name


def _read_ids(file: Path) -> Ids:
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return {}
    plain = found if isinstance(found, dict) else {}
    return {
        str(stage): {str(name): known for name, known in trackers.items() if isinstance(known, dict)}
        for stage, trackers in plain.items()
        if isinstance(trackers, dict)
    }


def _beside(config: RunConfig) -> Path:
    """The folder that the run folder lies in: runs that are compared share it."""
    return Path(config.output).resolve().parent


def _open_mlflow(
    config: RunConfig, settings: MLflowConfig, stage: str, known: dict[str, str]
) -> tuple[Tracker, dict[str, str]]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # mlflow-skinny has no other store on this machine, and MLflow 3 asks for this before it opens one
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    optional_import("mlflow", "loggers.mlflow", "tracking")
    from lightning.pytorch.loggers import MLFlowLogger

    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)  # warns that it makes an experiment
    uri = settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or (_beside(config) / "mlruns").as_uri()
    if uri.partition(":")[0].partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql"):
        for package in ("sqlalchemy", "alembic"):
            optional_import(package, f"loggers.mlflow.uri '{uri}'", install="mlflow")
    place = {"uri": uri, "experiment": settings.experiment}
    run_name = Path(config.output).resolve().name

    def opened(run_id: str | None) -> MLFlowLogger:
        return MLFlowLogger(
            experiment_name=settings.experiment,
            run_name=f"{run_name}/{stage}",
            tracking_uri=uri,
            tags={"patch2tissue.run": run_name, "patch2tissue.stage": stage},
            run_id=run_id,
        )

    run_id = known.get("run_id") if place.items() <= known.items() else None
    logger = opened(run_id)
    with _variable_kept("MLFLOW_TRACKING_URI"):
        if run_id is not None and not _has_run(logger, run_id):
            run_id, logger = None, opened(None)
        client, values = logger.experiment, set[tuple[str, int]]()
    if run_id is None:
        logger.log_hyperparams(config.model_dump(mode="json"))
    else:
        client.update_run(run_id, status="RUNNING")
        for name in client.get_run(run_id).data.metrics:
            values |= {(name, int(metric.step)) for metric in client.get_metric_history(run_id, name)}
    tracker = Tracker("MLflow", logger, lambda name, step: (name, step) in values)
    return tracker, place | {"run_id": str(logger.run_id)}


@contextmanager
def _variable_kept(name: str) -> Iterator[None]:
    """Leave an environment variable as it was: MLflow sets its own, and the next run would go where this one went."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _has_run(logger: Any, run_id: str) -> bool:
    """Whether a run is still there, and not in MLflow's waste basket."""
    exceptions: Any = optional_import("mlflow.exceptions", "loggers.mlflow", "tracking")
    try:
        run = logger.experiment.get_run(run_id)
    except exceptions.MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return bool(run.info.lifecycle_stage == "active")


def _open_wandb(
    config: RunConfig, settings: WandbConfig, stage: str, known: dict[str, str]
) -> tuple[Tracker, dict[str, str]]:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    wandb: Any = optional_import("wandb", "loggers.wandb", "tracking")
    from lightning.pytorch.loggers import WandbLogger

    place = {"project": settings.project, "entity": settings.entity or ""}
    run_id = known.get("id") if place.items() <= known.items() else None
    run_name = Path(config.output).resolve().name
    folder = _beside(config) if settings.folder is None else Path(settings.folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=settings.project,
        entity=settings.entity,
        dir=str(folder),
        id=run_id or secrets.token_hex(4),
        resume="allow",
        mode=settings.mode,
        name=f"{run_name}/{stage}",
        group=run_name,
        job_type=stage,
        config=None,
        reinit="create_new",  # leaves alone a run that the calling program has open
        settings=wandb.Settings(silent=True, console="off", save_code=False, disable_code=True),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step")
    logger = WandbLogger(experiment=run, project=settings.project, save_dir=str(folder))
    logger.log_hyperparams(config.model_dump(mode="json"))
    # one row per epoch: what an online run that goes on has; offline, a run begins anew under its id, with all of it
    rows = int(run.step)
    if settings.mode == "offline":
        log.info("W&B: %s; `wandb sync` sends it", Path(run.dir).parent)
    tracker = Tracker(
        "W&B", logger, lambda name, step: step <= rows, lambda status: run.finish(0 if status == "success" else 1)
    )
    return tracker, place | {"id": str(run.id)}
