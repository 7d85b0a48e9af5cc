"""The audit log, for administrators: who did what to which id, when, from where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from blastdet.datasets.formats import csv_table
from blastdet.service.http.context import Reader, Service, Services
from blastdet.service.http.fair_route import FairRoute
from blastdet.service.http.schemas import AuditLine
from blastdet.service.security.callers import Caller, RefusedError
from blastdet.service.store import accounts, audit_log

router = APIRouter(tags=["accounts"], route_class=FairRoute)

COLUMNS = ("time", "user", "user_id", "action", "subject", "smear", "address", "detail")
"""Columns of ``audit.csv``."""

_AT_ONCE = 1000  # lines

User = Annotated[str | None, Query(max_length=100, description="name of a user: only what this user did")]


@router.get("/audit")
def audit(
    service: Services,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=_AT_ONCE)] = 100,
    before: Annotated[
        str | None,
        Query(max_length=80, pattern="^[0-9TZ:.+-]*(_[0-9a-f]{32})?$", description="a time, or TIME_ID of a line"),
    ] = None,
    user: User = None,
) -> list[AuditLine]:
    """Who did what to which id, when, from where, the newest first; for administrators."""
    _check(service, caller)
    with service.database.read() as session:
        time, _, row_id = (before or "").partition("_")
        return _lines(session, limit, (time, row_id) if before is not None else None, _id_of(session, user))


@router.get("/audit.csv", response_class=Response)
def as_csv(service: Services, caller: Reader, user: User = None) -> StreamingResponse:
    """All of it as a table; for administrators."""
    _check(service, caller)
    with service.database.read() as session:
        user_id = _id_of(session, user)
    headers = {"Content-Disposition": 'attachment; filename="audit.csv"'}
    return StreamingResponse(_csv(service, user_id), media_type="text/csv; charset=utf-8", headers=headers)


def may_audit(service: Service, caller: Caller) -> bool:
    """Whether a caller may read the audit log."""
    return caller.is_admin or service.gate.mode == "none"


def _check(service: Service, caller: Caller) -> None:
    if not may_audit(service, caller):
        raise RefusedError(403, "audit: expected an administrator")


def _id_of(session: Session, name: str | None) -> str | None:
    if name is None:
        return None
    user = accounts.find_user(session, name)
    if user is None:
        raise RefusedError(404, "user: expected the name of a user")
    return user.id


def _lines(session: Session, limit: int, before: tuple[str, str] | None, user_id: str | None) -> list[AuditLine]:
    rows = audit_log.lines(session, limit, before, user_id)
    names = {user.id: user.name for user in accounts.users(session)}
    smears = audit_log.smears_of(session, rows)
    same = ("id", "time", "user_id", "action", "subject", "address", "detail")
    return [
        AuditLine(
            **{name: getattr(row, name) for name in same},
            user=names.get(row.user_id or ""),
            smear=smears.get(row.id),
        )
        for row in rows
    ]


def _csv(service: Service, user_id: str | None) -> Iterator[str]:
    yield csv_table.line(COLUMNS)
    before: tuple[str, str] | None = None
    while True:
        with service.database.read() as session:  # for each piece: the reader may be slow
            found = _lines(session, _AT_ONCE, before, user_id)
        yield "".join(csv_table.line(_fields(one)) for one in found)
        if len(found) < _AT_ONCE:
            return
        before = (found[-1].time, found[-1].id)


def _fields(line: AuditLine) -> list[Any]:
    values = {**line.model_dump(), "detail": json.dumps(line.detail, sort_keys=True) if line.detail else ""}
    return ["" if values[name] is None else values[name] for name in COLUMNS]
