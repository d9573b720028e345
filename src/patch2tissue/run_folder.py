"""The run folder: the unit people keep. Everything after training takes this folder alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from patch2tissue.config import RunConfig, load_config
from patch2tissue.errors import DataError

ROUND_VARIANTS = {2: "second_round", 3: "third_round"}
"""Names of the pseudo labels that a network of the round before made, without ignored pixels, in `scores.json`."""


@dataclass(frozen=True)
class RunFolder:
    """Names of the files in a run folder."""

    path: Path

    @property
    def config_file(self) -> Path:
        """Resolved configuration."""
        return self.path / "config.yaml"

    @property
    def environment_file(self) -> Path:
        """Versions, seed, machine and git commit."""
        return self.path / "environment.json"

    @property
    def data_file(self) -> Path:
        """What it was trained on: names, sizes, labels and hashes of files, see `data.fingerprint`."""
        return self.path / "data.csv"

    @property
    def pretraining(self) -> Path:
        """Self-supervised pre-training, if it was asked for: `encoder.safetensors`, `metrics.csv`."""
        return self.path / "pretraining"

    @property
    def craanet(self) -> Path:
        """Stage 1: `weights.safetensors`, `attention_memory/`, `attention_{history.npz,epochs.npy}`, `metrics.csv`."""
        return self.path / "craanet"

    @property
    def cam(self) -> Path:
        """The plain CAM comparison of stage 1, of the same form as `craanet`."""
        return self.path / "comparisons" / "cam"

    @property
    def pseudo_labels(self) -> Path:
        """`masks/`, `confidence/`, `variants/{cam,last_epoch,accumulated,refined}/`, `manifest.csv`."""
        return self.path / "pseudo_labels"

    def round_labels(self, number: int) -> Path:
        """What round 1, 2 or 3 of stage 2 learns from: `pseudo_labels`, or a folder of the same form inside it."""
        return self.pseudo_labels if number == 1 else self.pseudo_labels / f"round-{number}"

    @property
    def pfscnet(self) -> Path:
        """Stage 2: `weights.safetensors`, `metrics.csv`, `training_distribution.safetensors`; earlier in `round-N`."""
        return self.path / "pfscnet"

    def comparison(self, name: str) -> Path:
        """A stage-2 comparison: `cross_entropy_only`, `full_supervision` or `cam_pipeline`."""
        return self.path / "comparisons" / name

    def predictions(self, name: str = "full_method") -> Path:
        """Predictions on the test split: `NAME_mask.png` per image."""
        return self.path / "predictions" / name

    @property
    def metrics_file(self) -> Path:
        """All training curves: columns stage, epoch, name, value."""
        return self.path / "metrics.csv"

    @property
    def scores_file(self) -> Path:
        """Scores of pseudo labels and predictions against masks."""
        return self.path / "scores.json"

    @property
    def report_file(self) -> Path:
        """Self-contained HTML page."""
        return self.path / "report.html"

    def config(self) -> RunConfig:
        """Read the resolved configuration.

        Raises:
            DataError: if this is not a run folder.
        """
        if not self.config_file.is_file():
            raise DataError(
                f"{self.path}: not a run folder (it has no config.yaml). Give the folder that `patch2tissue train` "
                "wrote."
            )
        return load_config(self.config_file)


def is_finished(folder: Path) -> bool:
    """Whether a stage's folder holds a finished training."""
    return (folder / "finished").is_file()
