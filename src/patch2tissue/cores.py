"""How many processors this process may use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Cores that this process may run on; fewer than the machine has where it is confined to some."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1
