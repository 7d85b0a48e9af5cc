"""A token that was made with a stolen token outlived its revocation: it ends with the token that made it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Which token made a token; unknown for the tokens that exist already."""
    op.add_column("tokens", sa.Column("made_with", sa.String(32), nullable=True))
