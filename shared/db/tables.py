"""The tables.

    account_preferences ── account ──< membership >── user ──< refresh_token
                              │ │                      │
                              │ ├──< api_key >─────────┤
                              │ └──< provider_credential
                              └────< conversation >────┘
                                          └──< conversation_message
    job    file    batch ──< batch_line
    webhook_endpoint    webhook_delivery ──< webhook_attempt
    usage, usage_attempt, audit_event, quota_alert   by value, without a foreign key

These last are append-only and refer to nothing: a charge is written even where its account
or its key is no longer, or never was, a row.

These classes validate nothing and never cross the wire. Times are aware and in UTC on
both databases; money is an integer of micro-dollars.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Index,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    false,
    text,
)
from sqlmodel import Field, SQLModel


class UtcDateTime(TypeDecorator[datetime]):
    """Aware times in, aware UTC times out. SQLite has no time zones: there they are stored as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        in_utc = value.astimezone(UTC)
        return in_utc.replace(tzinfo=None) if dialect.name == "sqlite" else in_utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _Row(SQLModel):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class AccountRow(_Row, table=True):
    """A tenant: what keys belong to, what is charged, what isolates."""

    __tablename__ = "account"

    id: str = Field(primary_key=True, sa_type=String)
    name: str = Field(sa_type=String)
    tier: str = Field(
        default="unlimited", sa_type=String, sa_column_kwargs={"server_default": text("'unlimited'")}
    )
    limits: dict[str, int] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    alerts: dict[str, object] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    created_at: datetime = Field(sa_type=UtcDateTime)


class UserRow(_Row, table=True):
    """A person. `email` in lower case. `token_version`: raised, it ends every session there is.

    `password_hash`: argon2id; null where only a token issuer of somebody else vouches for the person.
    """

    __tablename__ = "user"

    id: str = Field(primary_key=True, sa_type=String)
    email: str = Field(unique=True, sa_type=String)
    name: str = Field(sa_type=String)
    password_hash: str | None = Field(default=None, sa_type=String)
    is_operator: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    token_version: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})
    created_at: datetime = Field(sa_type=UtcDateTime)
    disabled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class MembershipRow(_Row, table=True):
    """A user's place in an account."""

    __tablename__ = "membership"

    account_id: str = Field(primary_key=True, foreign_key="account.id", sa_type=String)
    user_id: str = Field(primary_key=True, foreign_key="user.id", index=True, sa_type=String)
    role: str = Field(sa_type=String)
    limits: dict[str, int] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    created_at: datetime = Field(sa_type=UtcDateTime)


class RefreshTokenRow(_Row, table=True):
    """A refresh token, by digest. `family`: the login it descends from; reuse revokes all of it."""

    __tablename__ = "refresh_token"

    digest: str = Field(primary_key=True, sa_type=String(64))
    family: str = Field(index=True, sa_type=String)
    user_id: str = Field(foreign_key="user.id", index=True, sa_type=String)
    account_id: str = Field(foreign_key="account.id", sa_type=String)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(index=True, sa_type=UtcDateTime)
    used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    used_by: str | None = Field(default=None, sa_type=String(64))
    """Fingerprint of the client that used it, so that its own repetition is no theft."""
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class ApiKeyRow(_Row, table=True):
    """A key we issued, without the key: `digest` is what finds it, `prefix` and `last4` what shows it.

    `user_id`: the member it belongs to; null of a key of the account itself. `scopes`: null allows all
    that its role may do. `models`, `providers`: null allows all. `lane`: the highest its jobs may be in.
    `rotated_from`: the key it takes the place of.
    """

    __tablename__ = "api_key"

    id: str = Field(primary_key=True, sa_type=String)
    account_id: str = Field(foreign_key="account.id", index=True, sa_type=String)
    name: str = Field(sa_type=String)
    digest: str = Field(unique=True, sa_type=String(64))
    prefix: str = Field(sa_type=String)
    last4: str = Field(sa_type=String)
    scopes: list[str] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    lane: str = Field(
        default="interactive", sa_type=String, sa_column_kwargs={"server_default": text("'interactive'")}
    )
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str | None = Field(default=None, sa_type=String)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    user_id: str | None = Field(default=None, foreign_key="user.id", index=True, sa_type=String)
    role: str = Field(
        default="service", sa_type=String, sa_column_kwargs={"server_default": text("'service'")}
    )
    models: list[str] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    providers: list[str] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    limits: dict[str, int] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    rotated_from: str | None = Field(default=None, sa_type=String)


