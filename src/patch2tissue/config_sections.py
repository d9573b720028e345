"""Sections of a configuration that other packages are set by: augmentation and loggers; and what all sections share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from patch2tissue.errors import ConfigError
from patch2tissue.plain_files import read_json
from patch2tissue.plain_yaml import LARGEST_FILE, read_yaml


class Section(BaseModel):
    """A section of a configuration, in which a field that does not exist is refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


class AugmentationConfig(Section):
    """Another library's pipeline that changes the colours of training patches; what moves pixels is refused."""

    albumentations: dict[str, Any] | None = Field(
        None, description="file (JSON or YAML) that albumentations.save wrote, or what it holds"
    )
    monai: dict[str, Any] | None = Field(
        None, description="file (JSON or YAML) with intensity transforms in the form of MONAI's bundles, or its content"
    )
    python: str | None = Field(None, description="written by train(augmentation=...) of Python: what was given there")
    stain: bool = Field(False, description="also change stain and brightness, after it, as stain_jitter and so on say")
    _given: Any = PrivateAttr(None)

    @field_validator("albumentations", "monai", mode="before")
    @classmethod
    def _content(cls, value: object) -> object:
        """What a file holds instead of its name, so that the run folder tells all of it."""
        return _read_pipeline(Path(value)) if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _is_one(self) -> AugmentationConfig:
        if sum(value is not None for value in (self.albumentations, self.monai, self.python)) != 1:
            raise ValueError("give one pipeline: either albumentations or monai")
        return self

    @property
    def given(self) -> Any:
        """The pipeline that was given in Python; None if there is none, or another process was given it."""
        return self._given

    def give(self, pipeline: object) -> None:
        """Keep a pipeline that is no plain value beside its description."""
        self._given = pipeline


def _read_pipeline(path: Path) -> Any:
    if not path.is_file():  # a device would have no end
        raise ValueError(f"{path}: there is no such file.")
    if path.suffix.lower() != ".json":
        try:
            return read_yaml(path, "a pipeline", "transform or _target_")
        except ConfigError as error:
            raise ValueError(str(error)) from None
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{path}: has more than {LARGEST_FILE // 1024} kB, which a pipeline never has.")
        return read_json(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise ValueError(f"{path}: is not readable as JSON: {error}.") from None


class MLflowConfig(Section):
    """Curves and settings to MLflow (extra `tracking`)."""

    uri: str | None = Field(
        None, description="tracking store or server; null: MLFLOW_TRACKING_URI, else mlruns beside the run folder"
    )
    experiment: str = Field("patch2tissue", min_length=1, description="name of the experiment")

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        """The configuration is kept in the run folder and handed on with it."""
        if uri is not None and "@" in uri.partition("://")[2].partition("/")[0]:
            raise ValueError(
                "a user's name or password is not kept in a configuration: use the variables MLFLOW_TRACKING_USERNAME "
                "and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI"
            )
        return uri


class WandbConfig(Section):
    """Curves and settings to Weights & Biases (extra `tracking`)."""

    project: str = Field("patch2tissue", min_length=1, description="name of the project")
    entity: str | None = Field(None, description="user or team; null: the account's own")
    mode: Literal["offline", "online"] = Field(
        "offline", description="offline: files that `wandb sync` can send; online: sends them to the server at once"
    )
    folder: Path | None = Field(None, description="where files go, into wandb/; null: beside the run folder")


class LoggersConfig(Section):
    """Where curves go beside metrics.csv. May change when a run is resumed."""

    tensorboard: bool = Field(True, description="event files in tensorboard/ of each stage's folder")
    mlflow: MLflowConfig | None = Field(None, description="MLflow; true: with the defaults, null: not at all")
    wandb: WandbConfig | None = Field(None, description="Weights & Biases; true: with the defaults, null: not at all")

    @field_validator("mlflow", "wandb", mode="before")
    @classmethod
    def _switched(cls, value: object) -> object:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value
