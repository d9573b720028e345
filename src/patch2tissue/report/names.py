"""What things are called on the page: methods, pseudo-label steps, curves."""

from __future__ import annotations

from collections.abc import Mapping

PSEUDO_LABELS = {
    "cam": "Plain CAM",
    "grad_cam": "Grad-CAM",
    "last_epoch": "Last epoch",
    "accumulated": "Accumulated",
    "refined": "Final",
    "second_round": "Second round",
    "third_round": "Third round",
}
"""Pseudo labels in the order of the method; keys of scores.json."""

PSEUDO_LABEL_NOTES = {
    "cam": "average pooling, last epoch's rectified map",
    "grad_cam": "the trained network's features weighed by gradients",
    "last_epoch": "residual attention, map of the trained network",
    "accumulated": "residual attention, maps of the epochs overlaid",
    "refined": "accumulated and test-time maps together, refined: what stage 2 learns from",
    "second_round": "predictions of PFSCNet's first round: what its second round learns from",
    "third_round": "predictions of PFSCNet's second round: what its third round learns from",
}

PREDICTIONS = {
    "cam_pipeline": "CAM pipeline",
    "cross_entropy_only": "Cross-entropy only",
    "full_method": "Full method",
    "full_supervision": "Full supervision",
}
"""Networks that were tested; keys of scores.json and names of prediction folders."""

PREDICTION_NOTES = {
    "cam_pipeline": "the same network trained on plain CAM labels",
    "cross_entropy_only": "the same pseudo labels without dense energy, contrast and label correction",
    "full_method": "CRAANet and PFSCNet as the configuration says",
    "full_supervision": "the same network trained on the masks of train: the ceiling, not weakly supervised",
}

PARTS: tuple[tuple[str, str, Mapping[str, str], Mapping[str, str]], ...] = (
    ("pseudo_labels", "Pseudo labels on train", PSEUDO_LABELS, PSEUDO_LABEL_NOTES),
    ("test", "Predictions on test", PREDICTIONS, PREDICTION_NOTES),
)
"""Key in scores.json, title, and names and notes of the methods in it."""

SCORES = {
    "miou": "MIoU",
    "fwiou": "FwIoU",
    "acc": "Accuracy",
    "dice": "Dice",
    "boundary_f_2px": "Boundary F, 2 px",
    "boundary_f_5px": "Boundary F, 5 px",
    "ece": "Calibration error",
}

LOWER_IS_BETTER = {"ece"}
"""Scores of which the lowest is the best."""

CURVES = {
    "loss": "Total loss",
    "label_f1": "F1 of patch labels",
    "loss_ce": "Cross-entropy",
    "loss_energy": "Dense energy",
    "loss_contrast": "Pixel contrast",
    "loss_consistency": "Consistency",
    "teacher_sure": "Share of pixels the teacher is sure of",
    "labels_changed": "Share of labels corrected",
    "validation_miou": "MIoU on validation masks",
    "learning_rate": "Learning rate, ×10⁻³",
}
"""Curves in the order they are shown; others follow under their own name."""

HIDDEN_CURVES = {"loader_wait_share", "patches_per_second"}
"""Curves that say something about the machine, not about learning."""

STAGES = {
    "craanet": "CRAANet",
    "cam": "Plain CAM classifier",
    "pfscnet": "Full method",
    "cross_entropy_only": "Cross-entropy only",
    "full_supervision": "Full supervision",
    "cam_pipeline": "CAM pipeline",
}
"""Folders with curves."""
