"""One small hierarchy of errors, caught once, in the command line.

An error's text names the file, what is wrong with it and what to do. Nothing else is shown to a user:
a traceback is for a bug of ours.
"""

from __future__ import annotations


class Patch2TissueError(Exception):
    """Something failed while running; the command line prints it and exits with `exit_code`."""

    exit_code = 1


class DataError(Patch2TissueError):
    """A file or folder that was handed in cannot be used: missing, unreadable, or contradicting itself."""

    exit_code = 2


class ConfigError(Patch2TissueError):
    """A configuration, an option or a combination of options is wrong."""

    exit_code = 2


class TrainingError(Patch2TissueError):
    """Training could not go on, for example because the loss is no longer a number."""
