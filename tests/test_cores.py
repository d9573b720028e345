"""What the C library does with freed memory: only where it is glibc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from patch2tissue.cores import keep_freed_memory, release_memory

_PROBE = """
import resource
import numpy as np
from patch2tissue.cores import keep_freed_memory
{call}
for number in range(20):
    many = [np.ones(4_000_000) for _ in range(4)]
    del many
    if number == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_arrays_are_used_again_without_new_pages() -> None:
    faults = {}
    for call in ("", "assert keep_freed_memory()"):
        found = subprocess.run([sys.executable, "-c", _PROBE.format(call=call)], capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        faults[bool(call)] = int(found.stdout)
    assert faults[True] < 0.1 * faults[False]


def test_both_may_be_called_anywhere() -> None:
    assert keep_freed_memory() in (True, False)
    release_memory()
