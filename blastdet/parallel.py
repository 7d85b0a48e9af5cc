"""Several pieces of work at a time, their results in order; results do not depend on how many."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_MOST = 4


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers() -> int:
    """Threads for work whose pieces take memory: a core each, four at most."""
    return min(cpu_count(), _MOST)


def in_order(do: Callable[[T], R], items: Sequence[T], at_once: int) -> Iterator[tuple[T, R]]:
    """Each item and what becomes of it, in their order; some are done at a time, few are begun before they are needed.

    Parameters
    ----------
    do : callable
        Called from several threads where `at_once` is more than 1.
    items : sequence
    at_once : int
        Threads. One item more than these is in memory, done or under way.
    """
    if at_once == 1 or len(items) == 1:
        yield from ((item, do(item)) for item in items)
        return
    with ThreadPoolExecutor(at_once) as pool:
        begun: deque[tuple[T, Future[R]]] = deque()
        try:
            for item in items:
                begun.append((item, pool.submit(do, item)))
                if len(begun) > at_once:
                    first, result = begun.popleft()
                    yield first, result.result()
            for first, result in begun:
                yield first, result.result()
        finally:
            pool.shutdown(cancel_futures=True)
