"""Results as pandas tables (extra `tables`): one row per observation, columns and types the same however much is there.

Text is pandas' `string`, whole numbers `Int64`, all else `float64`; what is unknown is missing (`<NA>` or NaN). Scores
and shares are fractions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patch2tissue.data.tables import table_rows
from patch2tissue.errors import DataError
from patch2tissue.evaluation.compare import compare_runs, read_scores
from patch2tissue.inference.areas import COLUMNS as IMAGE_AREAS
from patch2tissue.inference.slides.result import COLUMNS as SLIDE_AREAS
from patch2tissue.optional import optional_import
from patch2tissue.plain_files import read_json
from patch2tissue.run_folder import RunFolder

if TYPE_CHECKING:
    from pandas import DataFrame

Runs = RunFolder | Path | str

SCORES = ("miou", "ci95_low", "ci95_high", "fwiou", "acc", "dice", "boundary_f_2px", "boundary_f_5px", "ece")
"""Columns of figures in `scores_table`."""

_WHOLE = frozenset({"seed", "epoch", "seeds", "pixels", "pieces", "width", "height"})
_TEXT = frozenset({"run", "runs", "part", "method", "tissue", "image", "slide", "stage", "name"})
_PARTS = ("pseudo_labels", "test")


def scores_table(*runs: Runs) -> DataFrame:
    """Scores of runs: one row per run, part and method.

    Returns:
        Columns `run` (name of the folder), `seed`, `part` (`pseudo_labels` or `test`), `method`, and `SCORES`.

    Raises:
        DataError: if a folder is no scored run.
        ConfigError: if pandas is not installed; so do all functions here.
    """
    rows = []
    for run, part, method, scores in _scored(runs):
        low, high = scores.get("ci95") or (None, None)
        rows.append({**_head(run, part, method), **scores, "ci95_low": low, "ci95_high": high})
    return _frame(rows, ("run", "seed", "part", "method", *SCORES))


def tissue_scores_table(*runs: Runs) -> DataFrame:
    """IoU of each tissue: one row per run, part, method and tissue; raises as `scores_table`.

    Returns:
        Columns `run`, `seed`, `part`, `method`, `tissue`, `iou` (missing where the tissue is in neither map nor mask).
    """
    rows = [
        _head(run, part, method) | {"tissue": tissue, "iou": iou}
        for run, part, method, scores in _scored(runs)
        for tissue, iou in _mapping(scores.get("iou")).items()
    ]
    return _frame(rows, ("run", "seed", "part", "method", "tissue", "iou"))


def image_scores_table(*runs: Runs) -> DataFrame:
    """MIoU of each image: one row per run, part, method and image; raises as `scores_table`.

    Returns:
        Columns `run`, `seed`, `part`, `method`, `image`, `miou`.
    """
    rows = []
    for run in _folders(runs):
        read_scores(run)
        detail = _mapping(_json(run.path / "scores_detail.json"))
        for part in _PARTS:
            for method, found in _mapping(detail.get(part)).items():
                rows += [
                    _head(run, part, method) | {"image": image.get("name"), "miou": image.get("miou")}
                    for image in _mapping(found).get("per_image") or ()
                ]
    return _frame(rows, ("run", "seed", "part", "method", "image", "miou"))


def curves_table(*runs: Runs) -> DataFrame:
    """Training curves: one row per run, stage, epoch and curve.

    Returns:
        Columns `run`, `stage`, `epoch` (from 1), `name` (`loss`, `learning_rate`, …), `value`.

    Raises:
        DataError: if a folder is no run, or has no `metrics.csv` yet.
    """
    rows = []
    for run in _folders(runs):
        run.config()
        rows += [{"run": run.path.resolve().name, **row} for row in _csv(run.metrics_file)]
    return _frame(rows, ("run", "stage", "epoch", "name", "value"))


def comparison_table(*runs: Runs) -> DataFrame:
    """What `patch2tissue compare` prints: one row per group of runs that differ in nothing but the seed, and method.

    Returns:
        Columns `runs` (names, with commas between), `part`, `method`, `miou` (mean), `spread` (standard deviation over
        seeds), `seeds` (their number), `share_of_full_supervision`.

    Raises:
        DataError: if a folder is no scored run.
    """
    found = [compared.to_dict() for compared in compare_runs([run.path for run in _folders(runs)])]
    rows = [row | {"runs": ", ".join(row["runs"])} for row in found]
    return _frame(rows, ("runs", "part", "method", "miou", "spread", "seeds", "share_of_full_supervision"))


def areas_table(folder: Path | str) -> DataFrame:
    """Areas of tissues that `predict` or `slide predict` wrote: one row per image or slide, and tissue.

    Args:
        folder: with `areas.csv`, or that file itself.

    Returns:
        Of images `image`, `tissue`, `pixels`, `share` (of the image), `area_um2`, `area_mm2`; of slides `slide`,
        `tissue`, `pixels` (of the map), `share` (of its tissue), `area_mm2`, `perimeter_mm`, `pieces`.

    Raises:
        DataError: if there is no such file, or it is another.
    """
    path = Path(folder)
    path = path / "areas.csv" if path.is_dir() else path
    rows = _csv(path)
    names = tuple(rows[0]) if rows else IMAGE_AREAS
    if names not in (IMAGE_AREAS, SLIDE_AREAS):
        raise DataError(f"{path}: is no table of areas; it has the columns {', '.join(names)}.")
    return _frame(rows, names)


def slides_table(folder: Path | str) -> DataFrame:
    """Slides of which `slide predict` made maps: one row per slide.

    Args:
        folder: with `NAME_areas.json`.

    Returns:
        Columns `slide`, `width` and `height` (map pixels), `um_per_pixel_x` and `um_per_pixel_y` (of the map),
        `tissue_mm2` (all tissues), and one `NAME_mm2` per tissue.

    Raises:
        DataError: if there is none, or a file is damaged.
    """
    files = sorted(Path(folder).glob("*_areas.json"))
    if not files:
        raise DataError(f"{folder}: holds no NAME_areas.json, as `patch2tissue slide predict` writes them.")
    rows, names = [], dict[str, None]()
    for file in files:
        found = _mapping(_json(file))
        try:
            x, y = found["um_per_pixel"]
            areas = {f"{name}_mm2": float(area["area_mm2"]) for name, area in found["tissues"].items()}
            row = {"slide": found["slide"], "width": found["width"], "height": found["height"]}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError(f"{file}: is damaged. Make the map again.") from None
        names |= dict.fromkeys(areas)
        rows.append(row | {"um_per_pixel_x": x, "um_per_pixel_y": y, "tissue_mm2": sum(areas.values())} | areas)
    head = ("slide", "width", "height", "um_per_pixel_x", "um_per_pixel_y", "tissue_mm2")
    return _frame(rows, (*head, *names))


def _folders(runs: Sequence[Runs]) -> list[RunFolder]:
    return [run if isinstance(run, RunFolder) else RunFolder(Path(run)) for run in runs]


def _scored(runs: Sequence[Runs]) -> Iterable[tuple[RunFolder, str, str, Mapping[str, Any]]]:
    for run in _folders(runs):
        scores = read_scores(run)
        for part in _PARTS:
            for method, found in _mapping(scores.get(part)).items():
                yield run, part, method, _mapping(found)


def _head(run: RunFolder, part: str, method: str) -> dict[str, Any]:
    return {"run": run.path.resolve().name, "seed": run.config().seed, "part": part, "method": method}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from None


def _csv(path: Path) -> list[dict[str, str | None]]:
    lines = [line for _, line in table_rows(path)]
    if not lines:
        raise DataError(f"{path}: is empty.")
    return [dict(zip(lines[0], (cell or None for cell in line), strict=False)) for line in lines[1:]]


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> DataFrame:
    pandas: Any = optional_import("pandas", "A table", "tables")
    frame = pandas.DataFrame(index=range(len(rows)))
    for name in columns:
        values = [row.get(name) for row in rows]
        if name in _TEXT:
            frame[name] = pandas.array(values, dtype="string")
        else:
            numbers = pandas.to_numeric(pandas.Series(values, dtype="object"))
            frame[name] = numbers.astype("Int64" if name in _WHOLE else "float64")
    return frame
