"""Workers and schedulers say of themselves how they do."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest

from tests.fakes.eventually import eventually
from tests.fakes.server_process import free_port
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("operations")


def chat(text: str) -> dict[str, object]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}


async def answer(client: httpx.AsyncClient, port: int, path: str) -> tuple[int, str]:
    try:
        got = await client.get(f"http://127.0.0.1:{port}{path}")
    except httpx.HTTPError:
        return 0, ""
    return got.status_code, got.text


async def test_a_worker_is_ready_while_it_takes_jobs_and_alive_without_redis_and_while_it_drains(
    fresh_stack: FreshStack,
) -> None:
    port, other = free_port(), free_port()
    stack: Stack = await fresh_stack(workers=0)
    worker = stack.spawn_worker(HEADRACE_METRICS_PORT=str(port))
    scheduler = stack.spawn_scheduler(HEADRACE_METRICS_PORT=str(other))
    async with httpx.AsyncClient(trust_env=False) as client:

        async def both(status: int) -> bool:
            found = [(await answer(client, at, "/health/ready"))[0] for at in (port, other)]
            return found == [status, status]

        await eventually(lambda: both(200), "both ready")
        await stack.ready(worker)
        stack.redis.stop()
        await eventually(lambda: both(503), "neither ready without Redis")
        _, why = await answer(client, port, "/health/ready")
        assert "Redis" in why
        for at in (port, other):
            assert await answer(client, at, "/health/live") == (200, '{"status":"ok"}')
            page = (await answer(client, at, "/metrics"))[1]
            assert re.search(r'^gateway_ready\{process="\w+"\} 0\.0$', page, re.MULTILINE)
        stack.redis.restart()
        await eventually(lambda: both(200), "both ready again")

        async with stack.client() as caller:
            slow = asyncio.create_task(
                caller.post("/v1/chat/completions", json=chat('!script {"before_headers_ms": 1500}\nHello'))
            )
            await eventually(stack.calls, "a call at the provider")
            assert "gateway_worker_jobs 1.0" in (await answer(client, port, "/metrics"))[1]
            worker.popen.terminate()

            async def drains() -> bool:
                status, why = await answer(client, port, "/health/ready")
                return status == 503 and "draining" in why

            await eventually(drains, "a worker that drains says so")
            assert (await answer(client, port, "/health/live"))[0] == 200
            assert (await slow).status_code == 200
        assert await worker.has_ended() == 0
        assert await stack.sigterm(scheduler) == 0


async def test_every_process_says_which_region_it_is_of(fresh_stack: FreshStack) -> None:
    stack: Stack = await fresh_stack(workers=0, schedulers=0, settings={"HEADRACE_REGION": "eu-west-1"})
    ports = {"worker": free_port(), "scheduler": free_port()}
    await stack.start_worker(HEADRACE_METRICS_PORT=str(ports["worker"]))
    await stack.start_scheduler(HEADRACE_METRICS_PORT=str(ports["scheduler"]))
    ports["api"] = stack.apis[0].port
    async with httpx.AsyncClient(trust_env=False) as client:
        for process, port in ports.items():
            _, page = await answer(client, port, "/metrics")
            told = rf'^gateway_build_info\{{process="{process}",region="eu-west-1",version="[^"]+"\}} 1\.0$'
            assert re.search(told, page, re.MULTILINE), process
        health = (await client.get(f"{stack.url}/health")).json()
        ready = (await client.get(f"{stack.url}/health/ready")).json()

    assert health["region"] == "eu-west-1"
    assert "region" not in ready
    for one in (*stack.apis, *stack.workers, *stack.schedulers):
        assert {event["region"] for event in one.events()} == {"eu-west-1"}


async def test_a_worker_that_waits_for_redis_is_alive_and_not_ready(fresh_stack: FreshStack) -> None:
    stack: Stack = await fresh_stack(workers=0, schedulers=0)
    stack.redis.stop()
    port = free_port()
    worker = stack.spawn_worker(HEADRACE_METRICS_PORT=str(port))
    async with httpx.AsyncClient(trust_env=False) as client:

        async def is_alive() -> bool:
            return (await answer(client, port, "/health/live"))[0] == 200

        await eventually(is_alive, "alive without Redis")
        assert await answer(client, port, "/health/ready") == (
            503,
            '{"status":"unavailable","reason":"waiting for Redis"}',
        )
        worker.popen.terminate()
        assert await worker.has_ended() != 0


async def test_a_port_that_is_taken_ends_the_process(fresh_stack: FreshStack) -> None:
    stack: Stack = await fresh_stack(workers=0, schedulers=0)
    taken = str(stack.apis[0].port)

    worker = stack.spawn_worker(HEADRACE_METRICS_PORT=taken)
    scheduler = stack.spawn_scheduler(HEADRACE_METRICS_PORT=taken)

    assert await worker.has_ended() != 0
    assert await scheduler.has_ended() != 0
