"""The audit log: who did what to which id, when, from where. It outlives what it tells of, and names no patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, delete, or_, select
from sqlalchemy.orm import Session

from blastdet.service.store.schema import Analysis, AuditRow, Job


def record(
    session: Session, action: str, user_id: str | None, subject: str = "", address: str = "", **detail: Any
) -> None:
    """Add a line, in the transaction of what it tells of."""
    row = AuditRow(action=action, user_id=user_id, subject=subject, address=address[:64], detail=detail)
    session.add(row)


def lines(
    session: Session, limit: int = 100, before: tuple[str, str] | None = None, user_id: str | None = None
) -> list[AuditRow]:
    """The newest lines.

    Parameters
    ----------
    session : Session
    limit : int
    before : (str, str), optional
        Time and id of the last line of the page before; an empty id leaves out all lines of that time.
    user_id : str, optional
        Only what this user did.
    """
    query = select(AuditRow)
    if before is not None:
        time, row_id = before
        query = query.where(or_(AuditRow.time < time, and_(AuditRow.time == time, AuditRow.id < row_id)))
    if user_id is not None:
        query = query.where(AuditRow.user_id == user_id)
    return list(session.scalars(query.order_by(AuditRow.time.desc(), AuditRow.id.desc()).limit(limit)))


def smears_of(session: Session, rows: Sequence[AuditRow]) -> dict[str, str]:
    """Id of a line -> id of the smear that it is about; of what was deleted since, only where the line says it."""
    asked = {row.subject for row in rows}
    known = dict(session.execute(select(Analysis.id, Analysis.smear_id).where(Analysis.id.in_(asked))).all())
    known |= dict(session.execute(select(Job.id, Job.smear_id).where(Job.id.in_(asked))).all())
    found = {}
    for row in rows:
        smear = row.subject if row.action.startswith("smear.") else row.detail.get("smear") or known.get(row.subject)
        if smear:
            found[row.id] = str(smear)
    return found


def forget(session: Session, before: str) -> None:
    """Delete lines that are older than a time."""
    session.execute(delete(AuditRow).where(AuditRow.time < before))
