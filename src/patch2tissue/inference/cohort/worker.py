"""What an actor does: it holds the network and takes one step after the other. Runs as well without Ray."""

from __future__ import annotations

import errno
import logging
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patch2tissue import __version__
from patch2tissue.atomic import write_text
from patch2tissue.errors import ConfigError, DataError, Patch2TissueError
from patch2tissue.inference.cohort.schedule import Kind, Step
from patch2tissue.inference.cohort.work import PreparedSlide, draw, finish, prepare, this_worker
from patch2tissue.inference.predictor import Predictor
from patch2tissue.inference.slides.job import SlideJob, SlideOptions
from patch2tissue.inference.slides.steps import failure_of
from patch2tissue.run_folder import RunFolder
from patch2tissue.slides.opening import SlideFile
from patch2tissue.slides.slide import slide_name

_LASTING = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EROFS, errno.ENAMETOOLONG)


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs to begin.

    Attributes:
        run: run folder.
        out: folder for the results.
        token: a file in it that the driver wrote, to tell whether it is the same folder.
        options: see `SlideOptions`.
        network: which network of the run.
        choices: `symmetries`, `gate`, `device`, `engine`, as `Predictor.from_run` takes them.
        threads: CPU threads to compute with, at most.
        readers: processes that read ahead.
        strip_tiles: see `split`.
        version: the driver's version of patch2tissue.
        job: made by the first worker, for those that do not draw: they need no network.
    """

    run: Path
    out: Path
    token: Path
    options: SlideOptions
    network: str
    choices: dict[str, Any]
    threads: int
    readers: int
    strip_tiles: int
    version: str = __version__
    job: SlideJob | None = None


@dataclass
class Answer:
    """What became of a step.

    Attributes:
        worker: who took it, as `machine:process`.
        value: what it gave.
        error: what is wrong; None if nothing is.
        passing: whether that is no fault of the slide.
        no_room: whether it is for want of room on the disk.
        exit_code: of the error.
        told: levels and texts of messages for the user.
    """

    worker: str
    value: Any = None
    error: str | None = None
    passing: bool = False
    no_room: bool = False
    exit_code: int = 1
    told: list[tuple[int, str]] = field(default_factory=list)


class CohortWorker:
    """Prepares, draws and finishes slides. Every method gives an `Answer` and raises nothing."""

    def __init__(self) -> None:
        self._settings: WorkerSettings | None = None
        self._predictor: Predictor | None = None
        self._job: SlideJob | None = None

    def set_up(self, settings: WorkerSettings) -> Answer:
        """Load the network, or check that this machine can do without; the answer's value is a `SlideJob`."""
        with _told() as told:
            try:
                return Answer(this_worker(), self._set_up(settings), told=told)
            except Patch2TissueError as error:
                text = f"{error} (said by the machine {socket.gethostname()})"
                return Answer(this_worker(), error=text, exit_code=error.exit_code, told=told)
            except Exception as error:  # for want of memory on its GPU, say
                text = f"{socket.gethostname()}: a worker cannot begin ({type(error).__name__}: {error})."
                return Answer(this_worker(), error=text, told=told)

    def _set_up(self, settings: WorkerSettings) -> SlideJob:
        if settings.version != __version__:
            raise ConfigError(
                f"patch2tissue is version {__version__} here, but {settings.version} where the command was given. "
                "Install the same one on all machines."
            )
        for folder, what in ((settings.run, "run folder"), (settings.token, "folder of results")):
            if not folder.exists():
                shown = settings.out if folder == settings.token else folder
                raise DataError(
                    f"{shown}: this {what} is not to be seen here. Put it on a disk that all machines of the cluster "
                    "see under the same path."
                )
        self._settings = settings
        if settings.job is not None:
            self._job = settings.job
            return self._job
        import torch

        run = RunFolder(settings.run)
        predictor = Predictor.from_run(run, network=settings.network, **settings.choices)
        torch.set_num_threads(max(1, min(settings.threads, torch.get_num_threads())))
        job = SlideJob.of(run, predictor, settings.out, settings.options, network=settings.network)
        self._predictor, self._job = predictor, job
        return job

    def take(self, step: Step, file: SlideFile, slide: PreparedSlide | None, retries: int = 0) -> Answer:
        """Take a step.

        Args:
            step: which.
            file: the slide.
            slide: the same, prepared; None where it is to be.
            retries: see `finish`.
        """
        assert self._job is not None and self._settings is not None
        job, settings = self._job, self._settings

        def work() -> object:
            if step.kind is Kind.prepare:
                return prepare(job, file, settings.strip_tiles)
            assert slide is not None
            if step.kind is Kind.finish:
                return finish(job, file, slide, retries=retries)
            assert self._predictor is not None
            draw(job, self._predictor, file, slide, step.strip, attempts=step.attempt, readers=settings.readers)
            return None

        with _told() as told:
            return _answered(work, file, job.out, told)


def _answered(work: Callable[[], object], file: SlideFile, out: Path, told: list[tuple[int, str]]) -> Answer:
    """Do it; what goes wrong becomes the answer."""
    worker = this_worker()
    try:
        return Answer(worker, work(), told=told)
    except Exception as error:
        failed = failure_of(error, file.path, out)
        if failed is not None:
            # a common disk that is away for a moment comes back
            passing = isinstance(error, OSError) and error.errno not in _LASTING and not failed.no_room
            return Answer(worker, error=failed.error, passing=passing, no_room=failed.no_room, exit_code=2, told=told)
        if isinstance(error, Patch2TissueError):
            return Answer(worker, error=f"{file.path}: {error}", passing=True, told=told)
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            text = (
                f"{file.path}: out of memory on {worker}. Give the actors more, or set a smaller inference.batch_size."
            )
            return Answer(worker, error=text, passing=True, told=told)
        return Answer(worker, error=_bug(error, file, out), passing=True, told=told)


def _bug(error: Exception, file: SlideFile, out: Path) -> str:
    """What is said of an error of ours; where it happened is kept in a file."""
    kept = out / "work" / slide_name(file.path) / "error.txt"
    try:
        write_text(kept, "".join(traceback.format_exception(error)))
    except OSError:
        traceback.print_exception(error, file=sys.stderr)
    return (
        f"{file.path}: this is a bug in patch2tissue ({type(error).__name__}: {error}). Report what {kept} says, "
        "together with the output of `patch2tissue doctor --json`."
    )


@contextmanager
def _told() -> Iterator[list[tuple[int, str]]]:
    """Collect warnings and errors that are logged, for the driver to show."""
    collected: list[tuple[int, str]] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            collected.append((record.levelno, record.getMessage()))

    handler = Collector(logging.WARNING)
    ours = logging.getLogger("patch2tissue")
    ours.addHandler(handler)
    try:
        yield collected
    finally:
        ours.removeHandler(handler)
