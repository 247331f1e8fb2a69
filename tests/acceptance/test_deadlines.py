"""No answer comes later than its caller said it would wait, wherever its job was by then."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from typing import Any, Final

import httpx
import pytest

from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

DEADLINE_SECONDS: Final = 1.0
LATE_SECONDS: Final = 0.25


def asking(cue: dict[str, Any], *, stream: bool = False) -> dict[str, Any]:
    content = f"!script {json.dumps(cue)}\nHello"
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}], "stream": stream}


async def ask(
    client: httpx.AsyncClient, body: dict[str, Any], seconds: float
) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    answer = await client.post("/v1/chat/completions", json=body, headers={"x-request-timeout": f"{seconds}"})
    return answer, time.monotonic() - began


@pytest.mark.parametrize(
    ("cue", "stream"),
    [
        ({"hang": "before_headers"}, False),
        ({"hang": "after_headers"}, False),
        ({"hang": "before_headers"}, True),
        ({"text": "one two three four", "chunks": 200, "between_chunks_ms": 100}, True),
    ],
    ids=["no headers", "no body", "no first event", "no end"],
)
async def test_a_provider_that_takes_longer_is_given_up_in_time(
    stack: Stack, cue: dict[str, Any], stream: bool
) -> None:
    async with stack.client() as client:
        told = await asyncio.gather(
            *(ask(client, asking(cue, stream=stream), DEADLINE_SECONDS) for _ in range(5))
        )

    for answer, _ in told:
        if answer.status_code == 200:  # a stream that had begun
            assert "[DONE]" not in answer.text
            error = json.loads(answer.text.strip().splitlines()[-1].removeprefix("data: "))["error"]
        else:
            assert answer.status_code == 504
            error = answer.json()["error"]
        assert error["code"] in {"deadline_exceeded", "provider_timeout"}
    # The median: beside other tests the slowest says more of the machine.
    assert statistics.median(seconds for _, seconds in told) <= DEADLINE_SECONDS + LATE_SECONDS


async def test_a_job_whose_time_is_over_in_the_queue_calls_nobody(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack(settings={"HEADRACE_WORKER__SLOTS": "1"})
    async with stack.client() as client:
        slow = asyncio.create_task(ask(client, asking({"name": "first", "before_headers_ms": 2000}), 10))
        await stack.provider.calls(opened=1)
        waiting, seconds = await ask(client, asking({"name": "second"}), 0.5)
        first, _ = await slow
        after, _ = await ask(client, asking({"name": "third"}), 10)

    assert waiting.status_code == 504
    assert seconds <= 0.5 + LATE_SECONDS * 2
    assert (first.status_code, after.status_code) == (200, 200)
    assert [call.cue for call in stack.calls()] == ["first", "third"]
