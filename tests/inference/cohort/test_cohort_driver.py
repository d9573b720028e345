"""Cohorts with workers of this process in the place of Ray's: what is written, who is replaced, what is told."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from tests.inference.slides.test_predict_slides import tissue_picture
from tests.inference.tiny_run import write_colour_run
from tests.slides.pictures import write_tiled

import patch2tissue.inference.cohort.predict as cohort_module
from patch2tissue.errors import ConfigError, DataError, Patch2TissueError
from patch2tissue.inference.cohort import strips as strips_module
from patch2tissue.inference.cohort import work as work_module
from patch2tissue.inference.cohort.predict import predict_cohort
from patch2tissue.inference.cohort.progress import CohortProgress
from patch2tissue.inference.cohort.ray_cluster import ClusterOptions, Layout
from patch2tissue.inference.cohort.schedule import Kind, Step
from patch2tissue.inference.cohort.summary import CohortSlide, cohort_table
from patch2tissue.inference.cohort.worker import Answer, CohortWorker, WorkerSettings
from patch2tissue.inference.slides.predict import SlideOptions, predict_slides
from patch2tissue.inference.slides.result import SlideResult

OPTIONS = SlideOptions(tissue="everywhere", workers=0)
ONE = ClusterOptions(actors=1, cpus=1)

Fault = Callable[[str, Step | None], str | None]
"""Given a worker's name and its step, or None when it is set up: why the worker dies, None if it lives."""


class Actor:
    def __init__(self, name: str, draws: bool) -> None:
        self.name, self.worker, self.draws, self.dead = name, CohortWorker(), draws, False


