"""Users, members, sessions, provider credentials, limits, attempts, audit, conversations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ADDED = {
    "account": ("tier", "limits", "alerts"),
    "api_key": ("user_id", "role", "models", "providers", "limits", "rotated_from"),
    "usage": ("user_id", "credential_id", "billed_micro_usd"),
}
_TABLES = (
    "user",
    "membership",
    "refresh_token",
    "provider_credential",
    "usage_attempt",
    "audit_event",
    "quota_alert",
    "conversation",
    "conversation_message",
)


def _text(name: str, *, nullable: bool = False, default: str | None = None) -> sa.Column[str]:
    quoted = None if default is None else sa.text(f"'{default}'")
    return sa.Column(name, sa.String(), nullable=nullable, server_default=quoted)


def _number(name: str, *, nullable: bool = False, default: bool = False) -> sa.Column[int]:
    return sa.Column(
        name, sa.BigInteger(), nullable=nullable, server_default=sa.text("0") if default else None
    )


def _time(name: str, *, nullable: bool = False) -> sa.Column[sa.DateTime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)  # type: ignore[arg-type]  # the annotation names the type of the column, not of its values


def _json(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "user",
        _text("id"),
        _text("email"),
        _text("name"),
        _text("password_hash", nullable=True),
        sa.Column("is_operator", sa.Boolean(), nullable=False, server_default=sa.false()),
        _number("token_version", default=True),
        _time("created_at"),
        _time("disabled_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_user"),
        sa.UniqueConstraint("email", name="uq_user_email"),
    )
    with op.batch_alter_table("account") as account:
        account.add_column(_text("tier", default="unlimited"))
        account.add_column(_json("limits"))
        account.add_column(_json("alerts"))
    op.create_table(
        "membership",
        _text("account_id"),
        _text("user_id"),
        _text("role"),
        _json("limits"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("account_id", "user_id", name="pk_membership"),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_membership_account_id"),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name="fk_membership_user_id"),
    )
    op.create_index("ix_membership_user_id", "membership", ["user_id"])
    op.create_table(
        "refresh_token",
        sa.Column("digest", sa.String(64), nullable=False),
        _text("family"),
        _text("user_id"),
        _text("account_id"),
        _time("created_at"),
        _time("expires_at"),
        _time("used_at", nullable=True),
        sa.Column("used_by", sa.String(64), nullable=True),
        _time("revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("digest", name="pk_refresh_token"),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name="fk_refresh_token_user_id"),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_refresh_token_account_id"),
    )
    for column in ("family", "user_id", "expires_at"):
        op.create_index(f"ix_refresh_token_{column}", "refresh_token", [column])
    with op.batch_alter_table("api_key") as api_key:
        api_key.add_column(_text("user_id", nullable=True))
        api_key.add_column(_text("role", default="service"))
        api_key.add_column(_json("models"))
        api_key.add_column(_json("providers"))
        api_key.add_column(_json("limits"))
        api_key.add_column(_text("rotated_from", nullable=True))
        api_key.create_foreign_key("fk_api_key_user_id", "user", ["user_id"], ["id"])
        api_key.create_index("ix_api_key_user_id", ["user_id"])
    op.create_table(
        "provider_credential",
        _text("id"),
        _text("account_id"),
        _text("provider"),
        _text("name"),
        _text("masked"),
        _json("origins", nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        _text("master_key_id"),
        _time("created_at"),
        _text("created_by", nullable=True),
        _time("revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_provider_credential"),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_provider_credential_account_id"),
    )
    op.create_index(
        "ix_provider_credential_account_id_provider", "provider_credential", ["account_id", "provider"]
    )
    op.create_index("ix_provider_credential_master_key_id", "provider_credential", ["master_key_id"])
    # Not in a batch: that would copy the whole ledger on SQLite.
    op.add_column("usage", _text("user_id", nullable=True))
    op.add_column("usage", _text("credential_id", default="default"))
    op.add_column("usage", _number("billed_micro_usd", default=True))
    op.create_table(
        "usage_attempt",
        _text("job_id"),
        _number("ordinal"),
        _text("account_id"),
        _text("provider"),
        _text("model"),
        _text("credential_id"),
        _text("outcome"),
        _text("error", nullable=True),
        _number("prompt_tokens"),
        _number("completion_tokens"),
        _number("cost_micro_usd", nullable=True),
        _number("provider_ms"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("job_id", "ordinal", name="pk_usage_attempt"),
    )
    op.create_index("ix_usage_attempt_account_id_created_at", "usage_attempt", ["account_id", "created_at"])
    op.create_table(
        "audit_event",
        _text("id"),
        _time("at"),
        _text("account_id", nullable=True),
        _text("actor"),
        _text("act"),
        _text("object_id", nullable=True),
        _text("outcome"),
        _text("request_id", nullable=True),
        _text("address", nullable=True),
        _json("details", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_event"),
    )
    op.create_index("ix_audit_event_at", "audit_event", ["at"])
    op.create_index("ix_audit_event_account_id_at", "audit_event", ["account_id", "at"])
    op.create_table(
        "quota_alert",
        _text("account_id"),
        _text("subject"),
        _text("measure"),
        _text("period"),
        _number("threshold_percent"),
        _number("used"),
        _number("limit"),
        _time("at"),
        _time("delivered_at", nullable=True),
        _number("tries", default=True),
        _time("next_try_at", nullable=True),
        sa.PrimaryKeyConstraint(
            "account_id", "subject", "measure", "period", "threshold_percent", name="pk_quota_alert"
        ),
    )
    op.create_index("ix_quota_alert_next_try_at", "quota_alert", ["next_try_at"])
    op.create_table(
        "conversation",
        _text("id"),
        _text("account_id"),
        _text("owner"),
        _text("title"),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_conversation"),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_conversation_account_id"),
    )
    op.create_index(
        "ix_conversation_account_id_owner_updated_at", "conversation", ["account_id", "owner", "updated_at"]
    )
    op.create_table(
        "conversation_message",
        _text("conversation_id"),
        _number("ordinal"),
        _text("job_id"),
        _json("message", nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("conversation_id", "ordinal", name="pk_conversation_message"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversation.id"], name="fk_conversation_message_conversation_id"
        ),
    )


def downgrade() -> None:
    with op.batch_alter_table("api_key") as api_key:
        api_key.drop_index("ix_api_key_user_id")
        api_key.drop_constraint("fk_api_key_user_id", type_="foreignkey")
        for column in _ADDED["api_key"]:
            api_key.drop_column(column)
    for table in reversed(_TABLES):
        op.drop_table(table)
    with op.batch_alter_table("account") as account:
        for column in _ADDED["account"]:
            account.drop_column(column)
    for column in _ADDED["usage"]:
        op.drop_column("usage", column)
