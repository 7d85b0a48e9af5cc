"""How many requests one user or address may make."""

from __future__ import annotations

import threading
import time

_MOST_KNOWN = 10_000


class RateLimit:
    """A bucket for each caller: it holds the requests of a minute and fills up evenly.

    Parameters
    ----------
    per_minute : int
        0: no limit.

    Examples
    --------
    >>> limit = RateLimit(2)
    >>> [limit.wait("a"), limit.wait("a"), limit.wait("a") > 0, limit.wait("b")]
    [0.0, 0.0, True, 0.0]
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def wait(self, caller: str, cost: float = 1.0) -> float:
        """Seconds until the caller may ask; 0 if it may now, which is counted as so many requests."""
        if not self._per_minute:
            return 0.0
        now, speed = time.monotonic(), self._per_minute / 60
        with self._lock:
            left, seen = self._left.get(caller, (float(self._per_minute), now))
            left = min(float(self._per_minute), left + (now - seen) * speed)
            if left < cost:
                self._left[caller] = (left, now)
                return (cost - left) / speed
            self._left[caller] = (left - cost, now)
            if len(self._left) > _MOST_KNOWN:
                self._forget(now)
            return 0.0

    def _forget(self, now: float) -> None:
        """Drop callers whose buckets are full again."""
        self._left = {name: pair for name, pair in self._left.items() if now - pair[1] < 60}
