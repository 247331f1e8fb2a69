"""What a call costs of Redis and of the database, counted at Redis itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from shared.domain.allowance import Limits
from shared.ids import AccountId
from tests.acceptance.people import SETTINGS, a_person
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("round-trips")

ROUTE = "/v1/chat/completions"
ALL_LIMITS = Limits(
    requests_per_minute=10_000,
    tokens_per_minute=10**9,
    daily_requests=10**6,
    monthly_requests=10**6,
    monthly_spend_micro_usd=10**12,
)
SCRIPTS = {"1": "limits", "3": "enqueue", "7": "begin", "4": "finish"}
OF_A_CALL = {"limits hr:limit:": 1, "enqueue hr:": 1, "begin hr:": 1, "finish hr:": 1}


@asynccontextmanager
async def commands(stack: Stack) -> AsyncIterator[list[str]]:
    """What clients send meanwhile, without what scripts call."""
    seen: list[str] = []
    async with Redis.from_url(stack.redis.url, decode_responses=True) as redis, redis.monitor() as monitor:

        async def listen() -> None:
            async for heard in monitor.listen():
                if heard["client_type"] != "lua":
                    seen.append(heard["command"])  # noqa: PERF401 - read while it grows

        listening = asyncio.create_task(listen())
        try:
            yield seen
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


def kind_of(command: str, job_id: str) -> str:
    """A script by how many keys it is given."""
    name, *parts = command.split()
    if name == "EVALSHA" and parts[1] in SCRIPTS:
        return f"{SCRIPTS[parts[1]]} {parts[2].partition('{')[0]}"
    return command.replace(job_id, "JOB")[:200]


@pytest.mark.parametrize("caller", ["key", "session"])
async def test_a_call_under_every_limit_takes_two_scripts_of_the_api_and_two_of_the_worker(
    fresh_stack: FreshStack, caller: str
) -> None:
    stack = await fresh_stack(schedulers=0, settings=SETTINGS)
    person = await a_person(stack)
    key = await stack.new_api_key(AccountId(person.account), limits=ALL_LIMITS, account_limits=ALL_LIMITS)
    token = key if caller == "key" else person.token
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {token}"
        for _ in range(3):
            assert (await client.post(ROUTE, json=body)).status_code == 200
        async with commands(stack) as seen:
            await eventually(lambda: len(seen) > 0, "the monitor sees something")
            answer = await client.post(ROUTE, json=body)
            job_id = answer.headers["x-headrace-job-id"]
            await eventually(
                lambda: any(kind_of(c, job_id).startswith("finish") for c in seen if job_id in c), "its end"
            )

    assert answer.status_code == 200
    assert "x-ratelimit-remaining-requests" in answer.headers
    assert Counter(kind_of(command, job_id) for command in seen if job_id in command) == OF_A_CALL


async def test_a_call_without_limits_is_not_asked_about(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(schedulers=0)
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    async with stack.client() as client:
        assert (await client.post(ROUTE, json=body)).status_code == 200
        async with commands(stack) as seen:
            await eventually(lambda: len(seen) > 0, "the monitor sees something")
            answer = await client.post(ROUTE, json=body)
            await eventually(
                lambda: any(answer.headers["x-headrace-job-id"] in c for c in seen), "its commands"
            )

    assert answer.status_code == 200
    assert not any("hr:limit:" in command for command in seen)
