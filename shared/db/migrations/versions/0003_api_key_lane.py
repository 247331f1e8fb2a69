"""The highest lane that a key's jobs may be in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "api_key", sa.Column("lane", sa.String(), nullable=False, server_default=sa.text("'interactive'"))
    )


def downgrade() -> None:
    op.drop_column("api_key", "lane")
