"""Pseudo labels of a further round: what a trained PFSCNet says of its own training patches [our reading].

A segmentation network smooths over mistakes that its labels do not agree on, and draws finer edges than attention at
an eighth of the size. Its predictions, with tissues that are absent from the patch's label ruled out, are labels for
another training from the same start.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from patch2tissue.config import HardwareConfig, PseudoLabelConfig
from patch2tissue.data.datasets import PlainPatches
from patch2tissue.data.patches import Patch
from patch2tissue.hardware import autocast_dtype, choose_device, set_threads
from patch2tissue.inference.symmetries import average_symmetries
from patch2tissue.pfscnet.network import PFSCNet
from patch2tissue.progress import track
from patch2tissue.pseudo_labels.files import BATCH, rows_to_do, write_manifest, write_patch
from patch2tissue.pseudo_labels.generate import label_from_scores
from patch2tissue.tissues import TissueSet


@torch.no_grad()
def predicted_probabilities(
    network: PFSCNet, images: Tensor, *, symmetries: bool = True, dtype: torch.dtype | None = None
) -> Tensor:
    """Probabilities of a trained network, averaged over symmetries.

    Args:
        network: in evaluation mode.
        images: float RGB in 0..1, [B, 3, S, S].
        symmetries: average over the 8 symmetries of the square.
        dtype: autocast type, None for float32.

    Returns:
        float32 [B, K, S, S]; sum to one over tissues.
    """

    def one_view(view: Tensor) -> Tensor:
        with torch.autocast(view.device.type, dtype) if dtype is not None else nullcontext():
            logits = network(view).logits
        return torch.softmax(logits.float(), dim=1)

    return (average_symmetries(one_view) if symmetries else one_view)(images)


def generate_second_round(
    patches: Sequence[Patch],
    tissues: TissueSet,
    network: PFSCNet,
    folder: Path,
    *,
    side: int,
    config: PseudoLabelConfig,
    hardware: HardwareConfig,
    symmetries: bool = True,
    variant: str = "second_round",
) -> None:
    """Write a trained network's labels of all training patches; a killed run goes on where it was.

    A pixel gets the most probable tissue of those in its patch's label; its confidence is the lead of the best over the
    second when the probabilities of these sum to one. Pixels that are too unsure by `config`, and white background
    where the tissue set has that rule, are ignored, as in the first round.

    Args:
        patches: training patches.
        tissues: tissue set.
        network: the trained segmentation network.
        folder: gets `masks/`, `confidence/`, `variants/VARIANT/` (no pixel ignored) and, last, `manifest.csv`.
        side: canvas side in pixels, see `canvas_size`.
        config: which pixels are too unsure.
        hardware: device, precision, threads.
        symmetries: average over the 8 symmetries.
        variant: name of the labels without ignored pixels.

    Raises:
        DataError: if a patch cannot be read.
        ConfigError: if the device is not there.
    """
    set_threads(hardware)
    device = choose_device(hardware.device)
    dtype = autocast_dtype(device, hardware.precision)
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    todo = rows_to_do(patches, folder / "confidence")
    loader = DataLoader(PlainPatches([patches[i] for i in todo], side), batch_size=BATCH, num_workers=hardware.workers)
    with ThreadPoolExecutor(4) as writers:
        for batch in track(loader, variant.replace("_", " ") + " labels", len(loader)):
            images = (batch["image"].to(device).float() / 255.0).contiguous(memory_format=torch.channels_last)
            probabilities = predicted_probabilities(network, images, symmetries=symmetries, dtype=dtype)
            result = label_from_scores(probabilities, batch["labels"].to(device))
            labels, confidence = result.labels.cpu().numpy(), result.confidence.cpu().numpy()
            pictures = batch["image"].permute(0, 2, 3, 1).numpy()
            jobs = [
                writers.submit(
                    write_patch,
                    patches[todo[row]],
                    tissues,
                    folder,
                    pictures[j],
                    {variant: labels[j]},
                    labels[j],
                    confidence[j],
                    config,
                )
                for j, row in enumerate(batch["index"].tolist())
            ]
            for job in jobs:
                job.result()
    write_manifest(patches, tissues, folder)
