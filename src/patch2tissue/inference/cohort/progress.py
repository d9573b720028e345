"""One bar over the strips of all slides."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from patch2tissue.inference.cohort.summary import CohortSlide
from patch2tissue.progress import console
from patch2tissue.slides.slide import slide_name


class CohortProgress:
    """Progress over a cohort, with time left; where no terminal is, a line for each slide.

    How many strips there are is known when all slides have been looked at; until then it is judged by their size.

    Args:
        slides: how many there are.
        shown: whether anything is shown.

    Attributes:
        bars: what is drawn.
    """

    def __init__(self, slides: int, *, shown: bool = True) -> None:
        self._slides, self._shown = slides, shown
        self.bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("strips"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self.bars.add_task(f"0/{slides} slides", total=None)

    def __enter__(self) -> Self:
        if self._shown and console.is_terminal:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown and console.is_terminal:
            self.bars.stop()

    def strips(self, drawn: int, expected: int) -> None:
        """So many strips are drawn of so many."""
        self.bars.update(self._task, completed=drawn, total=max(drawn, expected))

    def slide(self, slide: CohortSlide, ended: int) -> None:
        """A slide is done with, and so are that many in all."""
        self.bars.update(self._task, description=f"{ended}/{self._slides} slides")
        if self._shown and not console.is_terminal:
            state = "done already" if slide.earlier else slide.result.status
            of_it = f", {slide.result.tiles} tiles" if state == "done" else ""
            console.print(f"{slide_name(slide.result.slide)} ({ended}/{self._slides}): {state}{of_it}", highlight=False)
