"""Progress bars with losses and time left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")

console = Console(stderr=True)
"""Where progress and messages go; standard output is for answers."""


def _columns() -> tuple[TextColumn, BarColumn, MofNCompleteColumn, TimeElapsedColumn, TextColumn, TimeRemainingColumn]:
    return (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Yield items while showing how far along they are."""
    with Progress(*_columns(), console=console) as bars:
        task = bars.add_task(title, total=total)
        for item in items:
            yield item
            bars.advance(task)


@contextmanager
def counted(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what is to be called with how many are done, and of how many; a bar shows it where a terminal is."""
    with Progress(*_columns(), console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


class EpochProgress:
    """One bar over all steps of a training, with the epoch and its mean losses; a line per epoch where no terminal is.

    Args:
        title: what is trained.
        epochs: number of epochs.
        steps: steps per epoch.
        done: epochs that an earlier process completed.
    """

    def __init__(self, title: str, epochs: int, steps: int, done: int = 0) -> None:
        self.title, self.epochs, self.steps = title, epochs, steps
        self._bars = Progress(*_columns(), TextColumn("{task.fields[losses]}"), console=console)
        self._task = self._bars.add_task(title, total=epochs * steps, completed=done * steps, losses="")
        self._in_epoch = 0

    def __enter__(self) -> EpochProgress:
        if console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if console.is_terminal:
            self._bars.stop()

    def step(self, epoch: int, losses: dict[str, float]) -> None:
        """Advance by one step; `losses` are the means of this epoch so far."""
        self._in_epoch += 1
        text = " ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in losses.items())
        self._bars.update(
            self._task, advance=1, losses=text, description=f"{self.title} · epoch {epoch + 1}/{self.epochs}"
        )
        if self._in_epoch == self.steps:
            self._in_epoch = 0
            if not console.is_terminal:
                elapsed = self._bars.tasks[0].elapsed or 0.0
                console.print(
                    f"{self.title}: epoch {epoch + 1}/{self.epochs}  {text}  ({elapsed:.0f} s)", highlight=False
                )


class SlideProgress:
    """Progress over slides: one bar for the slide under way, with what is done of it and how many slides are done.

    Args:
        slides: number of slides.
        shown: whether anything is shown.
    """

    def __init__(self, slides: int, *, shown: bool = True) -> None:
        self._slides, self._shown, self._number = slides, shown, 0
        self._bars = Progress(*_columns(), TextColumn("tiles"), console=console)
        self._task = self._bars.add_task("slides", total=None)
        self._name = ""

    def __enter__(self) -> SlideProgress:
        if self._shown and console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown and console.is_terminal:
            self._bars.stop()

    def begin(self, name: str, tiles: int, done: int) -> None:
        """Start the next slide, of which some tiles are done already."""
        self._number += 1
        self._name = f"{name} ({self._number}/{self._slides})" if self._slides > 1 else name
        self._bars.reset(self._task, total=tiles, completed=done, description=self._name)

    def advance_to(self, tiles: int) -> None:
        """So many tiles of the slide are done."""
        self._bars.update(self._task, completed=tiles)

    def step(self, what: str) -> None:
        """Say what is done after the last tile."""
        self._bars.update(self._task, description=f"{self._name}: {what}")

    def end(self) -> None:
        """The slide is done; where no terminal is, a line says so."""
        if self._shown and not console.is_terminal:
            task = self._bars.tasks[0]
            console.print(f"{self._name}: {task.completed:.0f} tiles ({task.elapsed or 0.0:.0f} s)", highlight=False)

    def skip(self, name: str) -> None:
        """A slide was done by an earlier call."""
        self._number += 1
        if self._shown:
            console.print(f"{name}: done already", highlight=False)
