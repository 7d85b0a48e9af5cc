"""Tables of the service. `blastdet.service.migrations` makes them; times are ISO 8601 in UTC, which sorts as text."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Double, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ID = String(32)
TIME = String(27)


def new_id() -> str:
    """A random name that cannot be guessed, for a row and its files."""
    return secrets.token_hex(16)


def now() -> str:
    """Time as it is stored.

    Examples
    --------
    >>> len(now())
    27
    """
    return later(0)


def later(hours: float) -> str:
    """Time so many hours from now, as it is stored."""
    time = datetime.now(UTC) + timedelta(hours=hours)
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


class Base(DeclarativeBase):
    """Base of all tables."""


class User(Base):
    """A person, or the program of a laboratory. Without a password: known from a proxy, or by tokens only."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    password_hash: Mapped[str | None] = mapped_column(String(200))
    is_admin: Mapped[bool] = mapped_column(Boolean, default=False)
    created: Mapped[str] = mapped_column(TIME, default=now)


class Token(Base):
    """An API token; only its sha256 is stored. It ends with the token that it was made with, if there is one."""

    __tablename__ = "tokens"
    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scope: Mapped[str] = mapped_column(String(10))
    made_with: Mapped[str | None] = mapped_column(ID)
    created: Mapped[str] = mapped_column(TIME, default=now)
    expires: Mapped[str | None] = mapped_column(TIME)


class Login(Base):
    """The session of a browser; the cookie holds the secret, the row its sha256."""

    __tablename__ = "sessions"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    csrf: Mapped[str] = mapped_column(String(64))
    created: Mapped[str] = mapped_column(TIME, default=now)
    expires: Mapped[str] = mapped_column(TIME)


class Smear(Base):
    """One image, with its place in the worklist. Its files are named after its id.

    Who reviewed or signed it did so for the result `analysis_id`.
    """

    __tablename__ = "smears"
    __table_args__ = (
        UniqueConstraint("owner_id", "sha256", name="smears_owner_sha256"),
        Index("smears_owner_created", "owner_id", "created", "id"),
    )
    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(String(64))
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    mpp: Mapped[list[float] | None] = mapped_column(JSON)
    notes: Mapped[list[str]] = mapped_column(JSON, default=list)
    status: Mapped[str] = mapped_column(String(10), default="new")
    reviewed_by: Mapped[str] = mapped_column(String(100), default="")
    reviewed: Mapped[str | None] = mapped_column(TIME)
    analysis_id: Mapped[str | None] = mapped_column(ID)
    created: Mapped[str] = mapped_column(TIME, default=now)


class Share(Base):
    """A smear that another user may see, or also correct."""

    __tablename__ = "shares"
    smear_id: Mapped[str] = mapped_column(ForeignKey("smears.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True)
    may: Mapped[str] = mapped_column(String(5), default="read")


class Upload(Base):
    """An upload in pieces (tus); how much has arrived is the size of its file."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    smear_id: Mapped[str | None] = mapped_column(ID)
    created: Mapped[str] = mapped_column(TIME, default=now)


class Analysis(Base):
    """A finished result. One for each smear, weights and parameters."""

    __tablename__ = "analyses"
    __table_args__ = (UniqueConstraint("smear_id", "key", name="analyses_smear_key"),)
    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    smear_id: Mapped[str] = mapped_column(ForeignKey("smears.id", ondelete="CASCADE"), index=True)
    key: Mapped[str] = mapped_column(String(64))
    weights: Mapped[str] = mapped_column(String(100))
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    version: Mapped[int] = mapped_column(Integer, default=0)
    seconds: Mapped[float] = mapped_column(Double, default=0.0)
    created: Mapped[str] = mapped_column(TIME, default=now)


class Job(Base):
    """Work to do on a smear. This row is the truth; the queue only wakes workers."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_state_owner", "state", "owner_id", "created"),
        Index("jobs_owner_started", "owner_id", "started"),
    )
    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    smear_id: Mapped[str] = mapped_column(ForeignKey("smears.id", ondelete="CASCADE"), index=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(String(64))
    active_key: Mapped[str | None] = mapped_column(String(100), unique=True)
    weights: Mapped[str] = mapped_column(String(100))
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(10), default="queued")
    worker: Mapped[str | None] = mapped_column(String(80))
    beat: Mapped[int] = mapped_column(BigInteger, default=0)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    cancel: Mapped[bool] = mapped_column(Boolean, default=False)
    done: Mapped[int] = mapped_column(Integer, default=0)
    total: Mapped[int] = mapped_column(Integer, default=0)
    seconds_left: Mapped[float | None] = mapped_column(Double)
    error: Mapped[str] = mapped_column(String(2100), default="")
    analysis_id: Mapped[str | None] = mapped_column(ID)
    created: Mapped[str] = mapped_column(TIME, default=now)
    started: Mapped[str | None] = mapped_column(TIME)
    finished: Mapped[str | None] = mapped_column(TIME)


class CorrectionRow(Base):
    """One line of the corrections of an analysis, with who and when, in the order in which they came."""

    __tablename__ = "corrections"
    __table_args__ = (Index("corrections_analysis_version", "analysis_id", "version", "place"),)
    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    analysis_id: Mapped[str] = mapped_column(ForeignKey("analyses.id", ondelete="CASCADE"))
    version: Mapped[int] = mapped_column(Integer)
    place: Mapped[int] = mapped_column(Integer)
    user_id: Mapped[str] = mapped_column(ID)
    row: Mapped[dict[str, Any]] = mapped_column(JSON)
    created: Mapped[str] = mapped_column(TIME, default=now, index=True)


class AuditRow(Base):
    """Who did what to which id, when. No names of files or patients."""

    __tablename__ = "audit"
    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    time: Mapped[str] = mapped_column(TIME, default=now, index=True)
    user_id: Mapped[str | None] = mapped_column(ID)
    action: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(80), default="")
    address: Mapped[str] = mapped_column(String(64), default="")
    detail: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
