"""What routes share: the parts of the service, and who asks."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from anyio import CapacityLimiter
from fastapi import Depends, Path, Request
from sqlalchemy.orm import Session

from blastdet.service.compute.fair_queue import FairQueue
from blastdet.service.compute.picture_queue import Pictures
from blastdet.service.compute.pool import ComputePool
from blastdet.service.jobs.backend import JobBackend
from blastdet.service.jobs.ended_jobs import EndedJobs
from blastdet.service.metrics import Metrics
from blastdet.service.offered_models import OfferedModel
from blastdet.service.security.addresses import counted_as
from blastdet.service.security.allowances import Allowance
from blastdet.service.security.callers import Caller, Gate, RefusedError, slow_down
from blastdet.service.security.rate_limits import RateLimit
from blastdet.service.settings import ServiceSettings
from blastdet.service.store import smears
from blastdet.service.store.blobs import Blobs
from blastdet.service.store.database import Database
from blastdet.service.store.schema import Analysis, Job, Smear
from blastdet.service.store.smears import Access, May

Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="id that the service gave")]


@dataclass(frozen=True)
class Service:
    """The parts of a running web process.

    Parameters
    ----------
    settings : ServiceSettings
    database : Database
    blobs : Blobs
    backend : JobBackend
    detectors, pixels, inspectors : ComputePool
        For images that are analyzed at once; for tiles, crops and pages; for uploaded files.
    models : dict
        Name -> model that the service offers.
    gate : Gate
    metrics : Metrics
    requests, logins : RateLimit
    asking, detecting, inspecting, rendering : FairQueue
        Requests in the threads that all share; images that are analyzed at once; uploaded files that are looked into;
        results that are put together.
    pictures : Pictures
        Tiles, crops and pages.
    ended_jobs : EndedJobs
    arriving : Counter
        User id -> bytes of uploads in one piece that arrive just now.
    handshakes, connections, uploads, streams, bodies : Allowance
        Connections of an address; uploads that arrive and streams of events of a user, and bytes of its requests that
        are in memory.
    checking : CapacityLimiter
        Passwords that are checked at once: each takes 64 MB.
    parsing : CapacityLimiter
        Large JSON that is parsed at once: all other threads wait for it.
    """

    settings: ServiceSettings
    database: Database
    blobs: Blobs
    backend: JobBackend
    detectors: ComputePool
    pixels: ComputePool
    inspectors: ComputePool
    models: dict[str, OfferedModel]
    gate: Gate
    metrics: Metrics
    requests: RateLimit
    logins: RateLimit
    asking: FairQueue
    detecting: FairQueue
    inspecting: FairQueue
    rendering: FairQueue
    pictures: Pictures
    ended_jobs: EndedJobs
    arriving: Counter[str] = field(default_factory=Counter)
    handshakes: Allowance = field(default_factory=lambda: _connections("handshakes", _files() // 2))
    connections: Allowance = field(default_factory=lambda: _connections("connections", _files()))
    uploads: Allowance = field(default_factory=lambda: Allowance("uploads of one user", 64))
    streams: Allowance = field(default_factory=lambda: Allowance("streams of one user", 20))
    bodies: Allowance = field(default_factory=lambda: Allowance("MB of requests of one user", 2**27, 2**29, 2**20))
    checking: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(2))
    parsing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))


def _connections(what: str, n_files: int) -> Allowance:
    """Few addresses must not hold all that there may be."""
    return Allowance(f"{what} of one address", min(256, n_files // 16), n_files // 2)


def _files() -> int:
    """How many files and connections this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def service_of(request: Request) -> Service:
    """The parts of the service that answers a request."""
    service: Service = request.app.state.service
    return service


def limited_caller(request: Request) -> Caller | None:
    """Who asks, if anybody is known; each request counts for the user or, without one, for the address."""
    service = service_of(request)
    caller = service.gate.caller(request)
    if caller is None:
        slow_down(service.requests.wait(counted_as(service.gate.address_of(request))))
        return None
    if service.gate.mode != "none":
        slow_down(service.requests.wait(caller.user_id))
    request.scope["state"]["user_id"] = caller.user_id
    return caller


def _caller_with(*scopes: str) -> Callable[[Request], Caller]:
    def dependency(request: Request) -> Caller:
        caller = limited_caller(request)
        if caller is None:
            raise RefusedError(401, "expected a session or a token", {"WWW-Authenticate": "Bearer"})
        if caller.scope not in scopes:
            raise RefusedError(403, f"token: expected the scope {' or '.join(scopes)}, got {caller.scope}")
        return caller

    return dependency


async def _service(request: Request) -> Service:
    """The same as a coroutine: FastAPI calls a plain function in another thread, which costs more than it does."""
    return service_of(request)


Services = Annotated[Service, Depends(_service)]
Reader = Annotated[Caller, Depends(_caller_with("read", "write"))]
Writer = Annotated[Caller, Depends(_caller_with("write"))]
Detecting = Annotated[Caller, Depends(_caller_with("write", "detect"))]
AnyCaller = Annotated[Caller, Depends(_caller_with("read", "write", "detect"))]


def smear_access(
    session: Session, caller: Caller, smear_id: str, wanted: May = "read", *, lock: bool = False
) -> Access:
    """A smear that the caller may use so; `lock` as for `smears.access`.

    Raises
    ------
    RefusedError
        404 for smears of others as for those that do not exist; 403 if they are shared for less.
    """
    found = smears.access(session, caller.user_id, smear_id, lock=lock)
    if found is None:
        raise RefusedError(404, "smear: not found")
    if not found.allows(wanted):
        raise RefusedError(403, f"smear: expected the right to {_VERBS[wanted]}, got the right to {found.may} it")
    return found


def _readable(smear_id: Id, service: Services, caller: Reader) -> Smear:
    with service.database.read() as session:
        return smear_access(session, caller, smear_id).smear


ReadableSmear = Annotated[Smear, Depends(_readable)]


_VERBS: dict[May, str] = {"read": "read it", "write": "change it", "owner": "own it"}


def analysis_access(
    session: Session, caller: Caller, analysis_id: str, wanted: May = "read", *, lock: bool = False
) -> tuple[Analysis, Access]:
    """An analysis with its smear, which `lock` locks; errors as for `smear_access`."""
    analysis = session.get(Analysis, analysis_id)
    found = None if analysis is None else smears.access(session, caller.user_id, analysis.smear_id, lock=lock)
    if analysis is None or found is None:
        raise RefusedError(404, "analysis: not found")
    if lock:
        session.refresh(analysis)  # it is deleted and corrected by who locks its smear only
    return analysis, smear_access(session, caller, analysis.smear_id, wanted)


def job_access(session: Session, caller: Caller, job_id: str, wanted: Literal["read", "write"] = "read") -> Job:
    """A job of a smear that the caller may use so; errors as for `smear_access`."""
    job = session.get(Job, job_id)
    if job is None or smears.access(session, caller.user_id, job.smear_id) is None:
        raise RefusedError(404, "job: not found")
    smear_access(session, caller, job.smear_id, wanted)
    return job
