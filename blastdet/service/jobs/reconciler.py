"""Looks after jobs: queues again what a dead worker left, wakes workers, and deletes what is too old."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import true

from blastdet.service import service_log
from blastdet.service.jobs.backend import JobBackend
from blastdet.service.jobs.clock_watch import ClockWatch
from blastdet.service.store import job_rows, retention
from blastdet.service.store.blobs import Blobs
from blastdet.service.store.database import Database
from blastdet.service.store.schema import Job

SILENT_S = 20.0
"""Without a beat, a worker is dead. Measured by this process's own clock, so that no jump of the time matters."""

_SWEEP_S = 3600.0
_FORGET_S = 60.0
_MISSES = 3


@dataclass
class Reconciler:
    """Brings rows, queue and files together.

    Parameters
    ----------
    database : Database
    blobs : Blobs
    backend : JobBackend
    workers : int
    attempts : int
        Most of one job.
    keep_days : float, optional
    clock : callable
        Seconds that never jump.
    watch : ClockWatch, optional
        Says whether the time of day can be believed, for what is deleted by age.
    """

    database: Database
    blobs: Blobs
    backend: JobBackend
    workers: int = 1
    attempts: int = 3
    keep_days: float | None = None
    clock: Callable[[], float] = time.monotonic
    watch: ClockWatch | None = None
    _heard: dict[str, tuple[int, float]] = field(default_factory=dict)
    _swept: float | None = None
    _steady: bool = True
    _forgot: float | None = None
    _missed: int = 0

    def __post_init__(self) -> None:
        self._watch = self.watch or ClockWatch(self.blobs.root, lambda: retention.newest_time(self.database))

    def begin(self) -> None:
        """Before any worker runs: every running job is one that its worker left."""
        with self.database.begin() as session:
            n = job_rows.release(session, true(), self.attempts)
        if n:
            service_log.say("jobs.queued_again", n=n)
        self.blobs.clean()

    def worker_ended(self, name: str) -> None:
        """Queue again what a worker that ended was at."""
        with self.database.begin() as session:
            n = job_rows.release(session, Job.worker == name, self.attempts)
        if n:
            service_log.say("jobs.queued_again", n=n)
            self.backend.wake()

    def tick(self) -> None:
        """Look once; called every few seconds."""
        with self.database.read() as session:
            beats, counts = job_rows.beats(session), job_rows.counts(session)
        silent = self._silent(beats)
        if silent:
            with self.database.begin() as session:
                n = job_rows.release(session, Job.id.in_(silent), self.attempts)
            service_log.say("jobs.queued_again", n=n)
        waiting = counts.get("queued", 0) + len(silent)
        if waiting and self.backend.is_empty():
            for _ in range(min(waiting, self.workers)):
                self.backend.wake()
        if self._forgot is None or self.clock() - self._forgot > _FORGET_S:
            is_done = self.database.forget_deleted(is_late=self._missed >= _MISSES)
            self._missed = 0 if is_done else self._missed + 1
            self._forgot = self.clock()
        self._sweep()

    def _silent(self, beats: dict[str, int]) -> Sequence[str]:
        now = self.clock()
        self._heard = {
            job_id: self._heard[job_id] if self._heard.get(job_id, (None, 0))[0] == beat else (beat, now)
            for job_id, beat in beats.items()
        }
        return [job_id for job_id, (_, heard) in self._heard.items() if now - heard > SILENT_S]

    def _sweep(self) -> None:
        was_steady, self._steady = self._steady, self._watch.is_steady()
        if self._steady and not was_steady:
            self._swept = None  # what was held back is not held back for another hour
        if self._swept is not None and self.clock() - self._swept < _SWEEP_S:
            return
        n = retention.sweep(self.database, self.blobs, self.keep_days, is_steady=self._steady)
        self._swept = self.clock()
        if n:
            service_log.say("smears.deleted_by_age", n=n)
