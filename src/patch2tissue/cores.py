"""How many processors this process may use, and memory that it gives back."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress


def available_cores() -> int:
    """Cores that this process may run on; fewer than the machine has where it is confined to some."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def release_memory() -> None:
    """Give memory that was freed back to the system, where the C library would keep it for later (glibc)."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
