"""Callers that leave before their answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from shared import keyspace
from shared.domain.job import Lane
from shared.ids import JobId
from tests.chaos import size
from tests.chaos.callers import PATH, Script, ask, session_of
from tests.chaos.nemesis import redis_of
from tests.fakes.eventually import eventually
from tests.fakes.provider import CallRecord
from tests.fakes.stack import Stack, start_apart

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos")]

GRACE_SECONDS = 0.5
NOTICED_SECONDS = 1.0
"""How long after the grace the provider's socket may stay open."""


@pytest.fixture(scope="module")
def broker(sqlite_template: Path) -> Iterator[Stack]:
    stack = Stack(
        workers=0,
        database_template=sqlite_template,
        settings={"HEADRACE_API__DISCONNECT_GRACE_SECONDS": str(GRACE_SECONDS)},
    )
    start_apart(stack)
    yield stack
    stack.end_now()


@pytest.fixture
async def session(broker: Stack) -> AsyncIterator[aiohttp.ClientSession]:
    async with session_of(broker.api_key) as session:
        yield session


@pytest.fixture
async def worker(broker: Stack) -> AsyncIterator[None]:
    process = await broker.start_worker()
    yield
    await broker.sigterm(process)


async def test_a_job_whose_caller_left_the_queue_never_calls_its_provider(
    broker: Stack, session: aiohttp.ClientSession
) -> None:
    script = a_script("queued", stream=False)
    caller = asyncio.create_task(ask(session, broker.url, script))
    job = await _queued_job(broker)

    await _leave(caller)
    await _has_state(broker, job, "cancelled")
    await broker.start_worker()
    await ask(session, broker.url, a_script("after", stream=False))

    assert _calls_of(broker, script) == []
    assert await _outcomes(broker, script) == ["cancelled"]
    await broker.sigterm(broker.workers[0])


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.usefixtures("worker")
async def test_a_call_whose_caller_left_is_closed(
    stream: bool, broker: Stack, session: aiohttp.ClientSession
) -> None:
    script = a_script(f"running-{stream}", stream=stream, hang="mid_stream" if stream else "before_headers")
    caller = asyncio.create_task(ask(session, broker.url, script))
    await eventually(lambda: _calls_of(broker, script), "an open call")

    left_at = time.time()
    await _leave(caller)
    await eventually(lambda: _is_closed(broker, script), "a closed call")

    (call,) = _calls_of(broker, script)
    assert call.close_at is not None
    assert call.outcome == "client_closed"
    assert call.close_at - left_at <= GRACE_SECONDS + NOTICED_SECONDS
    assert await _outcomes(broker, script) == ["cancelled"]
    size.report(
        f"caller left, {'stream' if stream else 'plain'}",
        closed_after_seconds=round(call.close_at - left_at, 2),
        grace_seconds=GRACE_SECONDS,
    )


@pytest.mark.usefixtures("worker")
async def test_many_callers_that_leave_at_any_time_leave_nothing_behind(
    broker: Stack, session: aiohttp.ClientSession
) -> None:
    rng = size.dice("leaving callers")
    asks = [
        a_script(f"many-{n}", stream=n % 2 == 0, delay_ms=rng.randint(0, 2000))
        for n in range(size.jobs(ci=40))
    ]
    at_once = asyncio.Semaphore(40)

    async def come_and_go(script: Script) -> None:
        async with at_once:
            caller = asyncio.create_task(ask(session, broker.url, script))
            await asyncio.wait({caller}, timeout=rng.uniform(0, 1))
            await _leave(caller)

    async with asyncio.TaskGroup() as group:
        for script in asks:
            group.create_task(come_and_go(script))

    async def is_empty() -> bool:
        async with redis_of(broker) as redis:
            lengths = [await redis.xlen(keyspace.lane(0, "openai", lane)) for lane in Lane]
            return not any([*lengths, await redis.xlen(keyspace.usage(0))])

    await eventually(is_empty, "an empty queue", within=30)
    rows = [row for row in await broker.ledger() if row["request_id"].startswith("leave-many-")]
    assert len({row["request_id"] for row in rows}) == len(rows)
    assert {row["outcome"] for row in rows} <= {"cancelled", "succeeded"}
    calls = [call for call in broker.calls() if (call.cue or "").startswith("leave-many-")]
    assert len({call.cue for call in calls}) == len(calls)
    assert all(call.close_at is not None for call in calls)
    outcomes = [row["outcome"] for row in rows]
    size.report("leaving callers", callers=len(asks), jobs=len(rows), cancelled=outcomes.count("cancelled"))


