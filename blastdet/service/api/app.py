"""The application: routes, guards, and the parts behind them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from blastdet import __version__
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.parallel import cpu_count
from blastdet.service import monitoring
from blastdet.service.api import (
    account_routes,
    analysis_routes,
    audit_routes,
    correction_routes,
    job_routes,
    picture_routes,
    report_routes,
    smear_routes,
    upload_routes,
)
from blastdet.service.compute.fair_queue import FairQueue
from blastdet.service.compute.picture_queue import Pictures
from blastdet.service.compute.pool import ComputeLimits, ComputePool
from blastdet.service.http.context import Service
from blastdet.service.http.failures import RESPONSES, add_handlers
from blastdet.service.jobs.backend import HueyBackend
from blastdet.service.jobs.ended_jobs import EndedJobs
from blastdet.service.metrics import Metrics
from blastdet.service.offered_models import offered_models
from blastdet.service.security.callers import Gate
from blastdet.service.security.guard import Guard
from blastdet.service.security.rate_limits import RateLimit
from blastdet.service.settings import ServiceSettings
from blastdet.service.store.blobs import Blobs
from blastdet.service.store.database import Database

PREFIX = "/api/v1"

ROUTES = (
    *(smear_routes, picture_routes, upload_routes, job_routes, analysis_routes),
    *(report_routes, correction_routes, account_routes, audit_routes),
)
"""Modules with the routes below `PREFIX`."""

_MOST_ENGINES = 4
_SHARED = 32  # of the 40 threads that all share
_RENDERING = 2  # threads for results: in one process, more gain nothing
_ANSWER_S = 0.3  # in which requests that a stop cancels are answered


def make_service(settings: ServiceSettings) -> Service:
    """The parts of a web process. The database has been migrated by the supervisor."""
    database = Database(settings.database_url)
    models = offered_models(settings)
    limits = ComputeLimits(settings.memory_mb, settings.stall_seconds, settings.device)
    engines = settings.engines or max(1, min(_MOST_ENGINES, cpu_count()))
    blobs, pixels = Blobs(settings.data), ComputePool(4, limits)  # two for overviews
    inspectors = ComputePool(3, limits)
    return Service(
        settings=settings,
        database=database,
        blobs=blobs,
        backend=HueyBackend(settings.data / "queue.db"),
        detectors=ComputePool(engines, limits, [str(models["default"].folder)] if "default" in models else []),
        pixels=pixels,
        models=models,
        gate=Gate(settings, database),
        metrics=Metrics(),
        requests=RateLimit(settings.requests_per_minute),
        logins=RateLimit(settings.logins_per_minute),
        asking=FairQueue(_SHARED, "requests", 20_000, 5000, at_once=_SHARED // 2),
        detecting=FairQueue(engines, "images", 256, 32),
        inspectors=inspectors,
        inspecting=FairQueue(inspectors.size, "uploads", 64, 16, at_once=2),
        rendering=FairQueue(_RENDERING, "results", 256, 64, at_once=1),
        pictures=Pictures(pixels, blobs, overview_seconds=settings.overview_seconds),
        ended_jobs=EndedJobs(database),
    )


def make_app(service: Service) -> FastAPI:
    """The application of a service."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        threading.Thread(target=service.detectors.start, daemon=True).start()
        yield
        await asyncio.sleep(_ANSWER_S)
        service.detectors.close()
        service.pixels.close()
        service.inspectors.close()
        service.database.close()

    app = FastAPI(
        title="blastdet",
        summary="Detect, classify and count nucleated cells on stained blood smears.",
        description=RESEARCH_USE,
        version=__version__,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    add_handlers(app)
    for module in ROUTES:
        app.include_router(module.router, prefix=PREFIX, responses=RESPONSES)
    app.include_router(monitoring.router)
    app.add_middleware(
        Guard,
        hosts=service.settings.host_names(),
        metrics=service.metrics,
        has_tls=service.settings.scheme == "https",
        body_seconds=service.settings.silence_seconds,
    )
    return app
