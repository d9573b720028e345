"""Keeps the workers of a cluster busy, replaces those that die, and gathers what becomes of each slide."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from patch2tissue.errors import DataError, Patch2TissueError
from patch2tissue.inference.cohort.progress import CohortProgress
from patch2tissue.inference.cohort.ray_cluster import ClusterOptions, Layout, RayCluster
from patch2tissue.inference.cohort.schedule import Kind, Schedule, Step
from patch2tissue.inference.cohort.summary import CohortSlide
from patch2tissue.inference.cohort.work import DoneSlide, PreparedSlide
from patch2tissue.inference.cohort.worker import Answer, WorkerSettings
from patch2tissue.inference.slides.job import SlideJob
from patch2tissue.inference.slides.result import SlideResult
from patch2tissue.inference.slides.state import SlideBusyError, SlideState, locked
from patch2tissue.slides.opening import SlideFile
from patch2tissue.slides.slide import slide_name

logger = logging.getLogger(__name__)

_TELL_AFTER = 60.0
"""Seconds without any worker after which the user is told what is waited for."""


@dataclass
class _Worker:
    """An actor.

    Attributes:
        actor: its handle.
        draws: whether it holds the network.
        ready: whether it is set up.
        step: what it does now; None: it is free, or being set up.
    """

    actor: Any
    draws: bool
    ready: bool = False
    step: Step | None = None


class Driver:
    """Runs a cohort over a cluster. To be used once.

    Args:
        cluster: see `RayCluster`.
        layout: actors to start.
        options: how often to try again.
        settings: what each worker needs.
        files: the slides; their paths hold on all machines.
        bars: shows how far it is.

    Attributes:
        job: what is the same for every slide, as soon as a worker holds the network.
    """

    def __init__(
        self,
        cluster: RayCluster,
        layout: Layout,
        options: ClusterOptions,
        settings: WorkerSettings,
        files: Sequence[SlideFile],
        bars: CohortProgress,
    ) -> None:
        self._cluster, self._layout, self._options, self._settings = cluster, layout, options, settings
        self._files, self._bars = files, bars
        self._schedule = Schedule([_bytes(file.path) for file in files], layout.actors, options.retries)
        self._running: dict[Any, _Worker] = {}
        self._idle: list[_Worker] = []
        self._prepared: dict[int, PreparedSlide] = {}
        self._locks: dict[int, ExitStack] = {}
        self._busy: set[int] = set()
        self._results: dict[int, CohortSlide] = {}
        self._deaths, self._refused = 0, ""
        self._exit_code = 1
        self.job: SlideJob | None = None

    def run(self) -> list[CohortSlide]:
        """Do it all; returns one result per slide, in order.

        Raises:
            Patch2TissueError: if no worker can be had that does the work.
            DataError: if that is for what the user named.
        """
        try:
            for _ in range(self._layout.actors):
                self._start(draws=True)
            waited = time.monotonic()
            while not self._schedule.over:
                self._hand_out()
                if self._schedule.over:
                    break
                if not self._running:
                    raise self._no_workers()
                for reference in self._cluster.wait(list(self._running), 1.0):
                    self._take(reference)
                    waited = time.monotonic()
                if time.monotonic() - waited > _TELL_AFTER and not any(worker.ready for worker in self._workers()):
                    self._tell_of_waiting()
                    waited = time.monotonic() + 10 * _TELL_AFTER
            return [self._results[slide] for slide in range(len(self._files))]
        finally:
            for lock in self._locks.values():
                lock.close()
            for worker in self._workers():
                self._cluster.end(worker.actor)

    def _workers(self) -> list[_Worker]:
        return [*self._running.values(), *self._idle]

    def _start(self, *, draws: bool) -> None:
        worker = _Worker(self._cluster.start(self._layout, draws=draws), draws)
        settings = self._settings if draws else replace(self._settings, job=self.job)
        self._running[self._cluster.set_up(worker.actor, settings)] = worker

    def _hand_out(self) -> None:
        """Give a step to each worker that is free."""
        helped = any(worker.ready and not worker.draws for worker in self._workers())
        for worker in list(self._idle):
            other = not worker.draws or not helped
            while (step := self._schedule.next(draws=worker.draws, other=other)) is not None:
                if step.kind is Kind.prepare and not self._lock(step):
                    continue
                worker.step = step
                self._idle.remove(worker)
                retries = self._schedule.retries_of(step.slide)
                slide = self._prepared.get(step.slide)
                reference = self._cluster.take(worker.actor, step, self._files[step.slide], slide, retries)
                self._running[reference] = worker
                break

    def _lock(self, step: Step) -> bool:
        """Hold a slide against other processes, or put it off."""
        if step.slide in self._locks:
            return True
        name = slide_name(self._files[step.slide].path)
        lock = ExitStack()
        try:
            lock.enter_context(locked(self._settings.out / "work" / name))
        except SlideBusyError as error:
            if step.slide not in self._busy:
                self._busy.add(step.slide)
                self._schedule.put_off(step)
            else:
                self._schedule.finished(step)
                self._end(step.slide, CohortSlide(SlideResult(self._files[step.slide].path, "busy", str(error))))
            return False
        self._locks[step.slide] = lock
        return True

    def _take(self, reference: Any) -> None:
        """Take what a worker answered."""
        worker = self._running.pop(reference)
        answer = self._cluster.answer(reference)
        if isinstance(answer, str):
            self._died(worker, answer)
            return
        for level, text in answer.told:
            logger.log(level, "%s", text)
        if worker.ready:
            step, worker.step = worker.step, None
            assert step is not None
            self._idle.append(worker)
            self._took(step, answer)
        else:
            self._set_up(worker, answer)

    def _set_up(self, worker: _Worker, answer: Answer) -> None:
        """Take a worker into service, or do without it."""
        refused, exit_code = answer.error, answer.exit_code
        if refused is None and self.job is not None and answer.value.settings != self.job.settings:
            refused, exit_code = _of_another_kind(answer, self.job), 2
        if refused is not None:
            logger.error("%s", refused)
            self._refused, self._exit_code = refused, exit_code
            self._cluster.end(worker.actor)  # another one would come to the same machine
            return
        first = self.job is None
        self.job = self.job or answer.value
        worker.ready, self._deaths = True, 0
        self._idle.append(worker)
        if first:
            for _ in range(self._layout.helpers):
                self._start(draws=False)

    def _died(self, worker: _Worker, why: str) -> None:
        """Replace a worker; what it did is done again."""
        if worker.step is not None:
            step = worker.step
            what = {Kind.prepare: "prepared it", Kind.draw: f"drew strip {step.strip + 1}", Kind.finish: "finished it"}
            text = f"{self._files[step.slide].path}: the worker that {what[step.kind]} came to an end: {why}."
            self._failed(step, Answer("", error=text, passing=True))
        else:
            logger.warning("A worker came to an end while it loaded the network: %s.", why)
        self._cluster.end(worker.actor)  # it may only be out of reach
        self._deaths += not worker.ready
        self._refused = f"A worker came to an end: {why}."
        if self._deaths <= self._options.retries + self._layout.actors:
            self._start(draws=worker.draws)

    def _took(self, step: Step, answer: Answer) -> None:
        """A worker has taken a step, well or not."""
        if answer.error is not None:
            self._failed(step, answer)
        elif step.kind is Kind.draw:
            self._schedule.strip_drawn(step)
        elif isinstance(answer.value, PreparedSlide):
            slide = answer.value
            self._prepared[step.slide] = slide
            missing = [number for number, drawn in enumerate(slide.drawn) if not drawn]
            self._schedule.prepared(step, missing, len(slide.strips))
        else:
            assert isinstance(answer.value, DoneSlide)
            self._schedule.finished(step)
            done = answer.value
            result = replace(done.result, slide=self._files[step.slide].path)
            self._end(step.slide, CohortSlide(result, done.record, done.earlier))
        self._bars.strips(self._schedule.drawn, self._schedule.expected_strips())

    def _failed(self, step: Step, answer: Answer) -> None:
        """A step failed: it is done again, or its slide is given up."""
        given_up = step.slide in self._results
        assert answer.error is not None
        if self._schedule.failed(step, passing=answer.passing):
            if not given_up:
                logger.warning("%s It is done again.", answer.error)
            return
        text = answer.error
        if answer.passing and step.attempt > 1:
            text += f" It was tried {step.attempt} times."
        path = self._files[step.slide].path
        if step.kind is Kind.prepare and not answer.passing and path.is_file() and "there is no such file" in text:
            text += " Where the command was given it is: put slides on a disk that all machines see under one path."
        logger.error("%s", text)
        slide = self._prepared.get(step.slide)
        if slide is not None:
            state = SlideState(slide.settings, "failed", rows=len(slide.plan.tops), error=text)
            with suppress(OSError):  # a full disk is told of as it is
                state.save(slide.folder.parent / "state.json")
        self._end(step.slide, CohortSlide(SlideResult(path, "failed", text, no_room=answer.no_room)))

    def _end(self, slide: int, outcome: CohortSlide) -> None:
        """A slide is done with."""
        self._results[slide] = outcome
        self._prepared.pop(slide, None)
        lock = self._locks.pop(slide, None)
        if lock is not None:
            lock.close()
        self._bars.slide(outcome, len(self._results))

    def _no_workers(self) -> Patch2TissueError:
        kind = DataError if self._exit_code == 2 else Patch2TissueError
        return kind(f"No worker can do the work. {self._refused}")

    def _tell_of_waiting(self) -> None:
        layout = self._layout
        gpus = f" and {layout.gpus:g} GPU" if layout.gpus else ""
        logger.warning(
            "Still waiting for a first worker, with %d CPU cores%s. `ray status` tells what the cluster is busy with.",
            layout.cpus,
            gpus,
        )


def _of_another_kind(answer: Answer, job: SlideJob) -> str:
    """What is said of a worker whose maps would not fit those of the first one."""
    theirs, first = answer.value.settings, job.settings
    other = ", ".join(key for key in first if theirs.get(key) != first[key])
    return (
        f"The worker {answer.worker} would draw other maps than the first one ({other} differ) and is left out. Is its "
        "processor or GPU of another kind? Set hardware.precision in the run's config.yaml, and see that the run "
        "folder is the same on all machines."
    )


def _bytes(path: Path) -> int:
    try:
        return max(1, path.stat().st_size)
    except OSError:
        return 1
