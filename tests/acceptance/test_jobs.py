"""Jobs that outlive their connection: submitted, looked at, read, cancelled, and done once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from shared.ids import AccountId
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("jobs")

JOBS = "/api/v1/jobs"


def chat(text: str = "Hello", *, cue: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    content = f"!script {json.dumps(cue)}\n{text}" if cue else text
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}], **more}


def a_job(text: str = "Hello", *, cue: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"endpoint": "/v1/chat/completions", "body": chat(text, cue=cue), **more}


async def ended(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    answer = await client.get(f"{JOBS}/{job_id}/result", params={"wait": 30})
    assert answer.status_code != 202, answer.text
    shown = (await client.get(f"{JOBS}/{job_id}")).json()
    assert shown["status"] not in {"queued", "running"}
    return {"status": answer.status_code, "body": answer.json(), "job": shown}


def calls_of(stack: Stack, job_id: str) -> int:
    return sum(call.job == job_id for call in stack.calls())


async def test_a_submitted_job_is_done_and_its_answer_can_be_read_again_and_again(stack: Stack) -> None:
    async with stack.client() as client:
        accepted = await client.post(JOBS, json=a_job("first", metadata={"order": "17"}))
        job = accepted.json()
        told = await ended(client, job["id"])
        again = await client.get(accepted.headers["location"])

    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"{JOBS}/{job['id']}/result"
    assert (job["object"], job["metadata"]) == ("job", {"order": "17"})
    assert job["status"] in {"queued", "running"}
    assert told["status"] == 200
    assert told["body"]["choices"][0]["message"]["role"] == "assistant"
    assert (told["job"]["status"], told["job"]["provider"]) == ("succeeded", "openai")
    assert again.json() == told["body"]
    assert again.headers["x-headrace-provider"] == "openai"


@pytest.mark.parametrize(
    ("endpoint", "body", "field"),
    [
        ("/v1/messages", {"model": "claude-haiku-4-5", "max_tokens": 9}, "content"),
        ("/v1/responses", {"model": "gpt-4o-mini", "input": "Hello"}, "output"),
        ("/v1/completions", {"model": "gpt-4o-mini", "prompt": "Once"}, "choices"),
        ("/v1/embeddings", {"model": "openai/text-embedding-3-small", "input": "one"}, "usage"),
        ("/api/v1/chat", {"provider": "openai", "model": "gpt-4o-mini"}, "provider"),
        ("/api/v1/embeddings", {"model": "openai/text-embedding-3-small", "input": "one"}, "embeddings"),
    ],
)
async def test_every_kind_of_request_can_be_a_job(
    stack: Stack, endpoint: str, body: dict[str, Any], field: str
) -> None:
    if endpoint in {"/v1/messages", "/api/v1/chat"}:
        body = {**body, "messages": [{"role": "user", "content": "Hello"}]}
    async with stack.client() as client:
        accepted = await client.post("/v1/jobs", json={"endpoint": endpoint, "body": body})
        told = await ended(client, accepted.json()["id"])
        at_once = await client.post(endpoint, json=body)

    assert (accepted.status_code, told["status"], at_once.status_code) == (202, 200, 200)
    assert field in told["body"]
    assert told["body"].keys() == at_once.json().keys()


async def test_a_job_that_fails_tells_why_with_the_status_of_its_error(stack: Stack) -> None:
    async with stack.client() as client:
        accepted = await client.post(JOBS, json=a_job(cue={"status": 400}))
        told = await ended(client, accepted.json()["id"])

    assert (told["status"], told["job"]["status"]) == (400, "failed")
    assert told["job"]["error"]["code"] == told["body"]["error"]["details"]["code"]


@pytest.mark.parametrize("wait", ["/result?wait=20", "/result"])
async def test_a_result_can_be_waited_for(stack: Stack, wait: str) -> None:
    slow = a_job(cue={"before_headers_ms": 700})
    async with stack.client() as client:
        job_id = (await client.post(JOBS, json=slow)).json()["id"]
        early = await client.get(f"{JOBS}/{job_id}/result", params={"wait": 0})
        answer = await client.get(f"{JOBS}/{job_id}{wait}", headers={"Prefer": "wait=20"})

    assert (early.status_code, early.json()["id"]) == (202, job_id)
    assert "retry-after" in early.headers
    assert answer.status_code == 200


async def test_bad_submissions_are_refused_and_leave_nothing(stack: Stack) -> None:
    good = a_job()
    bad: list[dict[str, Any]] = [
        {},
        {"endpoint": "/v1/chat/completions"},
        {**good, "endpoint": "/v1/nothing"},
        {**good, "body": []},
        {**good, "body": {"model": "gpt-4o-mini"}},
        {**good, "body": chat(temperature="hot")},
        {**good, "unknown": 1},
        {**good, "metadata": {"a": 1}},
        {**good, "metadata": {str(n): "" for n in range(17)}},
        {**good, "webhook_url": "http://127.0.0.1/"},
        {**good, "webhook_url": "https://169.254.169.254/latest"},
        {**good, "timeout_seconds": 0},
        {**good, "timeout_seconds": -1},
        {"endpoint": "/api/v1/chat", "body": {**chat(), "conversation_id": "new"}},
        {"endpoint": "/v1/responses", "body": {"model": "m", "input": "x", "previous_response_id": "r"}},
    ]
    key = await stack.new_api_key(AccountId("acc_bad"))
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {key}"
        answers = [await client.post(JOBS, json=body) for body in bad]
        listed = await client.get(JOBS)

    assert {answer.status_code for answer in answers} <= {400, 404, 422}
    assert listed.json() == {"object": "list", "data": [], "next_cursor": None}


async def test_jobs_are_listed_newest_first_by_what_they_are(stack: Stack) -> None:
    key = await stack.new_api_key(AccountId("acc_list"))
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {key}"
        ids = []
        for number in range(5):
            body = a_job(metadata={"n": str(number)}, timeout_seconds=600 + number)
            ids.append((await client.post(JOBS, json=body)).json()["id"])
        for job_id in ids:
            await ended(client, job_id)
        first = (await client.get(JOBS, params={"limit": 3})).json()
        second = (await client.get(JOBS, params={"limit": 3, "cursor": first["next_cursor"]})).json()
        by_note = (await client.get(JOBS, params={"metadata": "n:2"})).json()
        waiting = (await client.get(JOBS, params={"status": ["queued", "running"]})).json()
        other_kind = (await client.get(JOBS, params={"kind": "embeddings"})).json()
        done = (await client.get(JOBS, params={"status": "succeeded"})).json()
        wrong = await client.get(JOBS, params={"cursor": "x"})

    assert [job["id"] for job in first["data"] + second["data"]] == ids[::-1]
    assert second["next_cursor"] is None
    assert [job["id"] for job in by_note["data"]] == [ids[2]]
    assert (waiting["data"], other_kind["data"], len(done["data"])) == ([], [], 5)
    assert wrong.status_code == 422


async def test_a_waiting_job_that_is_cancelled_never_calls_a_provider(stack: Stack) -> None:
    key = await stack.new_api_key(AccountId("acc_cancel"))
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {key}"
        running = (await client.post(JOBS, json=a_job(cue={"hang": "before_headers"}))).json()["id"]
        await eventually(lambda: calls_of(stack, running) == 1, "the provider asked")
        cancelled = await client.post(f"{JOBS}/{running}/cancel")
        told = await ended(client, running)
        again = await client.post(f"{JOBS}/{running}/cancel")

    assert cancelled.status_code == 200
    assert (told["status"], told["job"]["status"]) == (409, "cancelled")
    assert again.json()["status"] == "cancelled"


async def test_a_deleted_result_is_gone_and_the_job_is_still_known(stack: Stack) -> None:
    async with stack.client() as client:
        job_id = (await client.post(JOBS, json=a_job())).json()["id"]
        await ended(client, job_id)
        deleted = await client.delete(f"{JOBS}/{job_id}")
        answer = await client.get(f"{JOBS}/{job_id}/result")
        shown = await client.get(f"{JOBS}/{job_id}")

    assert deleted.json() == {"id": job_id, "object": "job", "deleted": True}
    assert (answer.status_code, answer.json()["error"]["details"]["code"]) == (410, "result_expired")
    assert (shown.json()["status"], shown.json()["result_expires_at"]) == ("succeeded", None)


async def test_prefer_turns_an_answer_that_takes_too_long_into_a_job(stack: Stack) -> None:
    slow = chat(cue={"before_headers_ms": 1500})
    async with stack.client() as client:
        later = await client.post("/v1/chat/completions", json=slow, headers={"Prefer": "wait=0"})
        at_once = await client.post("/api/v1/chat", json=chat(), headers={"Prefer": "wait=30"})
        asked = await client.post("/v1/chat/completions", json=chat(), headers={"Prefer": "respond-async"})
        unasked = await client.post("/v1/chat/completions", json=chat())
        other = await client.post("/v1/chat/completions", json=chat(), headers={"Prefer": "return=minimal"})
        answer = await client.get(later.headers["location"], params={"wait": 30})

    assert (later.status_code, later.headers["preference-applied"]) == (202, "wait=0")
    assert (at_once.status_code, at_once.headers["preference-applied"]) == (200, "wait=30")
    assert at_once.json()["provider"] == "openai"
    assert (asked.status_code, asked.headers["preference-applied"]) == (202, "respond-async")
    assert (unasked.status_code, "preference-applied" in unasked.headers) == (200, False)
    assert (other.status_code, "preference-applied" in other.headers) == (200, False)
    assert answer.json()["object"] == "chat.completion"


async def test_a_streamed_job_can_be_read_while_it_runs_and_from_where_a_reader_was(stack: Stack) -> None:
    job = a_job(cue={"chunks": 20, "between_chunks_ms": 30})
    job["body"]["stream"] = True
    async with stack.client() as client:
        job_id = (await client.post(JOBS, json=job)).json()["id"]
        whole = await client.get(f"{JOBS}/{job_id}/events")
        rest = await client.get(f"{JOBS}/{job_id}/events", headers={"Last-Event-ID": f"{job_id}:5"})
        after = await client.get(f"{JOBS}/{job_id}/events", params={"after": 5})
        result = await client.get(f"{JOBS}/{job_id}/result", params={"wait": 30})

    assert whole.text.endswith("data: [DONE]\n\n")
    assert whole.text.endswith(rest.text)
    assert rest.text.startswith(f"id: {job_id}:6\n")
    assert after.text == rest.text
    assert (result.status_code, "events" in result.json()["error"]["message"]) == (400, True)


async def test_a_job_that_does_not_stream_tells_how_it_stands(stack: Stack) -> None:
    async with stack.client() as client:
        job_id = (await client.post(JOBS, json=a_job(cue={"before_headers_ms": 300}))).json()["id"]
        told = await client.get(f"{JOBS}/{job_id}/events")

    events = [json.loads(line.removeprefix("data: ")) for line in told.text.splitlines() if "data:" in line]
    assert told.headers["content-type"].startswith("text/event-stream")
    assert events[-1]["status"] == "succeeded"
    assert {event["id"] for event in events} == {job_id}
    assert "event: status\n" in told.text


async def test_one_key_is_one_job_however_often_and_however_many_ask(stack: Stack) -> None:
    headers = {"Idempotency-Key": "order-17"}
    body = a_job(cue={"before_headers_ms": 300})
    async with stack.client() as client:
        answers = await asyncio.gather(*(client.post(JOBS, json=body, headers=headers) for _ in range(100)))
        (job_id,) = {answer.json()["id"] for answer in answers}
        told = await ended(client, job_id)
        replayed = await client.post(JOBS, json=body, headers={**headers, "Prefer": "wait=30"})
        other = await client.post(JOBS, json=a_job("another"), headers=headers)
        key = await stack.new_api_key(AccountId("acc_other"))
        stranger = await client.post(JOBS, json=body, headers={**headers, "Authorization": f"Bearer {key}"})

    assert {answer.status_code for answer in answers} == {202}
    assert told["status"] == 200
    assert (replayed.status_code, replayed.json()) == (200, told["body"])
    assert other.status_code == 422
    assert stranger.json()["id"] != job_id
    assert calls_of(stack, job_id) == 1


async def test_what_one_request_of_a_key_was_told_of_another_does_not_take_back(
    fresh_stack: FreshStack,
) -> None:
    """The queue is full for whoever asks first, when others with its key were told that there is a job."""
    room = {"HEADRACE_QUEUE__MAX_LANE_ENTRIES": "4", "HEADRACE_WORKER__SLOTS": "1"}
    stack = await fresh_stack(settings=room, apis=2)
    told: set[str] = set()
    statuses: set[int] = set()
    async with stack.client() as one, stack.client(stack.apis[1]) as two:

        async def ask(turn: int, number: int) -> None:
            answer = await (one, two)[number % 2].post(
                JOBS,
                json=a_job(f"turn {turn}"),
                headers={"Idempotency-Key": f"turn-{turn}"},
            )
            statuses.add(answer.status_code)
            if answer.status_code == 202:
                told.add(answer.json()["id"])

        for number in range(4):
            filled = await one.post(JOBS, json=a_job(f"{number}", cue={"before_headers_ms": 60_000}))
            assert filled.status_code == 202
        for turn in range(60):
            await asyncio.gather(*(ask(turn, number) for number in range(8)))
        found = [await one.get(f"{JOBS}/{job_id}") for job_id in told]

    assert statuses == {202, 503}
    assert [answer.status_code for answer in found] == [200] * len(found)


@pytest.mark.parametrize(
    "other",
    [
        {"metadata": {"order": "18"}},
        {"webhook_url": "https://hooks.example/other"},
        {"timeout_seconds": 7},
        {"endpoint": "/api/v1/chat"},
    ],
    ids=str,
)
async def test_what_a_job_wants_besides_its_body_is_part_of_what_its_key_stands_for(
    stack: Stack, other: dict[str, Any]
) -> None:
    headers = {"Idempotency-Key": f"wants-{sorted(other)}"}
    first = a_job(metadata={"order": "17"}, webhook_url="https://hooks.example/one", timeout_seconds=60)
    async with stack.client() as client:
        made = await client.post(JOBS, json=first, headers=headers)
        same = await client.post(JOBS, json=first, headers=headers)
        another = await client.post(JOBS, json=first | other, headers=headers)

    assert same.json()["id"] == made.json()["id"]
    assert another.status_code == 422


async def test_somebody_elses_job_is_not_there(stack: Stack) -> None:
    key = await stack.new_api_key(AccountId("acc_stranger"))
    async with stack.client() as client:
        job_id = (await client.post(JOBS, json=a_job())).json()["id"]
        client.headers["authorization"] = f"Bearer {key}"
        answers = [
            await client.get(f"{JOBS}/{job_id}"),
            await client.get(f"{JOBS}/{job_id}/result"),
            await client.get(f"{JOBS}/{job_id}/events"),
            await client.post(f"{JOBS}/{job_id}/cancel"),
            await client.delete(f"{JOBS}/{job_id}"),
        ]

    assert [answer.status_code for answer in answers] == [404] * 5


async def test_a_job_that_no_worker_ever_could_take_is_shown_cancelled_and_deleted(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack(workers=0)
    async with stack.client() as client:
        one, two = [(await client.post(JOBS, json=a_job())).json()["id"] for _ in range(2)]
        shown = await client.get(f"{JOBS}/{one}")
        cancelled = await client.post(f"{JOBS}/{one}/cancel")
        deleted = await client.delete(f"{JOBS}/{two}")
        gone = await client.get(f"{JOBS}/{two}")

    assert (shown.json()["status"], shown.json()["queue_position"]) == ("queued", 1)
    assert (cancelled.status_code, deleted.status_code) == (200, 200)
    # Its row says so, so that nobody takes it for lost and queues it again.
    assert (gone.json()["status"], gone.json()["result_expires_at"]) == ("cancelled", None)
