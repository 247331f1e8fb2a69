"""Dead jobs that are run again: counted like any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from shared import keyspace
from shared.domain.allowance import Scope
from shared.domain.job import Job, Target
from shared.errors import QueueFull
from shared.ids import JobId
from shared.limits.redriven import RedrivenCounts
from shared.limits.reservations import LedgerCounts, Reservations, Unknown
from shared.limits.rules import Rule, RuleSet
from shared.providers.catalogue import Catalogue
from shared.queue.dead_letters import DeadLetters
from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings, load_settings
from tests.integration.queue.support import ACME, PROVIDER, Queue, a_job, open_link
from tests.integration.queue.test_dead_letters import dies

RULES = RuleSet([Rule(Scope.ACCOUNT, f"account:{ACME}", name, 10**6) for name in "dms"])


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with open_link(redis_url) as link:
        yield link


@pytest.fixture
def queue(link: RedisLink) -> Queue:
    return Queue(link, QueueSettings())


@pytest.fixture
def reservations(link: RedisLink) -> Reservations:
    return Reservations(link)


def letters_of(queue: Queue, reservations: Reservations) -> DeadLetters:
    counts = RedrivenCounts(reservations, Catalogue.load(), load_settings())
    return DeadLetters(queue.link, queue.settings, [PROVIDER], counts=counts)


def a_held_job() -> Job:
    return replace(a_job(body=b'{"max_tokens":100}'), held=True, plan=(Target(PROVIDER, "gpt-4o-mini"),))


async def counted(reservations: Reservations) -> list[tuple[int, int]]:
    found = await reservations.counted(ACME, RULES)
    assert not isinstance(found, Unknown)
    return [(one.used, one.reserved) for one in found]


async def is_held(queue: Queue, job_id: JobId) -> bool:
    header = await queue.link.execute("HGET", keyspace.job(0, job_id), "header")
    return Job.from_wire(header, b"").held


async def test_it_is_reserved_for_and_settled_under_its_new_id(
    queue: Queue, reservations: Reservations
) -> None:
    letters = letters_of(queue, reservations)
    await reservations.seed(ACME, f"account:{ACME}", LedgerCounts(1, 1, 50))
    await dies(queue, job := a_held_job())

    done = [await letters.redrive(job.id) for _ in range(2)]
    new_id = done[0].redriven_as
    in_flight = await counted(reservations)
    await reservations.settle(ACME, new_id, tokens=9, micro_usd=7, ended_at=datetime.now(UTC))

    assert {one.redriven_as for one in done} == {new_id}
    assert await is_held(queue, new_id)
    (a_day, _), (a_month, _), (spent, reserved) = in_flight
    assert (a_day, a_month, spent) == (2, 2, 50 + reserved)
    assert reserved >= 60
    assert await counted(reservations) == [(2, 0), (2, 0), (57, 0)]


async def test_of_redrives_at_once_one_is_counted(queue: Queue, reservations: Reservations) -> None:
    letters = letters_of(queue, reservations)
    await reservations.seed(ACME, f"account:{ACME}", LedgerCounts())
    await dies(queue, job := a_held_job())

    done = await asyncio.gather(*(letters.redrive(job.id) for _ in range(5)))

    assert len({one.redriven_as for one in done}) == 1
    assert [used for used, _ in await counted(reservations)][:2] == [1, 1]


async def test_what_the_queue_refuses_is_not_counted(queue: Queue, reservations: Reservations) -> None:
    await reservations.seed(ACME, f"account:{ACME}", LedgerCounts())
    await dies(queue, job := a_held_job())
    await queue.enqueue(a_job())
    full = Queue(queue.link, queue.settings.model_copy(update={"max_lane_entries": 1}))

    with pytest.raises(QueueFull):
        await letters_of(full, reservations).redrive(job.id)

    assert await counted(reservations) == [(0, 0)] * 3


async def test_of_an_account_that_is_not_counted_nothing_is_held(
    queue: Queue, reservations: Reservations
) -> None:
    await dies(queue, job := a_held_job())

    redriven = await letters_of(queue, reservations).redrive(job.id)

    assert not await is_held(queue, redriven.redriven_as)
    assert await queue.link.execute("EXISTS", keyspace.holds(ACME)) == 0
