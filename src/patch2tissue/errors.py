"""One small hierarchy of errors, caught once, in the command line.

An error's text names the file, what is wrong with it and what to do. Nothing else is shown to a user:
a traceback is for a bug of ours.
"""

from __future__ import annotations

import errno


class Patch2TissueError(Exception):
    """Something failed while running; the command line prints it and exits with `exit_code`."""

    exit_code = 1


class DataError(Patch2TissueError):
    """A file or folder that was handed in cannot be used: missing, unreadable, or contradicting itself."""

    exit_code = 2


class ConfigError(Patch2TissueError):
    """A configuration, an option or a combination of options is wrong."""

    exit_code = 2


class WriteError(Patch2TissueError, OSError):
    """A result cannot be written: the disk is full or read-only, or the folder is somebody else's.

    Args:
        number: the system's error number.
        reason: its text.
        path: the file that was to be written; what it held before is as it was.
    """

    def __init__(self, number: int | None, reason: str | None, path: str) -> None:
        super().__init__(number, reason, path)

    @property
    def full(self) -> bool:
        """Whether it is for want of room, and so no mistake of whoever named the file."""
        return self.errno in DISK_FULL

    def __str__(self) -> str:
        return f"{self.filename}: cannot be written: {self.strerror}. {remedy(self.errno)}"


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system's error numbers for want of room."""


def remedy(number: int | None) -> str:
    """What to do when a file cannot be written, by the system's error number."""
    if number in DISK_FULL:
        return "Make room, then give the same command again: what is done is kept."
    return "Choose a folder that you may write to, or ask for leave to write to this one."


class TrainingError(Patch2TissueError):
    """Training could not go on, for example because the loss is no longer a number.

    Args:
        text: what happened and what to do.
        exit_code: that of a process that trained and failed.
    """

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class PeerLostError(TrainingError):
    """Another process of the training ended, or cannot be reached."""
