"""A review or a signature is of one result: which, was a matter of which came last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Reviews and signatures that are there are of the newest result."""
    op.add_column("smears", sa.Column("analysis_id", sa.String(32), nullable=True))
    op.execute(
        "UPDATE smears SET analysis_id = (SELECT id FROM analyses WHERE analyses.smear_id = smears.id "
        "ORDER BY created DESC LIMIT 1) WHERE status <> 'new'"
    )
