"""Whether the time of day can be believed: what is deleted by age must not be deleted because a clock jumped."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from blastdet.service import service_log

DAY_S = 86400.0

_STATE = "clock.json"
_CONFIRMED = "clock.confirmed"
_WRITE_S = 60.0


def confirm_clock(data: Path) -> None:
    """Say that the time is right; a service in this folder goes on to delete by age."""
    (data / _CONFIRMED).touch()


@dataclass
class ClockWatch:
    """Notices jumps of the time of day by more than a day, also those between two runs of the service.

    After a jump the time must go on steadily for a day, or be confirmed by `confirm_clock`. A service that was off for
    more than a day waits likewise: from within, both look the same.

    Parameters
    ----------
    folder : Path
        Where it remembers the time between two runs.
    newest : callable
        Newest time in the database, in seconds, for the first run; ``None`` if there is none.
    wall, steady : callable
        Time of day; seconds that never jump.
    """

    folder: Path
    newest: Callable[[], float | None] = lambda: None
    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    _seen: tuple[float, float] | None = None
    _held: float | None = None
    _written: tuple[float, float | None] | None = None

    def is_steady(self) -> bool:
        """Look at the time; ``False`` while it must not be believed."""
        now, steady = self.wall(), self.steady()
        expected = self._remembered() if self._seen is None else self._seen[0] + steady - self._seen[1]
        if expected is not None and abs(now - expected) > DAY_S:
            self._held = now
            service_log.say("retention.held", days_off=round((now - expected) / DAY_S, 1), until=_text(now + DAY_S))
        elif self._held is not None and (now - self._held > DAY_S or self._is_confirmed()):
            self._held = None
            service_log.say("retention.goes_on")
        self._seen = (now, steady)
        self._remember(now)
        return self._held is None

    def _is_confirmed(self) -> bool:
        with contextlib.suppress(OSError):
            (self.folder / _CONFIRMED).unlink()
            return True
        return False

    def _remembered(self) -> float | None:
        """The time when the run before looked last."""
        try:
            state = json.loads((self.folder / _STATE).read_bytes())
            self._held = None if state["held"] is None else float(state["held"])
            return float(state["seen"])
        except (OSError, ValueError, TypeError, KeyError):
            return self.newest()

    def _remember(self, now: float) -> None:
        before = self._written
        if before is not None and before[1] == self._held and abs(now - before[0]) < _WRITE_S:
            return
        self._written = (now, self._held)
        temporary = self.folder / f"{_STATE}.partial"
        with contextlib.suppress(OSError):  # a full disk: this run knows it anyway
            temporary.write_text(json.dumps({"seen": now, "held": self._held}))
            temporary.replace(self.folder / _STATE)


def _text(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "never"
