"""The rows of the table: what each one trains, on which labels, and which settings set it apart.

A row differs from `full_method` only by what stands here and, where a number must be chosen, in recipes/rows.yaml and
the section `rows` of a set's recipe. Epochs, batch size, encoder and pictures are the same for all; a test holds the
rows to that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from patch2tissue.peers.mlps import GATE

Kind = Literal["stage1", "stage2", "ceiling", "peer", "beyond"]
"""`stage1` rows are pseudo labels, scored on the masks of train; the others are networks, scored on the test images."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: its key in files and figures.
        title: its name in tables.
        kind: see `Kind`; all but `ceiling` learn from patch labels alone.
        labels: which labels are scored (stage 1) or learned from (networks); see `workshop.LABELS`.
        trainer: how the network is trained, see `workshop.TRAINERS`.
        changes: settings that differ from the recipe.
        encoders: encoders it makes sense for; None: all.
        counts: keep the counts of every test image, so that an interval of its gain can be drawn.
    """

    name: str
    title: str
    kind: Kind
    labels: str
    trainer: str = "pfscnet"
    changes: dict[str, Any] = field(default_factory=dict)
    encoders: tuple[str, ...] | None = None
    counts: bool = False

    @property
    def weak(self) -> bool:
        """Whether it is a network that learned from patch labels alone."""
        return self.kind in ("stage2", "peer", "beyond")


def _losses(
    *, energy: bool = False, contrast: bool = False, correction: bool = False, mosaic: bool = True
) -> dict[str, Any]:
    """Switch off what is not named, in PFSCNet; weights of what stays on are the recipe's."""
    changes: dict[str, Any] = {}
    if not energy:
        changes["dense_energy"] = {"weight": 0.0}
    if not contrast:
        # Correction needs an embedding in which tissues lie apart. A gradient this small leaves the encoder to
        # cross-entropy, while AdamW, which divides by its size, still trains the embedding's own layers.
        changes["contrast"] = {"weight": 1e-3 if correction else 0.0}
    if not correction:
        changes["correction"] = {"mode": "off"}
    if not mosaic:
        changes["mosaic"] = 0.0
    changes |= {"consistency": {"weight": 0.0}, "rounds": 1}
    return {"pfscnet": changes}


_PLAIN = _losses(mosaic=False)

ROWS = (
    # stage 1: pseudo labels
    Row("cam", "CAM, last epoch", "stage1", "cam"),
    Row("grad_cam", "Grad-CAM, last epoch", "stage1", "grad_cam"),
    Row("residual_attention", "residual attention, last epoch", "stage1", "residual_attention"),
    Row("accumulated_max", "+ accumulation, max", "stage1", "accumulated_max"),
    Row("accumulated_mean", "+ accumulation, mean", "stage1", "accumulated_mean"),
    Row("accumulated_ema", "+ accumulation, ema", "stage1", "accumulated_ema"),
    Row("pseudo_labels", "accumulated ⊕ test-time maps (handed to stage 2)", "stage1", "pseudo_labels"),
    # stage 1 of what the field knows
    Row("seam", "SEAM (equivariant attention)", "stage1", "seam"),
    Row("mlps_labels", "MLPS, deep layer", "stage1", "mlps_deep"),
    # stage 2, all from the same pseudo labels; mosaics are a part of how patches are augmented, so they are in all rows
    # of it but one
    Row("cross_entropy", "cross-entropy", "stage2", "pseudo_labels", changes=_losses(), counts=True),
    Row("no_mosaics", "cross-entropy without mosaics", "stage2", "pseudo_labels", changes=_PLAIN, counts=True),
    Row(
        "all_losses",
        "+ both losses",
        "stage2",
        "pseudo_labels",
        changes=_losses(energy=True, contrast=True),
        counts=True,
    ),
    Row("full_method", "full method", "stage2", "pseudo_labels", counts=True),
    Row("dense_energy", "+ dense energy", "stage2", "pseudo_labels", changes=_losses(energy=True), counts=True),
    Row("pixel_contrast", "+ pixel clustering", "stage2", "pseudo_labels", changes=_losses(contrast=True), counts=True),
    Row(
        "label_correction",
        "+ label correction",
        "stage2",
        "pseudo_labels",
        changes=_losses(correction=True),
        counts=True,
    ),
    Row(
        "full_supervision",
        "full supervision (ceiling, learns from masks)",
        "ceiling",
        "masks",
        changes=_PLAIN,
        counts=True,
    ),
    # what the field knows, our own implementations
    Row("cam_pipeline", "cross-entropy on CAM labels", "peer", "cam", changes=_PLAIN),
    Row("oeem", "online easy example mining (OEEM)", "peer", "pseudo_labels", trainer="oeem", changes=_PLAIN),
    Row("seam_pipeline", "cross-entropy on SEAM labels", "peer", "seam", changes=_PLAIN),
    Row(
        "mlps",
        "multi-layer pseudo-supervision (MLPS)",
        "peer",
        "mlps",
        trainer="mlps",
        # its classifier takes the place of the run's CRAANet, as its authors do
        changes=_PLAIN | {"inference": {"gate": GATE}},
    ),
    # beyond the paper: the full method with one thing changed, which recipes/rows.yaml says
    Row("second_round", "full method, second round (twice the steps)", "beyond", "pseudo_labels"),
    Row("mean_teacher", "full method + mean teacher", "beyond", "pseudo_labels"),
    Row("hed_augmentation_off", "full method without stain augmentation", "beyond", "pseudo_labels"),
    Row("hed_augmentation_on", "full method with stain augmentation", "beyond", "pseudo_labels"),
    Row("multi_stage_labels", "accumulated ⊕ test-time maps, attention of two stages", "stage1", "pseudo_labels"),
    Row("multi_stage_attention", "full method, attention of two stages", "beyond", "pseudo_labels"),
    Row(
        "self_supervised_labels",
        "accumulated ⊕ test-time maps, encoder pre-trained on the patches",
        "stage1",
        "pseudo_labels",
        encoders=("random",),
    ),
    Row(
        "self_supervised",
        "full method, encoder pre-trained on the patches",
        "beyond",
        "pseudo_labels",
        encoders=("random",),
    ),
)
"""All rows, in the order of work: a table that is half done should show the method before its peers."""

BY_NAME = {row.name: row for row in ROWS}


def chosen_rows(names: list[str] | None) -> list[Row]:
    """Rows by name, in the order of work; all for None."""
    return [row for row in ROWS if names is None or row.name in names]