class ProviderCredentialRow(_Row, table=True):
    """An account's own key at a provider, sealed: whoever reads this row cannot open it.

    `origins`: the only ones it is sent to. `master_key_id`: which key opens it.
    """

    __tablename__ = "provider_credential"
    __table_args__ = (Index(None, "account_id", "provider"),)

    id: str = Field(primary_key=True, sa_type=String)
    account_id: str = Field(foreign_key="account.id", sa_type=String)
    provider: str = Field(sa_type=String)
    name: str = Field(sa_type=String)
    masked: str = Field(sa_type=String)
    origins: list[str] = Field(sa_type=JSON)
    sealed: bytes = Field(sa_type=LargeBinary)
    master_key_id: str = Field(index=True, sa_type=String)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str | None = Field(default=None, sa_type=String)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class AccountPreferencesRow(_Row, table=True):
    """What an account prefers where a request leaves the model to it."""

    __tablename__ = "account_preferences"

    account_id: str = Field(primary_key=True, foreign_key="account.id", sa_type=String)
    model: str = Field(sa_type=String)
    fallback_models: list[str] = Field(sa_type=JSON)
    fallback_on: list[str] = Field(sa_type=JSON)
    updated_at: datetime = Field(sa_type=UtcDateTime)


class UsageRow(_Row, table=True):
    """One settled job. Written once, never changed; `job_id` makes a second delivery harmless."""

    __tablename__ = "usage"
    __table_args__ = (
        Index(None, "account_id", "created_at"),
        Index(None, "api_key_id", "created_at"),
    )

    job_id: str = Field(primary_key=True, sa_type=String)
    account_id: str = Field(sa_type=String)
    api_key_id: str = Field(sa_type=String)
    request_id: str = Field(sa_type=String)
    kind: str = Field(sa_type=String)
    surface: str = Field(sa_type=String)
    lane: str = Field(sa_type=String)
    stream: bool
    provider: str = Field(sa_type=String)
    model: str = Field(sa_type=String)
    outcome: str = Field(sa_type=String)
    error: str | None = Field(default=None, sa_type=String)
    prompt_tokens: int = Field(sa_type=BigInteger)
    completion_tokens: int = Field(sa_type=BigInteger)
    cached_tokens: int = Field(sa_type=BigInteger)
    reasoning_tokens: int = Field(sa_type=BigInteger)
    estimated: bool
    cost_micro_usd: int = Field(sa_type=BigInteger)
    queue_ms: int = Field(sa_type=BigInteger)
    provider_ms: int = Field(sa_type=BigInteger)
    ttft_ms: int | None = Field(default=None, sa_type=BigInteger)
    attempts: int = Field(sa_type=BigInteger)
    deliveries: int = Field(sa_type=BigInteger)
    created_at: datetime = Field(sa_type=UtcDateTime)
    user_id: str | None = Field(default=None, sa_type=String)
    credential_id: str = Field(
        default="default", sa_type=String, sa_column_kwargs={"server_default": text("'default'")}
    )
    billed_micro_usd: int = Field(
        default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")}
    )


class UsageAttemptRow(_Row, table=True):
    """One call to a provider on behalf of a job, whatever came of it. Written once, never changed.

    `cost_micro_usd`: what the provider charges for it, null where nobody can tell: its answer was lost.
    """

    __tablename__ = "usage_attempt"
    __table_args__ = (Index(None, "account_id", "created_at"),)

    job_id: str = Field(primary_key=True, sa_type=String)
    ordinal: int = Field(primary_key=True, sa_type=BigInteger)
    account_id: str = Field(sa_type=String)
    provider: str = Field(sa_type=String)
    model: str = Field(sa_type=String)
    credential_id: str = Field(sa_type=String)
    outcome: str = Field(sa_type=String)
    error: str | None = Field(default=None, sa_type=String)
    prompt_tokens: int = Field(sa_type=BigInteger)
    completion_tokens: int = Field(sa_type=BigInteger)
    cost_micro_usd: int | None = Field(default=None, sa_type=BigInteger)
    provider_ms: int = Field(sa_type=BigInteger)
    created_at: datetime = Field(sa_type=UtcDateTime)


