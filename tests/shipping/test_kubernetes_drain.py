"""Processes with the manifests' settings end within the manifests' grace periods, and lose nothing.

Times are a tenth of the manifests' here; HEADRACE_TEST_WHOLE_DRAINS=1 takes them as they are.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx
import pytest

from tests.fakes.eventually import eventually
from tests.fakes.stack import Process, Stack
from tests.shipping.manifests import named, pod_of, rendered, settings_of

FACTOR: Final = 1.0 if os.environ.get("HEADRACE_TEST_WHOLE_DRAINS") else 0.1
PRODUCTION: Final = "overlays/production"
DRAINS: Final = (
    "HEADRACE_API__PRE_STOP_SECONDS",
    "HEADRACE_API__DRAIN_SECONDS",
    "HEADRACE_WORKER__DRAIN_SECONDS",
)
FreshStack = Callable[..., Awaitable[Stack]]


def seconds(variable: str) -> float:
    return float(settings_of(rendered(PRODUCTION))[variable])


def drains() -> dict[str, str]:
    short = {variable: str(seconds(variable) * FACTOR) for variable in DRAINS}
    # The callers' patience is the broker's own default, longer than any drain.
    return {**short, "HEADRACE_API__REQUEST_TIMEOUT_SECONDS": "600"}


def grace_of(deployment: str, *waits: str) -> float:
    """What Kubernetes allows, with the `waits` within it as short as they are here."""
    grace = float(
        pod_of(named(rendered(PRODUCTION), "Deployment", deployment))["terminationGracePeriodSeconds"]
    )
    return grace - sum(seconds(wait) * (1 - FACTOR) for wait in waits)


def say(cue: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"!script {cue}"}], **more}


async def end_of(process: Process, within: float) -> float:
    """Seconds from SIGTERM to exit 0."""
    began = time.monotonic()
    process.popen.send_signal(signal.SIGTERM)
    assert await process.has_ended(within=within) == 0
    return time.monotonic() - began


def report(what: str, took: float, grace: float) -> None:
    print(f"{what}: ended {took:.2f} s after SIGTERM, of {grace:.1f} s")


@pytest.mark.timeout(180)
async def test_an_api_pod_with_open_streams_ends_within_its_grace(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings=drains(), schedulers=0)
    grace = grace_of("headrace-api", *DRAINS[:2])
    api = stack.apis[0]
    endless = say('{"chunks": 5000, "between_chunks_ms": 100}', stream=True)
    flowing = asyncio.Event()
    count = 0

    async def read(client: httpx.AsyncClient) -> str:
        nonlocal count
        async with client.stream("POST", "/v1/chat/completions", json=endless) as answer:
            lines: list[str] = []
            async for line in answer.aiter_lines():
                if not lines:
                    count += 1
                    if count == 20:
                        flowing.set()
                lines.append(line)
        return "\n".join(lines)

    async with stack.client() as client, asyncio.TaskGroup() as group:
        streams = [group.create_task(read(client)) for _ in range(20)]
        await flowing.wait()
        ending = group.create_task(end_of(api, grace))

        async def is_unready() -> bool:
            async with stack.client() as other:
                return (await other.get("/health/ready")).status_code == 503

        await eventually(is_unready, "an api that is not ready", within=seconds(DRAINS[0]) * FACTOR)
        async with stack.client() as late:
            still = await late.post("/v1/chat/completions", json=say('{"text": "still here"}'))

    assert still.status_code == 200
    for stream in streams:
        assert "server_draining" in stream.result()
        assert "[DONE]" not in stream.result()
    report("api with 20 open streams", ending.result(), grace)


@pytest.mark.timeout(180)
async def test_a_worker_pod_with_long_calls_ends_within_its_grace(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings=drains(), schedulers=0)
    drain = seconds("HEADRACE_WORKER__DRAIN_SECONDS") * FACTOR
    grace = grace_of("headrace-worker-openai", "HEADRACE_WORKER__DRAIN_SECONDS")
    short, long = int(drain * 300), int(drain * 1300)

    async with stack.client(timeout=120) as client, asyncio.TaskGroup() as group:
        answers = [
            group.create_task(
                client.post("/v1/chat/completions", json=say(f'{{"before_headers_ms": {ms}, "text": "t"}}'))
            )
            for ms in (short, long)
            for _ in range(5)
        ]
        await eventually(lambda: len(stack.calls()) == 10, "10 open calls")
        leaving = stack.workers[0]
        await stack.start_worker()
        took = await end_of(leaving, grace)
        report("worker with 5 calls within its drain and 5 beyond", took, grace)
    calls = len(stack.calls())

    assert [answer.result().status_code for answer in answers] == [200] * 10
    assert took >= drain * 0.9
    # Those that the drain was too short for ran again, elsewhere; the others did not.
    assert calls == 15


async def test_a_scheduler_pod_ends_within_its_grace(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, settings=drains())
    grace = grace_of("headrace-scheduler")

    took = await end_of(stack.schedulers[0], grace)

    report("scheduler", took, grace)


async def test_callers_of_a_pool_of_no_workers_wait_for_the_first_and_the_autoscaler_sees_them(
    fresh_stack: FreshStack,
) -> None:
    unserved = settings_of(rendered("overlays/keda"))["HEADRACE_QUEUE__UNSERVED_SECONDS"]
    stack = await fresh_stack(workers=0, settings={"HEADRACE_QUEUE__UNSERVED_SECONDS": unserved})

    async with stack.client() as client, asyncio.TaskGroup() as group:
        calls = [
            group.create_task(client.post("/v1/chat/completions", json=say('{"text": "awake"}')))
            for _ in range(40)
        ]

        async def queued() -> bool:
            lines = (await client.get("/metrics")).text.splitlines()
            depths = [line for line in lines if line.startswith("gateway_queue_depth") and '"openai"' in line]
            return sum(float(line.split()[-1]) for line in depths) == 40

        await eventually(queued, "40 jobs in the metric that wakes the pool")
        await stack.start_worker()
    answers = [call.result() for call in calls]

    # A day without a worker is no outage to this overlay.
    assert float(unserved) >= 86_400
    assert {answer.status_code for answer in answers} == {200}
    # A place in the queue, and no promise of a time that nobody knows yet.
    assert sum("x-headrace-queue-position" in answer.headers for answer in answers) >= 7
    assert not any("x-headrace-estimated-wait-ms" in answer.headers for answer in answers)
