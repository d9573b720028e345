"""What the field knows, as rows of the table: SEAM, MLPS and OEEM of `patch2tissue.peers`.

Their classifiers have the encoder, patches, epochs and batch size of the method's, and their networks those of stage 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.quality.labels import LabelMaker, Labels
from benchmarks.quality.rows import Row
from benchmarks.quality.settings import label_settings, peer_stage1_settings
from patch2tissue.craanet.network import load_craanet
from patch2tissue.peers.mlps import train_mlps_classifier
from patch2tissue.peers.mlps_labels import DEPTHS, generate_mlps_labels
from patch2tissue.peers.mlps_segmentation import train_mlps_segmentation
from patch2tissue.peers.oeem import train_oeem
from patch2tissue.peers.seam import load_seam, train_seam
from patch2tissue.peers.seam_labels import generate_seam_labels
from patch2tissue.tissues import TissueSet

if TYPE_CHECKING:
    from benchmarks.quality.workshop import Workshop


def _seam(shop: Workshop, name: str) -> Labels:
    """SEAM's pseudo labels, averaged over the same views as the method's."""
    config = shop.config
    trained = shop.artefact(
        "seam",
        peer_stage1_settings(config, name, shop.limit),
        lambda folder: train_seam(config, shop.patches, folder, side=shop.side),
    )

    def make(folder: Path) -> None:
        generate_seam_labels(
            shop.patches,
            shop.tissues,
            load_seam(trained),
            folder,
            side=shop.side,
            hardware=config.hardware,
            scales=config.pseudo_labels.scales,
            symmetries=config.pseudo_labels.symmetries,
        )

    files = shop.named(shop.artefact("labels_seam", label_settings(config, name, shop.limit), make))
    return Labels(files, files, None, trained / "classifier")


def _mlps_classifier(shop: Workshop) -> Path:
    return shop.artefact(
        "mlps_classifier",
        peer_stage1_settings(shop.config, "mlps", shop.limit),
        lambda folder: train_mlps_classifier(shop.config, shop.patches, folder, side=shop.side),
    )


def _mlps_folder(shop: Workshop, kind: str, tissues: TissueSet) -> Path:
    """Folder of the pseudo masks of three depths."""
    classifier = _mlps_classifier(shop)

    def make(folder: Path) -> None:
        generate_mlps_labels(
            shop.patches, tissues, load_craanet(classifier), folder, side=shop.side, hardware=shop.config.hardware
        )

    return shop.artefact(kind, label_settings(shop.config, "mlps", shop.limit), make)


def _mlps(shop: Workshop, name: str) -> Labels:
    """The masks of the deepest feature map; for `mlps_deep` also with a tissue at every pixel, to be scored."""
    folder = _mlps_folder(shop, "labels_mlps", shop.tissues)
    background = shop.tissues.background
    whole = folder
    if name == "mlps_deep" and background is not None and background.white_above is not None:
        # other rows are scored without a rule for white background, too
        whole_tissues = replace(shop.tissues, background=replace(background, white_above=None))
        whole = _mlps_folder(shop, "labels_mlps_whole", whole_tissues)
    deep = next(iter(DEPTHS))
    return Labels(shop.named(whole / deep), shop.named(folder / deep), None, _mlps_classifier(shop))


def _train_mlps(shop: Workshop, row: Row, labels: Labels, folder: Path) -> None:
    masks = _mlps_folder(shop, "labels_mlps", shop.tissues)
    depths = [masks / depth for depth in DEPTHS]
    train_mlps_segmentation(shop.config, shop.patches, depths, folder, side=shop.side, craanet=labels.encoder)


def _train_oeem(shop: Workshop, row: Row, labels: Labels, folder: Path) -> None:
    train_oeem(shop.config, shop.patches, labels.learned, folder, side=shop.side, craanet=labels.encoder)


PEER_LABELS: dict[str, LabelMaker] = {"seam": _seam, "mlps": _mlps, "mlps_deep": _mlps}
"""Part of `workshop.LABELS`."""

PEER_TRAINERS: dict[str, Callable[[Workshop, Row, Labels, Path], None]] = {"mlps": _train_mlps, "oeem": _train_oeem}
"""Part of `workshop.TRAINERS`."""
