"""The first version of the database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID, _TIME = sa.String(32), sa.String(27)


def upgrade() -> None:
    """Make all tables."""
    _people()
    _smears()
    _work()
    _records()


def _needed(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _optional(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


def _of(column: str, table: str, ondelete: str | None = "CASCADE") -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{table}.id"], ondelete=ondelete)


def _index(table: str, *columns: str, name: str = "") -> None:
    op.create_index(name or f"ix_{table}_{columns[0]}", table, list(columns))


def _people() -> None:
    op.create_table(
        "users",
        _needed("id", _ID),
        _needed("name", sa.String(100)),
        _optional("password_hash", sa.String(200)),
        _needed("is_admin", sa.Boolean()),
        _needed("created", _TIME),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "tokens",
        *(_needed("id", _ID), _needed("user_id", _ID), _needed("name", sa.String(100))),
        *(_needed("sha256", sa.String(64)), _needed("scope", sa.String(10))),
        *(_needed("created", _TIME), _optional("expires", _TIME)),
        _of("user_id", "users"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )
    _index("tokens", "user_id")
    op.create_table(
        "sessions",
        *(_needed("sha256", sa.String(64)), _needed("user_id", _ID), _needed("csrf", sa.String(64))),
        *(_needed("created", _TIME), _needed("expires", _TIME)),
        _of("user_id", "users"),
        sa.PrimaryKeyConstraint("sha256"),
    )
    _index("sessions", "user_id")


def _smears() -> None:
    op.create_table(
        "smears",
        *(_needed("id", _ID), _needed("owner_id", _ID), _needed("name", sa.String(200))),
        *(_needed("sha256", sa.String(64)), _needed("n_bytes", sa.BigInteger())),
        *(_needed("width", sa.Integer()), _needed("height", sa.Integer())),
        *(_optional("mpp", sa.JSON()), _needed("notes", sa.JSON())),
        *(_needed("status", sa.String(10)), _needed("reviewed_by", sa.String(100)), _optional("reviewed", _TIME)),
        _needed("created", _TIME),
        _of("owner_id", "users", None),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("owner_id", "sha256", name="smears_owner_sha256"),
    )
    _index("smears", "owner_id", "created", "id", name="smears_owner_created")
    op.create_table(
        "shares",
        *(_needed("smear_id", _ID), _needed("user_id", _ID), _needed("may", sa.String(5))),
        *(_of("smear_id", "smears"), _of("user_id", "users")),
        sa.PrimaryKeyConstraint("smear_id", "user_id"),
    )
    _index("shares", "user_id")
    op.create_table(
        "uploads",
        *(_needed("id", _ID), _needed("owner_id", _ID), _needed("name", sa.String(200))),
        *(_needed("n_bytes", sa.BigInteger()), _optional("smear_id", _ID), _needed("created", _TIME)),
        _of("owner_id", "users"),
        sa.PrimaryKeyConstraint("id"),
    )
    _index("uploads", "owner_id")


def _work() -> None:
    op.create_table(
        "analyses",
        *(_needed("id", _ID), _needed("smear_id", _ID), _needed("key", sa.String(64))),
        *(_needed("weights", sa.String(100)), _needed("request", sa.JSON())),
        *(_needed("version", sa.Integer()), _needed("seconds", sa.Double()), _needed("created", _TIME)),
        _of("smear_id", "smears"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("smear_id", "key", name="analyses_smear_key"),
    )
    _index("analyses", "smear_id")
    op.create_table(
        "jobs",
        *(_needed("id", _ID), _needed("smear_id", _ID), _needed("owner_id", _ID)),
        *(_needed("key", sa.String(64)), _optional("active_key", sa.String(100))),
        *(_needed("weights", sa.String(100)), _needed("request", sa.JSON()), _needed("state", sa.String(10))),
        *(_optional("worker", sa.String(80)), _needed("beat", sa.BigInteger()), _needed("attempts", sa.Integer())),
        *(_needed("cancel", sa.Boolean()), _needed("done", sa.Integer()), _needed("total", sa.Integer())),
        *(_optional("seconds_left", sa.Double()), _needed("error", sa.String(2100)), _optional("analysis_id", _ID)),
        *(_needed("created", _TIME), _optional("started", _TIME), _optional("finished", _TIME)),
        *(_of("owner_id", "users"), _of("smear_id", "smears")),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("active_key"),
    )
    _index("jobs", "owner_id")
    _index("jobs", "smear_id")
    _index("jobs", "state", "created", name="jobs_state_created")


def _records() -> None:
    op.create_table(
        "corrections",
        *(_needed("id", _ID), _needed("analysis_id", _ID), _needed("version", sa.Integer())),
        *(_needed("place", sa.Integer()), _needed("user_id", _ID), _needed("row", sa.JSON())),
        _needed("created", _TIME),
        _of("analysis_id", "analyses"),
        sa.PrimaryKeyConstraint("id"),
    )
    _index("corrections", "analysis_id", "version", "place", name="corrections_analysis_version")
    _index("corrections", "created")
    op.create_table(
        "audit",
        *(_needed("id", _ID), _needed("time", _TIME), _optional("user_id", _ID)),
        *(_needed("action", sa.String(40)), _needed("subject", sa.String(80))),
        *(_needed("address", sa.String(64)), _needed("detail", sa.JSON())),
        sa.PrimaryKeyConstraint("id"),
    )
    _index("audit", "time")
