"""How workers are woken. Huey on SQLite is built in; a cluster brings its own, such as Ray."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from huey import SqliteHuey
from huey.registry import Message
from huey.serializer import Serializer

from blastdet.service import service_log

_POLL_S = 0.04


class JobBackend(Protocol):
    """Brings queued jobs to workers. It may forget or repeat a call: the rows of the jobs are the truth."""

    def wake(self) -> None:
        """Have a worker look for queued jobs soon."""
        ...

    def is_empty(self) -> bool:
        """Whether no worker has still to be woken."""
        ...

    def work(self, drain: Callable[[], None], on_start: Callable[[Callable[[], bool]], None]) -> None:
        """Be a worker: call `drain` each time there may be jobs, until the process must stop.

        Parameters
        ----------
        drain : callable
            Does all queued jobs.
        on_start : callable
            Gets a callable that tells whether the process is to stop.
        """
        ...


class _Json(Serializer):  # type: ignore[misc]  # huey has no types
    """Messages as JSON: nothing that lies on disk is ever unpickled."""

    def _serialize(self, data: Any) -> bytes:
        return json.dumps(list(data)).encode()

    def _deserialize(self, data: Any) -> Any:
        return Message(*json.loads(bytes(data)))


class HueyBackend:
    """Huey with its queue in a SQLite file.

    Parameters
    ----------
    path : Path
        The file; beside the database.
    """

    def __init__(self, path: Path) -> None:
        self._huey = SqliteHuey("blastdet", filename=str(path), results=False, serializer=_Json(), timeout=20)
        self._drain: Callable[[], None] = _nothing
        self._task = self._huey.task(name="drain")(lambda: self._drain())

    def wake(self) -> None:
        """See `JobBackend.wake`."""
        with contextlib.suppress(sqlite3.Error):  # a full disk; the supervisor wakes workers again
            self._task()

    def is_empty(self) -> bool:
        """See `JobBackend.is_empty`."""
        try:
            return int(self._huey.pending_count()) == 0
        except sqlite3.Error:
            return False

    def work(self, drain: Callable[[], None], on_start: Callable[[Callable[[], bool]], None]) -> None:
        """See `JobBackend.work`; SIGTERM and SIGINT stop it."""
        self._drain = drain
        consumer = self._huey.create_consumer(
            workers=1, periodic=False, initial_delay=_POLL_S, max_delay=_POLL_S, worker_type="thread"
        )
        on_start(consumer.stop_flag.is_set)
        service_log.say("worker.ready")
        consumer.run()


def _nothing() -> None:
    pass
