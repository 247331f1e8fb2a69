"""What the database answers, the same from SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db.engine import UnusableDatabaseUrl, async_url, create_engine, writing
from shared.db.repositories import accounts, api_keys, usage
from shared.db.repositories.api_keys import ApiKeyRecord
from shared.db.repositories.principals import of_account
from shared.db.repositories.usage import SettledJob
from shared.db.tables import account as account_table
from shared.domain.allowance import Scope
from shared.domain.job import Job, JobKind, Lane, Surface, Target
from shared.domain.usage import Outcome, Settlement, Usage
from shared.ids import AccountId, ApiKeyId, JobId, RequestId, new_job_id

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
ACME = AccountId("acme")
OTHER = AccountId("other")


def a_key(name: str, *, account: AccountId = ACME, at: datetime = NOON) -> ApiKeyRecord:
    return ApiKeyRecord(
        id=ApiKeyId(f"key_{name}"),
        account_id=account,
        name=name,
        digest=f"digest of {name}",
        prefix="gw_live_abc",
        last4="wxyz",
        created_at=at,
    )


def a_settled_job(
    *, account: AccountId = ACME, cost: int = 1_000, at: datetime = NOON, job_id: JobId | None = None
) -> SettledJob:
    return SettledJob(
        job=Job(
            id=job_id or new_job_id(),
            kind=JobKind.CHAT,
            lane=Lane.INTERACTIVE,
            surface=Surface.OPENAI,
            account=account,
            api_key=ApiKeyId("key_a"),
            request_id=RequestId("req_1"),
            plan=(Target("acme", "m"),),
            stream=True,
            include_usage=False,
            budget_ms=1_000,
            body=b"",
        ),
        settlement=Settlement(
            outcome=Outcome.SUCCEEDED,
            provider="acme",
            model="m-2026",
            usage=Usage(
                prompt_tokens=10, completion_tokens=20, cached_tokens=3, reasoning_tokens=4, estimated=True
            ),
            cost_micro_usd=cost,
            queue_ms=1,
            provider_ms=2,
            ttft_ms=None,
            attempts=1,
            deliveries=2,
            error=None,
        ),
        settled_at=at,
    )


async def store(database: AsyncEngine, *records: ApiKeyRecord) -> None:
    async with database.begin() as connection:
        for account in (ACME, OTHER):
            await accounts.ensure(connection, account, name=account, at=NOON)
        for record in records:
            await api_keys.create(connection, record)


async def test_a_key_is_found_by_its_digest_as_it_was_stored(database: AsyncEngine) -> None:
    record = replace(a_key("a"), expires_at=NOON + timedelta(days=1), scopes=("chat",), created_by="cli")
    await store(database, record)

    async with database.connect() as connection:
        assert await api_keys.find_by_digest(connection, record.digest) == record
        assert await api_keys.find_by_digest(connection, "another") is None


async def test_times_come_back_aware_and_in_utc(database: AsyncEngine) -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    await store(database, a_key("a", at=elsewhere))

    async with database.connect() as connection:
        found = await api_keys.find_by_digest(connection, "digest of a")

    assert found is not None
    assert found.created_at == NOON
    assert found.created_at.utcoffset() == timedelta(0)


async def test_a_time_without_a_zone_is_refused(database: AsyncEngine) -> None:
    with pytest.raises(Exception, match="without a zone"):
        await store(database, a_key("a", at=NOON.replace(tzinfo=None)))


async def test_an_account_sees_its_own_keys_newest_first(database: AsyncEngine) -> None:
    older, newer = a_key("older"), a_key("newer", at=NOON + timedelta(seconds=1))
    await store(database, older, newer, a_key("theirs", account=OTHER))

    async with database.connect() as connection:
        assert await api_keys.list_of(connection, ACME) == [newer, older]
        assert len(await api_keys.list_for_operator(connection)) == 3


async def test_an_account_cannot_revoke_the_key_of_another(database: AsyncEngine) -> None:
    await store(database, a_key("a"))

    async with database.begin() as connection:
        assert await api_keys.revoke(connection, ApiKeyId("key_a"), account=OTHER, at=NOON) is None

    async with database.connect() as connection:
        found = await api_keys.find_by_digest(connection, "digest of a")
    assert found is not None
    assert found.is_usable(NOON)


async def test_revoking_again_keeps_the_first_time(database: AsyncEngine) -> None:
    await store(database, a_key("a"))

    for seconds in (0, 60):
        async with database.begin() as connection:
            at = NOON + timedelta(seconds=seconds)
            digest = await api_keys.revoke(connection, ApiKeyId("key_a"), account=ACME, at=at)
            assert digest == "digest of a"

    async with database.connect() as connection:
        found = await api_keys.find_by_digest(connection, "digest of a")
    assert found is not None
    assert found.revoked_at == NOON
    assert not found.is_usable(NOON)


async def test_a_key_needs_an_account_that_exists(database: AsyncEngine) -> None:
    with pytest.raises(DBAPIError):
        async with database.begin() as connection:
            await api_keys.create(connection, a_key("a", account=AccountId("nobody")))


async def test_ensuring_an_account_twice_keeps_the_first(database: AsyncEngine) -> None:
    async with database.begin() as connection:
        await accounts.ensure(connection, ACME, name="first", at=NOON)
        await accounts.ensure(connection, ACME, name="second", at=NOON)
        names = (await connection.execute(text("SELECT name FROM account"))).scalars().all()

    assert names == ["first"]


async def test_a_settlement_comes_back_as_it_was_written(database: AsyncEngine) -> None:
    settled = a_settled_job()

    async with database.begin() as connection:
        await usage.record_settlements(connection, [settled])
        found = await usage.settlement_of(connection, settled.job.id, account=ACME)
        theirs = await usage.settlement_of(connection, settled.job.id, account=OTHER)

    assert found == settled.settlement
    assert theirs is None


async def test_a_job_settles_once_however_often_it_is_recorded(database: AsyncEngine) -> None:
    first, second = a_settled_job(cost=5), a_settled_job(cost=7)

    async with database.begin() as connection:
        await usage.record_settlements(connection, [first, first])
    async with database.begin() as connection:
        again = replace(first, settlement=replace(first.settlement, cost_micro_usd=1_000_000))
        await usage.record_settlements(connection, [again, second])
        spent = await usage.spend_since(connection, ACME, NOON)

    assert spent == 12


async def test_spend_counts_from_its_start_and_for_its_account_alone(database: AsyncEngine) -> None:
    huge = 10**15
    async with database.begin() as connection:
        await usage.record_settlements(
            connection,
            [
                a_settled_job(cost=1, at=NOON - timedelta(microseconds=1)),
                a_settled_job(cost=10, at=NOON),
                a_settled_job(cost=huge, at=NOON + timedelta(days=1)),
                a_settled_job(cost=1_000, account=OTHER),
            ],
        )

        assert await usage.spend_since(connection, ACME, NOON) == huge + 10
        assert await usage.spend_since(connection, AccountId("nobody"), NOON) == 0


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sqlite:////tmp/a.db", "sqlite+aiosqlite:////tmp/a.db"),
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql://u:p@h:1/d?sslmode=require", "postgresql+asyncpg://u:p@h:1/d?ssl=require"),
        ("postgresql+asyncpg://h/d", "postgresql+asyncpg://h/d"),
    ],
)
def test_a_database_url_is_read_as_people_write_it(given: str, meant: str) -> None:
    assert async_url(given).render_as_string(hide_password=False) == meant


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "secret", ""])
def test_an_unusable_database_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(UnusableDatabaseUrl) as refusal:
        async_url(url)

    assert "secret" not in str(refusal.value)


async def test_a_statement_of_a_serving_process_has_a_time_limit(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    async with engine.connect() as connection:
        assert (await connection.scalar(text("SHOW statement_timeout"))) == "5s"
        assert (await connection.scalar(text("SHOW lock_timeout"))) == "2s"
    await engine.dispose()


async def test_sqlite_waits_for_writers_and_checks_references(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    async with engine.connect() as connection:
        assert await connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert await connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert await connection.scalar(text("PRAGMA busy_timeout")) == 5_000
    await engine.dispose()


async def test_a_transaction_that_reads_before_it_writes_is_not_refused_for_others_that_wrote(
    database_url: str,
) -> None:
    engine = create_engine(database_url)
    now = datetime.now(UTC)

    async def reads_and_writes(number: int) -> None:
        async with writing(engine) as connection:
            await connection.execute(select(func.count()).select_from(account_table))
            await accounts.ensure(connection, AccountId(f"acc_{number}"), name="a", at=now)

    await asyncio.gather(*map(reads_and_writes, range(8)))

    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(account_table)) == 8
    await engine.dispose()


async def test_a_key_is_counted_with_all_whose_place_it_took(database: AsyncEngine) -> None:
    first, second, third, apart = (a_key(name) for name in ("a", "b", "c", "d"))
    second, third = replace(second, rotated_from=first.id), replace(third, rotated_from=second.id)
    await store(database, first, second, third, apart)
    jobs = [a_settled_job(cost=cost) for cost in (1, 20, 300, 4000)]
    async with writing(database) as connection:
        await usage.record_settlements(
            connection,
            [
                replace(job, job=replace(job.job, api_key=key.id))
                for job, key in zip(jobs, (first, second, third, apart), strict=True)
            ],
        )

    async with database.connect() as connection:
        found = [
            await usage.counts_since(connection, ACME, Scope.KEY, key.id, NOON - timedelta(days=1))
            for key in (first, apart)
        ]
        holders = await of_account(connection, ACME, NOON)

    assert [(one.requests, one.cost_micro_usd) for one in found] == [(3, 321), (1, 4000)]
    counted_as = {holder.principal.api_key: holder.principal.counted_as for holder in holders}
    firsts = {first.id: None, second.id: first.id, third.id: first.id, apart.id: None}
    assert counted_as == counted_as | firsts
