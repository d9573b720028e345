"""Training curves of both stages, as small multiples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from patch2tissue.report.figures import Line, panel
from patch2tissue.report.names import CURVES, HIDDEN_CURVES, STAGES
from patch2tissue.report.record import RunRecord


@dataclass(frozen=True)
class CurveGroup:
    """Panels of one stage, and which lines are in them as (label, series key, dashed)."""

    title: str
    legend: list[tuple[str, str, bool]]
    panels: list[Markup]


def curve_groups(record: RunRecord) -> list[CurveGroup]:
    """Training curves as small multiples, one group per stage of the method."""
    config = record.config
    started = int(config.craanet.accumulation.start * config.craanet.epochs) + 1
    losses = int(config.pfscnet.losses_start * config.pfscnet.epochs) + 1
    first = _curve_group(record, "Stage 1: CRAANet, from patch labels", ("craanet", "cam"), (started, "memory starts"))
    folders = ("pfscnet", "cross_entropy_only", "cam_pipeline", "full_supervision")
    second = _curve_group(record, "Stage 2: PFSCNet, from pseudo labels", folders, (losses, "losses start"))
    return [group for group in (first, second) if group is not None]


_SERIES_OF_STAGE = {"pfscnet": "full_method"}


def _curve_group(record: RunRecord, title: str, folders: Sequence[str], start: tuple[int, str]) -> CurveGroup | None:
    present = [folder for folder in folders if record.curves.get(folder)]
    if not present:
        return None
    seen = {name for folder in present for name in record.curves[folder]}
    names = [name for name in CURVES if name in seen] + sorted(seen - set(CURVES) - HIDDEN_CURVES)
    panels: list[Markup] = []
    for name in names:
        lines = [
            Line(
                _SERIES_OF_STAGE.get(folder, folder),
                STAGES[folder],
                record.curves[folder][name],
                folder == "full_supervision",
            )
            for folder in present
            if name in record.curves[folder]
        ]
        if name == "learning_rate":
            lines = [replace(lines[0], points=[(epoch, 1000.0 * value) for epoch, value in lines[0].points])]
        mark = (float(start[0]), start[1]) if name in ("loss", "loss_ce") and start[0] > 1 else None
        panels.append(panel(f"curve-{present[0]}-{len(panels)}", CURVES.get(name, name), lines, start=mark))
    legend = [(STAGES[f], _SERIES_OF_STAGE.get(f, f), f == "full_supervision") for f in present]
    return CurveGroup(title, legend, panels)
