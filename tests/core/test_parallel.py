"""Parallel map: results in order, little work started ahead, errors raised at the right place."""

from __future__ import annotations

import threading
import time

import pytest

from blastdet.core.errors import BlastdetError
from blastdet.core.parallel import beside, cpu_count, map_ordered


@pytest.mark.parametrize("at_once", [1, 3])
def test_results_are_in_order_whichever_is_ready_first(at_once):
    def slow_first(n):
        time.sleep(0.02 if n == 0 else 0)
        return n * n

    assert list(map_ordered(slow_first, range(10), at_once)) == [(n, n * n) for n in range(10)]
    assert list(map_ordered(slow_first, [], at_once)) == []


def test_items_run_in_parallel():
    meeting = threading.Barrier(2, timeout=30)  # a single thread would wait here until the timeout
    assert [rank for _, rank in map_ordered(lambda _: meeting.wait() >= 0, range(4), 2)] == [True] * 4


def test_little_work_is_started_before_it_is_requested():
    begun = []
    results = map_ordered(begun.append, range(100), 2)
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 3
    results.close()
    assert len(begun) <= 3


def test_an_error_is_raised_after_the_results_before_it():
    def fails(n):
        if n == 2:
            raise ValueError("third")
        return n

    results = map_ordered(fails, range(50), 2)
    assert [next(results)[1], next(results)[1]] == [0, 1]
    with pytest.raises(ValueError, match="third"):
        next(results)


def test_nested_work_stops_when_the_outer_work_ends():
    begun, hold = [], threading.Event()

    def inner(n):
        begun.append(n)
        hold.wait(0.05)

    def outer(n):
        return [result for _, result in map_ordered(inner, range(200), 2)] if n else None

    results = map_ordered(outer, range(3), 2)
    next(results)  # the first is done, two others have 200 items each
    results.close()
    assert len(begun) < 100


def test_a_thread_that_cannot_start_gives_a_one_line_error(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(BlastdetError, match=r"cannot start a thread .* Too many run on this machine"):
        list(map_ordered(abs, range(3), 2))


def test_what_is_begun_beside_runs_at_the_same_time_and_keeps_its_error():
    meeting = threading.Barrier(2 if cpu_count() > 1 else 1, timeout=30)
    with beside(meeting.wait) as rank:
        assert {meeting.wait(), rank()} == {0, 1} or cpu_count() == 1
    with pytest.raises(ZeroDivisionError), beside(lambda: 1 // 0) as nothing:
        nothing()


def test_within_parallel_work_nothing_more_is_started():
    def thread(_):
        with beside(threading.get_ident) as other:
            return other() == threading.get_ident()

    assert [same for _, same in map_ordered(thread, range(3), 2)] == [True] * 3