class AuditEventRow(_Row, table=True):
    """One administrative act: who did what to what, from where. `details` holds no secret."""

    __tablename__ = "audit_event"
    __table_args__ = (Index(None, "account_id", "at"),)

    id: str = Field(primary_key=True, sa_type=String)
    at: datetime = Field(index=True, sa_type=UtcDateTime)
    account_id: str | None = Field(default=None, sa_type=String)
    actor: str = Field(sa_type=String)
    act: str = Field(sa_type=String)
    object_id: str | None = Field(default=None, sa_type=String)
    outcome: str = Field(sa_type=String)
    request_id: str | None = Field(default=None, sa_type=String)
    address: str | None = Field(default=None, sa_type=String)
    details: dict[str, object] = Field(sa_type=JSON)


class QuotaAlertRow(_Row, table=True):
    """A soft threshold that was passed, told once for each period."""

    __tablename__ = "quota_alert"

    account_id: str = Field(primary_key=True, sa_type=String)
    subject: str = Field(primary_key=True, sa_type=String)
    measure: str = Field(primary_key=True, sa_type=String)
    period: str = Field(primary_key=True, sa_type=String)
    threshold_percent: int = Field(primary_key=True, sa_type=BigInteger)
    used: int = Field(sa_type=BigInteger)
    limit: int = Field(sa_type=BigInteger)
    at: datetime = Field(sa_type=UtcDateTime)
    delivered_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    tries: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})
    next_try_at: datetime | None = Field(default=None, index=True, sa_type=UtcDateTime)


class ConversationRow(_Row, table=True):
    """`owner`: the user, or the key of a program, that alone may read and delete it."""

    __tablename__ = "conversation"
    __table_args__ = (Index(None, "account_id", "owner", "updated_at"),)

    id: str = Field(primary_key=True, sa_type=String)
    account_id: str = Field(foreign_key="account.id", sa_type=String)
    owner: str = Field(sa_type=String)
    title: str = Field(sa_type=String)
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)


class ConversationMessageRow(_Row, table=True):
    """`job_id`: the job that a message was asked in or answered by; makes writing it again harmless."""

    __tablename__ = "conversation_message"

    conversation_id: str = Field(primary_key=True, foreign_key="conversation.id", sa_type=String)
    ordinal: int = Field(primary_key=True, sa_type=BigInteger)
    job_id: str = Field(sa_type=String)
    message: dict[str, object] = Field(sa_type=JSON)
    created_at: datetime = Field(sa_type=UtcDateTime)


