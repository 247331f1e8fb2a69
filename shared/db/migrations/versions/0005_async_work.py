"""Asynchronous jobs, files, batches, webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = ("job", "file", "batch", "batch_line", "webhook_endpoint", "webhook_delivery", "webhook_attempt")


def _text(name: str, *, nullable: bool = False, length: int | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=nullable)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False)


def _time(name: str, *, nullable: bool = False) -> sa.Column[sa.DateTime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)  # type: ignore[arg-type]  # the annotation names the type of the column, not of its values


def _json(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=nullable)


def _bytes(name: str, *, nullable: bool = True) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "job",
        _text("id"),
        _text("account_id"),
        _text("api_key_id"),
        _text("user_id", nullable=True),
        _text("request_id"),
        _text("kind"),
        _text("surface"),
        _text("lane"),
        _text("provider"),
        _text("model"),
        _flag("stream"),
        _text("state"),
        _bytes("header", nullable=False),
        _bytes("body"),
        _number("cost"),
        _text("fingerprint"),
        _text("idempotency", nullable=True, length=64),
        _number("retain_seconds"),
        _flag("stores_body"),
        _json("notes"),
        _text("webhook_url", nullable=True),
        _time("created_at"),
        _time("deadline_at"),
        _time("finished_at", nullable=True),
        _bytes("result_head"),
        _bytes("result_body"),
        _bytes("events"),
        _time("expires_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
        sa.UniqueConstraint("idempotency", name="uq_job_idempotency"),
    )
    op.create_index("ix_job_account_id_created_at_id", "job", ["account_id", "created_at", "id"])
    op.create_index("ix_job_expires_at", "job", ["expires_at"])
    op.create_index("ix_job_state_id", "job", ["state", "id"])
    op.create_table(
        "file",
        _text("id"),
        _text("account_id"),
        _text("created_by"),
        _text("filename"),
        _text("purpose"),
        _number("size_bytes"),
        _text("storage_key"),
        _time("created_at"),
        _time("expires_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_file"),
        sa.UniqueConstraint("storage_key", name="uq_file_storage_key"),
    )
    op.create_index("ix_file_account_id_created_at_id", "file", ["account_id", "created_at", "id"])
    op.create_index("ix_file_expires_at", "file", ["expires_at"])
    op.create_table(
        "batch",
        _text("id"),
        _text("account_id"),
        _text("api_key_id"),
        _text("user_id", nullable=True),
        _text("request_id"),
        _text("form"),
        _text("endpoint"),
        _text("model", nullable=True),
        _text("input_file_id"),
        _text("output_file_id", nullable=True),
        _text("error_file_id", nullable=True),
        _text("status"),
        _json("errors"),
        _json("notes"),
        _json("options", nullable=False),
        _text("webhook_url", nullable=True),
        _json("handed_over"),
        _text("fingerprint"),
        _text("idempotency", nullable=True, length=64),
        _number("checked_lines"),
        _number("checked_bytes"),
        _number("fed_lines"),
        _number("total"),
        _number("completed"),
        _number("failed"),
        _number("cancelled"),
        _number("expired"),
        _time("created_at"),
        _time("expires_at"),
        _time("in_progress_at", nullable=True),
        _time("finalizing_at", nullable=True),
        _time("completed_at", nullable=True),
        _time("failed_at", nullable=True),
        _time("expired_at", nullable=True),
        _time("cancelling_at", nullable=True),
        _time("cancelled_at", nullable=True),
        _time("results_expire_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_batch"),
        sa.UniqueConstraint("idempotency", name="uq_batch_idempotency"),
    )
    op.create_index("ix_batch_account_id_created_at_id", "batch", ["account_id", "created_at", "id"])
    op.create_index("ix_batch_results_expire_at", "batch", ["results_expire_at"])
    op.create_index("ix_batch_status_id", "batch", ["status", "id"])
    op.create_table(
        "batch_line",
        _text("batch_id"),
        _number("ordinal"),
        _text("custom_id", nullable=True),
        _text("state"),
        _number("offset"),
        _number("length"),
        _text("job_id", nullable=True),
        _time("queued_at", nullable=True),
        _time("finished_at", nullable=True),
        _number("status_code", nullable=True),
        _text("request_id", nullable=True),
        _bytes("result"),
        _number("prompt_tokens"),
        _number("completion_tokens"),
        sa.PrimaryKeyConstraint("batch_id", "ordinal", name="pk_batch_line"),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name="fk_batch_line_batch_id"),
    )
    op.create_index("ix_batch_line_batch_id_state", "batch_line", ["batch_id", "state"])
    op.create_index("uq_batch_line_custom_id", "batch_line", ["batch_id", "custom_id"], unique=True)
    op.create_table(
        "webhook_endpoint",
        _text("id"),
        _text("account_id"),
        _text("url"),
        _text("description"),
        _json("events", nullable=False),
        _number("secret_version"),
        _time("previous_until", nullable=True),
        _time("failing_since", nullable=True),
        _time("created_at"),
        _text("created_by", nullable=True),
        _time("disabled_at", nullable=True),
        _text("disabled_because", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_endpoint"),
    )
    op.create_index("ix_webhook_endpoint_account_id", "webhook_endpoint", ["account_id"])
    op.create_table(
        "webhook_delivery",
        _text("id"),
        _text("account_id"),
        _text("endpoint_id", nullable=True),
        _text("url"),
        _text("type"),
        _bytes("payload", nullable=False),
        _time("created_at"),
        _time("next_try_at", nullable=True),
        _number("tries"),
        _time("delivered_at", nullable=True),
        _time("given_up_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_delivery"),
    )
    op.create_index(
        "ix_webhook_delivery_account_id_created_at_id", "webhook_delivery", ["account_id", "created_at", "id"]
    )
    op.create_index("ix_webhook_delivery_endpoint_id", "webhook_delivery", ["endpoint_id"])
    op.create_index("ix_webhook_delivery_next_try_at", "webhook_delivery", ["next_try_at"])
    op.create_table(
        "webhook_attempt",
        _text("delivery_id"),
        _number("ordinal"),
        _time("at"),
        _number("status", nullable=True),
        _text("error", nullable=True),
        _number("took_ms"),
        sa.PrimaryKeyConstraint("delivery_id", "ordinal", name="pk_webhook_attempt"),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["webhook_delivery.id"], name="fk_webhook_attempt_delivery_id"
        ),
    )


def downgrade() -> None:
    for table in reversed(_TABLES):
        op.drop_table(table)
