"""Work in threads on long lists, of which only a few items are under way at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_PART = 16
"""Items per job: handing a job over costs as much as a small file does."""


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in the order of the items; memory does not grow with their number.

    Args:
        function: what to do with each; an exception of it ends the iteration.
        items: the items.
    """
    workers = min(8, (os.cpu_count() or 1) + 1)
    waiting: deque[Future[list[Result]]] = deque()
    rest = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        try:
            while part := list(islice(rest, _PART)):
                waiting.append(pool.submit(lambda some: [function(item) for item in some], part))
                if len(waiting) > 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for job in waiting:
                job.cancel()
