"""What a run was trained on, `data.csv` in its folder: written before training, looked at when the run goes on."""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from patch2tissue.config import RunConfig
from patch2tissue.data.fingerprint import (
    Content,
    UsedFile,
    each_fingerprint,
    fingerprints,
    quick_changes,
    read_fingerprints,
    write_fingerprints,
)
from patch2tissue.data.layouts import load_split
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.run_folder import RunFolder


def used_files(config: RunConfig, patches: Sequence[Patch]) -> list[UsedFile]:
    """See `each_used_file`."""
    return list(each_used_file(config, patches))


def each_used_file(config: RunConfig, patches: Sequence[Patch]) -> Iterator[UsedFile]:
    """Every file that training with this configuration reads; masks only where it reads masks.

    Args:
        config: the run.
        patches: its training patches.

    Raises:
        DataError: if the validation split is needed and unusable.
    """
    root = Path(config.data.path)
    for patch in patches:
        yield UsedFile("train", patch.path, _name(patch.path, root), _digits(patch))
    if config.comparisons.full_supervision:
        for patch in patches:
            if patch.mask is not None:
                yield UsedFile("train mask", patch.mask, _name(patch.mask, root))
    if config.selection == "validation_masks":
        for patch in load_split(root, "val", config.tissue_set(), config.data.layout):
            if patch.mask is not None:
                yield UsedFile("val", patch.path, _name(patch.path, root))
                yield UsedFile("val mask", patch.mask, _name(patch.mask, root))
    for section, encoder in (("craanet", config.craanet.encoder), ("pfscnet", config.pfscnet.encoder)):
        if encoder is not None and encoder.weights is not None:
            weights = Path(encoder.weights)
            yield UsedFile(f"{section}.encoder.weights", weights, weights.name, whole=True)


def _name(path: Path, root: Path) -> str:
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # on another drive
        return path.as_posix()


def _digits(patch: Patch) -> str:
    return "".join(map(str, patch.labels or ()))


def is_recorded(run: RunFolder) -> bool:
    """Whether `record_data` will not read the files: they were looked at, or training was begun without."""
    return run.data_file.is_file() or run.craanet.exists() or run.pretraining.exists()


def record_data(
    run: RunFolder, config: RunConfig, patches: Sequence[Patch], contents: Mapping[str, Content] | None = None
) -> None:
    """Write `data.csv` before anything is trained; when a run goes on, see whether the data are still those.

    Going on opens no file: names, sizes and labels are compared. A run that was begun without the table goes on
    without it, since what it was trained on is not known any more.

    Args:
        run: the run's folder.
        config: the run.
        patches: its training patches.
        contents: of files that were read already, see `fingerprints`.

    Raises:
        DataError: if the data changed since the run was begun, or a file cannot be read.
    """
    if run.data_file.is_file():
        files = used_files(config, patches)
        known = read_fingerprints(run.data_file)
        # comparisons may be asked for, or left out, later: what only they read is no change of the data
        before, now = {one.use for one in known}, {file.use for file in files}
        found = quick_changes([one for one in known if one.use in now], [file for file in files if file.use in before])
        if found:
            raise DataError(
                f"{config.data.path}: the data are not those that {run.path} was begun with: {'; '.join(found)}. Put "
                "them back, use --fresh to start again, or choose another output folder."
            )
        added = [file for file in files if file.use not in before]
        if added:
            write_fingerprints(run.data_file, [*known, *fingerprints(added)])
    elif not is_recorded(run):
        write_fingerprints(run.data_file, each_fingerprint(each_used_file(config, patches), contents))
