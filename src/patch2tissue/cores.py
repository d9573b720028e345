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


def share_cores() -> None:
    """Let threads that wait for each other give their core away soon (GNU OpenMP), before torch is imported.

    By default they spin for a long time where there is a core for each of them. As soon as anything else wants one of
    the cores, be it a thread of ours that writes pictures or another program, all threads spin while one of them waits
    for its turn, at each of the thousands of steps of a network. `GOMP_SPINCOUNT`, if set already, stays.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def keep_freed_memory() -> bool:
    """Let the C library (glibc) keep what is freed for the next step of a training, not ask the system for it again.

    Large arrays are otherwise mapped anew each time, and every page of them is filled with zeros first.
    `release_memory` gives it back.

    Returns:
        Whether there is a C library that does so.
    """
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        mapped = library.mallopt(_M_MMAP_THRESHOLD, 32 * 1024**2)  # the largest that is accepted
        return bool(mapped and library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    return False


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
