"""Draw planned patches into files, on as many processes as there are cores.

The processes are started as programs of their own that read their tasks from standard input, not through
`multiprocessing`: that would run the caller's script again in each of them, which a script without
`if __name__ == "__main__"` does not survive, or would fork a process that has threads, which can hang.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import numpy as np
from PIL import Image

from patch2tissue.cores import available_cores
from patch2tissue.data.images import write_mask
from patch2tissue.data.synthetic.patches import render_patch
from patch2tissue.data.synthetic.plan import Task
from patch2tissue.data.synthetic.slides import Slide
from patch2tissue.errors import Patch2TissueError
from patch2tissue.tissues import BUILT_IN

TISSUE_SET = "bcss-wsss"
_PROCESSES_FROM = 64  # patches; below that, starting processes costs more than it saves
_WORKER = "from patch2tissue.data.synthetic.drawing import work; work()"


def draw_all(tasks: Sequence[Task], folder: Path, workers: int | None = None) -> Iterator[int]:
    """Draw and write all patches; yield the number done after each.

    Args:
        tasks: what to draw.
        folder: the data set's folder.
        workers: processes; None: one per core if there are enough patches.

    Raises:
        Patch2TissueError: if a process failed.
    """
    for split in {task.split for task in tasks}:
        for part in _folders(folder, split):
            part.mkdir(parents=True, exist_ok=True)
    if workers is None:
        workers = available_cores() if len(tasks) > _PROCESSES_FROM else 1
    if workers > 1:
        yield from _draw_in_processes(tasks, folder, min(workers, len(tasks)))
        return
    for done, task in enumerate(tasks, 1):
        draw_task(task, folder)
        yield done


def draw_task(task: Task, folder: Path) -> None:
    """Draw one patch and write image and mask; the label in the name is what the mask holds."""
    slide = _slide(task.split, task.slide, task.difficulty, task.seed)
    image, mask = render_patch(task.patch_seed(), task.size, task.composition, task.difficulty, slide)
    tissues = BUILT_IN[TISSUE_SET]
    label = "".join(str(int(count > 0)) for count in np.bincount(mask.ravel(), minlength=len(tissues)))
    images, masks = _folders(folder, task.split)
    name = f"{task.stem}[{label}].png"
    Image.fromarray(image).save(images / name, format="PNG", compress_level=4)
    write_mask(masks / name, mask, tissues)


def work() -> None:
    """Be a worker: read tasks as JSON from standard input and write a line for each patch that is done."""
    order = json.load(sys.stdin)
    for plain in order["tasks"]:
        draw_task(Task(**plain | {"composition": tuple(plain["composition"])}), Path(order["folder"]))
        print("done", flush=True)


def _draw_in_processes(tasks: Sequence[Task], folder: Path, workers: int) -> Iterator[int]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        for _ in range(workers)
    ]
    lines: SimpleQueue[str | None] = SimpleQueue()  # a line per patch, None when a process has ended
    messages: list[str] = []

    def follow(process: subprocess.Popen[str], share: Sequence[Task]) -> None:
        assert process.stdin and process.stdout and process.stderr
        try:
            with process.stdin as stdin:
                json.dump({"folder": str(folder.resolve()), "tasks": [asdict(task) for task in share]}, stdin)
            for line in process.stdout:
                lines.put(line)
            messages.append(process.stderr.read())
        except OSError:  # it ended early
            messages.append(process.stderr.read())
        finally:
            lines.put(None)

    try:
        for number, process in enumerate(processes):
            Thread(target=follow, args=(process, tasks[number::workers]), daemon=True).start()
        done, ended = 0, 0
        while ended < workers:
            if lines.get() is None:
                ended += 1
            else:
                done += 1
                yield done
        if done < len(tasks):
            # of a traceback the last line, which tells what happened
            last = next((text.strip().splitlines()[-1] for text in messages if text.strip()), "")
            said = last[-300:].rstrip(".") or "it was killed, perhaps for want of memory"
            raise Patch2TissueError(
                f"{folder.parent}: a process that draws patches into it stopped: {said}. Give the same command again."
            )
    finally:
        for process in processes:
            process.kill()
            process.wait()


@lru_cache(maxsize=256)
def _slide(split: str, number: int, difficulty: str, seed: int) -> Slide:
    return Task(split, 0, "", (), number, difficulty, 0, seed).make_slide()


def _folders(folder: Path, split: str) -> tuple[Path, Path]:
    """Folders of a split's images and masks."""
    if split == "train":
        return folder / "train", folder / "train" / "mask"
    return folder / split / "img", folder / split / "mask"
