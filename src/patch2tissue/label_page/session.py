"""What the labelling page works on: the patches, the answers, the queue, slides for context, and suggestions."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patch2tissue.data.images import image_size, read_image
from patch2tissue.errors import ConfigError, DataError, Patch2TissueError
from patch2tissue.labelling.pool import Place, find_pool
from patch2tissue.labelling.progress import progress
from patch2tissue.labelling.queue import Asked, Queue
from patch2tissue.labelling.store import DATABASE, Answer, Flag, LabelStore
from patch2tissue.labelling.suggest import model_of
from patch2tissue.links import refuse_to_serve_links
from patch2tissue.slides.slide import Slide
from patch2tissue.tissues import TissueSet

logger = logging.getLogger(__name__)

SHOWN_AS_THEY_ARE = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
"""Formats that browsers show; others are turned into PNG."""

CONTEXT = 3.0
"""Sides of the context picture are so many times those of the patch (label.css draws the frame by it)."""

_CONTEXT_PIXELS = 768
_OPEN_SLIDES = 4
_LATEST_SUGGESTIONS = 20.0


class LabelSession:
    """One data folder being labelled. May be used by several threads.

    Args:
        folder: the data folder.
        tissues: its tissue set.
        run: run folder whose CRAANet suggests labels, None for no suggestions.
        slides: files of the slides, by file name without the extension, from which patches were cut.
        seed: of the random order.
        random_share: see `Queue`.
        follow_links: show pictures that links bring in from outside of the folder.

    Raises:
        DataError: if the folder, the database or the run cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        tissues: TissueSet,
        *,
        run: Path | None = None,
        slides: Mapping[str, Path] | None = None,
        seed: int = 0,
        random_share: float = 0.2,
        follow_links: bool = False,
    ) -> None:
        self.folder, self.tissues = Path(folder), tissues
        self.patches = find_pool(self.folder)
        self._follow_links = follow_links
        self._refuse_links([self.folder / patch.path for patch in self.patches])
        self._indices = {patch.path: index for index, patch in enumerate(self.patches)}
        self._queue = Queue([patch.path for patch in self.patches], seed=seed, random_share=random_share)
        self._slides = {Path(name).stem: Path(path) for name, path in (slides or {}).items()}
        self._open_slides: OrderedDict[Path, Slide] = OrderedDict()
        self._slide_lock = threading.Lock()
        self._pool_lock = threading.Lock()
        self._run = run
        self._model = None if run is None else model_of(run)
        self.store = LabelStore(self.folder / DATABASE, tissues)
        self._known = 0
        self._closing = threading.Event()
        self._suggesting: subprocess.Popen[bytes] | None = None
        if self._model is not None:
            self._take_suggestions()
            threading.Thread(target=self._suggest, name="suggestions", daemon=True).start()

    def _refuse_links(self, files: Sequence[Path]) -> None:
        if not self._follow_links:
            refuse_to_serve_links(files, self.folder)

    def describe(self) -> dict[str, Any]:
        """What the page needs to know at first."""
        return {
            "id": self.store.id,
            "folder": self.folder.resolve().name,
            "tissues": [asdict(tissue) for tissue in self.tissues.tissues],
            "patches": len(self.patches),
            "annotators": self.store.annotators(),
            "um_per_pixel": self.tissues.um_per_pixel,
            "with_model": self._model is not None,
        }

    def next(self, annotator: str, count: int, waiting: Sequence[int]) -> list[dict[str, Any]]:
        """The next patches for an annotator; `waiting` are indices of those that the page has already."""
        paths = [self.patches[index].path for index in waiting if 0 <= index < len(self.patches)]
        flags = self._flags(annotator)
        asked = self._queue.next(count, self.store.answered(annotator), paths, list(flags))
        before = {answer.patch: answer.labels for answer in self.store.answers(annotator)} if flags else {}
        return [self._shown(one, before.get(one.patch), flags.get(one.patch)) for one in asked]

    def _flags(self, annotator: str) -> dict[str, Flag]:
        """Flags that the annotator is to answer, by patch; patches that were cut for them are taken in."""
        flags = {flag.patch: flag for flag in self.store.flags(annotator)}
        if any(patch not in self._indices for patch in flags):
            with self._pool_lock:
                for patch in find_pool(self.folder):
                    if patch.path not in self._indices:
                        # appended: the page knows patches by number
                        self.patches.append(patch)
                        self._indices[patch.path] = len(self.patches) - 1
        return {patch: flag for patch, flag in flags.items() if patch in self._indices}

    def _shown(self, asked: Asked, labels: Sequence[int] | None = None, flag: Flag | None = None) -> dict[str, Any]:
        patch = self.patches[self._indices[asked.patch]]
        if labels is None:
            labels = [int(p >= 0.5) for p in asked.suggested or [0.0] * len(self.tissues)]
        return {
            "index": self._indices[asked.patch],
            # not the label that a file name may carry: it would be copied, not judged
            "name": patch.name,
            "chosen": asked.chosen,
            "flag": None if flag is None else [flag.x, flag.y],
            "suggested": None if asked.suggested is None else list(asked.suggested),
            "labels": list(labels),
            "context": patch.place is not None and self._slide_file(patch.place) is not None,
        }

    def answer(self, plain: Mapping[str, Any]) -> bool:
        """Keep an answer as the page sends it; return whether it was new.

        Raises:
            ConfigError: if it is none.
        """
        try:
            index = plain["patch"]
            if type(index) is not int or not 0 <= index < len(self.patches):
                raise ConfigError(f"There is no patch {index}.")
            if plain.get("chosen") == "import":
                raise ConfigError("What is answered on the page was not imported.")
            labels, suggested, seconds = plain.get("labels"), plain.get("suggested"), plain.get("seconds")
            answer = Answer(
                key=str(plain["key"]),
                patch=self.patches[index].path,
                annotator=str(plain["annotator"]),
                kind=plain["kind"],
                labels=None if labels is None else tuple(int(label) for label in labels),
                seconds=None if seconds is None else max(0.0, float(seconds)),
                chosen=plain.get("chosen", "order"),
                suggested=None if suggested is None else tuple(float(p) for p in suggested),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"This is no answer ({type(error).__name__}: {error}).") from None
        return self.store.add([answer]) == 1

    def undo(self, annotator: str) -> dict[str, Any] | None:
        """Take back the annotator's last answer; return the patch with the labels it had, None if there is none."""
        answer = self.store.undo(annotator)
        if answer is None or answer.patch not in self._indices:
            return None
        labels = answer.labels or (0,) * len(self.tissues)
        flag = self._flags(annotator).get(answer.patch)
        return self._shown(Asked(answer.patch, answer.chosen, answer.suggested), labels, flag)

    def progress(self, annotator: str | None) -> dict[str, Any]:
        """See `labelling.progress.progress`, of the patches that are there, with `suggested`: patches with one."""
        answers = [answer for answer in self.store.answers() if answer.patch in self._indices]
        found = progress(answers, len(self.patches), self.tissues, annotator)
        return found | {"suggested": self._known if self._model is not None else None}

    def picture(self, index: int) -> tuple[bytes, str]:
        """A patch's file as browsers show it, and its media type.

        Raises:
            IndexError: if there is no such patch.
            DataError: if it is no image.
        """
        if index < 0:
            raise IndexError(index)
        path = self.folder / self.patches[index].path
        self._refuse_links([path])
        kind = SHOWN_AS_THEY_ARE.get(path.suffix.lower())
        if kind is None:
            return _encoded(read_image(path), "PNG"), "image/png"
        image_size(path)  # what is no picture, or fills a browser's memory, is not sent
        try:
            return path.read_bytes(), kind
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None

    def context(self, index: int) -> bytes:
        """The neighbourhood of a patch on its slide as JPEG: `CONTEXT` times its sides, the patch in the middle.

        Raises:
            IndexError: if there is no such patch, or its slide is not known.
            DataError: if the slide cannot be read.
        """
        place = self.patches[index].place if index >= 0 else None
        file = None if place is None else self._slide_file(place)
        if place is None or file is None:
            raise IndexError(index)
        with self._slide_lock:
            slide = self._opened(file)
            width, height = place.width * CONTEXT, place.height * CONTEXT
            # places are in the file's own pixels, slides count from the corner of the scanned area
            left = place.x - slide.origin[0] + (place.width - width) / 2
            top = place.y - slide.origin[1] + (place.height - height) / 2
            finest = max(1.0, max(width, height) / _CONTEXT_PIXELS)
            level = slide.level_for(finest)
            factor = slide.downsamples[level]
            region = (round(left / factor), round(top / factor), round(width / factor), round(height / factor))
            pixels = slide.read(level, *region)
        picture = Image.fromarray(pixels)
        picture.thumbnail((_CONTEXT_PIXELS, _CONTEXT_PIXELS), Image.Resampling.BILINEAR)
        return _encoded(np.asarray(picture), "JPEG")

    def _slide_file(self, place: Place) -> Path | None:
        return self._slides.get(Path(place.slide).stem)

    def _opened(self, file: Path) -> Slide:
        """A slide, kept open; the one that was not used for longest is closed."""
        from patch2tissue.slides.opening import open_slide

        if file not in self._open_slides:
            self._open_slides[file] = open_slide(file, needs_resolution=False)
            if len(self._open_slides) > _OPEN_SLIDES:
                self._open_slides.popitem(last=False)[1].close()
        self._open_slides.move_to_end(file)
        return self._open_slides[file]

    def _take_suggestions(self) -> None:
        assert self._model is not None
        found = self.store.suggestions(self._model)
        if len(found) != self._known:
            self._known = len(found)
            self._queue.suggest(found)

    def _suggest(self) -> None:
        """Have patches classified by another process, and take what it has found from time to time."""
        command = [sys.executable, "-m", "patch2tissue.labelling.suggest", str(self._run), str(self.folder)]
        # a file: a pipe that nobody reads yet would stop a process that says much
        with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
            self._suggesting = subprocess.Popen(command, stderr=errors)
            wait, ended = 1.0, False
            try:
                while not ended and not self._closing.wait(wait):
                    ended = self._suggesting.poll() is not None
                    self._take_suggestions()
                    # soon at first, since somebody waits for the first ones
                    wait = min(2 * wait, _LATEST_SUGGESTIONS)
            except (Patch2TissueError, ValueError, OSError) as error:
                logger.warning("Suggestions stopped: %s", error)
            if not self._closing.is_set() and self._suggesting.returncode:
                errors.seek(0)
                logger.warning("No suggestions: %s", errors.read().strip() or "the process failed.")

    def close(self) -> None:
        """Stop suggesting and close what is open."""
        self._closing.set()
        if self._suggesting is not None:
            self._suggesting.kill()
            self._suggesting.wait()
        with self._slide_lock:
            for slide in self._open_slides.values():
                slide.close()
            self._open_slides.clear()
        self.store.close()


def _encoded(pixels: np.ndarray, form: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format=form)
    return content.getvalue()
