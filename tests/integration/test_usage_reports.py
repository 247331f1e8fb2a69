"""Reports over the ledger, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db.engine import create_engine
from shared.db.repositories import usage
from shared.db.repositories.usage import SettledJob
from shared.db.repositories.usage_reports import Grouping, Range, jobs, totals
from shared.db.tables import usage_attempt
from shared.domain.job import Job, JobKind, Lane, Surface, Target
from shared.domain.usage import Attempt, AttemptOutcome, Outcome, Settlement, Usage
from shared.ids import AccountId, ApiKeyId, RequestId, UserId, new_job_id

ACME, OTHER = AccountId("acme"), AccountId("other")
NOVEMBER = Range(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
GPT, CLAUDE, OWN = Target("openai", "gpt"), Target("anthropic", "claude"), Target("openai", "gpt", "key_own")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


def settled(
    day: int,
    *,
    account: AccountId = ACME,
    target: Target = GPT,
    cost: int = 100,
    outcome: Outcome = Outcome.SUCCEEDED,
    user: str | None = None,
    hour: int = 12,
    earlier: tuple[Attempt, ...] = (),
    called: bool = True,
) -> SettledJob:
    job = Job(
        id=new_job_id(),
        kind=JobKind.CHAT,
        lane=Lane.INTERACTIVE,
        surface=Surface.OPENAI,
        account=account,
        api_key=ApiKeyId("key_a"),
        request_id=RequestId("req_1"),
        plan=(target,),
        stream=False,
        include_usage=False,
        budget_ms=1_000,
        body=b"",
        user=None if user is None else UserId(user),
    )
    settlement = Settlement(
        outcome=outcome,
        provider=target.provider,
        model=target.model,
        usage=Usage(prompt_tokens=10, completion_tokens=5),
        cost_micro_usd=cost,
        provider_ms=20,
        called=called,
    )
    return SettledJob(job, settlement, datetime(2026, 11, day, hour, 30, tzinfo=UTC), earlier)


async def written(database: AsyncEngine, *batch: SettledJob, markup: int = 0) -> None:
    async with database.begin() as connection:
        await usage.record_settlements(connection, batch, markup_percent=markup)


async def test_groups_add_up_to_the_total(database: AsyncEngine) -> None:
    await written(
        database,
        settled(3, cost=1),
        settled(3, target=CLAUDE, cost=10, outcome=Outcome.FAILED),
        settled(4, cost=100, user="usr_a", hour=0),
        settled(4, cost=1_000, hour=23),
        settled(4, account=OTHER, cost=10_000),
    )
    async with database.connect() as connection:

        async def by(*groupings: Grouping, **only: str) -> list[tuple[tuple[str | None, ...], int, int]]:
            found = await totals(connection, ACME, NOVEMBER, by=groupings, only=only, limit=100)
            return [(one.group, one.jobs, one.cost_micro_usd) for one in found]

        assert await by() == [((), 4, 1_111)]
        assert await by(Grouping.DAY) == [(("2026-11-03",), 2, 11), (("2026-11-04",), 2, 1_100)]
        assert await by(Grouping.MODEL) == [(("gpt",), 3, 1_101), (("claude",), 1, 10)]
        assert await by(Grouping.USER) == [((None,), 3, 1_011), (("usr_a",), 1, 100)]
        assert await by(Grouping.PROVIDER, Grouping.DAY) == [
            (("anthropic", "2026-11-03"), 1, 10),
            (("openai", "2026-11-03"), 1, 1),
            (("openai", "2026-11-04"), 2, 1_100),
        ]
        assert await by(Grouping.DAY, provider="openai") == [
            (("2026-11-03",), 1, 1),
            (("2026-11-04",), 2, 1_100),
        ]
        everybody = await totals(connection, None, NOVEMBER, by=[Grouping.ACCOUNT], only={}, limit=100)
        assert [one.group for one in everybody] == [("other",), ("acme",)]
        assert everybody[1].succeeded == 3
        none = await totals(connection, AccountId("new"), NOVEMBER, by=[], only={}, limit=1)
        assert (none[0].jobs, none[0].cost_micro_usd) == (0, 0)


async def test_pages_of_jobs_hold_each_once_newest_first(database: AsyncEngine) -> None:
    batch = [settled(1 + n // 3) for n in range(10)]
    await written(database, *batch, settled(2, account=OTHER))
    async with database.connect() as connection:
        seen: list[str] = []
        after = None
        while page := await jobs(connection, ACME, NOVEMBER, only={}, after=after, limit=4):
            seen += [job.job_id for job in page]
            after = page[-1].created_at, page[-1].job_id

    expected = sorted(batch, key=lambda one: (one.settled_at, one.job.id), reverse=True)
    assert seen == [one.job.id for one in expected]


@pytest.mark.parametrize(("markup", "billed"), [(0, 101), (20, 122), (-100, 0)])
async def test_what_is_billed_is_apart_from_what_it_cost(
    database: AsyncEngine, markup: int, billed: int
) -> None:
    await written(database, settled(3, cost=101), markup=markup)
    await written(database, settled(3, target=OWN, cost=101), markup=markup)
    async with database.connect() as connection:
        found = await jobs(connection, ACME, NOVEMBER, only={}, after=None, limit=10)

    assert {(one.credential_id, one.cost_micro_usd, one.billed_micro_usd) for one in found} == {
        ("default", 101, billed),
        ("key_own", 101, 0),
    }


async def test_each_call_is_a_row_however_often_it_is_delivered(database: AsyncEngine) -> None:
    failed = Attempt("openai", "gpt", "default", AttemptOutcome.FAILED, "provider_unavailable")
    lost = Attempt("openai", "gpt", "default", AttemptOutcome.LOST, cost_micro_usd=None)
    job = settled(3, earlier=(failed, lost), cost=7)
    never_called = settled(3, outcome=Outcome.EXPIRED, called=False, cost=0)

    for _ in range(2):
        await written(database, job, never_called)

    async with database.connect() as connection:
        rows = (await connection.execute(select(usage_attempt).order_by(usage_attempt.c.ordinal))).all()
    assert [(row.job_id, row.ordinal, row.outcome, row.cost_micro_usd) for row in rows] == [
        (job.job.id, 1, "failed", 0),
        (job.job.id, 2, "lost", None),
        (job.job.id, 3, "succeeded", 7),
    ]
