"""The tables.

    account_preferences ── account ──< api_key
                              ┊           ┊
                              └┄┄ usage ┄┄┘   by value, without a foreign key

`usage` is append-only and refers to nothing: a charge is written even where its account
or its key is no longer, or never was, a row.

These classes validate nothing and never cross the wire. Times are aware and in UTC on
both databases; money is an integer of micro-dollars.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Index, MetaData, String, TypeDecorator, text
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
    created_at: datetime = Field(sa_type=UtcDateTime)


class ApiKeyRow(_Row, table=True):
    """A key we issued, without the key: `digest` is what finds it, `prefix` and `last4` what shows it.

    `scopes`: null allows all that the account may do. `lane`: the highest its jobs may be in.
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


METADATA: Final = _Row.metadata


account: Final = METADATA.tables["account"]
api_key: Final = METADATA.tables["api_key"]
account_preferences: Final = METADATA.tables["account_preferences"]
usage: Final = METADATA.tables["usage"]
