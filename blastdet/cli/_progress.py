"""Progress: a bar on a terminal, otherwise occasional lines on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY_S = 15.0


@contextmanager
def training_reporter() -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A callable ``step(done, total, values)`` that draws the progress bar of a training."""
    if not sys.stderr.isatty():
        yield lambda done, total, values: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")

        def step(done: int, total: int, values: dict[str, float]) -> None:
            shown = "  ".join(f"{n} {value:.0f}" if n == "epoch" else f"{n} {value:.3f}" for n, value in values.items())
            bar.update(task, completed=done, total=total, description=shown)

        yield step


@contextmanager
def file_reporter(total: int, what: str) -> Iterator[Callable[[], None]]:
    """A callable to call after each file."""
    if not sys.stderr.isatty() or total < 2:
        yield _lines(total, what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


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


@contextmanager
def count_reporter(what: str) -> Iterator[Callable[[int, int], None]]:
    """A callable ``step(done, total)`` that draws a progress bar, starting with its first call."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
