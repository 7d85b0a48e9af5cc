"""Errors as JSON with one clear line. Bad input is never an error of the server."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm.exc import ObjectDeletedError, StaleDataError
from starlette.exceptions import HTTPException

from blastdet.core.errors import BlastdetError
from blastdet.service import service_log
from blastdet.service.compute.pool import ComputeBusyError, ComputeDiedError
from blastdet.service.http.request_errors import line_of
from blastdet.service.http.schemas import Failure
from blastdet.service.security.callers import RefusedError
from blastdet.service.store.blobs import NO_SPACE, TooLargeError
from blastdet.service.store.database import UNREACHABLE

_DISK_FULL = "53100"  # of PostgreSQL

_UNREAD: dict[type, str] = {
    RecursionError: "body: expected JSON with few levels, got one too deeply nested",
    UnicodeDecodeError: "body: expected JSON in UTF-8, got other bytes",
    ValueError: "body: expected JSON with short numbers, got one of thousands of digits",
}
"""What was wrong with JSON that Python cannot read."""

RESPONSES: dict[int | str, dict[str, object]] = {
    status: {"model": Failure, "description": text}
    for status, text in {
        400: "The request cannot be read",
        401: "Not logged in",
        403: "Not allowed",
        404: "Not there, or of somebody else",
        413: "Too large",
        422: "A value is wrong; the line says which",
        429: "Too many requests",
        503: "Busy, or the database is away",
    }.items()
}
"""Answers that every route may give, for OpenAPI."""


def failure(status: int, line: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as its answer."""
    return JSONResponse({"error": line}, status, headers=dict(headers or {}))


def add_handlers(app: FastAPI) -> None:
    """Turn exceptions into answers."""

    @app.exception_handler(RefusedError)
    def refused(request: Request, error: RefusedError) -> JSONResponse:
        return failure(error.status, str(error), error.headers)

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        line = _UNREAD.get(type(error.__cause__), str(error.detail))  # FastAPI says only that it failed
        return failure(error.status_code, line, error.headers)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return failure(422, line_of(error, request.headers.get("content-type", "")))

    @app.exception_handler(BlastdetError)
    def ours(request: Request, error: BlastdetError) -> JSONResponse:
        if isinstance(error, ComputeBusyError):
            return failure(503, str(error), {"Retry-After": "5"})
        status = 413 if isinstance(error, TooLargeError) else 422
        if isinstance(error, ComputeDiedError):
            service_log.say("compute.ended")
        return failure(status, " ".join(str(error).split()))

    for kind in UNREACHABLE:
        app.add_exception_handler(kind, _database)
    app.add_exception_handler(DataError, _data)
    for changed in (IntegrityError, StaleDataError, ObjectDeletedError):
        app.add_exception_handler(changed, _changed)
    app.add_exception_handler(OSError, _system)
    app.add_exception_handler(Exception, _bug)


def _database(request: Request, error: Exception) -> JSONResponse:
    said = getattr(error, "orig", None)
    if "full" in str(said) or getattr(said, "sqlstate", "") == _DISK_FULL:  # SQLite and PostgreSQL
        return _full()
    service_log.failed("database")
    return failure(503, "the database does not answer; try again in a few seconds", {"Retry-After": "5"})


def _full() -> JSONResponse:
    return failure(507, "the disk of the service is full")


def _data(request: Request, error: Exception) -> JSONResponse:
    return failure(422, "expected text and numbers that a database can hold")


def _changed(request: Request, error: Exception) -> JSONResponse:
    return failure(409, "changed by another request at the same time; look again, then try again")


def _system(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return _full()
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return failure(503, "busy: too many files are open; try again in a few seconds", {"Retry-After": "5"})
    return _bug(request, error)


def _bug(request: Request, error: Exception) -> JSONResponse:
    request_id = request.scope.get("state", {}).get("request_id", "")
    service_log.failed("bug", request=request_id)
    return failure(500, f"the service failed; its log says where (request {request_id})")
