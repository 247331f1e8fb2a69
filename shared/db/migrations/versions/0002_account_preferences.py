"""What an account prefers where a request leaves the model to it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "account_preferences",
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("fallback_models", sa.JSON(), nullable=False),
        sa.Column("fallback_on", sa.JSON(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id", name="pk_account_preferences"),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_account_preferences_account_id"),
    )


def downgrade() -> None:
    op.drop_table("account_preferences")
