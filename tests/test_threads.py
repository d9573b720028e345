from __future__ import annotations

import itertools
import threading
import time

import pytest

from patch2tissue.threads import in_threads


def test_results_come_in_order_from_several_threads() -> None:
    seen = set()

    def work(item: int) -> int:
        seen.add(threading.get_ident())
        time.sleep(0.0005 * (item % 3))
        return 2 * item

    assert list(in_threads(work, range(1000))) == list(range(0, 2000, 2))
    assert len(seen) > 1 and threading.get_ident() not in seen
    assert list(in_threads(work, [])) == []


def test_no_more_is_begun_than_can_be_done_soon() -> None:
    asked = itertools.count()
    results = in_threads(lambda item: item, (next(asked) for _ in range(100_000)))
    assert next(results) == 0
    assert next(asked) < 1000
    results.close()  # type: ignore[attr-defined]


def test_an_error_ends_it() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda item: 1 // (item - 700), range(10_000)))
