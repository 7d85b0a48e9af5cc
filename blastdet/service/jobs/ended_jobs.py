"""Requests that wait for the end of a job: one look at the database for all of them, some times a second."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from blastdet.service.store.database import UNREACHABLE, Database
from blastdet.service.store.job_rows import FINISHED
from blastdet.service.store.schema import Job

_LOOK_S, _LONGEST_LOOK_S, _SLOWER = 0.03, 0.25, 1.15  # most jobs take a second, some an hour
_AWAY_S = 1.0


@dataclass
class EndedJobs:
    """Lets coroutines of one event loop wait for jobs that other processes do.

    Parameters
    ----------
    database : Database
    """

    database: Database
    _waiting: defaultdict[str, set[asyncio.Event]] = field(default_factory=lambda: defaultdict(set))
    _looking: asyncio.Task[None] | None = None
    _pause: float = _LOOK_S

    async def wait(self, job_id: str, seconds: float) -> None:
        """Return once the job is over or gone, at the latest after so many seconds."""
        ended = asyncio.Event()
        if job_id not in self._waiting:
            self._pause = _LOOK_S
        self._waiting[job_id].add(ended)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(seconds):
                await ended.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting[job_id].discard(ended)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _look(self) -> None:
        """Look for as long as somebody waits."""
        while self._waiting:
            asked = list(self._waiting)
            try:
                unfinished = await run_in_threadpool(self._unfinished, asked)
            except UNREACHABLE:
                await asyncio.sleep(_AWAY_S)
                continue
            for job_id in set(asked) - unfinished:
                for ended in self._waiting.get(job_id, ()):
                    ended.set()
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * _SLOWER, _LONGEST_LOOK_S)

    def _unfinished(self, job_ids: list[str]) -> set[str]:
        with self.database.read() as session:
            return set(session.scalars(select(Job.id).where(Job.id.in_(job_ids), Job.state.not_in(FINISHED))))
