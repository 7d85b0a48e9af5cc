"""Jobs: ask for an analysis, follow it, cancel it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from itertools import count
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from blastdet import __version__
from blastdet.core.mpp import parse_mpp
from blastdet.inference.outputs.region_result import check_region
from blastdet.service.http.context import Id, Reader, Service, Services, Writer, job_access, smear_access
from blastdet.service.http.fair_route import FairRoute
from blastdet.service.http.schemas import AnalysisIn, JobList, JobOut
from blastdet.service.offered_models import OfferedModel
from blastdet.service.security.allowances import Allowance
from blastdet.service.security.callers import Caller, RefusedError
from blastdet.service.store import audit_log, job_rows
from blastdet.service.store.database import UNREACHABLE
from blastdet.service.store.job_rows import FINISHED, JobRequest
from blastdet.service.store.schema import Job, Smear
from blastdet.service.store.smears import visible

router = APIRouter(tags=["jobs"], route_class=FairRoute)

MOST_WAIT_S = 4
"""Less than the time that a service which is stopped gives to requests."""

_POLL_S = 0.4
_ASK_EVERY = 5  # polls until a stream asks again who follows it
_COMMENT_EVERY = 25  # polls without a change; proxies close connections that are silent


def offered(service: Service, name: str) -> OfferedModel:
    """The model of a name; `RefusedError` if the service does not offer it."""
    found = service.models.get(name)
    if found is None:
        raise RefusedError(422, f"weights: expected one of {', '.join(service.models)}, got {name!r:.100}")
    return found


def options_of(wanted: AnalysisIn, written_mpp: str | None = None) -> dict[str, Any]:
    """Options of an analysis in one form, so that equal ones are equal; `written_mpp` is µm/px as text."""
    mpp = parse_mpp(wanted.mpp if written_mpp is None else written_mpp)
    return {
        "mpp": list(mpp) if isinstance(mpp, tuple) else mpp,
        "min_score": wanted.min_score,
        "region": wanted.region,
    }


@router.post("/smears/{smear_id}/analyses", status_code=202, response_model=JobOut)
def analyze(smear_id: Id, service: Services, caller: Writer, wanted: AnalysisIn | None = None) -> Response:
    """Ask for an analysis. 202: it is queued or running; 200: an equal one is done, and the job names it."""
    wanted = wanted or AnalysisIn()
    model = offered(service, wanted.weights)
    options = options_of(wanted)
    with service.database.begin() as session:
        smear = smear_access(session, caller, smear_id, "write").smear
        if wanted.region is not None:
            check_region(wanted.region, (smear.width, smear.height))
        request = JobRequest(model.name, model.sha256, options, __version__)
        try:
            job, is_new = job_rows.ask(session, smear, caller.user_id, request)
        except job_rows.TooManyJobsError as error:
            raise RefusedError(429, str(error), {"Retry-After": "60"}) from None
        if is_new and smear.status == "signed":  # the signature is of the results that are there
            raise RefusedError(409, "smear: it is signed. Reopen it to analyze it again")
        if is_new:
            audit_log.record(session, "job.ask", caller.user_id, job.id, caller.address, smear=smear_id)
    if is_new:
        service.backend.wake()
    headers = {"Location": f"/api/v1/jobs/{job.id}"}
    status = 200 if job.state == "done" else 202
    return JSONResponse(JobOut.of(job).model_dump(mode="json"), status, headers)


@router.get("/jobs")
def jobs(
    service: Services,
    caller: Reader,
    state: Literal["queued", "running", "done", "failed", "cancelled"] | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    smear: Annotated[str | None, Query(pattern="^[0-9a-f]{32}$", description="id of a smear: only its jobs")] = None,
) -> JobList:
    """Jobs on smears that you see, the newest first."""
    query = select(Job).join(Smear, Smear.id == Job.smear_id).where(visible(caller.user_id))
    if state is not None:
        query = query.where(Job.state == state)
    if smear is not None:
        query = query.where(Job.smear_id == smear)
    with service.database.read() as session:
        found = session.scalars(query.order_by(Job.created.desc(), Job.id).limit(limit))
        return JobList(items=[JobOut.of(job) for job in found])


@router.get("/jobs/{job_id}")
async def job(
    job_id: Id,
    service: Services,
    caller: Reader,
    wait: Annotated[float, Query(ge=0, le=MOST_WAIT_S, description="seconds to wait for its end")] = 0,
) -> JobOut:
    """A job; with `wait` as soon as it is over, at the latest after so many seconds."""
    look = partial(_look, service, caller, job_id)
    found = await run_in_threadpool(look)
    if wait and found.state not in FINISHED:
        await service.ended_jobs.wait(job_id, wait)
        found = await run_in_threadpool(look)
    return found


def _look(service: Service, caller: Caller, job_id: str) -> JobOut:
    with service.database.read() as session:
        return JobOut.of(job_access(session, caller, job_id))


@router.post("/jobs/{job_id}/cancel", status_code=202)
def cancel(job_id: Id, service: Services, caller: Writer) -> JobOut:
    """Cancel a job; a running one stops after its current tile. A finished one stays as it is."""
    with service.database.begin() as session:
        found = job_access(session, caller, job_id, "write")
        job_rows.cancel(session, found)
        audit_log.record(session, "job.cancel", caller.user_id, job_id, caller.address)
        session.flush()
        return JobOut.of(found)


class _Events(StreamingResponse):
    """A stream of events, of which a user has few: each asks the database again and again."""

    def __init__(self, events: AsyncIterator[str], streams: Allowance, user_id: str) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._streams, self._user_id = streams, user_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.holding(self._user_id, 1):
            await super().__call__(scope, receive, send)


def _is_still(service: Service, request: Request, caller: Caller) -> bool:
    """Whether a request that lasts is still allowed: its token may be revoked, its session ended."""
    try:
        now = service.gate.caller(request)
    except RefusedError:
        return False
    return now is not None and now.user_id == caller.user_id


@router.get("/jobs/{job_id}/events", response_class=StreamingResponse)
async def events(job_id: Id, request: Request, service: Services, caller: Reader) -> StreamingResponse:
    """Server-sent events: ``progress`` with the job each time it changes, and its state as the last event."""
    look = partial(_look, service, caller, job_id)
    first = await run_in_threadpool(look)

    async def stream() -> AsyncIterator[str]:
        last, current, silent = "", first, 0
        for n_polls in count(1):
            is_over = current.state in FINISHED
            text = current.model_dump_json()
            if text != last or is_over:
                last, silent = text, 0
                yield f"event: {current.state if is_over else 'progress'}\ndata: {text}\n\n"
            if is_over or await request.is_disconnected():
                return
            silent += 1
            if silent % _COMMENT_EVERY == 0:
                yield ": waiting\n\n"
            await asyncio.sleep(_POLL_S)
            try:
                if n_polls % _ASK_EVERY == 0 and not await run_in_threadpool(_is_still, service, request, caller):
                    return
                current = await run_in_threadpool(look)
            except UNREACHABLE:
                continue
            except RefusedError:  # deleted meanwhile
                yield f"event: cancelled\ndata: {json.dumps({'id': job_id, 'state': 'cancelled'})}\n\n"
                return

    return _Events(stream(), service.streams, caller.user_id)
