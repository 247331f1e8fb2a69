"""The tables.

    account_preferences ── account ──< membership >── user ──< refresh_token
                              │ │                      │
                              │ ├──< api_key >─────────┤
                              │ └──< provider_credential
                              └────< conversation >────┘
                                          └──< conversation_message
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
