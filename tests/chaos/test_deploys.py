"""Every api and every worker replaced, one after the other, under load and behind a load balancer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.chaos import checker, size
from tests.chaos.callers import (
    PATH,
    Manner,
    Notes,
    Script,
    ask,
    closed_loop,
    open_loop,
    scripts,
    session_of,
)
from tests.chaos.evidence import gather, judge
from tests.chaos.history import Exchange, History
from tests.fakes.balancer import NOTICED_SECONDS, Balancer, balancing
from tests.fakes.eventually import eventually
from tests.fakes.stack import Process, Stack, start_apart

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(600)]

PRE_STOP_SECONDS = 2 * NOTICED_SECONDS
DRAIN_SECONDS = 1.2
SYNC = Manner(streams=0, delay_ms=(10, 150))
STREAMED = Manner(streams=1, delay_ms=(10, 500), chunks=20, pace_ms=80)
"""Longer than an api waits for open streams, and of all ages when it is asked to stop."""


@pytest.fixture(scope="module")
def broker(sqlite_template: Path) -> Iterator[Stack]:
    stack = Stack(
        apis=2,
        workers=2,
        database_template=sqlite_template,
        settings={
            "HEADRACE_API__PRE_STOP_SECONDS": str(PRE_STOP_SECONDS),
            "HEADRACE_API__DRAIN_SECONDS": str(DRAIN_SECONDS),
        },
    )
    start_apart(stack)
    yield stack
    stack.end_now()


@pytest.fixture
async def balancer(broker: Stack) -> AsyncIterator[Balancer]:
    async with balancing(*(api.port for api in broker.apis)) as balancer:
        await eventually(lambda: len(balancer.ready) == len(broker.apis), "apis that are ready")
        yield balancer


async def test_nobody_notices_that_every_process_is_replaced(
    broker: Stack, balancer: Balancer, tmp_path: Path
) -> None:
    rng = size.dice("deploys")
    history = History()
    rounds, rate, readers, returners = (3, 200, 50, 10) if size.is_full() else (1, 60, 12, 3)
    url = balancer.url
    readings: list[Notes] = []
    resumed: list[str] = []
    codes: list[int] = []

    async def roll() -> None:
        for _ in range(rounds):
            codes.extend(await _replace_all(broker, balancer))

    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:

        async def plain(script: Script) -> Exchange:
            return await ask(session, url, script)

        async def stream(script: Script) -> Exchange:
            readings.append(Notes(script))
            return await _read_on(session, url, readings[-1], resumed)

        async def returning(script: Script) -> Exchange:
            return await _leave_and_return(session, url, script, rng)

        rolled = group.create_task(roll(), name="roll").done
        group.create_task(
            open_loop(plain, scripts("deploy-sync", rng, SYNC), history.exchanges, rate=rate, until=rolled)
        )
        for send, name, manner, callers in (
            (stream, "deploy-stream", STREAMED, readers),
            (returning, "deploy-again", SYNC, returners),
        ):
            asks = scripts(name, rng, manner)
            group.create_task(
                closed_loop(send, asks, history.exchanges, callers=callers, jobs=callers, until=rolled)
            )
    await gather(broker, history, "deploy")

    async with session_of(broker.api_key) as session:
        differing = [n.name for n in readings if n.raw != await _replay(session, broker.url, n)]
    size.report(
        "rolling deploy",
        jobs=len(history.exchanges),
        streams=len(readings),
        streams_resumed=len(resumed),
        replaced=len(codes),
        missing=len(checker.unanswered(history.exchanges)),
        refused_connections=balancer.retried,
        extra_calls=checker.count_calls(history.calls, []).extra,
    )
    assert codes == [0] * rounds * 4
    assert balancer.unserved == 0
    assert resumed, "no stream was open when an api stopped"
    assert differing == []
    judge(
        [
            *checker.unanswered(history.exchanges),
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.surplus_calls(history.calls, []),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )


async def test_an_api_that_is_about_to_stop_serves_on_but_keeps_no_connection(
    broker: Stack, balancer: Balancer
) -> None:
    api = await broker.start_api()
    async with broker.client(api) as client:
        before = await client.get("/health/ready")
        api.popen.terminate()

        async def is_noticed() -> bool:
            return (await client.get("/health/ready")).status_code == 503

        await eventually(is_noticed, "an api that is not ready")
        answer = await client.post(PATH, json=next(scripts("late", random.Random(), SYNC)).body())
    code = await broker.sigterm(api)

    assert before.headers.get("connection") != "close"
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"
    assert code == 0


async def _replace_all(broker: Stack, balancer: Balancer) -> list[int]:
    """New ones come first, then the old ones go, one api and one worker at a time. Their exit codes."""
    apis, workers = list(broker.apis), list(broker.workers)
    coming = await asyncio.gather(
        *(broker.start_api() for _ in apis), *(broker.start_worker() for _ in workers)
    )
    for api in coming[: len(apis)]:
        balancer.add(api.port)
        await _in_use(balancer, api)

    async def stop_apis() -> list[int]:
        return [await _stop_api(broker, balancer, api) for api in apis]

    async def stop_workers() -> list[int]:
        return [await broker.sigterm(worker) for worker in workers]

    stopped = await asyncio.gather(stop_apis(), stop_workers())
    return [*stopped[0], *stopped[1]]


async def _stop_api(broker: Stack, balancer: Balancer, api: Process) -> int:
    code = await broker.sigterm(api)
    balancer.remove(api.port)
    return code


async def _in_use(balancer: Balancer, api: Process) -> None:
    await eventually(lambda: api.port in balancer.ready, f"{api.name} in use")


async def _read_on(session: aiohttp.ClientSession, url: str, notes: Notes, resumed: list[str]) -> Exchange:
    """To the end of the stream, from another server whenever one says that it stops."""
    headers = {"x-request-id": notes.name, "x-stream-ids": "true"}
    while True:
        try:
            async with session.post(url + PATH, json=notes.script.body(), headers=headers) as answer:
                await notes.read_all(answer)
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            return notes.lost(exc)
        exchange = notes.end()
        if exchange.code != "server_draining":
            return exchange
        notes.drop_error_event()
        resumed.append(notes.name)
        headers["last-event-id"] = f"{notes.job}:{notes.last_ordinal}"


async def _leave_and_return(
    session: aiohttp.ClientSession, url: str, script: Script, rng: random.Random
) -> Exchange:
    """Asks, does not wait for the answer, and fetches it later under the same key."""
    headers = {"idempotency-key": script.name, "x-on-disconnect": "detach"}
    asking = asyncio.create_task(ask(session, url, script, headers=headers))
    await asyncio.wait({asking}, timeout=rng.uniform(0.01, 0.2))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return await ask(session, url, script, headers=headers)


async def _replay(session: aiohttp.ClientSession, url: str, notes: Notes) -> bytes:
    """The stream as it is read when nothing disturbs it."""
    async with session.get(f"{url}/api/v1/jobs/{notes.job}/events") as answer:
        return await answer.read()
