"""Jobs: a row is the truth about a job, whatever the queue says.

A job is ``queued``, ``running`` at a worker that beats, ``done``, ``failed`` or ``cancelled``. What a worker writes
holds only while the job is still its own: a worker that was taken for dead cannot overwrite what another did.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, CursorResult, Select, cast, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from blastdet.core.errors import BlastdetError, counted
from blastdet.service.store import smears
from blastdet.service.store.schema import Analysis, Job, Smear, User, now

FINISHED = ("done", "failed", "cancelled")
ACTIVE = ("queued", "running")
LARGE_PIXELS = 10**8
MOST_ACTIVE = 1000
"""Jobs of one user that may wait or run: a folder of smears, and no more rows than a look at the queue can read."""


class TooManyJobsError(BlastdetError):
    """A user has `MOST_ACTIVE` jobs that are not over."""


@dataclass(frozen=True)
class JobRequest:
    """What is to be computed.

    Parameters
    ----------
    weights : str
        Name of the model.
    weights_sha256 : str
        Over the files of both stages.
    options : dict
        ``mpp``, ``min_score``, ``region``; ``None`` where not given.
    version : str
        Of blastdet.
    """

    weights: str
    weights_sha256: str
    options: dict[str, Any]
    version: str

    @property
    def key(self) -> str:
        """Equal for equal requests."""
        text = json.dumps([self.weights_sha256, self.options, self.version], sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def failures(session: Session, smear_ids: list[str]) -> dict[str, str]:
    """Smear -> why its newest job failed; without smears whose newest job did not."""
    newest = select(Job.smear_id, func.max(Job.created).label("created")).where(Job.smear_id.in_(smear_ids))
    last = newest.group_by(Job.smear_id).subquery()
    of_last = (Job.smear_id == last.c.smear_id) & (Job.created == last.c.created)
    query = select(Job).join(last, of_last).where(Job.state == "failed")
    return {job.smear_id: job.error for job in session.scalars(query)}


def active_of(session: Session, smear_ids: list[str]) -> dict[str, Job]:
    """Smear -> its job that runs or, if none does, waits; of several the newest."""
    query = select(Job).where(Job.smear_id.in_(smear_ids), Job.state.in_(ACTIVE))
    return {job.smear_id: job for job in session.scalars(query.order_by(Job.state == "running", Job.created))}


def ask(session: Session, smear: Smear, user_id: str, request: JobRequest) -> tuple[Job, bool]:
    """The job of a request, and whether it is new. A finished or active one of an equal request is given again.

    Raises
    ------
    TooManyJobsError
    """
    found = session.scalar(select(Analysis).where(Analysis.smear_id == smear.id, Analysis.key == request.key))
    if found is not None:
        return _job_of(session, found, user_id), False
    active = f"{smear.id}-{request.key}"
    waiting = session.scalar(select(Job).where(Job.active_key == active))
    if waiting is not None:
        return waiting, False
    _check_number(session, user_id)
    job = Job(
        smear_id=smear.id,
        owner_id=user_id,
        key=request.key,
        active_key=active,
        weights=request.weights,
        request=request.options,
    )
    try:
        with session.begin_nested():
            session.add(job)
    except IntegrityError:  # an equal request came at the same time
        waiting = session.scalar(select(Job).where(Job.active_key == active))
        if waiting is None:
            raise
        return waiting, False
    return job, True


def _check_number(session: Session, user_id: str) -> None:
    query = select(func.count()).select_from(Job).where(Job.owner_id == user_id, Job.state.in_(ACTIVE))
    if (n := session.scalar(query) or 0) >= MOST_ACTIVE:
        what = f"expected at most {MOST_ACTIVE} of one user that wait or run, got {n + 1}"
        raise TooManyJobsError(f"jobs: {what}. Wait until some are done, or cancel some")


def _job_of(session: Session, analysis: Analysis, user_id: str) -> Job:
    """The job that made an analysis."""
    of_smear = select(Job).where(Job.smear_id == analysis.smear_id)
    found = session.scalar(of_smear.where(Job.analysis_id == analysis.id).limit(1))
    if found is not None:
        return found
    job = Job(
        smear_id=analysis.smear_id,
        owner_id=user_id,
        key=analysis.key,
        weights=analysis.weights,
        request=analysis.request,
        state="done",
        analysis_id=analysis.id,
        finished=now(),
    )
    session.add(job)
    session.flush()
    return job


def claim(session: Session, worker: str, most_large: int | None = None) -> Job | None:
    """Take a queued job, or nothing if there is none: people take turns, and each one's oldest comes first.

    Parameters
    ----------
    session : Session
    worker : str
    most_large : int, optional
        Images of over `LARGE_PIXELS` that may be worked on at once: one takes minutes to an hour, and must not stop
        the work on all others.
    """
    is_small_only = most_large is not None and _n_large(session) >= most_large
    for owner_id in session.scalars(_TURNS).all():
        queued = select(Job.id).where(Job.owner_id == owner_id, Job.state == "queued")
        if is_small_only:
            queued = queued.join(Smear, Smear.id == Job.smear_id).where(~_IS_LARGE)
        oldest = queued.order_by(Job.created, Job.id).limit(1).with_for_update(of=Job, skip_locked=True)
        if (job_id := session.scalar(oldest)) is not None:  # it is locked for other workers now
            values = {"state": "running", "worker": worker, "started": now(), "beat": Job.beat + 1}
            taken = update(Job).where(Job.id == job_id)
            session.execute(taken.values(attempts=Job.attempts + 1, done=0, total=0, seconds_left=None, **values))
            return session.get(Job, job_id, populate_existing=True)
    return None


def _turns() -> Select[str]:
    """Users with queued jobs: whose last job was started first comes first, and before them who had none."""
    first = func.min(Job.created).label("first")
    waiting = select(Job.owner_id, first).where(Job.state == "queued").group_by(Job.owner_id).subquery()
    last = select(func.max(Job.started)).where(Job.owner_id == waiting.c.owner_id).scalar_subquery()
    return select(waiting.c.owner_id).order_by(func.coalesce(last, ""), waiting.c.first)


_TURNS = _turns()
_IS_LARGE = cast(Smear.width, BigInteger) * Smear.height > LARGE_PIXELS


def _n_large(session: Session) -> int:
    """Large images that are worked on."""
    running = select(func.count()).select_from(Job).join(Smear, Smear.id == Job.smear_id)
    return session.scalar(running.where(Job.state == "running", _IS_LARGE)) or 0


def beat(session: Session, job_id: str, worker: str, progress: tuple[int, int, float | None]) -> bool | None:
    """Say that a job is alive, and how far it is.

    Returns
    -------
    bool or None
        Whether it shall be cancelled; ``None`` if it is not this worker's any more.
    """
    done, total, left = progress
    mine = update(Job).where(Job.id == job_id, Job.worker == worker, Job.state == "running")
    if not _changed(session, mine.values(beat=Job.beat + 1, done=done, total=total, seconds_left=left)):
        return None
    return bool(session.scalar(select(Job.cancel).where(Job.id == job_id)))


def finish(session: Session, job_id: str, worker: str, analysis: Analysis) -> bool:
    """Add the result of a job; ``False`` if the job is not this worker's any more, and nothing is added.

    A reviewed smear is new again, because this result was not reviewed. That of a smear that was signed is not added.
    Called again after a connection broke, it says whether the first call was committed.
    """
    if session.get(Analysis, analysis.id) is not None:
        return True
    smear = session.get(Smear, analysis.smear_id, with_for_update=True)
    if smear is not None and smear.status == "signed":
        end(session, job_id, worker, "cancelled", "the smear was signed meanwhile")
        return False
    values = {"state": "done", "active_key": None, "analysis_id": analysis.id, "finished": now(), "seconds_left": None}
    mine = update(Job).where(Job.id == job_id, Job.worker == worker, Job.state == "running", ~Job.cancel)
    if not _changed(session, mine.values(done=Job.total, **values)):
        end(session, job_id, worker, "cancelled")  # if it is this worker's: another may be at an equal request by now
        return False
    if smear is not None and smear.status == "reviewed":
        smears.set_status(smear, "new")
    session.add(analysis)
    session.flush()
    return True


def end(session: Session, job_id: str, worker: str | None, state: str, error: str = "") -> bool:
    """End a job without a result; ``False`` if it is not this worker's any more."""
    values = {"state": state, "active_key": None, "error": error[:2000], "finished": now(), "seconds_left": None}
    mine = update(Job).where(Job.id == job_id, Job.state.in_(ACTIVE), Job.worker == worker)
    return _changed(session, mine.values(**values))


