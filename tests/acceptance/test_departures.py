"""Who left, who stays, and what becomes of the job; what an Idempotency-Key stands for."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("departures")

_SLOW = {"chunks": 40, "between_chunks_ms": 100}


def chat(cue: dict[str, Any], *, stream: bool = False, text: str = "Hello") -> dict[str, Any]:
    content = f"!script {json.dumps(cue)}\n{text}" if cue else text
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}], "stream": stream}


async def first_event_of(response: httpx.Response) -> str:
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            return response.headers["x-headrace-job-id"]
    raise AssertionError("no event")


def outcomes(stack: Stack) -> list[str | None]:
    return [call.outcome for call in stack.calls()]


async def test_a_second_reader_that_leaves_does_not_cancel_the_first(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(apis=2, settings={"HEADRACE_API__DISCONNECT_GRACE_SECONDS": "0.3"})
    first, second = stack.apis
    async with stack.client(first) as one, stack.client(second) as two, one.stream(
        "POST", "/v1/chat/completions", json=chat(_SLOW, stream=True)
    ) as response:  # fmt: skip
        lines = response.aiter_lines()
        job = response.headers["x-headrace-job-id"]
        async with two.stream("GET", f"/api/v1/jobs/{job}/events") as other:
            await first_event_of(other)
        await eventually(lambda: second.events("abandoned job"), "the second api to have judged")
        rest = [line async for line in lines]

    assert second.events("abandoned job")[0]["status"] == "kept"
    assert "data: [DONE]" in rest
    assert outcomes(stack) == ["complete"]


async def test_looking_at_a_detached_job_does_not_cancel_it(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_API__DISCONNECT_GRACE_SECONDS": "0.2"})
    body = chat(_SLOW, stream=True)
    async with stack.client() as client:
        async with client.stream(
            "POST", "/v1/chat/completions", json=body, headers={"x-on-disconnect": "detach"}
        ) as response:
            job = await first_event_of(response)
        async with client.stream("GET", f"/api/v1/jobs/{job}/events") as response:
            await first_event_of(response)
        await eventually(lambda: len(stack.log_events("abandoned job")) == 2, "both departures")
        whole = await client.get(f"/api/v1/jobs/{job}/events")

    assert whole.text.endswith("data: [DONE]\n\n")
    assert outcomes(stack) == ["complete"]


async def test_the_last_reader_to_leave_cancels_the_job(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_API__DISCONNECT_GRACE_SECONDS": "0.2"})
    async with stack.client() as client:
        async with client.stream("POST", "/v1/chat/completions", json=chat(_SLOW, stream=True)) as response:
            job = await first_event_of(response)
            async with client.stream("GET", f"/api/v1/jobs/{job}/events") as other:
                await first_event_of(other)
        await eventually(lambda: outcomes(stack) == ["client_closed"], "the provider's socket closed")


async def test_a_failed_resume_does_not_count_as_a_reader(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_API__DISCONNECT_GRACE_SECONDS": "0.2"})
    async with stack.client() as client:
        async with client.stream("POST", "/v1/chat/completions", json=chat(_SLOW, stream=True)) as response:
            job = await first_event_of(response)
            body = {**chat({}, stream=True), "provider": "openai"}
            other_surface = await client.post(
                "/api/v1/chat", json=body, headers={"Last-Event-ID": f"{job}:1"}
            )
        await eventually(lambda: outcomes(stack) == ["client_closed"], "the provider's socket closed")

    assert other_surface.status_code == 404


async def test_a_drained_api_does_not_leave_calls_to_run_for_nobody(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(apis=2, settings={"HEADRACE_API__DRAIN_SECONDS": "2"})
    leaving = stack.apis[0]
    async with stack.client(leaving) as client:
        request = client.build_request(
            "POST", "/v1/chat/completions", json=chat({"before_headers_ms": 20_000})
        )
        asking = asyncio.create_task(client.send(request))
        await eventually(stack.calls, "the call")
        leaving.popen.terminate()
        answer = await asking
    await leaving.has_ended()
    await eventually(lambda: outcomes(stack) == ["client_closed"], "the provider's socket closed", within=3)

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "server_draining"


async def test_a_key_whose_job_failed_transiently_runs_anew(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_QUEUE__MAX_ATTEMPTS": "1"})
    headers = {"Idempotency-Key": "again"}
    body = chat({"fail_times": {"key": "a", "n": 1}})
    async with stack.client() as client:
        failed = await client.post("/v1/chat/completions", json=body, headers=headers)
        mended = await client.post("/v1/chat/completions", json=body, headers=headers)
        replayed = await client.post("/v1/chat/completions", json=body, headers=headers)

        async def rows() -> bool:
            return len(await stack.ledger()) == 2

        await eventually(rows, "a ledger row for each run")

    assert failed.status_code >= 500
    assert mended.status_code == 200
    assert replayed.content == mended.content
    assert replayed.headers["idempotent-replayed"] == "true"
    assert len(stack.calls()) == 2


async def test_a_rejected_request_is_replayed_under_its_key(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    headers = {"Idempotency-Key": "wrong"}
    async with stack.client() as client:
        first = await client.post("/v1/chat/completions", json=chat({"status": 400}), headers=headers)
        second = await client.post("/v1/chat/completions", json=chat({"status": 400}), headers=headers)

    assert (first.status_code, second.status_code) == (400, 400)
    assert len(stack.calls()) == 1


async def test_the_same_key_with_other_stream_options_is_refused(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    headers = {"Idempotency-Key": "options"}
    plain = chat({}, stream=True)
    with_usage = {**plain, "stream_options": {"include_usage": True}}
    async with stack.client() as client:
        first = await client.post("/v1/chat/completions", json=plain, headers=headers)
        second = await client.post("/v1/chat/completions", json=with_usage, headers=headers)

    assert first.status_code == 200
    assert second.status_code == 422


async def test_a_job_whose_acceptance_was_not_heard_is_stopped_at_once(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_API__DISCONNECT_GRACE_SECONDS": "30"})
    async with stack.client() as client:
        assert (await client.post("/v1/chat/completions", json=chat({}))).status_code == 200
        stack.redis.sigstop()
        refused = await client.post("/v1/chat/completions", json=chat({"before_headers_ms": 20_000}))
        stack.redis.sigcont()
        await eventually(lambda: stack.log_events("abandoned job"), "the departure", within=10)
    await eventually(lambda: all(call.outcome for call in stack.calls()), "no call left open", within=5)

    assert refused.status_code == 503


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/embeddings", "/v1/rerank", "/api/v1/chat"])
async def test_a_caller_who_leaves_within_its_body_is_no_error_of_ours(stack: Stack, route: str) -> None:
    address = urlsplit(stack.url)
    name = f"half-{route.replace('/', '-')}"
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        f"POST {route} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {stack.api_key}\r\nx-request-id: {name}\r\n\r\n{{".encode()
    )
    await writer.drain()
    writer.close()

    def logged() -> list[dict[str, Any]]:
        return [event for event in stack.apis[0].events("request") if event["request_id"] == name]

    await eventually(logged, "a line about it")
    assert [event["status"] for event in logged()] == [499]
    assert not [event for event in stack.apis[0].events("request failed") if event["request_id"] == name]


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/api/v1/chat"])
async def test_a_hundred_identical_requests_under_one_key_are_one_call_and_equal_answers(
    fresh_stack: FreshStack, route: str
) -> None:
    stack = await fresh_stack(apis=2)
    headers = {"Idempotency-Key": "one-of-a-hundred"}
    body = chat({"before_headers_ms": 300})
    async with stack.client(stack.apis[0]) as one, stack.client(stack.apis[1]) as two:
        answers = await asyncio.gather(
            *((one, two)[turn % 2].post(route, json=body, headers=headers) for turn in range(100))
        )
        replayed = await one.post(route, json=body, headers=headers)

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.content for answer in [*answers, replayed]} == {answers[0].content}
    assert replayed.headers["idempotent-replayed"] == "true"
    assert outcomes(stack) == ["complete"]
