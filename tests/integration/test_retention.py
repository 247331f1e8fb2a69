"""Old rows go, in batches; what the settings keep for ever stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.duties.remove_old import BATCH, remove_old
from shared.clock import ManualClock
from shared.db import tables
from shared.db.engine import create_engine
from shared.db.repositories import accounts, audit
from shared.ids import AccountId
from shared.settings import JobSettings, Settings

ACME = AccountId("acme")
CLOCK = ManualClock()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


async def count(database: AsyncEngine, name: str) -> int:
    async with database.connect() as connection:
        return int(
            await connection.scalar(select(func.count()).select_from(tables.METADATA.tables[name])) or 0
        )


async def an_act(database: AsyncEngine, *, days_ago: float) -> None:
    async with database.begin() as connection:
        await audit.record(
            connection,
            at=CLOCK.now() - timedelta(days=days_ago),
            account=ACME,
            actor="a",
            act="b",
            object_id=None,
        )


async def a_conversation(database: AsyncEngine, name: str, *, days_ago: float) -> None:
    at = CLOCK.now() - timedelta(days=days_ago)
    async with database.begin() as connection:
        await accounts.ensure(connection, ACME, name="Acme", at=at)
        row = {
            "id": name,
            "account_id": ACME,
            "owner": "usr_a",
            "title": "",
            "created_at": at,
            "updated_at": at,
        }
        await connection.execute(insert(tables.conversation).values(row))
        message = {"conversation_id": name, "ordinal": 1, "job_id": "job_1", "message": {}, "created_at": at}
        await connection.execute(insert(tables.conversation_message).values(message))


def usage_row(number: int, *, days_ago: float) -> dict[str, object]:
    words = dict.fromkeys(
        ("account_id", "api_key_id", "request_id", "kind", "surface", "lane", "provider", "model", "outcome"),
        "x",
    )
    numbers = dict.fromkeys(
        (
            "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cost_micro_usd",
            "queue_ms", "provider_ms", "attempts", "deliveries",
        ),
        0,
    )  # fmt: skip
    at = CLOCK.now() - timedelta(days=days_ago)
    return {
        "job_id": f"job_{number}",
        **words,
        **numbers,
        "stream": False,
        "estimated": False,
        "created_at": at,
    }


async def a_webhook(database: AsyncEngine, name: str, *, ended_days_ago: float | None) -> None:
    """`ended_days_ago`: None of one that is on its way."""
    noted = CLOCK.now() - timedelta(days=100)
    ended = None if ended_days_ago is None else CLOCK.now() - timedelta(days=ended_days_ago)
    row = {
        **dict.fromkeys(("account_id", "url", "type"), "x"),
        "id": f"msg_{name}",
        "payload": b"{}",
        "created_at": noted,
        "next_try_at": noted if ended is None else None,
        "delivered_at" if name.startswith("delivered") else "given_up_at": ended,
    }
    attempt = {"delivery_id": f"msg_{name}", "ordinal": 1, "at": noted, "status": 500, "took_ms": 1}
    async with database.begin() as connection:
        await connection.execute(insert(tables.webhook_delivery).values(row))
        await connection.execute(insert(tables.webhook_attempt).values(attempt))


async def test_webhooks_that_ended_go_with_their_attempts(database: AsyncEngine) -> None:
    await a_webhook(database, "delivered_old", ended_days_ago=31)
    await a_webhook(database, "delivered_new", ended_days_ago=29)
    await a_webhook(database, "given_up_old", ended_days_ago=31)
    await a_webhook(database, "pending", ended_days_ago=None)

    removed = await remove_old(database, Settings(), clock=CLOCK)

    assert removed["webhooks"] == 2
    async with database.connect() as connection:
        left = set(await connection.scalars(select(tables.webhook_delivery.c.id)))
    assert left == {"msg_delivered_new", "msg_pending"}
    assert await count(database, "webhook_attempt") == 2


async def test_what_is_older_than_it_is_kept_goes(database: AsyncEngine) -> None:
    for days in (1, 29, 31, 400):
        await an_act(database, days_ago=days)
        await a_conversation(database, f"conv_{days}", days_ago=days)
    rows = [usage_row(n, days_ago=40 if n else 1) for n in range(BATCH + 10)]
    async with database.begin() as connection:
        await connection.execute(insert(tables.usage), rows)

    removed = await remove_old(
        database,
        Settings(usage_retain_days=30, audit_retain_days=30, conversation_retain_days=30),
        clock=CLOCK,
    )

    assert removed == {
        "usage": BATCH + 9,
        "audit": 2,
        "conversations": 2,
        **dict.fromkeys(("jobs", "batch lines", "batches", "webhooks", "results", "sessions"), 0),
    }
    assert await count(database, "usage") == 1
    assert await count(database, "audit_event") == 2
    assert await count(database, "conversation_message") == 2


async def test_what_is_kept_for_ever_stays(database: AsyncEngine) -> None:
    await an_act(database, days_ago=4_000)
    async with database.begin() as connection:
        await connection.execute(insert(tables.usage), [usage_row(1, days_ago=4_000)])

    removed = await remove_old(
        database,
        Settings(
            usage_retain_days=0,
            audit_retain_days=0,
            conversation_retain_days=0,
            webhook_retain_days=0,
            jobs=JobSettings(retain_days=0),
        ),
        clock=CLOCK,
    )

    assert removed == {"results": 0, "sessions": 0}
    assert (await count(database, "usage"), await count(database, "audit_event")) == (1, 1)
