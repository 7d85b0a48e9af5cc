"""Deletion: one smear, those that are too old, and files that no row names. Deleted means gone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from blastdet.service.store import audit_log, smears
from blastdet.service.store.blobs import Blobs, is_stale
from blastdet.service.store.database import Database
from blastdet.service.store.schema import AuditRow, Login, Smear, Upload, later, now

_UPLOAD_HOURS = 48.0


def delete_smear(
    database: Database,
    blobs: Blobs,
    smear_id: str,
    user_id: str | None,
    address: str = "",
    check: Callable[[Session], object] = lambda session: None,
) -> None:
    """Delete a smear: rows first, so that no one sees half of it, then files; `check` may refuse by an exception."""
    with database.begin() as session:
        check(session)
        smears.delete_rows(session, smear_id)
        audit_log.record(session, "smear.delete", user_id, smear_id, address)
    blobs.delete_smear(smear_id)
    database.forget_deleted()


def sweep(database: Database, blobs: Blobs, keep_days: float | None, *, is_steady: bool = True) -> int:
    """Delete what is left over and, if the time of day is to be believed, too old; returns the number of smears."""
    n = 0
    if keep_days is not None and is_steady:
        while True:
            with database.read() as session:
                old = smears.older_than(session, later(-24 * keep_days))
            if not old:
                break
            for smear_id in old:
                delete_smear(database, blobs, smear_id, None)
                n += 1
    with database.read() as session:
        stray = smears.without_rows(session, blobs)
    for smear_id in stray:
        blobs.delete_smear(smear_id)
    if is_steady:
        _old_uploads(database, blobs)
    return n


def newest_time(database: Database) -> float | None:
    """When the newest row was written, in seconds since 1970."""
    with database.read() as session:
        found = [session.scalar(select(func.max(column))) for column in (AuditRow.time, Smear.created)]
    times = [one for one in found if one is not None]
    return datetime.fromisoformat(max(times)).timestamp() if times else None


def _old_uploads(database: Database, blobs: Blobs) -> None:
    with database.begin() as session:
        session.execute(delete(Upload).where(Upload.created < later(-_UPLOAD_HOURS)))
        session.execute(delete(Login).where(Login.expires < now()))
        known = set(session.scalars(select(Upload.id).where(Upload.smear_id.is_(None))))
    for path in blobs.uploads.iterdir():
        if path.name not in known and is_stale(path):
            path.unlink(missing_ok=True)
