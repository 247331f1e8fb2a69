"""The usage ledger: append-only, one row a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories.api_keys import rotated_out_of
from shared.db.repositories.insert import insert_new
from shared.db.tables import usage, usage_attempt
from shared.domain.allowance import Scope
from shared.domain.job import DEFAULT_CREDENTIAL as DEFAULT
from shared.domain.job import Job
from shared.domain.usage import LARGEST_COUNT, Attempt, AttemptOutcome, Outcome, Settlement, Usage
from shared.ids import AccountId, JobId


@dataclass(frozen=True, slots=True)
class SettledJob:
    """What the ledger keeps of a job: its header (the body is not read), its outcome, and when it ended.

    `earlier`: calls to providers before the last run.
    """

    job: Job
    settlement: Settlement
    settled_at: datetime
    earlier: tuple[Attempt, ...] = ()

    @property
    def credential(self) -> str:
        """Of the target that answered, or was asked last."""
        settlement = self.settlement
        for target in self.job.plan:
            if (target.provider, target.model) == (settlement.provider, settlement.model):
                return target.credential
        return self.job.plan[0].credential

    @property
    def cost_micro_usd(self) -> int:
        """Of all its calls, as far as anybody can tell: also of those that failed and were charged for."""
        earlier = sum(attempt.cost_micro_usd or 0 for attempt in self.earlier)
        return min(self.settlement.cost_micro_usd + earlier, LARGEST_COUNT)

    def attempts(self) -> list[Attempt]:
        """Each call that was made, in order."""
        if not self.settlement.called:
            return list(self.earlier)
        settlement = self.settlement
        last = Attempt(
            provider=settlement.provider,
            model=settlement.model,
            credential=self.credential,
            outcome=_ATTEMPT_OUTCOMES.get(settlement.outcome, AttemptOutcome.FAILED),
            error=settlement.error,
            prompt_tokens=settlement.usage.prompt_tokens,
            completion_tokens=settlement.usage.completion_tokens,
            cost_micro_usd=settlement.cost_micro_usd,
            provider_ms=settlement.provider_ms,
        )
        return [*self.earlier, last]


_ATTEMPT_OUTCOMES: Final = {
    Outcome.SUCCEEDED: AttemptOutcome.SUCCEEDED,
    Outcome.CANCELLED: AttemptOutcome.INTERRUPTED,
}


async def record_settlements(
    connection: AsyncConnection, batch: Sequence[SettledJob], *, markup_percent: int = 0
) -> None:
    """Write what is not written yet: a job settles once, however often it is delivered here.

    `markup_percent`: what is billed on top of what the provider charges for the last call. What calls
    before it cost is nobody's bill: they failed, or a worker was stopped. On an account's own
    credential nothing is billed: its provider sends it the bill.
    """
    await insert_new(connection, usage, [_values(settled, markup_percent) for settled in batch])
    attempts = [
        _attempt_values(settled, ordinal, attempt)
        for settled in batch
        for ordinal, attempt in enumerate(settled.attempts(), 1)
    ]
    await insert_new(connection, usage_attempt, attempts)


async def settlement_of(
    connection: AsyncConnection, job_id: JobId, *, account: AccountId
) -> Settlement | None:
    """None when the job is unknown, not settled yet, or another account's. Its cost is that of all calls."""
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
    """What a key, a user or the account itself used since `start`. `name`: its id; of a key with those that
    took its place.
    """
    its = {
        Scope.KEY: usage.c.api_key_id.in_(rotated_out_of(name, account)),
        Scope.USER: usage.c.user_id == name,
        Scope.ACCOUNT: usage.c.account_id == name,
    }
    row = (
        await connection.execute(
            select(func.count(), func.sum(usage.c.cost_micro_usd)).where(
                usage.c.account_id == account, its[scope], usage.c.created_at >= start
            )
        )
    ).one()
    return LedgerCount(int(row[0]), int(row[1] or 0))


def _attempt_values(settled: SettledJob, ordinal: int, attempt: Attempt) -> dict[str, object]:
    return {
        "job_id": settled.job.id,
        "ordinal": ordinal,
        "account_id": settled.job.account,
        "provider": attempt.provider,
        "model": attempt.model,
        "credential_id": attempt.credential,
        "outcome": attempt.outcome.value,
        "error": attempt.error,
        "prompt_tokens": attempt.prompt_tokens,
        "completion_tokens": attempt.completion_tokens,
        "cost_micro_usd": attempt.cost_micro_usd,
        "provider_ms": attempt.provider_ms,
        "created_at": settled.settled_at,
    }


def _values(settled: SettledJob, markup_percent: int) -> dict[str, object]:
    job, settlement = settled.job, settled.settlement
    credential, cost = settled.credential, settlement.cost_micro_usd
    # Rounded up, so that a bill is never less than it should be.
    billed = -(-cost * (100 + markup_percent) // 100) if credential == DEFAULT else 0
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
        "cost_micro_usd": settled.cost_micro_usd,
        "queue_ms": settlement.queue_ms,
        "provider_ms": settlement.provider_ms,
        "ttft_ms": settlement.ttft_ms,
        "attempts": settlement.attempts,
        "deliveries": settlement.deliveries,
        "user_id": job.user,
        "credential_id": credential,
        "billed_micro_usd": billed,
        "created_at": settled.settled_at,
    }


async def remove_before(connection: AsyncConnection, before: datetime, *, limit: int) -> int:
    """Jobs that settled earlier, with their calls; how many jobs went."""
    old = select(usage.c.job_id).where(usage.c.created_at < before).order_by(usage.c.created_at).limit(limit)
    ids = list(await connection.scalars(old))
    if ids:
        await connection.execute(delete(usage_attempt).where(usage_attempt.c.job_id.in_(ids)))
        await connection.execute(delete(usage).where(usage.c.job_id.in_(ids)))
    return len(ids)
