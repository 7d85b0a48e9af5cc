"""Progress: a bar on a terminal, otherwise occasional lines on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

_EVERY_S = 15.0


@contextmanager
def step_reporter() -> Iterator[Callable[[str, int, int], None]]:
    """A callable ``step(what, done, total)`` that draws a progress bar on a terminal, starting with its first call."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total, visible=True)


@contextmanager
def count_reporter(what: str) -> Iterator[Callable[[int, int], None]]:
    """A callable ``step(done, total)``; see `step_reporter`."""
    with step_reporter() as step:
        yield lambda done, total: step(what, done, total)


@contextmanager
def phase_reporter() -> Iterator[Callable[[str, int, int], None]]:
    """As `step_reporter`; without a terminal it writes a line to stderr every 15 seconds."""
    if sys.stderr.isatty():
        with step_reporter() as step:
            yield step
        return
    last = time.monotonic()

    def line(what: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _EVERY_S and done < total:
            last = time.monotonic()
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    yield line


@contextmanager
def training_reporter() -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A callable ``step(done, total, values)`` that draws the progress bar of a training."""
    with step_reporter() as bar:

        def step(done: int, total: int, values: dict[str, float]) -> None:
            shown = (f"{n} {value:.0f}" if n == "epoch" else f"{n} {value:.3f}" for n, value in values.items())
            bar("  ".join(shown), done, total)

        yield step


@contextmanager
def file_reporter(total: int, what: str) -> Iterator[Callable[[], None]]:
    """A callable to call after each file."""
    if not sys.stderr.isatty() or total < 2:
        yield _lines(total, what)
        return
    done = count(1)
    with step_reporter() as step:
        yield lambda: step(what, next(done), total)


def _lines(total: int, what: str) -> Callable[[], None]:
    """Writes a line to stderr every 15 seconds."""
    done, last = 0, time.monotonic()

    def step() -> None:
        nonlocal done, last
        done += 1
        if time.monotonic() - last > _EVERY_S and done < total:
            last = time.monotonic()
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    return step
