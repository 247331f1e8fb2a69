"""The usage ledger: append-only, one row a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories.insert import insert_new
from shared.db.tables import usage
from shared.domain.allowance import Scope
from shared.domain.job import Job
from shared.domain.usage import Outcome, Settlement, Usage
from shared.ids import AccountId, JobId


@dataclass(frozen=True, slots=True)
class SettledJob:
    """What the ledger keeps of a job: its header (the body is not read), its outcome, and when it ended."""

    job: Job
    settlement: Settlement
    settled_at: datetime


async def record_settlements(connection: AsyncConnection, batch: Sequence[SettledJob]) -> None:
    """Write what is not written yet: a job settles once, however often it is delivered here."""
    await insert_new(connection, usage, [_values(settled) for settled in batch])


async def settlement_of(
    connection: AsyncConnection, job_id: JobId, *, account: AccountId
) -> Settlement | None:
    """None when the job is unknown, not settled yet, or another account's."""
    found = (
        await connection.execute(select(usage).where(usage.c.job_id == job_id, usage.c.account_id == account))
    ).one_or_none()
    if found is None:
        return None
    row: dict[str, Any] = dict(found._mapping)
    return Settlement(
        outcome=Outcome(row["outcome"]),
        provider=row["provider"],
        model=row["model"],
        usage=Usage(
            prompt_tokens=row["prompt_tokens"],
            completion_tokens=row["completion_tokens"],
            cached_tokens=row["cached_tokens"],
            reasoning_tokens=row["reasoning_tokens"],
            estimated=row["estimated"],
        ),
        cost_micro_usd=row["cost_micro_usd"],
        queue_ms=row["queue_ms"],
        provider_ms=row["provider_ms"],
        ttft_ms=row["ttft_ms"],
        attempts=row["attempts"],
        deliveries=row["deliveries"],
        error=row["error"],
    )


async def spend_since(connection: AsyncConnection, account: AccountId, start: datetime) -> int:
    """Micro-dollars of the account's jobs that settled at `start` or later."""
    total = await connection.scalar(
        select(func.sum(usage.c.cost_micro_usd)).where(
            usage.c.account_id == account, usage.c.created_at >= start
        )
    )
    # PostgreSQL sums bigints as numeric.
    return int(total or 0)


@dataclass(frozen=True, slots=True)
class LedgerCount:
    requests: int
    cost_micro_usd: int


async def counts_since(
    connection: AsyncConnection, account: AccountId, scope: Scope, name: str, start: datetime
) -> LedgerCount:
    """What a key, a user or the account itself used since `start`. `name`: its id."""
    of = {Scope.KEY: usage.c.api_key_id, Scope.USER: usage.c.user_id, Scope.ACCOUNT: usage.c.account_id}
    row = (
        await connection.execute(
            select(func.count(), func.sum(usage.c.cost_micro_usd)).where(
                usage.c.account_id == account, of[scope] == name, usage.c.created_at >= start
            )
        )
    ).one()
    return LedgerCount(int(row[0]), int(row[1] or 0))


def _values(settled: SettledJob) -> dict[str, object]:
    job, settlement = settled.job, settled.settlement
    return {
        "job_id": job.id,
        "account_id": job.account,
        "api_key_id": job.api_key,
        "request_id": job.request_id,
        "kind": job.kind.value,
        "surface": job.surface.value,
        "lane": job.lane.value,
        "stream": job.stream,
        "provider": settlement.provider,
        "model": settlement.model,
        "outcome": settlement.outcome.value,
        "error": settlement.error,
        "prompt_tokens": settlement.usage.prompt_tokens,
        "completion_tokens": settlement.usage.completion_tokens,
        "cached_tokens": settlement.usage.cached_tokens,
        "reasoning_tokens": settlement.usage.reasoning_tokens,
        "estimated": settlement.usage.estimated,
        "cost_micro_usd": settlement.cost_micro_usd,
        "queue_ms": settlement.queue_ms,
        "provider_ms": settlement.provider_ms,
        "ttft_ms": settlement.ttft_ms,
        "attempts": settlement.attempts,
        "deliveries": settlement.deliveries,
        "created_at": settled.settled_at,
    }