def release(session: Session, which: ColumnElement[bool], most_attempts: int) -> int:
    """Queue the running jobs of workers that are gone again; those with too many attempts fail.

    Parameters
    ----------
    which : condition on `Job`
        Which of the running jobs.
    most_attempts : int

    Returns
    -------
    int
        Number of jobs that are queued again.
    """
    running = update(Job).where(Job.state == "running", which)
    over = {"active_key": None, "finished": now(), "seconds_left": None}
    times = counted(most_attempts, "time")
    line = f"the process that computed it ended {times}; the image may be damaged or need more memory"
    session.execute(running.where(Job.cancel).values(state="cancelled", **over))
    session.execute(running.where(Job.attempts >= most_attempts).values(state="failed", error=line, **over))
    return _number(session, running.values(**_BACK))


def give_back(session: Session, job_id: str, worker: str) -> None:
    """Queue the job of a worker that must stop once more; this does not count as an attempt."""
    mine = update(Job).where(Job.id == job_id, Job.worker == worker, Job.state == "running")
    session.execute(mine.values(attempts=Job.attempts - 1, **_BACK))


_BACK: dict[str, Any] = {"state": "queued", "worker": None, "done": 0, "total": 0, "seconds_left": None}


def cancel(session: Session, job: Job) -> None:
    """Cancel a job: at once if it is queued, else at the next beat of its worker. `job` is as it is now afterwards."""
    if not end(session, job.id, None, "cancelled"):  # a worker may have taken it since it was read
        running = update(Job).where(Job.id == job.id, Job.state == "running")
        session.execute(running.values(cancel=True, active_key=None))  # an equal request is a new job from now on
    session.expire(job)  # read again when it is looked at: `ObjectDeletedError` (409) if it was deleted


