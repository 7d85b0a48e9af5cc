"""Work that takes long, on few threads of its own: a rush holds up nothing else, and people take turns."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

from blastdet.service.compute.pool import ComputeBusyError

T = TypeVar("T")
HasLeft = Callable[[], bool]

_AGAIN = "Try again in a few seconds"


class FairQueue:
    """Places for work, which the users who wait get in turn, however much each of them asks for. For one event loop.

    Parameters
    ----------
    size : int
        Work that is done at once.
    what : str
        That waits, for messages.
    most_waiting : int
        More is refused.
    most_of_one : int
        Of one user.
    at_once : int, optional
        Places that one user may have, where work takes so long that the next turn is far away.
    """

    def __init__(
        self, size: int, what: str, most_waiting: int, most_of_one: int, *, at_once: int | None = None
    ) -> None:
        self._free, self._what, self._most, self._most_of_one = size, what, most_waiting, most_of_one
        self._at_once, self._held = at_once or size, Counter[str]()
        self._threads = CapacityLimiter(size)
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # whose turn is next comes first

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for a place."""
        return bool(self._waiting)

    def check(self, user: str) -> None:
        """Raise `ComputeBusyError` if work of this user would be refused."""
        if self._may_begin(user):
            return
        if (n := sum(map(len, self._waiting.values()))) >= self._most:
            raise ComputeBusyError(f"busy: {n} {self._what} wait already. {_AGAIN}")
        if (n := len(self._waiting.get(user, ()))) >= self._most_of_one:
            raise ComputeBusyError(f"busy: {n} {self._what} of one user wait already. {_AGAIN}")

    async def run(self, user: str, do: Callable[[HasLeft], T]) -> T:
        """Call `do` in a thread when it is the turn of a user.

        If this is cancelled before, it is not called; if it is cancelled then, what `do` is given says so.

        Raises
        ------
        ComputeBusyError
            If too much waits already.
        """
        self.check(user)
        await self._turn(user)
        left = threading.Event()
        work = asyncio.ensure_future(to_thread.run_sync(do, left.is_set, limiter=self._threads))
        work.add_done_callback(partial(self._ended, user))  # the place stays taken until its thread is free
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            left.set()
            raise

    @asynccontextmanager
    async def place(self, user: str) -> AsyncIterator[None]:
        """A place for a while, as it is the turn of a user; errors as for `run`."""
        self.check(user)
        await self._turn(user)
        try:
            yield
        finally:
            self._give_back(user)

    def _may_begin(self, user: str) -> bool:
        return self._free > 0 and self._held[user] < self._at_once

    async def _turn(self, user: str) -> None:
        if self._may_begin(user):
            self._free -= 1
            self._held[user] += 1
            return
        mine = asyncio.get_running_loop().create_future()
        theirs = self._waiting.setdefault(user, deque())
        theirs.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():  # its turn came just now
                self._give_back(user)
            elif mine in theirs:
                theirs.remove(mine)
                if not theirs and self._waiting.get(user) is theirs:
                    del self._waiting[user]
            raise

    def _ended(self, user: str, work: asyncio.Future[Any]) -> None:
        if not work.cancelled():
            work.exception()  # so that asyncio does not report it where the client has left
        self._give_back(user)

    def _give_back(self, user: str) -> None:
        """Take a place from a user, and give it to the one whose turn it is."""
        self._free += 1
        self._held[user] -= 1
        self._held += Counter()  # without those who have none
        for following in [one for one in self._waiting if self._may_begin(one)]:
            theirs = self._waiting.pop(following)
            while theirs and theirs[0].done():  # who left just now
                theirs.popleft()
            if not theirs:
                continue
            self._free -= 1
            self._held[following] += 1
            theirs.popleft().set_result(None)
            if theirs:
                self._waiting[following] = theirs
            return
