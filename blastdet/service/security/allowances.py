"""What users, or addresses, hold at once: connections, uploads, streams, bytes in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from blastdet.service.security.callers import RefusedError

_AGAIN = {"Retry-After": "5"}


class Allowance:
    """Counts what each one holds, for code in the event loop.

    Parameters
    ----------
    what : str
        Of a line that refuses more.
    most_of_one : int
    most : int, optional
        Of all together.
    unit : int
        By which numbers in lines are divided.

    Examples
    --------
    >>> allowance = Allowance("streams", 1)
    >>> with allowance.holding("anna", 1):
    ...     allowance.take("anna", 1)
    Traceback (most recent call last):
    ...
    blastdet.service.security.callers.RefusedError: streams: expected at most 1 at once, got more; try again in 5 s
    """

    def __init__(self, what: str, most_of_one: int, most: int | None = None, unit: int = 1) -> None:
        self.most_of_one, self.most = most_of_one, most
        self._what, self._unit = what, unit
        self._held: Counter[str] = Counter()
        self._all = 0

    def take(self, who: str, n: int = 1) -> None:
        """Count `n` more; `RefusedError` (429, or 503 if all together are too many) if these are too many."""
        if self._held[who] + n > self.most_of_one:
            most = self.most_of_one // self._unit
            raise RefusedError(
                429, f"{self._what}: expected at most {most} at once, got more; try again in 5 s", _AGAIN
            )
        if self.most is not None and self._all + n > self.most:
            raise RefusedError(
                503, f"busy: too many {self._what.partition(' of one')[0]} in all; try again in 5 s", _AGAIN
            )
        self._held[who] += n
        self._all += n

    def give_back(self, who: str, n: int = 1) -> None:
        """Count `n` less."""
        self._all -= n
        self._held[who] -= n
        if not self._held[who]:
            del self._held[who]

    @contextmanager
    def holding(self, who: str, n: int = 0) -> Iterator[Callable[[int], None]]:
        """Take `n`, and whatever is taken by the function that this gives, until the end of the block."""
        held = 0

        def take(more: int) -> None:
            nonlocal held
            self.take(who, more)
            held += more

        take(n)
        try:
            yield take
        finally:
            self.give_back(who, held)
