"""Indexes for the turns of users with the workers: each look at a queue of thousands took minutes."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Find the last job of a user, and the oldest that waits, without a look at all others."""
    op.create_index("jobs_state_owner", "jobs", ["state", "owner_id", "created"])
    op.create_index("jobs_owner_started", "jobs", ["owner_id", "started"])
    op.drop_index("jobs_state_created", "jobs")
    op.drop_index("ix_jobs_owner_id", "jobs")
