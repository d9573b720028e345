"""`export.json`: what a program must know to use an exported model, and what a person should."""

from __future__ import annotations

from typing import Any

from patch2tissue import __version__
from patch2tissue.config import RunConfig
from patch2tissue.export.graph import INPUT, MULTIPLE, OUTPUT
from patch2tissue.inference.tiling import WINDOW_SIGMA
from patch2tissue.pfscnet.network import PFSCNet
from patch2tissue.run_folder import RunFolder
from patch2tissue.weights import weights_digest

EXPORT_FILE = "export.json"
"""Its name in a model folder; it marks the folder as one of ours."""

KIND = "patch2tissue model"


def describe_model(
    name: str, licence: str, run: RunFolder, config: RunConfig, network: PFSCNet, temperature: float
) -> dict[str, Any]:
    """Describe a run's network as it is exported, in plain JSON values.

    Args:
        name: of the model.
        licence: SPDX identifier, or `other`.
        run: the run folder.
        config: its configuration.
        network: its network.
        temperature: see `TissueProbabilities`.
    """
    tissues = config.tissue_set()
    background = tissues.background
    inference = config.inference
    encoder: Any = network.encoder
    rule = None
    if background is not None and background.white_above is not None:
        rule = (
            f"pixels whose R, G and B all exceed {background.white_above} of 255, in the 3×3 median of their "
            f"least, are background (mask value {background.index}); to be applied to the mask after the network"
        )
    return {
        "kind": KIND,
        "version": "1",
        "patch2tissue": __version__,
        "name": name,
        "licence": licence,
        "weights_sha256": weights_digest(run.pfscnet),
        "tissues": tissues.to_dict(),
        "um_per_pixel": tissues.um_per_pixel,
        "input": {
            "name": INPUT,
            "layout": "batch, channel, height, width",
            "type": "float32",
            "channels": "RGB",
            "range": [0.0, 1.0],
            "sizes": f"any; padded inside to multiples of {MULTIPLE} px",
            "normalisation": "inside the graph",
            "mean": [round(float(value), 6) for value in encoder.mean.flatten()],
            "std": [round(float(value), 6) for value in encoder.std.flatten()],
        },
        "output": {
            "name": OUTPUT,
            "layout": "batch, tissue, height, width",
            "type": "float32",
            "range": [0.0, 1.0],
            "meaning": "probabilities of the tissues in their order; they sum to one",
            "temperature": temperature,
        },
        "not_in_the_graph": {
            "background": rule,
            "tiles": {
                "side": inference.tile,
                "overlap": inference.overlap,
                "window": f"Gaussian, standard deviation {WINDOW_SIGMA:g} of the side",
            },
            "symmetries": inference.symmetries,
            "gate": inference.gate,
        },
    }
