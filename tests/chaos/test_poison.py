"""Jobs that harm every worker that runs them, and the jobs that run beside them."""

from __future__ import annotations

import asyncio
import math
import resource
from collections import Counter
from pathlib import Path

import psutil
import pytest

from shared import keyspace
from tests.chaos import checker, size
from tests.chaos.callers import Manner, Script, ask, closed_loop, scripts, session_of
from tests.chaos.evidence import gather, judge
from tests.chaos.history import Exchange, History
from tests.chaos.leases import LEASE_SECONDS, RECOVERY_SECONDS
from tests.chaos.nemesis import fleet, redis_of
from tests.fakes.eventually import eventually
from tests.fakes.stack import Process, Stack

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(300)]

BESIDE = Manner(streams=0, delay_ms=(50, 150))
NEIGHBOURS = 20
SPARE_BYTES = 256 << 20


async def test_the_neighbours_of_a_poison_job_were_set_aside_with_it(broker: Stack, tmp_path: Path) -> None:
    """Three workers die with all jobs begun; only the one that the third was running looks guilty."""
    rng = size.dice("poison")
    history = History()
    plan = [f"W2@{NEIGHBOURS}"] * 3

    async with session_of(broker.api_key) as session, fleet(broker, plan, size=1) as workers:
        await closed_loop(
            lambda script: ask(session, broker.url, script),
            scripts("poison", rng, Manner(streams=0)),
            history.exchanges,
            callers=NEIGHBOURS,
            jobs=NEIGHBOURS,
            until=lambda: workers.has_killed_all,
        )
        history.kills = workers.kills
        await gather(broker, history, "poison")

    refused = [exchange.code for exchange in history.exchanges if exchange.status != 200]
    size.report("poison", jobs=len(history.exchanges), set_aside=len(refused))
    assert refused == ["poison"]
    judge(
        [
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )


async def test_a_job_that_ends_its_worker_costs_three_of_them_and_no_other_answer(
    broker: Stack, tmp_path: Path
) -> None:
    history = History()
    async with (
        session_of(broker.api_key) as session,
        fleet(broker, ["POISON"] * 3, then="POISON") as workers,
    ):
        ends = asyncio.create_task(ask(session, broker.url, a_poison("exit")))
        await closed_loop(
            lambda script: ask(session, broker.url, script),
            scripts("exit", size.dice("exit"), BESIDE),
            history.exchanges,
            callers=NEIGHBOURS,
            jobs=size.jobs(),
            until=ends.done,
        )
        await workers.recovered()
        history.kills = workers.kills
        await gather(broker, history, "exit")

    _report("a job that ends its worker", history.exchanges, workers=len(history.kills))
    assert _told(await ends) == (500, "poison")
    assert _calls(broker, "poison-exit") == 0
    assert await _dead_letters(broker, ends.result()) == ["poison"]
    judge(
        [
            *checker.unanswered(history.exchanges),
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.surplus_calls(history.calls, history.kills),
            *checker.late_recoveries(history.kills, within=RECOVERY_SECONDS),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )


async def test_a_job_that_blocks_its_workers_is_set_aside_and_costs_no_other_answer(
    broker: Stack, tmp_path: Path
) -> None:
    history = History()
    armed = f"POISON@{2 * LEASE_SECONDS:.0f}"
    workers = await asyncio.gather(*(broker.start_worker(faultpoints=armed) for _ in range(2)))
    async with session_of(broker.api_key) as session:
        blocks = asyncio.create_task(ask(session, broker.url, a_poison("block")))
        await closed_loop(
            lambda script: ask(session, broker.url, script),
            scripts("block", size.dice("block"), BESIDE),
            history.exchanges,
            callers=NEIGHBOURS,
            jobs=size.jobs(),
            until=blocks.done,
        )
        await gather(broker, history, "block")

    _report("a job that blocks its workers", history.exchanges)
    assert _told(await blocks) == (500, "poison")
    assert await _dead_letters(broker, blocks.result()) == ["poison"]
    assert [worker.exit_code for worker in workers] == [None, None]
    assert max(Counter(call.job for call in history.calls).values()) <= checker.MAX_DELIVERIES
    judge(
        [
            *checker.unanswered(history.exchanges),
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )
    for worker in workers:
        await broker.kill9(worker)


async def test_a_job_that_takes_all_memory_costs_no_other_answer(broker: Stack, tmp_path: Path) -> None:
    """What is left of a worker then is chance: it tells of the error, or a library gives up and it dies."""
    history = History()
    dead: list[Process] = []
    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:
        keeping = group.create_task(_keep_one(broker, dead), name="keep-one")
        await eventually(lambda: broker.workers, "a worker")
        hoards = group.create_task(ask(session, broker.url, a_poison("memory")), name="hoards")
        await closed_loop(
            lambda script: ask(session, broker.url, script),
            scripts("memory", size.dice("memory"), BESIDE),
            history.exchanges,
            callers=NEIGHBOURS,
            jobs=size.jobs(),
            until=hoards.done,
        )
        await gather(broker, history, "memory")
        keeping.cancel()

    _report("a job that takes all memory", history.exchanges, workers=len(dead), told=_told(await hoards))
    assert _told(await hoards) in {(500, "server_error"), (500, "poison")}
    assert _calls(broker, "poison-memory") == 0
    assert len(dead) <= checker.MAX_DELIVERIES
    assert max(Counter(call.job for call in history.calls).values()) <= checker.MAX_DELIVERIES
    judge(
        [
            *checker.unanswered(history.exchanges),
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )
    for worker in list(broker.workers):
        await broker.kill9(worker)


async def _keep_one(broker: Stack, dead: list[Process]) -> None:
    """A worker with little memory to spare, and another one whenever it dies."""
    # Before it runs: what it takes first may be the job. An api is about as large.
    memory = psutil.Process(broker.apis[0].pid).memory_info().vms + SPARE_BYTES
    while True:
        worker = broker.spawn_worker(faultpoints="POISON")
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (memory, memory))
        await broker.ready(worker)
        await worker.has_ended(within=math.inf)
        broker.forget(worker)
        dead.append(worker)


def a_poison(kind: str) -> Script:
    name = f"poison-{kind}-000001"
    return Script(name, False, "", {"name": name})


def _told(exchange: Exchange) -> tuple[int | None, str | None]:
    return exchange.status, exchange.code


def _calls(broker: Stack, prefix: str) -> int:
    return sum((call.cue or "").startswith(prefix) for call in broker.calls())


async def _dead_letters(broker: Stack, exchange: Exchange) -> list[str]:
    """Why that request's job was set aside, as often as it was."""
    async with redis_of(broker) as redis:
        letters = await redis.xrange(keyspace.dead(0, "openai"))
    return [fields["reason"] for _, fields in letters if exchange.name in fields["header"]]


def _report(test: str, neighbours: list[Exchange], **figures: object) -> None:
    slowest = max(exchange.ended_at - exchange.began_at for exchange in neighbours)
    size.report(test, neighbours=len(neighbours), slowest_neighbour_seconds=round(slowest, 2), **figures)
