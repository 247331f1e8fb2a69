"""Questions about the ledger: what an account used, in all and by day, model, provider, key or user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import usage
from shared.domain.usage import Outcome
from shared.ids import AccountId


class Grouping(StrEnum):
    DAY = "day"
    MODEL = "model"
    PROVIDER = "provider"
    KEY = "key"
    USER = "user"
    ACCOUNT = "account"


FILTERS: Final = ("provider", "model", "key", "user", "outcome")
_COLUMNS: Final = {
    "provider": usage.c.provider,
    "model": usage.c.model,
    "key": usage.c.api_key_id,
    "user": usage.c.user_id,
    "outcome": usage.c.outcome,
    "account": usage.c.account_id,
}


@dataclass(frozen=True, slots=True)
class Range:
    """From `start`, up to and without `end`."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Totals:
    """`group`: values of what it is grouped by, in that order. `cached_jobs`: those of whose prompt the
    provider read anything from its cache.
    """

    group: tuple[str | None, ...]
    jobs: int
    succeeded: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cached_jobs: int
    cost_micro_usd: int
    billed_micro_usd: int
    provider_ms: int


@dataclass(frozen=True, slots=True)
class UsedJob:
    """A row of the ledger."""

    job_id: str
    created_at: datetime
    account_id: str
    user_id: str | None
    api_key_id: str
    request_id: str
    kind: str
    provider: str
    model: str
    credential_id: str
    stream: bool
    outcome: str
    error: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    estimated: bool
    cost_micro_usd: int
    billed_micro_usd: int
    queue_ms: int
    provider_ms: int
    ttft_ms: int | None
    attempts: int


async def totals(
    connection: AsyncConnection,
    account: AccountId | None,
    within: Range,
    *,
    by: Sequence[Grouping],
    only: Mapping[str, str],
    limit: int,
) -> list[Totals]:
    """`account`: None for those of everybody, which only operators may see. `only`: by names of FILTERS.

    By day in their order, otherwise the dearest first.
    """
    groups = [_group(connection, grouping).label(f"g{index}") for index, grouping in enumerate(by)]
    cost = func.sum(usage.c.cost_micro_usd)
    asked = (
        select(
            *groups,
            func.count().label("jobs"),
            func.sum(case((usage.c.outcome == Outcome.SUCCEEDED.value, 1), else_=0)).label("succeeded"),
            func.sum(usage.c.prompt_tokens).label("prompt_tokens"),
            func.sum(usage.c.completion_tokens).label("completion_tokens"),
            func.sum(usage.c.cached_tokens).label("cached_tokens"),
            func.sum(case((usage.c.cached_tokens > 0, 1), else_=0)).label("cached_jobs"),
            cost.label("cost_micro_usd"),
            func.sum(usage.c.billed_micro_usd).label("billed_micro_usd"),
            func.sum(usage.c.provider_ms).label("provider_ms"),
        )
        .where(_which(account, within, only))
        .limit(limit)
    )
    if groups:
        first = [groups[by.index(Grouping.DAY)]] if Grouping.DAY in by else [cost.desc()]
        asked = asked.group_by(*groups).order_by(*first, *groups)
    rows = (await connection.execute(asked)).all()
    return [_totals(tuple(row), len(groups)) for row in rows]


async def jobs(
    connection: AsyncConnection,
    account: AccountId | None,
    within: Range,
    *,
    only: Mapping[str, str],
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[UsedJob]:
    """Newest first, from behind `after`: when one ended, and its id."""
    which = _which(account, within, only)
    if after is not None:
        at, job_id = after
        which = and_(
            which,
            or_(usage.c.created_at < at, and_(usage.c.created_at == at, usage.c.job_id < job_id)),
        )
    columns = [usage.c[name] for name in UsedJob.__dataclass_fields__]
    rows = await connection.execute(
        select(*columns).where(which).order_by(usage.c.created_at.desc(), usage.c.job_id.desc()).limit(limit)
    )
    return [UsedJob(**row._mapping) for row in rows]


def _which(account: AccountId | None, within: Range, only: Mapping[str, str]) -> ColumnElement[bool]:
    parts = [usage.c.created_at >= within.start, usage.c.created_at < within.end]
    if account is not None:
        parts.append(usage.c.account_id == account)
    parts += [_COLUMNS[name] == value for name, value in only.items()]
    return and_(*parts)


def _group(connection: AsyncConnection, grouping: Grouping) -> ColumnElement[Any]:
    if grouping is not Grouping.DAY:
        return _COLUMNS[grouping.value]
    # Both store UTC, and both say a day as 2026-11-26.
    if connection.dialect.name == "postgresql":
        return func.to_char(func.timezone("UTC", usage.c.created_at), "YYYY-MM-DD")
    return func.strftime("%Y-%m-%d", usage.c.created_at)


def _totals(values: tuple[Any, ...], groups: int) -> Totals:
    # PostgreSQL sums bigints as numeric, and nothing as null.
    return Totals(values[:groups], *(int(value or 0) for value in values[groups:]))
