"""Corrections of an analysis: appended, never changed, each with who and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import select, update
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
    for place, one in enumerate(corrections):
        row = {name: value for name, value in asdict(one).items() if value}
        row |= {"who": user.name, "when": time}
        session.add(
            CorrectionRow(
                analysis_id=analysis.id, version=version + 1, place=place, user_id=user.id, row=row, created=time
            )
        )
    return version + 1


def rows_of(session: Session, analysis_id: str, version: int | None = None) -> list[dict[str, Any]]:
    """Corrections of an analysis in order, as plain rows; up to a version if one is given."""
    query = select(CorrectionRow.row).where(CorrectionRow.analysis_id == analysis_id)
    if version is not None:
        query = query.where(CorrectionRow.version <= version)
    return list(session.scalars(query.order_by(CorrectionRow.version, CorrectionRow.place)))


def corrections_of(rows: Sequence[dict[str, Any]]) -> list[Correction]:
    """Rows as corrections."""
    tuples = ("box_xyxy", "new_box_xyxy", "mpp")
    return [Correction(**{**row, **{name: tuple(row[name]) for name in tuples if row.get(name)}}) for row in rows]


def rows_for(session: Session, user_id: str, since: str = "") -> list[dict[str, Any]]:
    """Corrections of all smears that a user sees, in the order of time."""
    query = (
        select(CorrectionRow.row)
        .join(Analysis, Analysis.id == CorrectionRow.analysis_id)
        .join(Smear, Smear.id == Analysis.smear_id)
        .where(visible(user_id), CorrectionRow.created > since)
    )
    order = (CorrectionRow.created, CorrectionRow.analysis_id, CorrectionRow.version, CorrectionRow.place)
    return list(session.scalars(query.order_by(*order)))