class JobRow(_Row, table=True):
    """A job that outlives its connection: written before it is accepted, and the truth of how it ended.

    `state`: queued until it ended; whether it runs is the queue's to say. `header`, `body`: its envelope,
    to queue it again from. `retain_seconds`: how long its result is kept. `stores_body`: its body too.
    `idempotency`: digest of its Idempotency-Key within its scope. `events`: of a streamed job, a line each.
    """

    __tablename__ = "job"
    __table_args__ = (
        Index(None, "account_id", "created_at", "id"),
        Index(None, "state", "id"),
    )

    id: str = Field(primary_key=True, sa_type=String)
    account_id: str = Field(sa_type=String)
    api_key_id: str = Field(sa_type=String)
    user_id: str | None = Field(default=None, sa_type=String)
    request_id: str = Field(sa_type=String)
    kind: str = Field(sa_type=String)
    surface: str = Field(sa_type=String)
    lane: str = Field(sa_type=String)
    provider: str = Field(sa_type=String)
    model: str = Field(sa_type=String)
    stream: bool
    state: str = Field(sa_type=String)
    header: bytes = Field(sa_type=LargeBinary)
    body: bytes | None = Field(default=None, sa_type=LargeBinary)
    cost: int = Field(sa_type=BigInteger)
    fingerprint: str = Field(sa_type=String)
    idempotency: str | None = Field(default=None, unique=True, sa_type=String(64))
    retain_seconds: int = Field(sa_type=BigInteger)
    stores_body: bool
    notes: dict[str, str] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    webhook_url: str | None = Field(default=None, sa_type=String)
    created_at: datetime = Field(sa_type=UtcDateTime)
    deadline_at: datetime = Field(sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    result_head: bytes | None = Field(default=None, sa_type=LargeBinary)
    result_body: bytes | None = Field(default=None, sa_type=LargeBinary)
    events: bytes | None = Field(default=None, sa_type=LargeBinary)
    expires_at: datetime | None = Field(default=None, index=True, sa_type=UtcDateTime)
    """When its result goes; null until it ended."""
    told: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    """Whether a second request under its Idempotency-Key heard of it while it was open."""


class FileRow(_Row, table=True):
    """A file of an account: its content is in the storage under `storage_key`."""

    __tablename__ = "file"
    __table_args__ = (Index(None, "account_id", "created_at", "id"),)

    id: str = Field(primary_key=True, sa_type=String)
    account_id: str = Field(sa_type=String)
    created_by: str = Field(sa_type=String)
    filename: str = Field(sa_type=String)
    purpose: str = Field(sa_type=String)
    size_bytes: int = Field(sa_type=BigInteger)
    storage_key: str = Field(unique=True, sa_type=String)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime | None = Field(default=None, index=True, sa_type=UtcDateTime)


class BatchRow(_Row, table=True):
    """Many requests handed in at once. `form`: whose API it came by, which its states are told in.

    `checked_lines`, `checked_bytes`: how much of its input has become lines. `fed_lines`: up to which
    line all have been queued, or ended without. `handed_over`: where a provider's own batch does the
    work, its id there and what has to be known to fetch it.
    """

    __tablename__ = "batch"
    __table_args__ = (
        Index(None, "account_id", "created_at", "id"),
        Index(None, "status", "id"),
    )

    id: str = Field(primary_key=True, sa_type=String)
    account_id: str = Field(sa_type=String)
    api_key_id: str = Field(sa_type=String)
    user_id: str | None = Field(default=None, sa_type=String)
    request_id: str = Field(sa_type=String)
    form: str = Field(sa_type=String)
    endpoint: str = Field(sa_type=String)
    model: str | None = Field(default=None, sa_type=String)
    input_file_id: str = Field(sa_type=String)
    output_file_id: str | None = Field(default=None, sa_type=String)
    error_file_id: str | None = Field(default=None, sa_type=String)
    status: str = Field(sa_type=String)
    errors: list[dict[str, object]] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    notes: dict[str, str] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    options: dict[str, object] = Field(sa_type=JSON)
    webhook_url: str | None = Field(default=None, sa_type=String)
    handed_over: dict[str, object] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    fingerprint: str = Field(sa_type=String)
    idempotency: str | None = Field(default=None, unique=True, sa_type=String(64))
    checked_lines: int = Field(default=0, sa_type=BigInteger)
    checked_bytes: int = Field(default=0, sa_type=BigInteger)
    fed_lines: int = Field(default=0, sa_type=BigInteger)
    total: int = Field(default=0, sa_type=BigInteger)
    completed: int = Field(default=0, sa_type=BigInteger)
    failed: int = Field(default=0, sa_type=BigInteger)
    cancelled: int = Field(default=0, sa_type=BigInteger)
    expired: int = Field(default=0, sa_type=BigInteger)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    in_progress_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    finalizing_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    completed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    failed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    expired_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    cancelling_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    cancelled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    results_expire_at: datetime | None = Field(default=None, index=True, sa_type=UtcDateTime)


class BatchLineRow(_Row, table=True):
    """One request of a batch: where it stands in the input file, and what came of it.

    `ordinal` counts the lines of the file from 1, empty ones included. `custom_id`: null where the line
    has none that could be told back. `state`: pending, queued, and then succeeded, failed, cancelled or
    expired. `status_code`, `result`: the answer as its caller gets it, a body or an error.
    """

    __tablename__ = "batch_line"
    __table_args__ = (
        Index(None, "batch_id", "state"),
        Index("uq_batch_line_custom_id", "batch_id", "custom_id", unique=True),
    )

    batch_id: str = Field(primary_key=True, foreign_key="batch.id", sa_type=String)
    ordinal: int = Field(primary_key=True, sa_type=BigInteger)
    custom_id: str | None = Field(default=None, sa_type=String)
    state: str = Field(sa_type=String)
    offset: int = Field(sa_type=BigInteger)
    length: int = Field(sa_type=BigInteger)
    job_id: str | None = Field(default=None, sa_type=String)
    queued_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    status_code: int | None = Field(default=None, sa_type=BigInteger)
    request_id: str | None = Field(default=None, sa_type=String)
    result: bytes | None = Field(default=None, sa_type=LargeBinary)
    prompt_tokens: int = Field(default=0, sa_type=BigInteger)
    completion_tokens: int = Field(default=0, sa_type=BigInteger)


class WebhookEndpointRow(_Row, table=True):
    """Where an account wants to hear of events. `events`: empty for all of them.

    Its secrets are nowhere: each is derived from its id and its `secret_version`. The version before
    signs too until `previous_until`. `failing_since`: its first failure after its last success.
    """

    __tablename__ = "webhook_endpoint"

    id: str = Field(primary_key=True, sa_type=String)
    account_id: str = Field(index=True, sa_type=String)
    url: str = Field(sa_type=String)
    description: str = Field(sa_type=String)
    events: list[str] = Field(sa_type=JSON)
    secret_version: int = Field(sa_type=BigInteger)
    previous_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    failing_since: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str | None = Field(default=None, sa_type=String)
    disabled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    disabled_because: str | None = Field(default=None, sa_type=String)


class WebhookDeliveryRow(_Row, table=True):
    """One event on its way to one place. `id`: the webhook-id, the same however often it is sent.

    `endpoint_id`: null where the URL was named by a job or a batch. `next_try_at`: null once it was
    delivered or given up.
    """

    __tablename__ = "webhook_delivery"
    __table_args__ = (Index(None, "account_id", "created_at", "id"),)

    id: str = Field(primary_key=True, sa_type=String)
    account_id: str = Field(sa_type=String)
    endpoint_id: str | None = Field(default=None, index=True, sa_type=String)
    url: str = Field(sa_type=String)
    type: str = Field(sa_type=String)
    payload: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UtcDateTime)
    next_try_at: datetime | None = Field(default=None, index=True, sa_type=UtcDateTime)
    tries: int = Field(default=0, sa_type=BigInteger)
    delivered_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    given_up_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class WebhookAttemptRow(_Row, table=True):
    """One try of a delivery. `status`: null where there was no answer, and `error` says why."""

    __tablename__ = "webhook_attempt"

    delivery_id: str = Field(primary_key=True, foreign_key="webhook_delivery.id", sa_type=String)
    ordinal: int = Field(primary_key=True, sa_type=BigInteger)
    at: datetime = Field(sa_type=UtcDateTime)
    status: int | None = Field(default=None, sa_type=BigInteger)
    error: str | None = Field(default=None, sa_type=String)
    took_ms: int = Field(sa_type=BigInteger)


METADATA: Final = _Row.metadata


account: Final = METADATA.tables["account"]
api_key: Final = METADATA.tables["api_key"]
account_preferences: Final = METADATA.tables["account_preferences"]
usage: Final = METADATA.tables["usage"]
user: Final = METADATA.tables["user"]
membership: Final = METADATA.tables["membership"]
refresh_token: Final = METADATA.tables["refresh_token"]
provider_credential: Final = METADATA.tables["provider_credential"]
usage_attempt: Final = METADATA.tables["usage_attempt"]
audit_event: Final = METADATA.tables["audit_event"]
quota_alert: Final = METADATA.tables["quota_alert"]
conversation: Final = METADATA.tables["conversation"]
conversation_message: Final = METADATA.tables["conversation_message"]
job: Final = METADATA.tables["job"]
file: Final = METADATA.tables["file"]
batch: Final = METADATA.tables["batch"]
batch_line: Final = METADATA.tables["batch_line"]
webhook_endpoint: Final = METADATA.tables["webhook_endpoint"]
webhook_delivery: Final = METADATA.tables["webhook_delivery"]
webhook_attempt: Final = METADATA.tables["webhook_attempt"]
