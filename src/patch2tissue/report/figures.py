"""Charts of the page: scores with intervals, training curves, agreement by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from patch2tissue.report.style import INK, LINE, MUTED, PAPER, SERIES, chart, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class ScoreRow:
    """One line of the score chart: a value in 0..1 with its 95% interval."""

    key: str
    label: str
    value: float
    low: float | None
    high: float | None
    main: bool = False


def score_chart(groups: Mapping[str, Sequence[ScoreRow]]) -> Markup:
    """Scores of every group with 95% intervals on one axis, as in a forest plot.

    The axis starts near the lowest value, so that intervals can be told apart: dots, not bars, since a bar would have
    to start at zero.
    """
    rows = [row for group in groups.values() for row in group]
    lowest = min(row.value if row.low is None else row.low for row in rows)
    highest = max(row.value if row.high is None else row.high for row in rows)
    step = 0.05 if highest - lowest < 0.4 else 0.1
    left = max(0.0, math.floor((lowest - 0.01) / step) * step)
    right = min(1.0, math.ceil((highest + 0.01) / step) * step)
    lines = len(rows) + len(groups)
    with chart(1140, 30 * lines + 46, (0, 175, 46, 150)) as (figure, axes):
        y = 0
        ticks: list[tuple[int, str, bool]] = []
        for title, group in groups.items():
            axes.text(-0.005, y, title, transform=axes.get_yaxis_transform(), ha="right", va="center", color=MUTED)
            if y:
                axes.axhline(y - 0.55, color=LINE, linewidth=0.8)
            y += 1
            for row in group:
                _score_row(axes, row, y)
                ticks.append((y, row.label, row.main))
                y += 1
        for position, label, main in ticks:
            weight = "bold" if main else "normal"
            axes.text(
                -0.005, position, label, transform=axes.get_yaxis_transform(), ha="right", va="center", weight=weight
            )
        axes.set_yticks([])
        axes.set_ylim(y - 0.4, -0.6)
        axes.set_xlim(left, right)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("MIoU against masks, with 95% interval")
        alt = "MIoU with 95% intervals. " + "; ".join(
            f"{title}: " + ", ".join(f"{row.label} {row.value:.3f}" for row in group) for title, group in groups.items()
        )
        return to_svg(figure, "scores", alt)


def _score_row(axes: Axes, row: ScoreRow, y: int) -> None:
    color = SERIES.get(row.key, MUTED)
    text = f"{row.value:.3f}"
    if row.low is not None and row.high is not None:
        axes.plot([row.low, row.high], [y, y], color=color, linewidth=3.5, alpha=0.45)
        text += f"  ({row.low:.3f}–{row.high:.3f})"
    hollow = row.key == "full_supervision"
    axes.plot(
        [row.value],
        [y],
        "o",
        color=color,
        markersize=10,
        markerfacecolor=PAPER if hollow else color,
        markeredgewidth=2.5 if hollow else 0,
    )
    axes.text(
        1.01,
        y,
        text,
        transform=axes.get_yaxis_transform(),
        va="center",
        ha="left",
        color=INK,
        weight="bold" if row.main else "normal",
    )


@dataclass(frozen=True)
class Line:
    """One line of a panel: `key` gives its colour."""

    key: str
    label: str
    points: Points
    dashed: bool = False


def panel(
    name: str,
    title: str,
    lines: Sequence[Line],
    *,
    size: tuple[int, int] = (270, 200),
    start: tuple[float, str] | None = None,
    x_label: str = "epoch",
    zero: bool = False,
    labels: bool = False,
) -> Markup:
    """One small chart of values over epochs.

    Args:
        name: identifier, unique on the page.
        title: shown above, and the start of the alt text.
        lines: what is drawn.
        size: width and height in CSS pixels.
        start: an epoch to mark with a vertical line, and what begins there.
        x_label: text under the horizontal axis.
        zero: start the vertical axis at zero.
        labels: write each line's label at its end.
    """
    from matplotlib.ticker import MaxNLocator

    few = max((len(line.points) for line in lines), default=0) < 16
    with chart(*size, (40, 92 if labels else 12, 42, 50)) as (figure, axes):
        for line in lines:
            xs, ys = [x for x, _ in line.points], [y for _, y in line.points]
            axes.plot(
                xs,
                ys,
                color=SERIES.get(line.key, MUTED),
                linestyle=(0, (4, 2)) if line.dashed else "-",
                marker="o" if few else None,
                markersize=3.5,
            )
        for y, line in zip(_apart(lines, axes.get_ylim()), lines, strict=True):
            if labels and line.points:
                axes.annotate(
                    line.label,
                    (line.points[-1][0], y),
                    xytext=(8, 0),
                    textcoords="offset points",
                    va="center",
                    color=SERIES.get(line.key, MUTED),
                )
        if start is not None:
            axes.axvline(start[0], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
            axes.annotate(
                start[1],
                (start[0], 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                va="bottom",
                ha="center",
                color=MUTED,
                fontsize=10,
            )
        axes.set_title(title, loc="left", fontsize=12.5, color=INK, pad=20)
        axes.set_xlabel(x_label, fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(False, axis="x")
        if zero:
            axes.set_ylim(bottom=0)
        ends = ", ".join(
            f"{line.label} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in lines if line.points
        )
        return to_svg(figure, name, f"{title} by epoch: {ends}")


def _apart(lines: Sequence[Line], limits: tuple[float, float]) -> list[float]:
    """Heights for the lines' labels, moved apart where two would lie on each other."""
    least = 0.1 * (limits[1] - limits[0])
    ends = [line.points[-1][1] if line.points else 0.0 for line in lines]
    placed: list[float] = []
    for index in sorted(range(len(ends)), key=ends.__getitem__):
        if placed and ends[index] - placed[-1] < least:
            ends[index] = placed[-1] + least
        placed.append(ends[index])
    return ends
