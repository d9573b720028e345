"""What a run's CRAANet makes of patches that nobody has labelled: probabilities of tissues, kept as they come.

    python -m patch2tissue.labelling.suggest RUN FOLDER

A process of its own, started by the labelling page: torch takes seconds to import and all cores to think.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from patch2tissue.data.images import read_image
from patch2tissue.errors import DataError, Patch2TissueError
from patch2tissue.labelling.pool import find_pool
from patch2tissue.labelling.queue import shuffled
from patch2tissue.labelling.store import DATABASE, LabelStore
from patch2tissue.run_folder import RunFolder
from patch2tissue.weights import weights_digest

BATCH = 16


def model_of(run: Path) -> str:
    """What tells a run's classifier from others: a hash of its weights.

    Raises:
        DataError: if the run holds none.
    """
    weights = RunFolder(Path(run)).craanet / "weights.safetensors"
    if not weights.is_file():
        raise DataError(f"{run}: holds no trained CRAANet. Finish `patch2tissue train` for this run first.")
    return weights_digest(weights.parent)


def suggest(run: Path, folder: Path, store: LabelStore) -> int:
    """Classify the patches of a data folder that this run has not classified yet; return how many these were.

    Files that are no images are passed over: they are told of when they are shown.

    Args:
        run: run folder whose tissue set is that of the store.
        folder: the data folder.
        store: where the probabilities go, batch by batch, so that a killed process goes on.

    Raises:
        DataError: if the run cannot be used or has other tissues.
    """
    import torch

    from patch2tissue.craanet.network import load_craanet
    from patch2tissue.hardware import autocast_dtype, choose_device, set_threads
    from patch2tissue.inference.tiling import predict_batch
    from patch2tissue.weights import refuse_other_tissues

    model = model_of(run)
    runs = RunFolder(Path(run))
    config = runs.config()
    names = config.tissue_set().names
    if names != store.tissues.names:
        raise DataError(
            f"{run}: was trained on {', '.join(names)}, not on {', '.join(store.tissues.names)}. Use a run of this "
            "tissue set for suggestions."
        )
    device = choose_device(config.hardware.device)
    set_threads(config.hardware)
    dtype = autocast_dtype(device, config.hardware.precision)
    network = load_craanet(runs.craanet, device).eval()
    refuse_other_tissues(network, store.tissues, runs.craanet)

    def probabilities(images: torch.Tensor) -> torch.Tensor:
        # as a map of one pixel, which is what predict_batch returns
        return torch.sigmoid(network(images).logits.float())[:, :, None, None]

    known = store.suggestions(model)
    # in random order: what is there first is a sample of all slides
    missing = [patch for patch in shuffled([patch.path for patch in find_pool(folder)], 0) if patch not in known]
    with torch.inference_mode():
        for patches, images in _batches(folder, missing):
            found = predict_batch(probabilities, images, device=device, dtype=dtype)[:, :, 0, 0]
            store.suggest(model, dict(zip(patches, found.tolist(), strict=True)))
    return len(missing)


def _batches(folder: Path, patches: Sequence[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Batches of images of one size."""
    waiting: dict[tuple[int, ...], list[tuple[str, np.ndarray]]] = {}
    for patch in patches:
        try:
            image = read_image(folder / patch)
        except DataError:
            continue
        same = waiting.setdefault(image.shape, [])
        same.append((patch, image))
        if len(same) == BATCH:
            yield _stacked(waiting.pop(image.shape))
    for same in waiting.values():
        yield _stacked(same)


def _stacked(pairs: list[tuple[str, np.ndarray]]) -> tuple[list[str], np.ndarray]:
    return [patch for patch, _ in pairs], np.stack([image for _, image in pairs])


def main(arguments: Sequence[str] | None = None) -> None:
    """Suggest for RUN and FOLDER; errors are one line on stderr and exit code 2."""
    run, folder = map(Path, sys.argv[1:3] if arguments is None else arguments)
    try:
        with LabelStore(folder / DATABASE, RunFolder(run).config().tissue_set()) as store:
            suggest(run, folder, store)
    except Patch2TissueError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
