"""Who does what next, with workers that fail at random, and no cluster."""

from __future__ import annotations

import random
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from patch2tissue.inference.cohort.schedule import Kind, Schedule, Step


class Simulation:
    """Workers that take random times; checks what must hold at each moment."""

    def __init__(
        self, sizes: list[int], workers: int, retries: int, failing: float, seed: int, helpers: int = 0
    ) -> None:
        self.schedule = Schedule(sizes, workers, retries)
        self.sizes, self.failing, self.retries = sizes, failing, retries
        self.random = random.Random(seed)
        self.draws = [True] * workers + [False] * helpers
        self.busy: dict[int, Step] = {}
        self.ended: dict[int, str] = {}
        self.drawn: dict[int, list[int]] = {}
        self.missing: dict[int, set[int]] = {}
        self.most_open = 0

    def run(self) -> None:
        helped = not all(self.draws)
        for _ in range(100_000):
            if self.schedule.over:
                return
            for worker, draws in enumerate(self.draws):
                if worker not in self.busy:
                    step = self.schedule.next(draws=draws, other=not draws or not helped)
                    if step is not None:
                        assert draws or step.kind is not Kind.draw
                        self.busy[worker] = step
            begun = set(self.missing) - set(self.ended)
            self.most_open = max(self.most_open, len(begun))
            assert self.busy, "nobody has anything to do, and it is not over"
            self.end(self.random.choice(sorted(self.busy)))
        raise AssertionError("it does not end")

    def end(self, worker: int) -> None:
        step = self.busy.pop(worker)
        if self.random.random() < self.failing:
            known = step.slide in self.ended
            if not self.schedule.failed(step, passing=True) and not known:
                assert step.attempt == self.retries + 1
                self.ended[step.slide] = "failed"
        elif step.kind is Kind.prepare:
            assert step.slide not in self.missing
            strips = 1 + self.sizes[step.slide] // 100
            self.missing[step.slide] = set(range(self.random.randint(0, strips), strips))
            self.schedule.prepared(step, sorted(self.missing[step.slide]), strips)
        elif step.kind is Kind.draw:
            if step.slide not in self.ended:
                self.missing[step.slide].remove(step.strip)  # each once
            self.schedule.strip_drawn(step)
        else:
            assert not self.missing[step.slide] and step.slide not in self.ended
            self.schedule.finished(step)
            self.ended[step.slide] = "done"


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=40),
    workers=st.integers(1, 6),
    helpers=st.integers(0, 3),
    retries=st.integers(0, 3),
    failing=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 999),
)
def test_every_slide_comes_to_an_end_and_few_are_open(
    sizes: list[int], workers: int, helpers: int, retries: int, failing: float, seed: int
) -> None:
    simulation = Simulation(sizes, workers, retries, failing, seed, helpers)
    simulation.run()
    assert sorted(simulation.ended) == list(range(len(sizes)))
    assert simulation.most_open <= 4 * workers + 2
    schedule = simulation.schedule
    assert schedule.drawn <= schedule.strips
    if failing == 0:
        assert set(simulation.ended.values()) == {"done"}
        assert schedule.drawn == schedule.strips == schedule.expected_strips() == sum(1 + size // 100 for size in sizes)


def test_a_huge_slide_comes_first_and_does_not_hold_up_the_others() -> None:
    schedule = Schedule([10, 5000, *[10] * 20], workers=3, retries=1)
    first = schedule.next(draws=True, other=True)
    assert first == Step(Kind.prepare, 1)
    schedule.prepared(first, range(50), 50)
    assert schedule.expected_strips() == 52  # those of the small ones by their size
    done: list[int] = []
    busy: deque[Step] = deque()
    while len(done) < 21:
        while len(busy) < 3 and (step := schedule.next(draws=True, other=True)) is not None:
            busy.append(step)
        step = busy.popleft()
        if step.kind is Kind.prepare:
            schedule.prepared(step, [0], 1)
        elif step.kind is Kind.draw:
            schedule.strip_drawn(step)
        else:
            schedule.finished(step)
            done.append(step.slide)
    # the small ones are done while half of the huge one is still to be drawn
    assert 1 not in done and schedule.drawn - 21 < 25


def test_small_slides_are_drawn_beside_a_huge_one() -> None:
    schedule = Schedule([5000, 10, 10], workers=2, retries=1)
    prepared = [schedule.next(draws=True, other=True) for _ in range(3)]
    assert [step.slide for step in prepared if step] == [0, 1, 2]
    for step, strips in zip(prepared, (50, 1, 1), strict=True):
        assert step is not None
        schedule.prepared(step, range(strips), strips)
    steps = [schedule.next(draws=True, other=True) for _ in range(4)]
    assert [step.slide for step in steps if step] == [0, 1, 2, 0]
    assert steps[1] is not None
    schedule.strip_drawn(steps[1])
    # files are made as soon as they can be
    assert schedule.next(draws=True, other=True) == Step(Kind.finish, 1)


def test_a_slide_that_failed_for_its_own_fault_is_given_up_at_once() -> None:
    schedule = Schedule([10, 10], workers=1, retries=5)
    step = schedule.next(draws=True, other=True)
    assert step is not None
    assert not schedule.failed(step, passing=False)
    step = schedule.next(draws=True, other=True)
    assert step is not None and step.slide == 1
    schedule.prepared(step, [0, 1], 2)
    one, two = schedule.next(draws=True, other=True), schedule.next(draws=True, other=True)
    assert one is not None and two is not None
    assert not schedule.failed(one, passing=False)
    assert schedule.failed(two, passing=False)  # of a slide that was given up: nothing more to say
    assert schedule.over and schedule.strips == 0


def test_slides_of_others_are_asked_for_at_the_end() -> None:
    schedule = Schedule([30, 20, 10], workers=1, retries=0)
    first = schedule.next(draws=True, other=True)
    assert first == Step(Kind.prepare, 0)
    schedule.put_off(first)
    for slide in (1, 2):
        step = schedule.next(draws=True, other=True)
        assert step == Step(Kind.prepare, slide)
        schedule.finished(step)
    assert not schedule.over
    assert schedule.next(draws=True, other=True) == first
    schedule.finished(first)
    assert schedule.over


def test_what_was_drawn_before_only_needs_its_files() -> None:
    schedule = Schedule([10], workers=1, retries=0)
    step = schedule.next(draws=True, other=True)
    assert step is not None
    schedule.prepared(step, [], 3)
    assert schedule.drawn == 3
    assert schedule.next(draws=True, other=False) is None
    assert schedule.next(draws=True, other=True) == Step(Kind.finish, 0)
