"""Work in several threads: results in order, little begun ahead, errors where they belong."""

from __future__ import annotations

import threading
import time

import pytest

from blastdet.parallel import in_order


@pytest.mark.parametrize("at_once", [1, 3])
def test_results_come_in_order_whichever_is_ready_first(at_once):
    def slow_first(n):
        time.sleep(0.02 if n == 0 else 0)
        return n * n

    assert list(in_order(slow_first, range(10), at_once)) == [(n, n * n) for n in range(10)]
    assert list(in_order(slow_first, [], at_once)) == []


def test_pieces_run_side_by_side():
    meeting = threading.Barrier(2, timeout=30)  # one thread alone would wait here until it breaks
    assert [rank for _, rank in in_order(lambda _: meeting.wait() >= 0, range(4), 2)] == [True] * 4


def test_little_is_begun_before_it_is_asked_for():
    begun = []
    results = in_order(begun.append, range(100), 2)
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 3
    results.close()
    assert len(begun) <= 3


def test_an_error_reaches_the_caller_after_the_results_before_it():
    def fails(n):
        if n == 2:
            raise ValueError("third")
        return n

    results = in_order(fails, range(50), 2)
    assert [next(results)[1], next(results)[1]] == [0, 1]
    with pytest.raises(ValueError, match="third"):
        next(results)
