"""Several pieces of work at a time, their results in order; results do not depend on how many."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from blastdet.core.errors import BlastdetError, ConfigError

T = TypeVar("T")
R = TypeVar("R")

_MOST = 4


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_device(device: str) -> None:
    """Refuse a word that names no kind of device; whether there is one is for the runtime to say.

    Raises
    ------
    ConfigError
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", device):
        raise ConfigError(f"device: {device} found, auto, cpu, cuda or cuda:N expected")


def workers() -> int:
    """Threads for work whose pieces take memory: a core each, four at most."""
    return min(cpu_count(), _MOST)


def map_ordered(do: Callable[[T], R], items: Sequence[T], at_once: int) -> Iterator[tuple[T, R]]:
    """Each item and what becomes of it, in their order; some are done at a time, few are begun before they are needed.

    Where it ends early (an error, Ctrl-C), items that were not begun never are, and what runs by `map_ordered` inside
    those under way stops before its next piece.

    Parameters
    ----------
    do : callable
        Called from several threads where `at_once` is more than 1.
    items : sequence
    at_once : int
        Threads. One item more than these is in memory, done or under way.

    Raises
    ------
    BlastdetError
        If no thread can be started.
    """
    around: threading.Event | None = getattr(_mine, "stop", None)
    if at_once == 1 or len(items) == 1:
        for item in items:
            _go_on(around)
            yield item, do(item)
        return
    stop = threading.Event()

    def piece(item: T) -> R:
        _go_on(stop)
        _mine.stop = stop
        return do(item)

    with ThreadPoolExecutor(at_once) as pool:
        begun: deque[tuple[T, Future[R]]] = deque()
        try:
            for item in items:
                _go_on(around)
                begun.append((item, _submit(pool, piece, item)))
                if len(begun) > at_once:
                    first, result = begun.popleft()
                    yield first, result.result()
            for first, result in begun:
                yield first, result.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _submit(pool: ThreadPoolExecutor, do: Callable[[T], R], item: T) -> Future[R]:
    try:
        return pool.submit(do, item)
    except RuntimeError as error:
        raise BlastdetError(f"{error}: less at a time (--jobs), or more memory or processes, needed") from error


class _StoppedError(Exception):
    """The work that this is a part of has ended; nobody waits for the result."""


def _go_on(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise _StoppedError


_mine = threading.local()
"""``stop``: set when the call of `map_ordered` that this thread works for has ended."""
