"""What watches a service: is it alive, is it ready, its figures."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from blastdet.service.http.context import service_of
from blastdet.service.http.fair_route import FairRoute
from blastdet.service.security.callers import RefusedError
from blastdet.service.settings import is_loopback
from blastdet.service.store import job_rows

router = APIRouter(tags=["monitoring"], route_class=FairRoute)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(request: Request) -> Response:
    """The database answers and the model is loaded."""
    service = service_of(request)
    found = {"database": service.database.is_alive(), "model": service.detectors.is_ready}
    return JSONResponse(found, 200 if all(found.values()) else 503)


@router.get("/metrics", response_class=Response)
def metrics(request: Request) -> Response:
    """Figures for Prometheus; from this machine, or with a token."""
    service = service_of(request)
    is_near = is_loopback(service.gate.address_of(request))  # of the client, also behind a proxy on this machine
    if service.gate.mode != "none" and not is_near and service.gate.caller(request) is None:
        raise RefusedError(401, "expected a token", {"WWW-Authenticate": "Bearer"})
    with service.database.read() as session:
        jobs = job_rows.counts(session)
    return Response(service.metrics.text(jobs), media_type="text/plain; version=0.0.4; charset=utf-8")
