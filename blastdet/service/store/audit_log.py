"""The audit log: who did what to which id, when, from where. It outlives what it tells of, and names no patient."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from blastdet.service.store.schema import AuditRow


def record(
    session: Session, action: str, user_id: str | None, subject: str = "", address: str = "", **detail: Any
) -> None:
    """Add a line, in the transaction of what it tells of."""
    row = AuditRow(action=action, user_id=user_id, subject=subject, address=address[:64], detail=detail)
    session.add(row)


def lines(session: Session, limit: int = 100, before: str | None = None) -> list[AuditRow]:
    """The newest lines."""
    query = select(AuditRow)
    if before is not None:
        query = query.where(AuditRow.time < before)
    return list(session.scalars(query.order_by(AuditRow.time.desc(), AuditRow.id).limit(limit)))


def forget(session: Session, before: str) -> None:
    """Delete lines that are older than a time."""
    session.execute(delete(AuditRow).where(AuditRow.time < before))
