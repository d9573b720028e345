"""Which step is done next when a worker is free. Knows nothing of Ray.

A slide is prepared, its strips are drawn, its files are made. Large slides come first, so that none is left over at the
end. As many slides are open as there are workers, and workers that draw go to the slide on which the fewest do, so that
a huge one does not hold up the others: it gets what they leave. No more are open than keep the workers busy, since each
takes room on the disk.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto


class Kind(Enum):
    """What is done of a slide."""

    prepare = auto()
    draw = auto()
    finish = auto()


@dataclass(frozen=True)
class Step:
    """One piece of work.

    Attributes:
        kind: what is done.
        slide: number of the slide.
        strip: number of the strip, of `draw`.
        attempt: how often it was begun, this time included.
    """

    kind: Kind
    slide: int
    strip: int = 0
    attempt: int = 1


@dataclass
class _Open:
    """A slide under way."""

    waiting: deque[Step] = field(default_factory=deque)
    drawing: int = 0
    undrawn: int = 0


class Schedule:
    """Hands out steps and is told what became of them.

    Args:
        sizes: of the slides, in any unit; larger ones come first.
        workers: that draw.
        retries: how often a step that fails for no fault of the slide is begun again.

    Attributes:
        strips: strips known so far, those drawn before included.
        drawn: of these, how many are drawn.
    """

    def __init__(self, sizes: Sequence[int], workers: int, retries: int) -> None:
        self._sizes, self._workers, self._retries = list(sizes), workers, retries
        self._unprepared = deque(
            Step(Kind.prepare, slide) for slide in sorted(range(len(sizes)), key=lambda slide: (-sizes[slide], slide))
        )
        self._put_off: deque[Step] = deque()
        self._preparing = 0
        self._open: dict[int, _Open] = {}
        self._to_finish: deque[Step] = deque()
        self._under_way: set[Step] = set()
        self._again: Counter[int] = Counter()
        self._of_slide: dict[int, int] = {}
        self.strips = self.drawn = 0

    @property
    def over(self) -> bool:
        """Whether nothing is left to hand out and nothing is under way."""
        return not (self._unprepared or self._put_off or self._open or self._under_way)

    def expected_strips(self) -> int:
        """Strips of all slides; of those that are not prepared yet by their size."""
        seen = sum(self._sizes[slide] for slide in self._of_slide)
        unseen = sum(self._sizes) - seen
        return self.strips + round(unseen * self.strips / seen) if seen else self.strips

    def retries_of(self, slide: int) -> int:
        """How often preparing and finishing a slide were begun again."""
        return self._again[slide]

    def next(self, *, draws: bool, other: bool) -> Step | None:
        """The step for a worker that is free; None if there is nothing for it now.

        Args:
            draws: whether it can draw strips.
            other: whether it prepares and finishes slides.
        """
        step = None
        if not (self._unprepared or self._open or self._under_way):
            self._unprepared, self._put_off = self._put_off, self._unprepared
        if other and self._to_finish:
            step = self._to_finish.popleft()
        elif other and self._wants_slides():
            step = self._unprepared.popleft()
            self._preparing += 1
        elif draws and (slide := self._slide_to_draw()) is not None:
            step = self._open[slide].waiting.popleft()
            self._open[slide].drawing += 1
        if step is not None:
            self._under_way.add(step)
        return step

    def _wants_slides(self) -> bool:
        strips = [len(slide.waiting) for slide in self._open.values() if slide.waiting] + [1] * self._preparing
        few = len(strips) < self._workers or sum(strips) < 2 * self._workers
        return bool(self._unprepared) and few and len(self._open) + self._preparing < 4 * self._workers + 2

    def _slide_to_draw(self) -> int | None:
        """The slide on which the fewest work; of several the one with most to do."""
        wanting = [slide for slide, about in self._open.items() if about.waiting]
        return min(
            wanting, key=lambda slide: (self._open[slide].drawing, -len(self._open[slide].waiting)), default=None
        )

    def prepared(self, step: Step, missing: Iterable[int], strips: int) -> None:
        """A slide is prepared.

        Args:
            step: that did it.
            missing: numbers of the strips that are not drawn.
            strips: how many it has.
        """
        self._ended(step)
        missing = list(missing)
        self._count(step.slide, strips)
        self.drawn += strips - len(missing)
        waiting = deque(Step(Kind.draw, step.slide, strip) for strip in missing)
        self._open[step.slide] = _Open(waiting, undrawn=len(missing))
        if not missing:
            self._to_finish.append(Step(Kind.finish, step.slide))

    def strip_drawn(self, step: Step) -> None:
        """A strip is drawn."""
        self._ended(step)
        about = self._open.get(step.slide)
        if about is not None:  # else the slide was given up
            self.drawn += 1
            about.undrawn -= 1
            if about.undrawn == 0:
                self._to_finish.append(Step(Kind.finish, step.slide))

    def finished(self, step: Step) -> None:
        """A slide is done, by finishing it or because it was done before."""
        self._ended(step)
        self._open.pop(step.slide, None)
        self._of_slide.setdefault(step.slide, 0)

    def failed(self, step: Step, *, passing: bool) -> bool:
        """A step failed.

        Args:
            step: the step.
            passing: whether it is no fault of the slide, so that it may well work another time.

        Returns:
            Whether it will be begun again; if not, the slide is given up.
        """
        self._ended(step)
        if step.kind is not Kind.prepare and step.slide not in self._open:
            return True  # of a slide that was given up already
        if not passing or step.attempt > self._retries:
            self._give_up(step.slide)
            return False
        again = replace(step, attempt=step.attempt + 1)
        if step.kind is Kind.draw:
            self._open[step.slide].waiting.appendleft(again)
        else:
            self._again[step.slide] += 1
            (self._unprepared if step.kind is Kind.prepare else self._to_finish).appendleft(again)
        return True

    def put_off(self, step: Step) -> None:
        """A slide that cannot be prepared now is to be asked for when the others are done."""
        self._ended(step)
        self._put_off.append(step)

    def _give_up(self, slide: int) -> None:
        about = self._open.pop(slide, None)
        self.strips -= 0 if about is None else about.undrawn
        self._of_slide.setdefault(slide, 0)

    def _count(self, slide: int, strips: int) -> None:
        self.strips += strips
        self._of_slide[slide] = strips

    def _ended(self, step: Step) -> None:
        self._under_way.discard(step)
        if step.kind is Kind.prepare:
            self._preparing -= 1
        elif step.kind is Kind.draw and step.slide in self._open:
            self._open[step.slide].drawing -= 1
