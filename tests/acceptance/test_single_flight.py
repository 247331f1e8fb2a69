"""Requests that must get the same answer, at the same time, run once; and how long a caller waits."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("single-flight")

SLOW = {"before_headers_ms": 1_500}
LONG = {"chunks": 30, "between_chunks_ms": 50}
ROUTE = "/v1/chat/completions"


def chat(cue: dict[str, Any], **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"!script {json.dumps(cue)}\nHello"}]
    return {"model": "gpt-4o-mini", "messages": messages, "temperature": 0, **more}


async def until_called(stack: Stack, times: int = 1) -> None:
    await eventually(lambda: len(stack.calls()) == times, f"{times} calls")


async def stream_of(client: httpx.AsyncClient, body: dict[str, Any]) -> list[str]:
    async with client.stream("POST", ROUTE, json=body) as response:
        assert response.status_code == 200
        return [line async for line in response.aiter_lines() if line]


async def test_identical_requests_at_once_are_one_call_over_all_apis(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(apis=2)
    async with stack.client(stack.apis[0]) as one, stack.client(stack.apis[1]) as two:
        answers = await asyncio.gather(
            *(client.post(ROUTE, json=chat(SLOW)) for client in (one, two) for _ in range(10))
        )

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["x-headrace-job-id"] for answer in answers}) == 1
    assert sum("x-headrace-joined" in answer.headers for answer in answers) == 19
    assert len(stack.calls()) == 1


async def test_identical_streams_are_one_call_and_each_is_whole(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    async with stack.client() as client:
        first = asyncio.create_task(stream_of(client, chat(LONG, stream=True)))
        await until_called(stack)
        streams = await asyncio.gather(first, *(stream_of(client, chat(LONG, stream=True)) for _ in range(4)))

    assert streams[0][-1] == "data: [DONE]"
    assert all(stream == streams[0] for stream in streams)
    assert len(stack.calls()) == 1


@pytest.mark.parametrize(
    ("change", "headers"),
    [
        ({"temperature": 0.7}, {}),
        ({"max_tokens": 5}, {}),
        ({}, {"x-headrace-single-flight": "false"}),
        ({}, {"idempotency-key": "mine"}),
        ({}, {"x-headrace-priority": "batch"}),
    ],
    ids=["chance", "another question", "refused", "a key of its own", "another lane"],
)
async def test_what_is_not_the_same_runs_by_itself(
    fresh_stack: FreshStack, change: dict[str, Any], headers: dict[str, str]
) -> None:
    stack = await fresh_stack()
    async with stack.client() as client:
        answers = await asyncio.gather(
            client.post(ROUTE, json=chat(SLOW)),
            client.post(ROUTE, json=chat(SLOW, **change), headers=headers),
        )

    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(stack.calls()) == 2


async def test_after_the_answer_the_same_question_is_asked_anew(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    async with stack.client() as client:
        for _ in range(2):
            assert (await client.post(ROUTE, json=chat({}))).status_code == 200

    assert len(stack.calls()) == 2


async def test_the_first_to_ask_may_leave_without_harm_to_the_others(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_API__DISCONNECT_GRACE_SECONDS": "0.1"})
    async with stack.client() as client:
        first = asyncio.create_task(client.post(ROUTE, json=chat(SLOW)))
        await until_called(stack)
        second = asyncio.create_task(client.post(ROUTE, json=chat(SLOW)))
        await eventually(lambda: stack.provider.url and not second.done(), "the second request")
        first.cancel()
        answer = await second

    assert answer.status_code == 200
    assert [call.outcome for call in stack.calls()] == ["complete"]


async def test_one_with_more_patience_asks_again_when_the_first_gives_up(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    slow = chat({"before_headers_ms": 2_500})
    async with stack.client() as client:
        first = asyncio.create_task(client.post(ROUTE, json=slow, headers={"x-request-timeout": "2"}))
        await until_called(stack)
        second = await client.post(ROUTE, json=slow, headers={"x-request-timeout": "3.9"})
        gave_up = await first

    assert gave_up.status_code == 504
    assert second.status_code in {200, 504}
    assert len(stack.calls()) == 2


async def test_a_caller_is_answered_when_its_own_time_is_over(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    async with stack.client() as client:
        started = time.monotonic()
        answer = await client.post(
            ROUTE, json=chat({"before_headers_ms": 20_000}), headers={"x-request-timeout": "500ms"}
        )
        took = time.monotonic() - started
        await eventually(
            lambda: [call.outcome for call in stack.calls()] == ["client_closed"], "the provider let go"
        )
        refused = await client.post(ROUTE, json=chat({}), headers={"x-request-timeout": "soon"})

    assert answer.status_code == 504
    assert answer.json()["error"]["code"] in {"deadline_exceeded", "provider_timeout"}
    assert 0.5 <= took < 2
    assert refused.status_code == 422
