"""The ledger on real stores: every settlement is written once, whatever dies on the way."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import event, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import keyspace
from shared.accounting.ledger import BATCH, LedgerWriter, Unreadable, read_entry
from shared.clock import ManualClock
from shared.db import tables
from shared.db.engine import DATABASE_ERRORS, create_engine
from shared.db.repositories import usage
from shared.domain.allowance import Scope
from shared.domain.job import Job, JobKind, Lane, Surface, Target
from shared.domain.usage import Attempt, AttemptOutcome, Outcome, Settlement, Usage
from shared.ids import AccountId, ApiKeyId, RequestId, new_job_id
from shared.limits.reservations import LedgerCounts, Reservations, Unknown
from shared.limits.rules import Rule, RuleSet
from shared.providers.catalogue import Catalogue
from shared.queue.redis_link import RedisLink
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.redis_server import RedisServer
from tests.integration.queue.support import open_link

ACME = AccountId("acme")
BEFORE_ALL = datetime(2020, 1, 1, tzinfo=UTC)


def a_job() -> Job:
    return Job(
        id=new_job_id(),
        kind=JobKind.CHAT,
        lane=Lane.INTERACTIVE,
        surface=Surface.OPENAI,
        account=ACME,
        api_key=ApiKeyId("key_a"),
        request_id=RequestId("req_1"),
        plan=(Target("acme", "m"),),
        stream=False,
        include_usage=False,
        budget_ms=1_000,
        body=b"",
    )


def a_settlement(*, cost: int = 7) -> Settlement:
    return Settlement(
        outcome=Outcome.SUCCEEDED,
        provider="acme",
        model="m",
        usage=Usage(prompt_tokens=1, completion_tokens=2),
        cost_micro_usd=cost,
        attempts=1,
        deliveries=1,
    )


def entry_of(job: Job, settlement: Settlement) -> dict[Any, Any]:
    return {"job": job.id, "header": job.header(), "outcome": settlement.to_wire()}


async def settle_jobs(redis: Redis, count: int, *, shard: int = 0) -> list[Job]:
    jobs = [a_job() for _ in range(count)]
    async with redis.pipeline(transaction=False) as pipe:
        for job in jobs:
            pipe.xadd(keyspace.usage(shard), entry_of(job, a_settlement()))
        await pipe.execute()
    return jobs


async def rows_and_spend(database: AsyncEngine) -> tuple[int, int]:
    async with database.connect() as connection:
        rows = await connection.scalar(select(func.count()).select_from(tables.usage))
        return int(rows or 0), await usage.spend_since(connection, ACME, BEFORE_ALL)


async def waiting(redis: Redis, *, shard: int = 0) -> tuple[int, int]:
    """Entries in the stream, and how many of them are with a writer."""
    pending = await redis.xpending(keyspace.usage(shard), keyspace.LEDGER_GROUP)
    return await redis.xlen(keyspace.usage(shard)), pending["pending"]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, socket_timeout=5) as client:
        yield client


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with open_link(redis_url) as link:
        yield link


async def test_a_settled_job_becomes_a_row_and_leaves_the_stream(
    redis: Redis, link: RedisLink, database: AsyncEngine
) -> None:
    job, settlement = a_job(), a_settlement()
    settlement = replace(settlement, ttft_ms=12, outcome=Outcome.FAILED, error="provider_unavailable")
    entry_id: bytes = await redis.xadd(keyspace.usage(0), entry_of(job, settlement))

    assert await LedgerWriter(link, database, 1, "a").settle_once(0) == 1

    async with database.connect() as connection:
        assert await usage.settlement_of(connection, job.id, account=ACME) == settlement
        created = await connection.scalar(select(tables.usage.c.created_at))
    assert created is not None
    assert created.timestamp() == pytest.approx(int(entry_id.split(b"-")[0]) / 1000)
    assert await waiting(redis) == (0, 0)


async def test_entries_of_this_release_and_of_the_one_before_are_charged_as_they_say(
    redis: Redis, link: RedisLink, database: AsyncEngine
) -> None:
    kept = Usage(1_000, 10, cached_tokens=200, cache_write_tokens=700, cache_write_1h_tokens=300)
    model = "claude-sonnet-4-5"
    # 100 at 3.00, 200 of the cache at 0.30, 400 kept at 3.75, 300 for an hour at 6.00, 10 said at 15.00.
    cost = Catalogue.load().cost_micro_usd("anthropic", model, kept)
    assert cost == 300 + 60 + 1_500 + 1_800 + 150
    jobs, settlements = [a_job(), a_job()], [a_settlement(cost=cost), a_settlement(cost=cost)]
    entries = [
        entry_of(job, replace(settlement, usage=kept, provider="anthropic", model=model))
        for job, settlement in zip(jobs, settlements, strict=True)
    ]
    before = orjson.loads(entries[1]["outcome"])
    del before["written"], before["written_1h"]
    entries[1]["outcome"] = orjson.dumps({**before, "cost": cost - 1_200})
    for entry in entries:
        await redis.xadd(keyspace.usage(0), entry)

    assert await LedgerWriter(link, database, 1, "a").settle_once(0) == 2

    async with database.connect() as connection:
        rows = [await usage.settlement_of(connection, job.id, account=ACME) for job in jobs]
    assert [row.cost_micro_usd for row in rows if row] == [cost, cost - 1_200]
    assert [row.usage for row in rows if row] == [Usage(1_000, 10, cached_tokens=200)] * 2


async def test_what_earlier_calls_of_a_job_cost_is_spent_and_billed_to_nobody(
    redis: Redis, link: RedisLink, database: AsyncEngine
) -> None:
    job, settlement = a_job(), a_settlement()
    broken_off = Attempt(
        "openai",
        "m",
        "default",
        AttemptOutcome.INTERRUPTED,
        None,
        10,
        20,
        cost_micro_usd=5_000,
        provider_ms=9,
    )
    lost = replace(broken_off, outcome=AttemptOutcome.LOST, cost_micro_usd=None)
    entry = entry_of(job, settlement) | {b"calls": b"\n".join([broken_off.to_wire(), lost.to_wire()])}
    await redis.xadd(keyspace.usage(0), entry)

    await LedgerWriter(link, database, 1, "a").settle_once(0)

    async with database.connect() as connection:
        row = (await connection.execute(select(tables.usage))).one()
        spent = await usage.spend_since(connection, ACME, datetime(2020, 1, 1, tzinfo=UTC))
    assert row.cost_micro_usd == spent == settlement.cost_micro_usd + 5_000
    assert row.billed_micro_usd == settlement.cost_micro_usd


async def test_nothing_to_settle_is_nothing(link: RedisLink, database: AsyncEngine) -> None:
    writer = LedgerWriter(link, database, 3, "a")

    assert await writer.settle_once(0) == 0
    assert await writer.settle_once(1) == 0


async def test_a_writer_that_waits_wakes_for_the_first_entry(
    redis: Redis, link: RedisLink, database: AsyncEngine
) -> None:
    writer = LedgerWriter(link, database, 1, "a")
    await writer.settle_once(0)

    async with asyncio.TaskGroup() as tasks:
        settled = tasks.create_task(writer.settle_once(4_000))
        await settle_jobs(redis, 1)

    assert settled.result() == 1


async def test_it_says_so_once_it_has_read_all_there_is(
    redis: Redis, link: RedisLink, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.accounting.ledger.BATCH", 3)
    writer = LedgerWriter(link, database, 2, "a")
    await writer.settle_once(0)
    await redis.delete(keyspace.LEDGER_CURRENT)
    await settle_jobs(redis, 7)

    said = []
    for _ in range(3):
        writer._next_say = 0.0
        await writer.settle_once(0)
        said.append(await redis.exists(keyspace.LEDGER_CURRENT))

    assert said == [0, 0, 1]
    assert 0 < await redis.ttl(keyspace.LEDGER_CURRENT) <= 15


async def test_a_full_redis_keeps_no_row_from_being_written(
    redis: Redis, link: RedisLink, database: AsyncEngine
) -> None:
    # The group was made before memory was short, as at any start.
    await LedgerWriter(link, database, 1, "a").settle_once(0)
    await settle_jobs(redis, 3)
    await redis.config_set("maxmemory", 1)
    try:
        assert await LedgerWriter(link, database, 1, "b").settle_once(0) == 3
    finally:
        await redis.config_set("maxmemory", 0)


async def test_every_shard_is_settled(redis: Redis, link: RedisLink, database: AsyncEngine) -> None:
    for shard in range(4):
        await settle_jobs(redis, 3, shard=shard)

    assert await LedgerWriter(link, database, 4, "a").settle_once(0) == 12

    assert await rows_and_spend(database) == (12, 84)


async def test_a_job_delivered_twice_is_charged_once(
    redis: Redis, link: RedisLink, database: AsyncEngine
) -> None:
    entry = entry_of(a_job(), a_settlement())
    writer = LedgerWriter(link, database, 1, "a")

    for _ in range(2):
        await redis.xadd(keyspace.usage(0), entry)
        await redis.xadd(keyspace.usage(0), entry)
        await writer.settle_once(0)

    assert await rows_and_spend(database) == (1, 7)


async def test_two_writers_share_the_work(redis: Redis, link: RedisLink, database: AsyncEngine) -> None:
    await settle_jobs(redis, 3 * BATCH)
    writers = [LedgerWriter(link, database, 1, name) for name in ("a", "b")]

    while await redis.xlen(keyspace.usage(0)):
        await asyncio.gather(*(writer.settle_once(0) for writer in writers))

    assert await rows_and_spend(database) == (3 * BATCH, 3 * BATCH * 7)


def malformed() -> list[tuple[str, dict[Any, Any]]]:
    good = entry_of(a_job(), a_settlement())
    header, outcome = orjson.loads(good["header"]), orjson.loads(good["outcome"])

    def with_header(**changed: Any) -> dict[Any, Any]:
        return {**good, "header": orjson.dumps({**header, **changed})}

    def with_outcome(**changed: Any) -> dict[Any, Any]:
        return {**good, "outcome": orjson.dumps({**outcome, **changed})}

    return [
        ("no header", {"job": good["job"], "outcome": good["outcome"]}),
        ("no outcome", {"job": good["job"], "header": good["header"]}),
        ("not json", {**good, "outcome": b"\xff{"}),
        ("not an object", {**good, "outcome": b"[]"}),
        ("another job", {**good, "job": "job_other"}),
        ("a later version", with_header(v=3)),
        ("an unknown kind", with_header(kind="dream")),
        ("an account that is a list", with_header(account=["acme"])),
        ("NUL in an account", with_header(account="ac\0me")),
        ("a stream that is a number", with_header(stream=1)),
        ("an unknown outcome", with_outcome(outcome="maybe")),
        ("a cost that is text", with_outcome(cost="7")),
        ("a cost that is no whole number", with_outcome(cost=7.5)),
        ("a cost that is a truth", with_outcome(cost=True)),
        ("more tokens than fit", with_outcome(out=2**63)),
        ("a cost that leaves no room for sums", with_outcome(cost=10**15 + 1)),
        ("less than nothing", with_outcome(cost=-1)),
        ("NUL in a model", with_outcome(model="m\0")),
        ("no model", with_outcome(model=None)),
        ("a ttft that is text", with_outcome(ttft_ms="soon")),
        ("a cache that is text", with_outcome(written="all")),
        ("a cache that holds less than nothing", with_outcome(written_1h=-1)),
    ]


async def test_what_cannot_be_read_is_set_aside_and_holds_up_nobody(
    redis: Redis, link: RedisLink, database: AsyncEngine
) -> None:
    errors: list[str] = []
    sink = logger.add(lambda line: errors.append(str(line)), level="ERROR")
    bad = malformed()
    for _, entry in bad:
        await redis.xadd(keyspace.usage(0), entry)
        await settle_jobs(redis, 1)

    assert await LedgerWriter(link, database, 1, "a").settle_once(0) == 2 * len(bad)

    logger.remove(sink)
    assert await rows_and_spend(database) == (len(bad), len(bad) * 7)
    assert await waiting(redis) == (0, 0)
    rejected = await redis.xrange(keyspace.usage_rejected(0))
    assert len(rejected) == len(errors) == len(bad)
    for (_, entry), (_, kept) in zip(bad, rejected, strict=True):
        assert kept.pop(b"reason")
        assert kept.pop(b"entry")
        assert set(kept) == {name.encode() for name in entry}


async def test_an_entry_that_the_database_refuses_holds_up_nobody(
    redis: Redis, link: RedisLink, database: AsyncEngine
) -> None:
    poison = a_job()
    await settle_jobs(redis, 2)
    await redis.xadd(keyspace.usage(0), entry_of(poison, a_settlement(cost=10**15)))
    await settle_jobs(redis, 2)

    # By this much of it the bill does not fit its column.
    settled = await LedgerWriter(link, database, 1, "a", markup_percent=10**7).settle_once(0)

    assert settled == 5
    assert await rows_and_spend(database) == (4, 28)
    assert await waiting(redis) == (0, 0)
    ((_, kept),) = await redis.xrange(keyspace.usage_rejected(0))
    assert kept[b"job"] == poison.id.encode()
    assert b"database refuses" in kept[b"reason"]


@given(
    number=st.integers(-(2**70), 2**70) | st.none() | st.booleans() | st.floats() | st.text(),
    text=st.text() | st.none() | st.integers(),
)
def test_what_is_accepted_fits_the_columns(number: Any, text: Any) -> None:
    good = entry_of(a_job(), a_settlement())
    outcome = {**orjson.loads(good["outcome"]), "model": text, "cost": number}
    wire = json.dumps(outcome).encode()  # the standard library writes integers of any size

    try:
        accepted = read_entry(
            b"1700000000000-0", {b"job": good["job"].encode(), b"header": good["header"], b"outcome": wire}
        )
    except Unreadable:
        return

    assert type(accepted.settlement.cost_micro_usd) is int
    assert 0 <= accepted.settlement.cost_micro_usd <= 10**15
    assert type(accepted.settlement.model) is str
    assert "\0" not in accepted.settlement.model


async def test_after_a_flush_the_ledger_goes_on(redis: Redis, link: RedisLink, database: AsyncEngine) -> None:
    writer = LedgerWriter(link, database, 1, "a")
    await writer.settle_once(0)
    await redis.flushall()
    await settle_jobs(redis, 2)

    assert await writer.settle_once(0) + await writer.settle_once(0) == 2


async def test_what_came_before_the_first_writer_counts(
    redis: Redis, link: RedisLink, database: AsyncEngine
) -> None:
    await settle_jobs(redis, 2)
    writer = LedgerWriter(link, database, 1, "a")

    assert await writer.settle_once(0) == 2


async def test_entries_of_a_dead_writer_are_taken_over(
    redis: Redis, link: RedisLink, database: AsyncEngine
) -> None:
    await settle_jobs(redis, 3)
    await redis.xgroup_create(keyspace.usage(0), keyspace.LEDGER_GROUP, id="0")
    await redis.xreadgroup(keyspace.LEDGER_GROUP, "dead", {keyspace.usage(0): ">"})

    clock = ManualClock()
    patient = LedgerWriter(link, database, 1, "patient", clock=clock)
    assert await patient.settle_once(0) == 0
    heir = LedgerWriter(link, database, 1, "heir", claim_idle_seconds=0)
    assert await heir.settle_once(0) == 3

    assert await rows_and_spend(database) == (3, 21)
    assert await waiting(redis) == (0, 0)


async def test_redis_dying_between_commit_and_acknowledgement_doubles_nothing(
    private_redis: RedisServer, database: AsyncEngine
) -> None:
    def dies(_: object) -> None:
        if private_redis.is_running:
            private_redis.kill9()

    async with (
        Redis.from_url(private_redis.url, socket_timeout=5) as redis,
        open_link(private_redis.url) as link,
    ):
        await settle_jobs(redis, 5)
        writer = LedgerWriter(link, database, 1, "a")
        event.listen(database.sync_engine, "commit", dies)
        with pytest.raises((RedisError, OSError)):
            await writer.settle_once(0)
        event.remove(database.sync_engine, "commit", dies)
        assert (await rows_and_spend(database))[0] == 5
        private_redis.start()

        assert await writer.settle_once(0) == 5

        assert await rows_and_spend(database) == (5, 35)
        assert await waiting(redis) == (0, 0)


DIES_BEFORE_ACKNOWLEDGING = """
import asyncio, os, signal, sys
from shared.accounting.ledger import LedgerWriter
from shared.db.engine import create_engine
from shared.queue.links import open_link

