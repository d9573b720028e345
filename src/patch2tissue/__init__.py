"""patch2tissue: tissue segmentation of histology images from patch-level labels.

The names below are the public API. Each is imported when it is first asked for, so that `import patch2tissue` (and
with it `patch2tissue --help`) does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from patch2tissue.config import RunConfig, load_config
    from patch2tissue.craanet.accumulation import AttentionMemory
    from patch2tissue.craanet.network import CRAANet
    from patch2tissue.data_frames import (
        areas_table,
        comparison_table,
        curves_table,
        image_scores_table,
        scores_table,
        slides_table,
        tissue_scores_table,
    )
    from patch2tissue.evaluation.folders import evaluate_folders as evaluate
    from patch2tissue.evaluation.metrics import BoundaryFScore, TissueScores
    from patch2tissue.evaluation.slides import Annotations, SlideScores, evaluate_slides
    from patch2tissue.export import export_run
    from patch2tissue.inference.cohort.predict import predict_cohort
    from patch2tissue.inference.cohort.ray_cluster import ClusterOptions
    from patch2tissue.inference.predict import predict_images as predict
    from patch2tissue.inference.slides.predict import SlideOptions, predict_slide, predict_slides
    from patch2tissue.inference.slides.result import SlideResult
    from patch2tissue.pfscnet.dense_energy import DenseEnergyLoss
    from patch2tissue.pfscnet.network import PFSCNet
    from patch2tissue.pfscnet.pixel_contrast import PixelContrastLoss
    from patch2tissue.pipeline import run_training as train
    from patch2tissue.run_folder import RunFolder
    from patch2tissue.spatial.points import annotate_tissue, tissue_at
    from patch2tissue.spatial.spatial_data import to_spatialdata
    from patch2tissue.tissues import TissueSet, load_tissue_set

__all__ = [
    "__version__",
    # whole steps
    "train",
    "predict",
    "evaluate",
    "export_run",
    # whole slides
    "predict_slide",
    "predict_slides",
    "SlideOptions",
    "predict_cohort",
    "ClusterOptions",
    "SlideResult",
    "evaluate_slides",
    "Annotations",
    "SlideScores",
    # tissues for spatial omics
    "tissue_at",
    "annotate_tissue",
    "to_spatialdata",
    # networks and losses, usable in anyone's training loop
    "CRAANet",
    "PFSCNet",
    "AttentionMemory",
    "DenseEnergyLoss",
    "PixelContrastLoss",
    # metrics, likewise
    "TissueScores",
    "BoundaryFScore",
    # results as pandas tables
    "scores_table",
    "tissue_scores_table",
    "image_scores_table",
    "curves_table",
    "comparison_table",
    "areas_table",
    "slides_table",
    # what describes the data and a run
    "TissueSet",
    "load_tissue_set",
    "RunConfig",
    "load_config",
    "RunFolder",
]

_HOME = {
    "train": ("patch2tissue.pipeline", "run_training"),
    "predict": ("patch2tissue.inference.predict", "predict_images"),
    "evaluate": ("patch2tissue.evaluation.folders", "evaluate_folders"),
    "export_run": ("patch2tissue.export", "export_run"),
    "predict_slide": ("patch2tissue.inference.slides.predict", "predict_slide"),
    "predict_slides": ("patch2tissue.inference.slides.predict", "predict_slides"),
    "predict_cohort": ("patch2tissue.inference.cohort.predict", "predict_cohort"),
    "ClusterOptions": ("patch2tissue.inference.cohort.ray_cluster", "ClusterOptions"),
    "SlideOptions": ("patch2tissue.inference.slides.predict", "SlideOptions"),
    "SlideResult": ("patch2tissue.inference.slides.result", "SlideResult"),
    "evaluate_slides": ("patch2tissue.evaluation.slides", "evaluate_slides"),
    "Annotations": ("patch2tissue.evaluation.slides", "Annotations"),
    "SlideScores": ("patch2tissue.evaluation.slides", "SlideScores"),
    "tissue_at": ("patch2tissue.spatial.points", "tissue_at"),
    "annotate_tissue": ("patch2tissue.spatial.points", "annotate_tissue"),
    "to_spatialdata": ("patch2tissue.spatial.spatial_data", "to_spatialdata"),
    "CRAANet": ("patch2tissue.craanet.network", "CRAANet"),
    "PFSCNet": ("patch2tissue.pfscnet.network", "PFSCNet"),
    "AttentionMemory": ("patch2tissue.craanet.accumulation", "AttentionMemory"),
    "DenseEnergyLoss": ("patch2tissue.pfscnet.dense_energy", "DenseEnergyLoss"),
    "PixelContrastLoss": ("patch2tissue.pfscnet.pixel_contrast", "PixelContrastLoss"),
    "TissueScores": ("patch2tissue.evaluation.metrics", "TissueScores"),
    "BoundaryFScore": ("patch2tissue.evaluation.metrics", "BoundaryFScore"),
    **{name: ("patch2tissue.data_frames", name) for name in __all__ if name.endswith("_table")},
    "TissueSet": ("patch2tissue.tissues", "TissueSet"),
    "load_tissue_set": ("patch2tissue.tissues", "load_tissue_set"),
    "RunConfig": ("patch2tissue.config", "RunConfig"),
    "load_config": ("patch2tissue.config", "load_config"),
    "RunFolder": ("patch2tissue.run_folder", "RunFolder"),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name == "__version__":
        return _installed_version()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOME[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def _installed_version() -> str:
    """The version that was installed: it comes from git's tags (pyproject.toml)."""
    from importlib import metadata

    try:
        return metadata.version("patch2tissue")
    except metadata.PackageNotFoundError:  # only on the path
        return "0+unknown"


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(set(globals()) | set(__all__))
