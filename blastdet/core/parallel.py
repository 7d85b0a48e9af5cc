"""Parallel work in threads, with results in order that do not depend on the number of threads."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from blastdet.core.errors import BlastdetError, ConfigError

T = TypeVar("T")
R = TypeVar("R")

_MOST = 4


def cpu_count() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_device(device: str) -> None:
    """Check the name of a device. Whether the device exists is checked by the runtime.

    Raises `ConfigError` if the name is not auto, cpu, cuda or cuda:N.

    Examples
    --------
    >>> check_device("cuda:0")
    """
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", device):
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {device!r:.40}")


def workers() -> int:
    """Number of threads for work that needs much memory: one per core, at most four."""
    return min(cpu_count(), _MOST)


def map_ordered(do: Callable[[T], R], items: Sequence[T], at_once: int) -> Iterator[tuple[T, R]]:
    """Apply a function to items in parallel, and yield each item with its result, in order.

    Few items are started before they are needed. After an error or Ctrl-C, no further item is started, and a nested
    `map_ordered` stops before its next item. Raises `BlastdetError` if no thread can be started.

    Parameters
    ----------
    do : callable
        Called from several threads if `at_once` is more than 1.
    at_once : int
        Number of threads. At most one item more than this is in memory.

    Yields
    ------
    item, result

    Examples
    --------
    >>> list(map_ordered(abs, [-1, 2], at_once=2))
    [(-1, 1), (2, 2)]
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


@contextmanager
def beside(do: Callable[[], R]) -> Iterator[Callable[[], R]]:
    """Begin something on a thread of its own, and yield a function that waits for its result.

    Within `map_ordered`, whose threads have the cores already, it is done when its result is asked for.

    Examples
    --------
    >>> with beside(lambda: sum(range(10))) as total:
    ...     total()
    45
    """
    if cpu_count() == 1 or getattr(_mine, "stop", None) is not None:
        yield do
        return
    with ThreadPoolExecutor(1) as pool:
        yield _submit(pool, lambda _: do(), None).result


def _submit(pool: ThreadPoolExecutor, do: Callable[[T], R], item: T) -> Future[R]:
    try:
        return pool.submit(do, item)
    except RuntimeError as error:
        raise BlastdetError(
            f"cannot start a thread ({error}). Too many run on this machine: end some programs."
        ) from error


class _StoppedError(Exception):
    """The surrounding work has ended, and the result is not needed."""


def _go_on(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise _StoppedError


_mine = threading.local()
"""``stop`` is set when the call of `map_ordered` that started this thread has ended."""
