"""Whether the time of day can be believed: what is deleted by age must not be deleted because a clock jumped."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from blastdet.core.atomic_io import write_bytes
from blastdet.service import service_log

DAY_S = 86400.0

_STATE = "clock.json"
_CONFIRMED = "clock.confirmed"
_WRITE_S = 60.0


def confirm_clock(data: Path) -> None:
    """Say that the time is right; a service in this folder goes on to delete by age."""
    (data / _CONFIRMED).touch()


def is_held(data: Path) -> bool:
    """Whether a service in this folder holds deletion by age back."""
    state = _state(data)
    return state is not None and state[1] is not None


def _state(data: Path) -> tuple[float, float | None] | None:
    """When a service in this folder looked at the time last, and the seconds for which it still holds back."""
    try:
        state = json.loads((data / _STATE).read_bytes())
        return float(state["seen"]), None if state["left_s"] is None else float(state["left_s"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


@dataclass
class ClockWatch:
    """Notices jumps of the time of day by more than a day, also those between two runs of the service.

    After a jump the service waits until it has run for a day without another, or until `confirm_clock`. A service that
    was off for more than a day waits likewise: from within, both look the same. The day is counted by the clock that
    never jumps: smaller jumps do not shorten it.

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
    _left: float | None = None
    _written: tuple[float, bool] | None = None

    def is_steady(self) -> bool:
        """Look at the time; ``False`` while it must not be believed."""
        now, steady = self.wall(), self.steady()
        expected = self._remembered() if self._seen is None else self._seen[0] + steady - self._seen[1]
        if self._left is not None and self._seen is not None:
            self._left -= steady - self._seen[1]
        if expected is not None and abs(now - expected) > DAY_S:
            self._left = DAY_S
            self._take_confirmation()  # an old one is not about this jump
            service_log.say("retention.held", days_off=round((now - expected) / DAY_S, 1), until=_text(now + DAY_S))
        elif self._left is not None and (self._left <= 0 or self._take_confirmation()):
            self._left = None
            service_log.say("retention.goes_on")
        self._seen = (now, steady)
        self._remember(now)
        return self._left is None

    def _take_confirmation(self) -> bool:
        with contextlib.suppress(OSError):
            (self.folder / _CONFIRMED).unlink()
            return True
        return False

    def _remembered(self) -> float | None:
        """The time when the run before looked last."""
        if (state := _state(self.folder)) is None:
            return self.newest()
        seen, self._left = state
        return seen

    def _remember(self, now: float) -> None:
        before, held = self._written, self._left is not None
        if before is not None and before[1] == held and abs(now - before[0]) < _WRITE_S:
            return
        self._written = (now, held)
        with contextlib.suppress(OSError):  # a full disk: this run knows it anyway
            write_bytes(self.folder / _STATE, json.dumps({"seen": now, "left_s": self._left}).encode())


def _text(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "never"
