"""What a trained network should know of itself: how sure it may be, and what it was trained on. No mask is read.

Temperature scaling (Guo et al., ICML 2017) wants labelled pixels. There are none here, and patches of one tissue, whose
pixels are known, are so easy that they make a network look better than it is. Instead (our reading) the temperature is
the likeliest one if the maps of CRAANet's last epoch, which stage 2 did not learn from, were the truth in training
patches of several tissues: the network shall be as sure as it agrees with them. `benchmarks/trust.py` measures
how well that works.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar

from patch2tissue.data.canvas import canvas_size
from patch2tissue.data.images import read_image, read_mask
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.inference.confidence import apply_temperature
from patch2tissue.inference.predictor import Predictor
from patch2tissue.inference.temperature import write_temperature
from patch2tissue.progress import track
from patch2tissue.run_folder import RunFolder
from patch2tissue.stages import keep_distribution
from patch2tissue.training import is_finished
from patch2tissue.training_data import training_patches

MOST = 300
"""Training patches that a temperature is chosen on."""

PIXELS = 1024
"""Pixels of each that count."""

BOUNDS = (0.1, 10.0)
"""Temperatures that are considered."""


@dataclass(frozen=True)
class Calibration:
    """What `calibrate_run` found.

    Attributes:
        temperature: divides the logits; above 1: the network was too sure.
        patches: training patches it was chosen on.
        agreement: share of their pixels on which the network agrees with stage 1.
        confidence_before: mean confidence on them, without the temperature.
        confidence_after: with it.
    """

    temperature: float
    patches: int
    agreement: float
    confidence_before: float
    confidence_after: float


def calibrate_run(run: RunFolder | Path | str, *, device: str | None = None, progress: bool = True) -> Calibration:
    """Choose a temperature for a run's network, and learn what its training patches look like if that is not known.

    Writes `temperature.json` and `training_distribution.safetensors` into the folder of stage 2. Everything that
    predicts with the run uses them from then on; masks stay the same.

    Args:
        run: run folder, trained to its end.
        device: see `Predictor.from_run`.
        progress: show a bar.

    Raises:
        DataError: if the run is not finished, its data are gone, or no training patch holds several tissues.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(Path(run))
    config = folder.config()
    if not is_finished(folder.pfscnet):
        raise DataError(f"{folder.pfscnet}: stage pfscnet is not trained yet. Run `patch2tissue train` to its end.")
    patches = training_patches(config)
    keep_distribution(config, folder, patches, canvas_size(patches, config.data.patch_size), progress=progress)
    maps = folder.pseudo_labels / "variants" / "last_epoch"
    mixed = [patch for patch in patches if sum(patch.labels or ()) > 1]
    if not mixed:
        raise DataError(
            f"{config.data.path}: no training patch is labelled with several tissues, and the temperature is chosen on "
            "such patches. Probabilities stay as they are."
        )
    chosen = [mixed[int(place)] for place in np.linspace(0, len(mixed) - 1, min(len(mixed), MOST))]
    predictor = Predictor.from_run(folder, device=device)
    predictor.temperature = 1.0
    shown = track(chosen, "comparing with stage 1", len(chosen)) if progress else chosen
    pairs = [_pixels(predictor, patch, maps / f"{patch.name}.png") for patch in shown]
    probabilities = np.concatenate([one for one, _ in pairs], axis=1)
    labels = np.concatenate([one for _, one in pairs])
    if not labels.size:
        raise DataError(f"{maps}: holds no labelled pixel, so that there is nothing to choose a temperature on.")
    temperature = fit_temperature(probabilities, labels)
    found = Calibration(
        temperature,
        len(chosen),
        float((probabilities.argmax(axis=0) == labels).mean()),
        float(probabilities.max(axis=0).mean()),
        float(apply_temperature(probabilities, temperature).max(axis=0).mean()),
    )
    facts = asdict(found)
    write_temperature(folder.pfscnet, facts.pop("temperature"), facts)
    return found


def _pixels(predictor: Predictor, patch: Patch, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [K, n] and labels [n] of up to `PIXELS` labelled pixels, evenly spread."""
    if not labels.is_file():
        raise DataError(f"{labels}: is not there. Run `patch2tissue train` again; it makes what is missing.")
    truth = read_mask(labels, predictor.tissues)
    probabilities = predictor.predict_array(read_image(patch.path)).probabilities
    if probabilities.shape[1:] != truth.shape:
        raise DataError(f"{labels}: has another size than {patch.path}. Was the image changed since training?")
    labelled = np.flatnonzero(truth < len(predictor.tissues))
    labelled = labelled[np.linspace(0, len(labelled) - 1, min(len(labelled), PIXELS)).astype(np.int64)]
    return probabilities.reshape(len(probabilities), -1)[:, labelled], truth.ravel()[labelled]


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature under which labels are the likeliest, within `BOUNDS`.

    Args:
        probabilities: float [K, n].
        labels: int [n], 0..K-1.
    """

    def loss(logarithm: float) -> float:
        of_label = np.take_along_axis(
            apply_temperature(probabilities, float(np.exp(logarithm))), labels[None].astype(np.int64), axis=0
        )
        return float(-np.log(np.maximum(of_label, 1e-7)).mean())

    bounds = tuple(np.log(BOUNDS))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))