async def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

LedgerWriter._acknowledge = die
link = open_link(sys.argv[1], timeout=5)
asyncio.run(LedgerWriter(link, create_engine(sys.argv[2]), 1, "killed").settle_once(0))
"""


async def test_killed_between_commit_and_ack_with_a_database_outage_loses_and_doubles_nothing(
    redis: Redis, link: RedisLink, redis_url: str, postgres_server: PostgresServer, postgres_url: str
) -> None:
    jobs = 2 * BATCH + 100
    await settle_jobs(redis, jobs)
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DIES_BEFORE_ACKNOWLEDGING, redis_url, postgres_url
    )
    assert await killed.wait() == -signal.SIGKILL
    engine = create_engine(postgres_url)
    assert await rows_and_spend(engine) == (BATCH, BATCH * 7)
    assert await waiting(redis) == (jobs, jobs)

    writer = LedgerWriter(link, engine, 1, "heir", claim_idle_seconds=0)
    postgres_server.kill9()
    for _ in range(3):
        with pytest.raises(DATABASE_ERRORS):
            await writer.settle_once(0)
    assert (await waiting(redis))[0] == jobs
    postgres_server.start()
    while await redis.xlen(keyspace.usage(0)):
        await writer.settle_once(0)

    assert await rows_and_spend(engine) == (jobs, jobs * 7)
    assert await waiting(redis) == (0, 0)
    await engine.dispose()


async def test_reservations_are_settled_however_long_the_database_is_away(
    redis: Redis, link: RedisLink, postgres_server: PostgresServer, postgres_url: str
) -> None:
    engine = create_engine(postgres_url)
    clock = ManualClock()
    writer = LedgerWriter(link, engine, 1, "writer", claim_idle_seconds=0.001, clock=clock)
    await writer.settle_once(0)
    rules = RuleSet([Rule(Scope.ACCOUNT, "account:acme", "s", 10**9)])
    reservations = Reservations(link)
    await reservations.seed(ACME, "account:acme", LedgerCounts())
    postgres_server.kill9()
    try:
        for _ in range(3):
            job = replace(a_job(), held=True)
            await reservations.reserve(ACME, job.id, rules, tokens=1, micro_usd=100, lapse_ms=60_000)
            await redis.xadd(keyspace.usage(0), entry_of(job, a_settlement(cost=7)))
            clock.advance(60)
            with pytest.raises(DATABASE_ERRORS):
                await writer.settle_once(0)

        counted = await reservations.counted(ACME, rules)

        assert not isinstance(counted, Unknown)
        assert (counted[0].used, counted[0].reserved) == (21, 0)
    finally:
        postgres_server.start()
        await engine.dispose()


async def test_what_was_claimed_and_written_leaves_nothing_else_behind(
    redis: Redis, link: RedisLink, postgres_server: PostgresServer, postgres_url: str
) -> None:
    engine = create_engine(postgres_url)
    clock = ManualClock()
    stream, group = keyspace.usage(0), keyspace.LEDGER_GROUP
    writer = LedgerWriter(link, engine, 1, "writer", clock=clock)
    await writer.settle_once(0)
    await settle_jobs(redis, 3)
    postgres_server.kill9()
    with pytest.raises(DATABASE_ERRORS):
        await writer.settle_once(0)
    postgres_server.start()
    await settle_jobs(redis, 1)
    ((_, ((entry, _),)),) = await link.execute(
        "XREADGROUP", "GROUP", group, "gone", "COUNT", 1, "STREAMS", stream, ">"
    )
    await link.execute("XCLAIM", stream, group, "gone", 0, entry, "IDLE", 3_600_000, "JUSTID")
    clock.advance(60)

    assert await writer.settle_once(0) == 4

    assert await waiting(redis) == (0, 0)
    await engine.dispose()
