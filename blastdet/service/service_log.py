"""Logs of the service: one JSON object a line on stderr. No names of files, no names of patients, no secrets."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

from blastdet.service.store.schema import now

LOGGER = "blastdet.service"
_MOST = 2000


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; what was passed as ``extra={"fields": {...}}`` is added."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {"time": now(), "level": record.levelname.lower(), "event": record.getMessage()[:_MOST]}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            # where and what kind, not the message: it may name a file or quote a request
            frames = traceback.extract_tb(record.exc_info[2])
            where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
            line |= {"error": record.exc_info[0].__name__, "where": where}
        return json.dumps(line, ensure_ascii=False, default=str)


class Seldom(logging.Filter):
    """Lets a message through once a minute: the event loop says thousands of times that no connection can be taken."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message, by its first line, was not said in the last minute."""
        line = record.getMessage().split("\n")[0][:100]
        if line in self._said and time.monotonic() - self._said[line] < 60:
            return False
        if len(self._said) > 100:
            self._said.clear()
        self._said[line] = time.monotonic()
        return True


def set_up() -> None:
    """Send the logs of this process to stderr as JSON; called by the processes of the service only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("asyncio").addFilter(Seldom())
    logging.getLogger(LOGGER).setLevel(logging.INFO)


def say(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event with its fields."""
    logging.getLogger(LOGGER).log(level, event, extra={"fields": fields})


def failed(event: str, **fields: Any) -> None:
    """Log an event with the exception that is being handled."""
    logging.getLogger(LOGGER).error(event, exc_info=True, extra={"fields": fields})