class FakeCluster:
    """Does at once what it is asked for; tells of it in order."""

    def __init__(self, fault: Fault = lambda name, step: None, gpus: float = 0.0) -> None:
        self.fault, self.gpus = fault, gpus
        self.actors: list[Actor] = []
        self.steps: list[tuple[str, Step]] = []
        self.answers: dict[str, Answer | str] = {}

    def machines(self) -> list[dict[str, float]]:
        return [{"CPU": 8.0, "GPU": self.gpus}]

    def start(self, layout: Layout, *, draws: bool) -> Actor:
        self.actors.append(Actor(f"actor-{len(self.actors)}", draws))
        return self.actors[-1]

    def _reference(self, actor: Actor, step: Step | None, work: Callable[[], Answer]) -> str:
        reference = f"{actor.name}:{len(self.answers)}"
        why = "it was ended before" if actor.dead else self.fault(actor.name, step)
        actor.dead = actor.dead or why is not None
        self.answers[reference] = why if why is not None else work()
        return reference

    def set_up(self, actor: Actor, settings: WorkerSettings) -> str:
        return self._reference(actor, None, lambda: actor.worker.set_up(settings))

    def take(self, actor: Actor, step: Step, *what: Any) -> str:
        self.steps.append((actor.name, step))
        return self._reference(actor, step, lambda: actor.worker.take(step, *what))

    def wait(self, running: Sequence[str], seconds: float) -> list[str]:
        return list(running[:1])

    def answer(self, reference: str) -> Answer | str:
        return self.answers[reference]

    def end(self, actor: Actor) -> None:
        actor.dead = True


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose network goes by colour."""
    folder = write_colour_run(tmp_path / "run", monkeypatch)
    # small strips on small slides
    original = strips_module.split
    monkeypatch.setattr(work_module, "split", lambda plan, tiles: original(plan, tiles, least_rows=1))
    return folder


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    for seed, (name, height) in enumerate([("huge", 300), ("a", 80), ("b", 90)]):
        image, _ = tissue_picture(height, 150, seed)
        write_tiled(folder / f"{name}.tif", image, (0.25, 0.25))
    return folder


@pytest.fixture
def cohort(run: Path, slides: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[CohortSlide]]:
    """Predict over a cluster that is none."""

    def predict(ray: FakeCluster, out: Path, **settings: Any) -> list[CohortSlide]:
        @contextmanager
        def opened(options: ClusterOptions) -> Iterator[FakeCluster]:
            yield ray

        monkeypatch.setattr(cohort_module, "opened", opened)
        settings = {"options": OPTIONS, "cluster": replace(ONE, strip_tiles=6), "progress": False} | settings
        return predict_cohort(settings.pop("run", run), settings.pop("slides", [slides]), out, **settings)

    return predict


def copy_of(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place))


def files_of(out: Path) -> dict[str, bytes]:
    names = ("summary.md", "cohort.csv")
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name not in names}


def test_strips_end_in_the_files_of_one_process(
    run: Path, slides: Path, cohort: Callable[..., list[CohortSlide]], tmp_path: Path
) -> None:
    predict_slides(run, [slides], tmp_path / "local", options=OPTIONS, progress=False)
    cluster, out = FakeCluster(), tmp_path / "out"
    found = cohort(cluster, out)
    assert [slide.result.slide.name for slide in found] == ["a.tif", "b.tif", "huge.tif"]
    assert files_of(out) == files_of(tmp_path / "local")
    huge = found[-1]
    assert huge.record is not None and huge.record.strips == 3 and huge.record.retries == 0 and not huge.earlier
    assert sum(step.kind is Kind.draw and step.slide == 2 for _, step in cluster.steps) == 3
    assert all(actor.dead for actor in cluster.actors)
    left = sorted(path.name for path in (out / "work" / "huge").iterdir())
    assert left == ["cohort.json", "finishing-lock", "lock", "state.json"] and not list((out / "work").glob(".*"))
    # for the viewer and others a map is a map
    state = json.loads((out / "work" / "huge" / "state.json").read_text())
    assert state["status"] == "done"
    assert predict_slides(run, [slides], out, options=OPTIONS, progress=False)[2].seconds == huge.result.seconds
    # and what one process did is not done again
    cluster = FakeCluster()
    again = cohort(cluster, tmp_path / "local")
    assert all(slide.earlier and slide.record is None for slide in again)
    assert {step.kind for _, step in cluster.steps} == {Kind.prepare}


def test_workers_that_die_are_replaced_and_their_work_is_done_again(
    run: Path, slides: Path, cohort: Callable[..., list[CohortSlide]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predict_slides(run, [slides], tmp_path / "local", options=OPTIONS, progress=False)
    dying = {(Kind.prepare, 0), (Kind.draw, 2), (Kind.finish, 2)}

    def fault(name: str, step: Step | None) -> str | None:
        if step is None and name == "actor-0":
            return "the lights went out"
        if step is not None and (step.kind, step.slide) in dying:
            dying.remove((step.kind, step.slide))
            return "its machine was lost"
        return None

    cluster = FakeCluster(fault)
    found = cohort(cluster, tmp_path / "out")
    assert not dying and len(cluster.actors) == 5
    assert files_of(tmp_path / "out") == files_of(tmp_path / "local")
    rows = list(csv.DictReader((tmp_path / "out" / "cohort.csv").open(encoding="utf-8")))
    assert [row["retries"] for row in rows] == ["1", "0", "2"] and {row["state"] for row in rows} == {"done"}
    assert "the worker that finished it came to an end: its machine was lost. It is done again." in caplog.text
    assert "while it loaded the network: the lights went out" in caplog.text
    assert [slide.record.retries for slide in found if slide.record] == [1, 0, 2]


def test_a_slide_that_ends_its_workers_is_given_up(cohort: Callable[..., list[CohortSlide]], tmp_path: Path) -> None:
    def fault(name: str, step: Step | None) -> str | None:
        return "out of memory" if step is not None and step.kind is Kind.draw and step.slide == 2 else None

    found = cohort(FakeCluster(fault), tmp_path / "out", cluster=replace(ONE, retries=2, strip_tiles=6))
    assert [slide.result.status for slide in found] == ["done", "done", "failed"]
    assert "drew strip 1 came to an end: out of memory. It was tried 3 times." in (found[2].result.error or "")
    state = json.loads((tmp_path / "out" / "work" / "huge" / "state.json").read_text())
    assert state["status"] == "failed" and "out of memory" in state["error"]


def test_workers_that_cannot_begin_end_the_work_with_their_reason(
    run: Path, cohort: Callable[..., list[CohortSlide]], tmp_path: Path
) -> None:
    cluster = FakeCluster(lambda name, step: "no memory" if step is None else None)
    with pytest.raises(Patch2TissueError, match=r"No worker can do the work\. .*no memory") as raised:
        cohort(cluster, tmp_path / "out")
    assert raised.value.exit_code == 1 and len(cluster.actors) < 10
    (run / "pfscnet" / "network.json").unlink()
    with pytest.raises(DataError, match="holds no trained network"):
        cohort(FakeCluster(), tmp_path / "out")
    assert not list((tmp_path / "out" / "work").iterdir())


def test_a_driver_that_ends_leaves_strips_to_the_next_one(
    run: Path, slides: Path, cohort: Callable[..., list[CohortSlide]], tmp_path: Path
) -> None:
    predict_slides(run, [slides], tmp_path / "local", options=OPTIONS, progress=False)
    out, drawn = tmp_path / "out", 0

    def fault(name: str, step: Step | None) -> str | None:
        nonlocal drawn
        drawn += step is not None and step.kind is Kind.draw
        if drawn == 3:
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        cohort(FakeCluster(fault), out)
    kept = list(out.glob("work/huge/strips-*/0*/strip.json"))
    assert len(kept) == 2
    # one process does not need them, and takes them away when it is through
    predict_slides(run, [slides / "huge.tif"], copy_of(out, tmp_path / "copy"), options=OPTIONS, progress=False)
    assert not list(tmp_path.glob("copy/work/huge/strips-*"))
    cluster = FakeCluster()
    found = cohort(cluster, out)
    assert files_of(out) == files_of(tmp_path / "local") and found[2].record is not None
    assert sum(step.kind is Kind.draw and step.slide == 2 for _, step in cluster.steps) == 1


def test_strips_of_other_settings_are_not_taken(
    run: Path, slides: Path, cohort: Callable[..., list[CohortSlide]], tmp_path: Path
) -> None:
    def fault(name: str, step: Step | None) -> str | None:
        if step is not None and step.kind is Kind.finish:
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        cohort(FakeCluster(fault), tmp_path / "out", slides=[slides / "huge.tif"])
    (run / "pfscnet" / "weights.safetensors").write_bytes(b"other weights")
    cluster = FakeCluster()
    cohort(cluster, tmp_path / "out", slides=[slides / "huge.tif"])
    assert sum(step.kind is Kind.draw for _, step in cluster.steps) == 3


def test_slides_of_another_process_and_bad_slides(
    cohort: Callable[..., list[CohortSlide]], slides: Path, tmp_path: Path
) -> None:
    (slides / "bad.svs").write_bytes(b"no slide")
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    content = write_tiled(slides / "torn.tif", noise, (0.25, 0.25)).read_bytes()
    (slides / "torn.tif").write_bytes(content[: len(content) // 2])
    out = tmp_path / "out"
    (out / "work" / "a").mkdir(parents=True)
    with FileLock(out / "work" / "a" / "lock"):
        found = {slide.result.slide.stem: slide.result for slide in cohort(FakeCluster(), out)}
    states = {name: result.status for name, result in found.items()}
    assert states == {"a": "busy", "b": "done", "bad": "failed", "huge": "done", "torn": "failed"}
    assert str(slides / "torn.tif") in (found["torn"].error or "")
    summary = (out / "summary.md").read_text(encoding="utf-8")
    assert found["bad"].error in summary and "| a.tif | busy |" in summary
    assert [slide.result.status for slide in cohort(FakeCluster(), out, slides=[slides / "a.tif"])] == ["done"]


def test_gpus_draw_and_helpers_do_the_rest(cohort: Callable[..., list[CohortSlide]], tmp_path: Path) -> None:
    cluster = FakeCluster(gpus=2.0)
    found = cohort(cluster, tmp_path / "out", cluster=ClusterOptions(strip_tiles=6))
    assert [slide.result.status for slide in found] == ["done"] * 3
    draws = {actor.name: actor.draws for actor in cluster.actors}
    assert list(draws.values()) == [True, True, False, False]
    assert all(draws[name] for name, step in cluster.steps if step.kind is Kind.draw)
    assert not any(draws[name] for name, step in cluster.steps if step.kind is Kind.finish)


def test_a_bug_costs_its_slide_and_is_kept_in_a_file(
    cohort: Callable[..., list[CohortSlide]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = work_module.finish_slide

    def broken(job: Any, path: Path, *arguments: Any) -> Any:
        if path.stem == "b":
            raise IndexError("list index out of range")
        return original(job, path, *arguments)

    monkeypatch.setattr(work_module, "finish_slide", broken)
    found = cohort(FakeCluster(), tmp_path / "out")
    assert [slide.result.status for slide in found] == ["done", "failed", "done"]
    error = found[1].result.error or ""
    kept = tmp_path / "out" / "work" / "b" / "error.txt"
    assert "IndexError" in error and str(kept) in error and "in broken" in kept.read_text()


def worker_settings(run: Path, out: Path) -> WorkerSettings:
    out.mkdir(exist_ok=True)
    choices = {"symmetries": None, "gate": None, "device": None, "engine": None}
    return WorkerSettings(run, out, out, OPTIONS, "full_method", choices, 1, 0, 512)


def test_what_a_machine_does_not_see_is_named(run: Path, tmp_path: Path) -> None:
    settings = worker_settings(run, tmp_path / "out")
    assert CohortWorker().set_up(settings).error is None
    for change, words in (
        ({"run": tmp_path / "elsewhere"}, "this run folder is not to be seen here"),
        ({"token": tmp_path / "out" / "token"}, "this folder of results is not to be seen here"),
        ({"version": "0.0.1"}, "Install the same one on all machines"),
    ):
        answer = CohortWorker().set_up(replace(settings, **change))
        assert answer.error is not None and words in answer.error and answer.exit_code == 2


def test_machines_that_would_draw_other_maps_are_left_out(
    cohort: Callable[..., list[CohortSlide]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Mixed(FakeCluster):
        def answer(self, reference: str) -> Answer | str:
            answer = super().answer(reference)
            if reference.startswith("actor-1:"):
                assert isinstance(answer, Answer)
                answer.value = replace(answer.value, settings=answer.value.settings | {"precision": "torch.bfloat16"})
            return answer

    cluster = Mixed()
    found = cohort(cluster, tmp_path / "out", cluster=replace(ONE, actors=2))
    assert [slide.result.status for slide in found] == ["done"] * 3
    assert "(precision differ) and is left out" in caplog.text
    assert {name for name, _ in cluster.steps} == {"actor-0"} and len(cluster.actors) == 2


def test_progress_without_a_terminal_is_a_line_for_each_slide(
    cohort: Callable[..., list[CohortSlide]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort(FakeCluster(), tmp_path / "out", progress=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if "/3)" in line]
    assert sorted(line.split(" (")[0] for line in lines) == ["a", "b", "huge"]
    assert [line.split("(")[1].split(")")[0] for line in lines] == ["1/3", "2/3", "3/3"]
    assert all("done, " in line and "tiles" in line for line in lines)


def test_bar_shows_strips_and_how_many_there_may_be() -> None:
    with CohortProgress(7, shown=False) as bars:
        bars.strips(3, 40)
        (task,) = bars.bars.tasks
        assert (task.completed, task.total, task.description) == (3, 40, "0/7 slides")
        bars.strips(9, 8)  # fewer were expected than are drawn
        bars.slide(CohortSlide(SlideResult(Path("a.svs"), "done", tiles=5)), 4)
        assert (task.completed, task.total, task.description) == (9, 9, "4/7 slides")


def test_table_of_many_slides_is_short(cohort: Callable[..., list[CohortSlide]], tmp_path: Path) -> None:
    found = cohort(FakeCluster(), tmp_path / "out")
    assert cohort_table(found).row_count == 3
    assert cohort_table(found * 100, most=40).row_count == 40
    assert "40 slowest of 300" in str(cohort_table(found * 100, most=40).title)


@pytest.mark.parametrize(
    "options",
    [
        ClusterOptions(actors=0),
        ClusterOptions(cpus=0),
        ClusterOptions(gpus=-1),
        ClusterOptions(gpus=1.5),
        ClusterOptions(retries=-1),
        ClusterOptions(strip_tiles=0),
        ClusterOptions(address="ray://head:10001"),
    ],
)
def test_options_that_make_no_sense(options: ClusterOptions) -> None:
    with pytest.raises(ConfigError):
        options.check()
