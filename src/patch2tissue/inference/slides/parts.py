"""A part of a list of slides, for array jobs that share the list without talking to each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from patch2tissue.errors import ConfigError
from patch2tissue.slides.opening import SlideFile


@dataclass(frozen=True)
class Part:
    """One of several parts.

    Attributes:
        number: from 1 on.
        of: how many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `3/100`, the third of a hundred parts.

        Raises:
            ConfigError: if it is no such thing.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
        part = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= part.number <= part.of:
            raise ConfigError(
                f"--part is the number of a part, from 1 on, and how many there are, such as 3/100; not '{text}'. An "
                "array of jobs is numbered from 1 by --array=1-100."
            )
        return part

    @property
    def name(self) -> str:
        """For the names of files."""
        return f"part-{self.number:0{len(str(self.of))}d}-of-{self.of}"

    def of_slides(self, files: Sequence[SlideFile]) -> list[SlideFile]:
        """The slides of this part, in order; the parts of one list hold each slide once and about as many bytes.

        Args:
            files: all slides; the same for all parts.
        """
        sizes = [_bytes(file) for file in files]
        held = [(0, 0, part) for part in range(self.of)]  # bytes, slides, part
        mine = []
        for place in sorted(range(len(files)), key=lambda place: (-sizes[place], str(files[place].path))):
            least = min(held)
            held[least[2]] = (least[0] + sizes[place], least[1] + 1, least[2])
            if least[2] + 1 == self.number:
                mine.append(place)
        return [files[place] for place in sorted(mine)]


def _bytes(file: SlideFile) -> int:
    try:
        return file.path.stat().st_size
    except OSError:  # told of when its turn comes
        return 0
