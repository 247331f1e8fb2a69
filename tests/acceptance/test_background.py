"""Responses in the background are done, whatever is killed or emptied meanwhile, and kept in rows."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("background")

ROUTE = "/v1/responses"
QUICK = {
    "HEADRACE_JOBS__RECONCILE_SECONDS": "0.2",
    "HEADRACE_JOBS__LOST_AFTER_SECONDS": "0.5",
}


def asked(*, cue: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    text = f"!script {json.dumps(cue)}\nHello" if cue else "Hello"
    return {"model": "gpt-4o-mini", "input": text, "background": True, **more}


async def ended(stack: Stack, response_id: str) -> dict[str, Any]:
    async def look() -> dict[str, Any]:
        try:
            async with stack.client() as client:
                answer = await client.get(f"{ROUTE}/{response_id}")
        except httpx.HTTPError:
            return {}
        assert answer.status_code in {200, 503}, answer.text
        found: dict[str, Any] = answer.json()
        return found if found.get("status") not in {None, "queued", "in_progress"} else {}

    found: dict[str, Any] = await eventually(look, "the response", within=30, every=0.1)
    return found


def text_of(response: dict[str, Any]) -> str:
    assert response["status"] == "completed", response
    text: str = response["output"][0]["content"][0]["text"]
    return text


async def flush(stack: Stack) -> None:
    async with Redis.from_url(stack.redis.url) as redis:
        await redis.flushall()


async def test_an_api_killed_after_it_accepted_takes_nothing_with_it(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(apis=1, settings=QUICK)
    doomed = await stack.start_api(faultpoints="A2@1")
    async with stack.client(doomed) as client:
        with pytest.raises(httpx.HTTPError):
            await client.post(ROUTE, json=asked())
    async with stack.client() as client:
        (job,) = (await client.get("/api/v1/jobs")).json()["data"]

    assert text_of(await ended(stack, job["id"].replace("job_", "resp_"))) == "You said: Hello"


async def test_a_worker_killed_in_the_middle_leaves_it_to_the_next(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings=QUICK)
    async with stack.client() as client:
        response = (await client.post(ROUTE, json=asked(cue={"before_headers_ms": 700}))).json()
        await eventually(lambda: len(stack.calls()) == 1, "the provider asked")
        await stack.kill9(stack.workers[0])
        between = (await client.get(f"{ROUTE}/{response['id']}")).json()
    await stack.start_worker()

    assert (response["status"], between["status"]) == ("queued", "in_progress")
    assert text_of(await ended(stack, response["id"])) == "You said: Hello"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_queue_emptied_while_it_waits_does_not_lose_it(
    fresh_stack: FreshStack, *, stream: bool
) -> None:
    stack = await fresh_stack(workers=0, settings=QUICK)
    async with stack.client() as client:
        if stream:
            async with client.stream("POST", ROUTE, json=asked(stream=True)) as events:
                line = await anext(line async for line in events.aiter_lines() if line.startswith("data:"))
            response_id = json.loads(line.removeprefix("data: "))["response"]["id"]
        else:
            response_id = (await client.post(ROUTE, json=asked())).json()["id"]
        await flush(stack)
        waits = await client.get(f"{ROUTE}/{response_id}")
        await stack.start_worker()
        found = await ended(stack, response_id)
        again = await client.get(f"{ROUTE}/{response_id}", params={"stream": "true", "starting_after": 1})

    assert waits.json()["status"] == "queued"
    assert text_of(found) == "You said: Hello"
    assert again.status_code == (200 if stream else 400)


async def test_what_ended_is_read_streamed_and_deleted_by_its_row(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings=QUICK)
    async with stack.client() as client:
        streamed = await client.post(ROUTE, json=asked(stream=True))
        response_id = json.loads(streamed.text.split("data: ")[1].split("\n")[0])["response"]["id"]
        before = await ended(stack, response_id)
        await flush(stack)

        after = (await client.get(f"{ROUTE}/{response_id}")).json()
        events = await client.get(f"{ROUTE}/{response_id}", params={"stream": "true", "starting_after": 0})
        items = (await client.get(f"{ROUTE}/{response_id}/input_items")).json()
        next_one = {"model": "gpt-4o-mini", "input": "Next", "previous_response_id": response_id}
        went_on = await client.post(ROUTE, json=next_one)
        cancelled = await client.post(f"{ROUTE}/{response_id}/cancel")
        deleted = await client.delete(f"{ROUTE}/{response_id}")
        gone = await client.get(f"{ROUTE}/{response_id}")

    def data(text: str) -> list[dict[str, Any]]:
        return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]

    assert after == before == data(streamed.text)[-1]["response"]
    assert data(events.text) == data(streamed.text)[1:]
    assert items["data"][0]["content"][0]["text"] == "Hello"
    assert went_on.status_code == 200
    assert cancelled.json() == before
    assert deleted.json() == {"id": response_id, "object": "response", "deleted": True}
    assert gone.status_code == 404


async def test_the_queue_away_it_is_accepted_and_told_by_its_row(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings=QUICK)
    async with stack.client() as client:
        await client.post(ROUTE, json=asked())  # so that its key is known
        stack.redis.sigstop()
        try:
            accepted = await client.post(ROUTE, json=asked())
            streamed = await client.post(ROUTE, json=asked(stream=True))
            shown = await client.get(f"{ROUTE}/{accepted.json()['id']}")
        finally:
            stack.redis.sigcont()

    lines = [line for line in streamed.text.splitlines() if line.startswith("event: ")]
    streamed_id = json.loads(streamed.text.split("data: ")[1].split("\n")[0])["response"]["id"]
    assert (accepted.status_code, accepted.json()["status"], shown.json()["status"]) == (
        200,
        "queued",
        "queued",
    )
    assert lines == ["event: response.created", "event: response.queued", "event: error"]
    for response_id in (accepted.json()["id"], streamed_id):
        assert text_of(await ended(stack, response_id)) == "You said: Hello"


async def test_one_that_waits_is_cancelled_before_it_is_deleted(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, settings=QUICK)
    async with stack.client() as client:
        response_id = (await client.post(ROUTE, json=asked())).json()["id"]
        refused = await client.delete(f"{ROUTE}/{response_id}")
        cancelled = await client.post(f"{ROUTE}/{response_id}/cancel")
        deleted = await client.delete(f"{ROUTE}/{response_id}")

    assert (refused.status_code, deleted.status_code) == (409, 200)
    assert cancelled.json()["status"] == "cancelled"
