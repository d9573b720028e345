"""A process that reads regions of a slide for another one.

    python -m patch2tissue.slides.reading_process

It is started rather than forked: a fork of a process that has threads may hang, and it takes along hundreds of MiB of
a deep learning library that it never needs. What is imported here is what slides need.

It talks over its standard input and output. The first line it gets is JSON with `slide`, `slide_um_per_pixel` and
`um_per_pixel`, each later one JSON with the region `[left, top, width, height]`. It answers each with a line of JSON:
`{"shape": [h, w, 3]}`, followed by that many bytes, or `{"error": text}`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

import numpy as np

from patch2tissue.errors import DataError, Patch2TissueError
from patch2tissue.slides.opening import open_slide
from patch2tissue.slides.scaled import ScaledSlide

_PACKAGES = Path(__file__).resolve().parents[2]
"""The folder that holds the package, from which the process imports it, too."""


class ReadingProcess:
    """Reads regions of a slide in a process of its own. To be used by one thread at a time.

    Args:
        slide: the file.
        slide_um_per_pixel: µm per pixel of its full size if it is given, else None.
        um_per_pixel: resolution to read at.
    """

    def __init__(self, slide: Path, slide_um_per_pixel: float | None, um_per_pixel: float) -> None:
        self._slide = slide
        paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            # not the working directory, whose modules may be named like ours
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, cast(BufferedReader, self._process.stdout)
        first = {
            "slide": str(slide),
            "slide_um_per_pixel": slide_um_per_pixel,
            "um_per_pixel": um_per_pixel,
        }
        self._send(first)

    def read(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """See `ScaledSlide.read`.

        Raises:
            DataError: if the slide cannot be opened or is damaged there.
            Patch2TissueError: if the process came to an end, for want of memory, say.
        """
        self._send([left, top, width, height])
        line = self._from.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise DataError(answer["error"])
        pixels = np.empty(answer["shape"], np.uint8)
        if self._from.readinto(pixels.reshape(-1).data) != pixels.nbytes:
            raise self._ended()
        return pixels

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._from.close()
        with suppress(BrokenPipeError):  # what was still to be sent is not wanted any more
            self._to.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, message: object) -> None:
        try:
            self._to.write(json.dumps(message).encode() + b"\n")
            self._to.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _ended(self) -> Patch2TissueError:
        code = self._process.wait()
        how = f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with exit code {code}"
        return Patch2TissueError(
            f"{self._slide}: a process that read it was ended {how}, perhaps for want of memory. Run the same command "
            "again to go on; with --workers 0 no other process is needed."
        )


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until nothing more is asked."""
    about = json.loads(requests.readline())
    view: ScaledSlide | None = None
    for line in requests:
        try:
            if view is None:
                slide = open_slide(Path(about["slide"]), about["slide_um_per_pixel"])
                view = ScaledSlide(slide, about["um_per_pixel"])
            pixels = np.ascontiguousarray(view.read(*json.loads(line)))
        except DataError as error:
            answers.write(json.dumps({"error": str(error)}).encode() + b"\n")
        else:
            answers.write(json.dumps({"shape": pixels.shape}).encode() + b"\n")
            answers.write(pixels.data)
        answers.flush()


def main() -> None:
    """Serve the process that started this one until it is done, or gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the other one decides
    # whatever a library prints must not come between the pixels
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, answers)
    except BrokenPipeError:
        os._exit(0)  # nobody is left to read, and closing would try to write again


if __name__ == "__main__":
    main()
