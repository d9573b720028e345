"""What became of a cohort: one row per slide, as a table on the console and as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from patch2tissue.data.tables import write_table
from patch2tissue.inference.cohort.work import WorkRecord
from patch2tissue.inference.slides.result import SlideResult

COLUMNS = ("slide", "state", "tissue_mm2", "tiles", "strips", "seconds", "workers", "retries", "error")


@dataclass(frozen=True)
class CohortSlide:
    """What became of one slide of a cohort.

    Attributes:
        result: areas, files, state.
        record: how it was worked on; None if it failed, or was done by another engine.
        earlier: whether it was done before this call.
    """

    result: SlideResult
    record: WorkRecord | None = None
    earlier: bool = False

    @property
    def tissue_mm2(self) -> float | None:
        """Area of all tissues; None if the slide is not done."""
        return sum(area.area_mm2 for area in self.result.areas) if self.result.status == "done" else None


def write_cohort(path: Path, slides: Iterable[CohortSlide]) -> None:
    """Write the table as CSV; what another call did is told as that call would have."""

    def row(slide: CohortSlide) -> list[object]:
        result, record, area = slide.result, slide.record, slide.tissue_mm2
        return [
            result.slide.name,
            result.status,
            "" if area is None else f"{area:.6f}",
            result.tiles if result.status == "done" else "",
            "" if record is None else record.strips,
            f"{result.seconds:.1f}" if result.status == "done" else "",
            "" if record is None else " ".join(record.workers),
            "" if record is None else record.retries,
            result.error or "",
        ]

    write_table(path, COLUMNS, map(row, slides))


def cohort_table(slides: Sequence[CohortSlide], most: int = 40) -> Table:
    """The table for a console: all slides if there are few, else those that are not done and the slowest.

    Args:
        slides: in order.
        most: rows at the most, but for slides that are not done.
    """
    done = [place for place, slide in enumerate(slides) if slide.result.status == "done"]
    room = max(0, most - (len(slides) - len(done)))
    kept = set(sorted(done, key=lambda place: -slides[place].result.seconds)[:room])
    title = None if len(kept) == len(done) else f"the {len(kept)} slowest of {len(done)} slides that are done"
    table = Table(title=title, title_justify="left")
    table.add_column("slide", overflow="fold")
    for name in ("tissue mm²", "seconds", "tiles", "strips", "workers", "retries"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for place, slide in enumerate(slides):
        result, record, area = slide.result, slide.record, slide.tissue_mm2
        if result.status == "done" and place not in kept:
            continue
        state = "done before" if slide.earlier else result.status
        table.add_row(
            Text(result.slide.name),
            "" if area is None else f"{area:.3f}",
            f"{result.seconds:.0f}" if area is not None else "",
            str(result.tiles) if area is not None else "",
            "" if record is None else str(record.strips),
            "" if record is None else str(len(record.workers)),
            "" if record is None else str(record.retries),
            Text(state, style={"done": "green", "done before": "dim", "busy": "yellow"}.get(state, "red")),
        )
    return table
