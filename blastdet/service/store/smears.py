"""Smears: who may see them, the worklist, sharing, deletion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from blastdet.core.errors import name_key
from blastdet.service.store.blobs import Blobs
from blastdet.service.store.schema import Analysis, CorrectionRow, Job, Share, Smear, Upload, User, now

May = Literal["read", "write", "owner"]

STATUSES = ("new", "reviewed", "signed")
_ORDER: tuple[May, ...] = ("read", "write", "owner")


@dataclass(frozen=True)
class Access:
    """A smear, and what the asking user may do with it."""

    smear: Smear
    may: May

    def allows(self, wanted: May) -> bool:
        """Whether this is at least `wanted`."""
        return _ORDER.index(self.may) >= _ORDER.index(wanted)


@dataclass(frozen=True)
class Wanted:
    """Which smears a list shows.

    Parameters
    ----------
    status : str, optional
        One of `STATUSES`.
    name : str, optional
        Part of the name, in any case.
    analyzed : bool, optional
        With a result, or without.
    before : (str, str), optional
        Time and id of the last smear of the page before.
    limit : int
    """

    status: str | None = None
    name: str | None = None
    analyzed: bool | None = None
    before: tuple[str, str] | None = None
    limit: int = 50


def access(session: Session, user_id: str, smear_id: str, *, lock: bool = False) -> Access | None:
    """A smear and what a user may do with it; ``None`` for a smear of others as for one that does not exist.

    With `lock`, others that lock it wait until the end of the transaction, and it is read as they left it.
    """
    smear = session.get(Smear, smear_id, with_for_update=lock, populate_existing=lock)
    if smear is None:
        return None
    if smear.owner_id == user_id:
        return Access(smear, "owner")
    share = session.get(Share, (smear_id, user_id))
    if share is None:
        return None
    return Access(smear, "write" if share.may == "write" else "read")


def visible(user_id: str) -> Any:
    """Condition on `Smear`: the user owns it, or it is shared with the user."""
    shared = select(Share.smear_id).where(Share.user_id == user_id)
    return or_(Smear.owner_id == user_id, Smear.id.in_(shared))


def listed(session: Session, user_id: str, wanted: Wanted) -> list[Smear]:
    """Smears that a user sees, the newest first."""
    query = select(Smear).where(visible(user_id))
    if wanted.status is not None:
        query = query.where(Smear.status == wanted.status)
    if wanted.name:
        escaped = wanted.name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        # both by the database: PostgreSQL knows other letters than Python, in the locale C only those of ASCII
        query = query.where(func.lower(Smear.name).like(func.lower(f"%{escaped}%"), escape="\\"))
    if wanted.analyzed is not None:
        done = select(Analysis.id).where(Analysis.smear_id == Smear.id).exists()
        query = query.where(done if wanted.analyzed else ~done)
    if wanted.before is not None:
        time, smear_id = wanted.before
        query = query.where(or_(Smear.created < time, and_(Smear.created == time, Smear.id < smear_id)))
    return list(session.scalars(query.order_by(Smear.created.desc(), Smear.id.desc()).limit(wanted.limit)))


def same_upload(session: Session, user_id: str, sha256: str) -> Smear | None:
    """The smear that this user made of the same bytes before."""
    return session.scalar(select(Smear).where(Smear.owner_id == user_id, Smear.sha256 == sha256))


def used_bytes(session: Session, user_id: str) -> int:
    """Bytes of a user's smears, and of uploads in pieces that are not over, as announced.

    Uploads of one user wait for each other from here to the end of the transaction, so that two cannot take the same
    room.
    """
    session.execute(select(User.id).where(User.id == user_id).with_for_update())
    kept = session.scalar(select(func.sum(Smear.n_bytes)).where(Smear.owner_id == user_id)) or 0
    open_ones = select(func.sum(Upload.n_bytes)).where(Upload.owner_id == user_id, Upload.smear_id.is_(None))
    return int(kept) + int(session.scalar(open_ones) or 0)


def largest_bytes(session: Session, user_id: str) -> int:
    """Bytes of the largest smear of a user."""
    return session.scalar(select(func.max(Smear.n_bytes)).where(Smear.owner_id == user_id)) or 0


def set_status(smear: Smear, status: str, who: str = "", analysis_id: str | None = None) -> None:
    """Move a smear in the worklist: who reviewed or signed which result; ``new`` forgets both."""
    smear.status, smear.analysis_id = status, analysis_id
    smear.reviewed_by, smear.reviewed = ("", None) if status == "new" else (who, now())


def shares_of(session: Session, smear_id: str) -> list[tuple[str, str]]:
    """Names of the users a smear is shared with, and what they may do."""
    query = select(User.name, Share.may).join(User, User.id == Share.user_id).where(Share.smear_id == smear_id)
    return sorted(((name, may) for name, may in session.execute(query)), key=lambda share: name_key(share[0]))


def share(session: Session, smear_id: str, user_id: str, may: str | None) -> None:
    """Share a smear with a user; ``None`` ends that."""
    these = (Share.smear_id == smear_id, Share.user_id == user_id)
    if may is None:
        session.execute(delete(Share).where(*these))
    elif session.scalar(update(Share).where(*these).values(may=may).returning(Share.may)) is None:
        session.add(Share(smear_id=smear_id, user_id=user_id, may=may))


def hand_over(session: Session, giver: User, taker: User) -> tuple[list[str], int]:
    """Make one user the owner of all smears of another, with their jobs; what is shared stays shared.

    Returns
    -------
    list of str, int
        Ids of these smears; number of those that the giver keeps, as the taker has the same images.
    """
    has = select(Smear.sha256).where(Smear.owner_id == taker.id)
    mine = select(Smear.id).where(Smear.owner_id == giver.id)
    ids = list(session.scalars(mine.where(Smear.sha256.not_in(has))))
    n_kept = (session.scalar(select(func.count()).select_from(mine.subquery())) or 0) - len(ids)
    for one in ids:
        session.execute(delete(Share).where(Share.smear_id == one, Share.user_id == taker.id))
        session.execute(update(Job).where(Job.smear_id == one, Job.owner_id == giver.id).values(owner_id=taker.id))
        session.execute(update(Smear).where(Smear.id == one).values(owner_id=taker.id))
    return ids, n_kept


def last_analyses(session: Session, smear_ids: list[str]) -> dict[str, str]:
    """Id of the newest analysis of each smear that has one."""
    if not smear_ids:
        return {}
    query = select(Analysis.smear_id, Analysis.id).where(Analysis.smear_id.in_(smear_ids))
    return dict(session.execute(query.order_by(Analysis.created)).all())


def delete_rows(session: Session, smear_id: str) -> None:
    """Delete all rows of a smear. Its files are deleted once this is committed."""
    analyses = select(Analysis.id).where(Analysis.smear_id == smear_id)
    session.execute(delete(CorrectionRow).where(CorrectionRow.analysis_id.in_(analyses)))
    for column in (Analysis.smear_id, Job.smear_id, Share.smear_id, Upload.smear_id):
        session.execute(delete(column.class_).where(column == smear_id))
    session.execute(delete(Smear).where(Smear.id == smear_id))


def older_than(session: Session, time: str, limit: int = 100) -> list[str]:
    """Ids of smears that were uploaded before a time."""
    return list(session.scalars(select(Smear.id).where(Smear.created < time).order_by(Smear.created).limit(limit)))


def without_rows(session: Session, blobs: Blobs) -> list[str]:
    """Ids of folders of smears that have no row: a process ended between the two."""
    ids = list(blobs.smear_ids())  # before the rows: a smear that is made meanwhile is not among them
    known = set(session.scalars(select(Smear.id)))  # all of them: a statement takes only so many ids
    return [one for one in ids if one not in known]