@pytest.mark.usefixtures("worker")
async def test_an_idempotency_key_keeps_the_job_running(
    broker: Stack, session: aiohttp.ClientSession
) -> None:
    script = a_script("kept", stream=False, delay_ms=2000)
    key = {"idempotency-key": script.name}
    caller = asyncio.create_task(ask(session, broker.url, script, headers=key))
    await eventually(lambda: _calls_of(broker, script), "an open call")

    await _leave(caller)
    await eventually(lambda: _is_closed(broker, script), "a closed call")
    again = await ask(session, broker.url, script, headers=key)

    (call,) = _calls_of(broker, script)
    assert call.outcome == "complete"
    assert again.text == script.text
    assert await _outcomes(broker, script) == ["succeeded"]


@pytest.mark.usefixtures("worker")
async def test_a_caller_who_comes_back_within_the_grace_keeps_the_stream(
    broker: Stack, session: aiohttp.ClientSession
) -> None:
    script = a_script("back", stream=True, chunks=40, between_chunks_ms=50)
    async with session.post(
        broker.url + PATH, json=script.body(), headers={"x-request-id": script.name, "x-stream-ids": "true"}
    ) as answer:
        job = answer.headers["x-headrace-job-id"]
        await answer.content.readuntil(b"\n\n")
        answer.close()

    async with session.get(f"{broker.url}/api/v1/jobs/{job}/events?after=1") as answer:
        rest = await answer.text()

    assert rest.endswith("data: [DONE]\n\n")
    (call,) = _calls_of(broker, script)
    assert call.outcome == "complete"
    assert await _outcomes(broker, script) == ["succeeded"]


def a_script(name: str, *, stream: bool, delay_ms: int = 0, **cue: object) -> Script:
    name = f"leave-{name}"
    text = f"Nobody waits for {name}."
    return Script(name, stream, text, {"name": name, "text": text, "before_headers_ms": delay_ms, **cue})


async def _leave(caller: asyncio.Task[object]) -> None:
    """Closes its connection."""
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)


async def _queued_job(broker: Stack) -> str:
    async with redis_of(broker) as redis:
        entries = await eventually(
            lambda: redis.xrange(keyspace.lane(0, "openai", Lane.INTERACTIVE)), "a queued job"
        )
    job: str = entries[-1][1]["job"]
    return job


async def _has_state(broker: Stack, job: str, state: str) -> None:
    async with redis_of(broker) as redis:

        async def look() -> bool:
            found: str | None = await redis.execute_command(  # type: ignore[no-untyped-call]  # redis-py has no types for it
                "HGET", keyspace.job(0, JobId(job)), "state"
            )
            return found == state

        await eventually(look, f"{job} {state}")


def _calls_of(broker: Stack, script: Script) -> list[CallRecord]:
    return [call for call in broker.calls() if call.cue == script.name]


def _is_closed(broker: Stack, script: Script) -> bool:
    return any(call.close_at is not None for call in _calls_of(broker, script))


async def _outcomes(broker: Stack, script: Script) -> list[str]:
    async def look() -> list[str]:
        return [row["outcome"] for row in await broker.ledger() if row["request_id"] == script.name]

    return await eventually(look, f"a ledger row of {script.name}")