def is_active(session: Session, smear_id: str) -> bool:
    """Whether a job of a smear waits or runs."""
    return session.scalar(select(Job.id).where(Job.smear_id == smear_id, Job.state.in_(ACTIVE)).limit(1)) is not None


def active(session: Session) -> list[tuple[Job, Smear, User]]:
    """Jobs that wait or run, each with its smear and who asked for it; the oldest first."""
    query = select(Job, Smear, User).join(Smear, Smear.id == Job.smear_id).join(User, User.id == Job.owner_id)
    return [
        (job, smear, user)
        for job, smear, user in session.execute(query.where(Job.state.in_(ACTIVE)).order_by(Job.created, Job.id))
    ]


def counts(session: Session) -> dict[str, int]:
    """Number of jobs in each state."""
    query = select(Job.state, func.count()).group_by(Job.state)
    return dict(session.execute(query).all())


def beats(session: Session) -> dict[str, int]:
    """Beat of each running job."""
    query = select(Job.id, Job.beat).where(Job.state == "running")
    return dict(session.execute(query).all())


def _changed(session: Session, statement: Any) -> bool:
    return _number(session, statement) == 1


def _number(session: Session, statement: Any) -> int:
    """Rows that a statement changes."""
    result: CursorResult[Any] = session.execute(statement)  # type: ignore[assignment]
    return int(result.rowcount)
