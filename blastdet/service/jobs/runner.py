"""A worker: takes queued jobs, has them computed in its child process, and commits each result once."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from blastdet.core.errors import BlastdetError, counted
from blastdet.service import service_log
from blastdet.service.compute.pool import ComputeCancelledError, ComputeDiedError, ComputeProcess, Watch
from blastdet.service.offered_models import OfferedModel
from blastdet.service.store import job_rows
from blastdet.service.store.blobs import Blobs
from blastdet.service.store.database import UNREACHABLE, Database, patiently
from blastdet.service.store.schema import Analysis, Job, Smear

_BEAT_S = 1.0
_DATABASE_S = 300.0


@dataclass
class _Follow:
    """A running job as its beats see it."""

    job_id: str
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0
    is_cancelled: bool = False
    is_lost: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    def progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    @property
    def now(self) -> tuple[int, int, float | None]:
        """Tiles done, tiles in all, seconds left."""
        spent = time.monotonic() - self.began
        left = spent * (self.total - self.done) / self.done if self.done else None
        return self.done, self.total, None if left is None else round(left, 1)


@dataclass
class Runner:
    """Does jobs, one after the other.

    Parameters
    ----------
    name : str
        Of this worker; unique for each process.
    database : Database
    blobs : Blobs
    compute : ComputeProcess
    models : dict
    attempts : int
        Most of one job.
    most_large : int
        As for `job_rows.claim`.
    """

    name: str
    database: Database
    blobs: Blobs
    compute: ComputeProcess
    models: dict[str, OfferedModel]
    attempts: int = 3
    most_large: int = 1
    must_stop: Callable[[], bool] = lambda: False
    _idle: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._idle.set()

    def drain(self) -> None:
        """Do all queued jobs."""
        self._idle.clear()
        try:
            while not self.must_stop():
                job, smear = patiently(self._claim, _DATABASE_S)
                if job is None or smear is None:
                    return
                self._run(job, smear)
        except UNREACHABLE:
            service_log.failed("worker.database")
        finally:
            self._idle.set()

    def wait(self, seconds: float) -> None:
        """Wait until the current job is given back, after `must_stop` says so."""
        self._idle.wait(seconds)

    def _claim(self) -> tuple[Job | None, Smear | None]:
        with self.database.begin() as session:
            job = job_rows.claim(session, self.name, self.most_large)
            return job, None if job is None else session.get(Smear, job.smear_id)

    def _run(self, job: Job, smear: Smear) -> None:
        follow = _Follow(job.id)
        beats = threading.Thread(target=self._beat, args=(follow,), daemon=True)
        beats.start()
        service_log.say("job.start", job=job.id, attempt=job.attempts)
        try:
            self._compute(job, smear, follow)
        except ComputeCancelledError:
            self._stopped(job, follow)
        except ComputeDiedError as error:
            self._died(job, str(error))
        except BlastdetError as error:
            self._end(job, "failed", str(error))
        except OSError as error:
            self._end(job, "failed", f"the result cannot be stored ({error.strerror})")
        except Exception:  # noqa: BLE001  # a surprise in one job must not end the worker
            service_log.failed("job.bug", job=job.id)
            self._end(job, "failed", "the service failed; its log says where")
        finally:
            follow.ended.set()
            beats.join()

    def _compute(self, job: Job, smear: Smear, follow: _Follow) -> None:
        model = self.models.get(job.weights)
        if model is None:
            raise BlastdetError(f"weights: expected one of {', '.join(self.models)}, got {job.weights}")
        path = self.blobs.image(smear.id)
        args = {**job.request, "path": str(path), "name": smear.name, "weights": str(model.folder)}

        def is_cancelled() -> bool:
            return follow.is_cancelled or follow.is_lost or self.must_stop()

        about, record = self.compute.call("analyze", args, watch=Watch(follow.progress, is_cancelled))
        self._commit(job, about, record)

    def _commit(self, job: Job, about: dict[str, Any], record: bytes) -> None:
        """The file first, then the row that names it: no row is without its file.

        All attempts of a job write the same file, so that one that ends in between leaves nothing.
        """
        name = hashlib.sha256(job.id.encode()).hexdigest()[:32]
        analysis = Analysis(id=name, smear_id=job.smear_id, key=job.key, weights=job.weights, request=job.request)
        analysis.seconds = float(about["seconds"])
        if self.blobs.smear(job.smear_id).is_dir():
            self.blobs.keep(self.blobs.record(job.smear_id, analysis.id), record)

        def store() -> bool:
            with self.database.begin() as session:
                return job_rows.finish(session, job.id, self.name, Analysis(**_columns(analysis)))

        kept = False
        try:
            kept = patiently(store, _DATABASE_S)
        except IntegrityError:  # the smear was deleted, or the result exists
            service_log.say("job.superfluous", job=job.id)
        if not kept:
            self._discard(job, analysis.id)
        service_log.say("job.done" if kept else "job.lost", job=job.id, seconds=round(analysis.seconds, 3))

    def _discard(self, job: Job, analysis_id: str) -> None:
        """Remove the file of a result that is not wanted, unless another attempt wrote it or will."""
        with contextlib.suppress(SQLAlchemyError), self.database.read() as session:
            now = session.get(Job, job.id)
            if session.get(Smear, job.smear_id) is None:
                self.blobs.delete_smear(job.smear_id)
            elif session.get(Analysis, analysis_id) is None and (now is None or now.state in job_rows.FINISHED):
                self.blobs.delete_analysis(job.smear_id, analysis_id)

    def _beat(self, follow: _Follow) -> None:
        """Tell the database once a second that the job is alive; a database that is gone for a while is borne."""
        while not follow.ended.wait(_BEAT_S):
            try:
                with self.database.begin() as session:
                    asked = job_rows.beat(session, follow.job_id, self.name, follow.now)
            except SQLAlchemyError:
                continue
            follow.is_lost = asked is None
            follow.is_cancelled = bool(asked)

    def _stopped(self, job: Job, follow: _Follow) -> None:
        if follow.is_lost:
            service_log.say("job.lost", job=job.id)
        elif follow.is_cancelled:
            self._end(job, "cancelled", "")
        else:
            self._write(lambda session: job_rows.give_back(session, job.id, self.name))
            service_log.say("job.given_back", job=job.id)

    def _died(self, job: Job, line: str) -> None:
        service_log.say("job.process_ended", job=job.id, attempt=job.attempts)
        if job.attempts >= self.attempts:
            self._end(job, "failed", f"{line}; tried {counted(job.attempts, 'time')}")
        else:
            mine = (Job.id == job.id) & (Job.worker == self.name)  # not where another worker has it already
            self._write(lambda session: job_rows.release(session, mine, self.attempts))

    def _end(self, job: Job, state: str, line: str) -> None:
        self._write(lambda session: job_rows.end(session, job.id, self.name, state, line))
        service_log.say(f"job.{state}", job=job.id)

    def _write(self, do: Callable[[Any], Any]) -> None:
        def once() -> None:
            with self.database.begin() as session:
                do(session)

        patiently(once, _DATABASE_S)


def _columns(analysis: Analysis) -> dict[str, Any]:
    """Of a row that a failed transaction may have spoilt: each try adds a new one."""
    names = ("id", "smear_id", "key", "weights", "request", "seconds")
    return {name: getattr(analysis, name) for name in names}
