"""Corrections of an analysis: appended, never changed, each with who and when."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, insert, select, tuple_, update
from sqlalchemy.orm import Session

from blastdet.datasets.corrections import Correction
from blastdet.service.store.schema import Analysis, CorrectionRow, Smear, User, now
from blastdet.service.store.smears import visible


def append(
    session: Session, analysis: Analysis, version: int, user: User, corrections: Sequence[Correction]
) -> int | None:
    """Add corrections to version `version` of an analysis.

    Returns
    -------
    int or None
        The new version; ``None`` if another person was first.
    """
    step = update(Analysis).where(Analysis.id == analysis.id, Analysis.version == version)
    if not session.execute(step.values(version=version + 1)).rowcount:  # type: ignore[attr-defined]
        return None
    time = now()
    about = {"analysis_id": analysis.id, "version": version + 1, "user_id": user.id, "created": time}
    rows = [_row(one) | {"who": user.name, "when": time} for one in corrections]
    if rows:  # without any, one with all defaults would be added
        session.execute(
            insert(CorrectionRow), [{**about, "place": place, "row": row} for place, row in enumerate(rows)]
        )
    return version + 1


def are_there(
    session: Session, analysis: Analysis, version: int, user: User, corrections: Sequence[Correction]
) -> bool:
    """Whether a user has added just these to this version already, and asks again because the answer was lost."""
    query = select(CorrectionRow.row).where(
        CorrectionRow.analysis_id == analysis.id,
        CorrectionRow.version == version + 1,
        CorrectionRow.user_id == user.id,
    )
    stored = [row | {"who": "", "when": ""} for row in session.scalars(query.order_by(CorrectionRow.place))]
    sent = [_row(one) | {"who": "", "when": ""} for one in corrections]
    return len(stored) > 0 and stored == json.loads(json.dumps(sent))  # JSON knows no tuples


def _row(correction: Correction) -> dict[str, Any]:
    return {name: value for name, value in vars(correction).items() if value}


def rows_of(session: Session, analysis_id: str, version: int) -> list[dict[str, Any]]:
    """Corrections of an analysis up to a version, in order, as plain rows."""
    query = select(CorrectionRow.row).where(CorrectionRow.analysis_id == analysis_id, CorrectionRow.version <= version)
    return list(session.scalars(query.order_by(CorrectionRow.version, CorrectionRow.place)))


def count(session: Session, analysis_id: str) -> int:
    """Number of corrections of an analysis."""
    return session.scalar(select(func.count()).where(CorrectionRow.analysis_id == analysis_id)) or 0


def page_of(
    session: Session, analysis_id: str, after: tuple[int, int] | None = None, limit: int | None = None
) -> list[tuple[dict[str, Any], int, int]]:
    """Some corrections of an analysis in order, each with its version and its place in it, after such a pair."""
    place = (CorrectionRow.version, CorrectionRow.place)
    query = select(CorrectionRow.row, *place).where(CorrectionRow.analysis_id == analysis_id)
    if after is not None:
        query = query.where(tuple_(*place) > after)
    return [(row, version, n) for row, version, n in session.execute(query.order_by(*place).limit(limit))]


Place = tuple[str, str, int, int]
"""Of a correction among those of all analyses: time, analysis, version, and place in it."""


def rows_for(
    session: Session, user_id: str, since: str = "", after: Place | None = None, limit: int | None = None
) -> list[tuple[dict[str, Any], Place]]:
    """Corrections of all smears that a user sees, in the order of time, each with its place; some after a place."""
    place = (CorrectionRow.created, CorrectionRow.analysis_id, CorrectionRow.version, CorrectionRow.place)
    query = (
        select(CorrectionRow.row, *place)
        .join(Analysis, Analysis.id == CorrectionRow.analysis_id)
        .join(Smear, Smear.id == Analysis.smear_id)
        .where(visible(user_id), CorrectionRow.created > since)
    )
    if after is not None:
        query = query.where(tuple_(*place) > after)
    return [
        (row, (time, which, version, n))
        for row, time, which, version, n in session.execute(query.order_by(*place).limit(limit))
    ]
