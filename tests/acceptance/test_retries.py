"""What official clients try again by themselves: one call at the provider."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import openai
import pytest

from shared.ids import AccountId
from tests.fakes.eventually import eventually
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("retries")

ROUTE = "/v1/chat/completions"


def say(**cue: Any) -> list[Any]:
    return [{"role": "user", "content": f"!script {json.dumps(cue)}\nHello"}]


def chat(*, temperature: float = 1, stream: bool = False, **cue: Any) -> dict[str, Any]:
    return {
        "model": "gpt-4o-mini",
        "messages": say(**cue),
        "temperature": temperature,
        "stream": stream,
    }


def nth(count: int) -> dict[str, str]:
    return {"x-stainless-retry-count": str(count)}


async def broken_off(stack: Stack, body: dict[str, Any], headers: dict[str, str], *, calls: int = 1) -> None:
    """A first try whose caller leaves once the provider was asked."""
    async with stack.client() as client:
        asking = asyncio.create_task(client.post(ROUTE, json=body, headers=headers))
        await eventually(lambda: len(stack.calls()) == calls, f"{calls} calls")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def of_openai(url: str, key: str, *, stream: bool, **options: Any) -> str:
    cue = {"before_headers_ms": 1_200}
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, **options) as client:
        if not stream:
            answer = await client.chat.completions.create(model="gpt-4o-mini", messages=say(**cue))
            return answer.choices[0].message.content or ""
        events = await client.chat.completions.create(model="gpt-4o-mini", messages=say(**cue), stream=True)
        return "".join([e.choices[0].delta.content or "" async for e in events if e.choices])


async def of_anthropic(url: str, key: str, *, stream: bool, **options: Any) -> str:
    ask: Any = {
        "model": "claude-haiku-4-5",
        "messages": say(before_headers_ms=1_200),
        "max_tokens": 99,
    }
    async with anthropic.AsyncAnthropic(base_url=url, api_key=key, **options) as client:
        if not stream:
            answer = await client.messages.create(**ask)
            return "".join(block.text for block in answer.content if block.type == "text")
        async with client.messages.stream(**ask) as events:
            return "".join([text async for text in events.text_stream])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ask", [of_openai, of_anthropic])
async def test_an_impatient_client_is_answered_by_the_call_of_its_first_try(
    stack: Stack, ask: Callable[..., Any], *, stream: bool
) -> None:
    before = len(stack.calls())

    text = await ask(stack.url, stack.api_key, stream=stream, timeout=0.5, max_retries=2)

    assert text == "You said: Hello"
    assert [call.outcome for call in stack.calls()[before:]] == ["complete"]


@pytest.mark.parametrize("ask", [of_openai, of_anthropic])
async def test_a_connection_cut_behind_the_request_costs_no_second_call(
    stack: Stack, ask: Callable[..., Any]
) -> None:
    before = len(stack.calls())
    async with FaultProxy(int(stack.url.rpartition(":")[2])) as proxy:
        asking = asyncio.create_task(ask(f"http://127.0.0.1:{proxy.port}", stack.api_key, stream=False))
        await eventually(lambda: len(stack.calls()) > before, "the provider asked")
        proxy.cut()
        text = await asking

    assert text == "You said: Hello"
    assert proxy.accepted == 2
    assert [call.outcome for call in stack.calls()[before:]] == ["complete"]


async def test_a_killed_api_costs_no_second_call(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(apis=2)
    await_answer = chat(before_headers_ms=1_500)
    async with stack.client(stack.apis[0]) as doomed, stack.client(stack.apis[1]) as other:
        asking = asyncio.create_task(doomed.post(ROUTE, json=await_answer, headers=nth(0)))
        await eventually(lambda: len(stack.calls()) == 1, "the provider asked")
        await stack.kill9(stack.apis[0])
        with pytest.raises(httpx.HTTPError):
            await asking
        answer = await other.post(ROUTE, json=await_answer, headers=nth(1))

    assert (answer.status_code, answer.headers["x-headrace-joined"]) == (200, "true")
    assert len(stack.calls()) == 1


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_nobody_waited_for_is_told_to_the_next_try_and_once(
    fresh_stack: FreshStack, *, stream: bool, temperature: float
) -> None:
    stack = await fresh_stack(settings={"HEADRACE_QUEUE__SHARDS": "4"})
    body = chat(stream=stream, temperature=temperature, before_headers_ms=500)
    await broken_off(stack, body, nth(0))
    await eventually(lambda: stack.calls()[0].outcome == "complete", "its end")
    async with stack.client() as client:
        await eventually(lambda: _ended(client, stack), "its result")
        second = await client.post(ROUTE, json=body, headers=nth(1))
        third = await client.post(ROUTE, json=body, headers=nth(2))

    assert second.headers["idempotent-replayed"] == "true"
    assert "You said: Hello" in second.text.replace('"}', "") or stream
    assert "idempotent-replayed" not in third.headers
    assert len(stack.calls()) == 2


async def _ended(client: httpx.AsyncClient, stack: Stack) -> bool:
    found = await client.get(f"/api/v1/jobs/{stack.calls()[0].job}")
    return bool(found.json()["status"] == "succeeded")


async def test_a_try_after_an_answer_that_was_read_is_a_request_of_its_own(stack: Stack) -> None:
    before = len(stack.calls())
    async with stack.client() as client:
        read = await client.post(ROUTE, json=chat(), headers=nth(0))
        # Its own first try never got here.
        another = await client.post(ROUTE, json=chat(), headers=nth(1))

    assert read.headers["x-headrace-job-id"] != another.headers["x-headrace-job-id"]
    assert len(stack.calls()) == before + 2


async def test_a_failure_is_tried_again_as_a_job_of_its_own(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_QUEUE__MAX_ATTEMPTS": "1"})
    body = chat(status=500)
    async with stack.client() as client:
        answers = [await client.post(ROUTE, json=body, headers=nth(count)) for count in range(3)]

    assert {answer.status_code for answer in answers} == {502}
    assert len({call.job for call in stack.calls()}) == 3


async def test_a_try_after_the_first_was_cancelled_runs_anew(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_API__DISCONNECT_GRACE_SECONDS": "0.1"})
    body = chat(before_headers_ms=1_000)
    await broken_off(stack, body, nth(0))
    await eventually(lambda: stack.calls()[0].outcome == "client_closed", "its end")
    async with stack.client() as client:
        answer = await client.post(ROUTE, json=body, headers=nth(1))

    assert (answer.status_code, len(stack.calls())) == (200, 2)


@pytest.mark.parametrize("other", ["caller", "key of the same account", "body", "route", "count", "header"])
async def test_only_the_same_client_asking_the_same_joins(fresh_stack: FreshStack, other: str) -> None:
    stack = await fresh_stack()
    body = chat(before_headers_ms=700)
    headers, route, second = nth(1), ROUTE, body
    if other == "caller":
        headers["authorization"] = f"Bearer {await stack.new_api_key(AccountId('acc_else'))}"
    elif other == "key of the same account":
        headers["authorization"] = f"Bearer {await stack.new_api_key(AccountId('acc_stack'))}"
    elif other == "body":
        second = {**body, "top_p": 0.5}
    elif other == "route":
        route = "/api/v1/chat"
        second = {"model": body["model"], "messages": body["messages"]}
    else:
        headers = nth(0) if other == "count" else {}
    await broken_off(stack, body, nth(0))
    async with stack.client() as client:
        answer = await client.post(route, json=second, headers=headers)

    assert answer.status_code == 200
    assert len(stack.calls()) == 2


async def test_it_can_be_switched_off(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_JOBS__RETRY_WINDOW_SECONDS": "0"})
    body = chat(before_headers_ms=700)
    await broken_off(stack, body, nth(0))
    async with stack.client() as client:
        answer = await client.post(ROUTE, json=body, headers=nth(1))

    assert (answer.status_code, len(stack.calls())) == (200, 2)


async def test_a_response_in_the_background_is_asked_for_once(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_QUEUE__SHARDS": "4"})
    body = {"model": "gpt-4o-mini", "input": "Hello", "background": True}
    doomed = await stack.start_api(faultpoints="A3@1")
    async with stack.client(doomed) as client:
        with pytest.raises(httpx.HTTPError):
            await client.post("/v1/responses", json=body, headers=nth(0))
    async with stack.client() as client:
        again = [await client.post("/v1/responses", json=body, headers=nth(count)) for count in (1, 2)]
        anew = await client.post("/v1/responses", json=body, headers=nth(0))
        listed = (await client.get("/api/v1/jobs")).json()["data"]

    assert {answer.status_code for answer in (*again, anew)} == {200}
    assert len({answer.json()["id"] for answer in again}) == 1
    assert anew.json()["id"] not in {answer.json()["id"] for answer in again}
    assert len(listed) == 2
