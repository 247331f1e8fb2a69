"""Batches over real processes: files in, files out, each request answered or told why not, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from shared.domain.allowance import Limits
from shared.domain.roles import Role
from shared.ids import AccountId
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("batches")

ACME = AccountId("acme")
ENDED = {"completed", "failed", "expired", "cancelled"}


def chat(text: str = "Hello", *, cue: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    content = f"!script {json.dumps(cue)}\n{text}" if cue else text
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}], **more}


def a_line(custom_id: str, *, url: str = "/v1/chat/completions", **more: Any) -> dict[str, Any]:
    body = more.pop("body", None) or chat(cue=more.pop("cue", None))
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body, **more}


def encoded(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def upload(client: httpx.AsyncClient, content: bytes) -> str:
    answer = await client.post("/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"})
    assert answer.status_code == 200, answer.text
    file_id: str = answer.json()["id"]
    return file_id


async def create(client: httpx.AsyncClient, content: bytes, **more: Any) -> dict[str, Any]:
    wanted = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    answer = await client.post("/v1/batches", json={"input_file_id": await upload(client, content), **wanted})
    assert answer.status_code == 200, answer.text
    batch: dict[str, Any] = answer.json()
    return batch


async def ended(client: httpx.AsyncClient, batch_id: str, *, within: float = 30.0) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        batch: dict[str, Any] = (await client.get(f"/v1/batches/{batch_id}")).json()
        return batch if batch["status"] in ENDED else None

    found = await eventually(look, "end of the batch", within=within, every=0.1)
    assert found is not None
    return dict(found)


async def results(client: httpx.AsyncClient, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    answer = await client.get(f"/v1/files/{file_id}/content")
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.text.splitlines()]


def sums_up(batch: dict[str, Any]) -> bool:
    counts = dict(batch["request_counts"])
    total = counts.pop("total")
    return sum(counts.values()) == int(total)


async def test_a_batch_answers_every_good_request_and_tells_what_is_wrong_with_the_others(
    stack: Stack,
) -> None:
    good = [a_line(f"good-{n}") for n in range(5)]
    bad = [
        b"this is no JSON",
        json.dumps({**a_line("x"), "custom_id": None}).encode(),
        json.dumps(a_line("good-1")).encode(),
        json.dumps(a_line("elsewhere", url="/v1/embeddings")).encode(),
        json.dumps({**a_line("gets"), "method": "GET"}).encode(),
        json.dumps(a_line("streams", body=chat(stream=True))).encode(),
        json.dumps(a_line("hot", body=chat(temperature="hot"))).encode(),
        json.dumps(a_line("nobody", body={**chat(), "model": "nobody/knows-this"})).encode(),
        json.dumps(a_line("refused", cue={"status": 400})).encode(),
    ]
    content = b"\xef\xbb\xbf" + encoded(good).replace(b"\n", b"\r\n") + b"\r\n \n" + b"\n".join(bad)
    async with stack.client() as client:
        created = await create(client, content, metadata={"night": "17"})
        batch = await ended(client, created["id"])
        answers = await results(client, batch["output_file_id"])
        errors = await results(client, batch["error_file_id"])
        output = (await client.get(f"/v1/files/{batch['output_file_id']}")).json()

    assert (created["status"], created["object"]) == ("validating", "batch")
    assert (batch["status"], batch["metadata"]) == ("completed", {"night": "17"})
    assert batch["request_counts"] == {"total": 14, "completed": 5, "failed": 9, "cancelled": 0, "expired": 0}
    assert sorted(answer["custom_id"] for answer in answers) == [f"good-{n}" for n in range(5)]
    for answer in answers:
        assert (answer["error"], answer["response"]["status_code"]) == (None, 200)
        assert answer["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
    told = {error["error"]["line"]: error for error in errors if error["error"]}
    assert [told[n]["error"]["code"] for n in range(8, 15)] == [
        "invalid_json_line", "missing_required_parameter", "duplicate_custom_id", "invalid_url",
        "invalid_method", "stream_not_supported", "validation_error",
    ]  # fmt: skip
    assert [told[n]["custom_id"] for n in range(8, 15)] == [
        None, None, None, "elsewhere", "gets", "streams", "hot",
    ]  # fmt: skip
    assert (told[15]["error"]["code"], told[15]["error"]["param"]) == ("model_not_found", "body.model")
    (refused,) = (error for error in errors if error["response"])
    assert refused["response"]["status_code"] == 400
    assert refused["response"]["body"]["error"]["type"] == "invalid_request_error"
    assert (output["purpose"], output["filename"]) == ("batch_output", f"{batch['id']}_output.jsonl")
    assert batch["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("content", "more", "code"),
    [
        (b"\n\n", {}, "empty_file"),
        (b"no\nno\n", {}, "invalid_json_line"),
        (encoded([a_line("a")]) + b"no\n", {"validation": "strict"}, "invalid_json_line"),
    ],
    ids=["no requests", "nothing good", "strict"],
)
async def test_a_batch_of_nothing_good_fails_as_a_whole(
    stack: Stack, content: bytes, more: dict[str, Any], code: str
) -> None:
    async with stack.client() as client:
        created = await create(client, content, **more)
        batch = await ended(client, created["id"])

    assert (batch["status"], batch["output_file_id"]) == ("failed", None)
    assert batch["errors"]["data"][0]["code"] == code
    assert sums_up(batch)


@pytest.mark.parametrize(
    ("endpoint", "body", "field"),
    [
        ("/v1/completions", {"model": "gpt-4o-mini", "prompt": "Once"}, "choices"),
        ("/v1/embeddings", {"model": "openai/text-embedding-3-small", "input": "one"}, "usage"),
        ("/v1/responses", {"model": "gpt-4o-mini", "input": "Hello"}, "output"),
        (
            "/v1/messages",
            {
                "model": "claude-haiku-4-5",
                "max_tokens": 9,
                "messages": [{"role": "user", "content": "Hello"}],
            },
            "content",
        ),
    ],
)
async def test_every_endpoint_is_answered_as_its_route_answers(
    stack: Stack, endpoint: str, body: dict[str, Any], field: str
) -> None:
    async with stack.client() as client:
        created = await create(client, encoded([a_line("a", url=endpoint, body=body)]), endpoint=endpoint)
        batch = await ended(client, created["id"])
        (answer,) = await results(client, batch["output_file_id"])
        at_once = (await client.post(endpoint, json=body)).json()

    assert answer["response"]["body"].keys() == at_once.keys()
    assert field in at_once
    assert batch["model"] == body["model"]


async def test_a_cancelled_batch_keeps_what_was_answered_and_calls_no_more(stack: Stack) -> None:
    quick = [a_line(f"quick-{n}") for n in range(3)]
    slow = [a_line(f"slow-{n}", cue={"before_headers_ms": 60_000}) for n in range(30)]
    async with stack.client() as client:
        created = await create(client, encoded([*quick, *slow]), window=10)

        async def three_are_done() -> bool:
            batch = (await client.get(f"/v1/batches/{created['id']}")).json()
            return int(batch["request_counts"]["completed"]) == 3

        await eventually(three_are_done, "the quick ones")
        cancelling = (await client.post(f"/v1/batches/{created['id']}/cancel")).json()
        batch = await ended(client, created["id"])
        too_late = await client.post(f"/v1/batches/{created['id']}/cancel")
        answers = await results(client, batch["output_file_id"])
        errors = await results(client, batch["error_file_id"])

    assert cancelling["status"] in {"cancelling", "cancelled"}
    assert (batch["status"], too_late.status_code) == ("cancelled", 409)
    assert {answer["custom_id"] for answer in answers} == {f"quick-{n}" for n in range(3)}
    assert {error["error"]["code"] for error in errors} == {"batch_cancelled"}
    assert {error["custom_id"] for error in errors} == {f"slow-{n}" for n in range(30)}
    assert sums_up(batch)
    bodies = [call for call in stack.calls() if call.cue and "60000" in call.cue]
    assert len(bodies) <= 10


async def test_a_batch_whose_time_is_over_tells_what_did_not_run(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_BATCHES__DEADLINE_SECONDS": "3"})
    lines = [a_line("quick"), *(a_line(f"slow-{n}", cue={"before_headers_ms": 60_000}) for n in range(20))]
    async with stack.client() as client:
        created = await create(client, encoded(lines), window=5)
        batch = await ended(client, created["id"])
        answers = await results(client, batch["output_file_id"])
        errors = await results(client, batch["error_file_id"])

    assert batch["status"] == "expired"
    assert batch["request_counts"] == {
        "total": 21, "completed": 1, "failed": 0, "cancelled": 0, "expired": 20,
    }  # fmt: skip
    assert [answer["custom_id"] for answer in answers] == ["quick"]
    assert {error["error"]["code"] for error in errors} == {"batch_expired"}


async def test_the_same_idempotency_key_is_the_same_batch(stack: Stack) -> None:
    async with stack.client() as client:
        file_id = await upload(client, encoded([a_line("a")]))
        wanted = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        key = {"Idempotency-Key": "once"}
        made = await asyncio.gather(
            *(client.post("/v1/batches", json=wanted, headers=key) for _ in range(10))
        )
        other = await client.post("/v1/batches", json={**wanted, "metadata": {}}, headers=key)

    assert {answer.status_code for answer in made} == {200}
    assert len({answer.json()["id"] for answer in made}) == 1
    assert other.status_code == 422


async def test_what_a_client_tries_again_by_itself_is_the_batch_of_its_first_try(stack: Stack) -> None:
    async with stack.client() as client:
        file_id = await upload(client, encoded([a_line("a")]))
        wanted = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}

        async def ask(count: int, **more: Any) -> str:
            tries = {"x-stainless-retry-count": str(count)}
            answer = await client.post("/v1/batches", json={**wanted, **more}, headers=tries)
            assert answer.status_code == 200, answer.text
            return str(answer.json()["id"])

        first, again, other = await ask(0), await ask(1), await ask(1, metadata={"a": "b"})
        anew = await ask(0)

    assert first == again
    assert len({first, other, anew}) == 3


async def test_bad_wishes_are_refused(stack: Stack) -> None:
    async with stack.client() as client:
        file_id = await upload(client, encoded([a_line("a")]))
        other = (
            await client.post("/v1/files", files={"file": ("a", b"a")}, data={"purpose": "user_data"})
        ).json()
        good = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        refused = {
            "nothing": {},
            "no file": {**good, "input_file_id": "file-none"},
            "purpose": {**good, "input_file_id": other["id"]},
            "endpoint": {**good, "endpoint": "/v1/nothing"},
            "window": {**good, "completion_window": "48h"},
            "metadata": {**good, "metadata": {"a": 1}},
            "expiry": {**good, "output_expires_after": {"anchor": "created_at", "seconds": 1}},
            "webhook": {**good, "webhook_url": "http://127.0.0.1/"},
            "unknown": {**good, "unknown": 1},
        }
        answers = {name: await client.post("/v1/batches", json=body) for name, body in refused.items()}
        missing = await client.get("/v1/batches", params={"after": "batch_none"})

    assert {name: answer.status_code for name, answer in answers.items()} == {
        name: {"no file": 404, "purpose": 400}.get(name, 422) for name in refused
    }
    assert missing.status_code == 404


async def test_batches_are_listed_newest_first_from_behind_any_of_them(stack: Stack) -> None:
    key = await stack.new_api_key(AccountId("lister"))
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {key}"
        made = [(await create(client, encoded([a_line("a")])))["id"] for _ in range(3)]
        first = (await client.get("/v1/batches", params={"limit": 2})).json()
        rest = (await client.get("/v1/batches", params={"limit": 2, "after": first["last_id"]})).json()

    assert [batch["id"] for batch in (*first["data"], *rest["data"])] == made[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)


async def test_a_batch_whose_key_is_revoked_stops(stack: Stack) -> None:
    account = AccountId("revoked")
    owner = await stack.new_api_key(account, role=Role.ADMIN)
    token = await stack.new_api_key(account)
    lines = [a_line(f"slow-{n}", cue={"before_headers_ms": 60_000}) for n in range(8)]
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {token}"
        created = await create(client, encoded(lines), window=2)

        async def begun() -> bool:
            status = (await client.get(f"/v1/batches/{created['id']}")).json()["status"]
            return str(status) == "in_progress"

        await eventually(begun, "begin of the batch")
        client.headers["authorization"] = f"Bearer {owner}"
        keys = (await client.get("/api/v1/api-keys")).json()["data"]
        (its_key,) = (key["id"] for key in keys if token.startswith(key["prefix"]))
        assert (await client.delete(f"/api/v1/api-keys/{its_key}")).is_success
        batch = await ended(client, created["id"])
        errors = await results(client, batch["error_file_id"])

    assert sums_up(batch)
    assert {error["error"]["code"] for error in errors} <= {"invalid_api_key", "batch_cancelled"}
    assert len(errors) == 8


async def test_a_rate_limit_is_waited_for_and_a_budget_that_is_used_up_fails_what_is_left(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack(schedulers=2)
    paced = await stack.new_api_key(AccountId("paced"), limits=Limits(concurrent_requests=2))
    poor = await stack.new_api_key(AccountId("poor"), limits=Limits(daily_requests=3))
    async with stack.client() as client:
        for token in (paced, poor):
            client.headers["authorization"] = f"Bearer {token}"
            created = await create(client, encoded(a_line(f"n{n}") for n in range(8)))
            batch = await ended(client, created["id"])
            if token == paced:
                assert batch["request_counts"]["completed"] == 8
            else:
                errors = await results(client, batch["error_file_id"])
                assert batch["request_counts"]["completed"] == 3
                assert {error["error"]["code"] for error in errors} == {"quota_exceeded"}

    assert len(stack.calls()) == 11


async def test_one_account_does_not_wait_until_the_batches_of_another_are_done(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack(
        settings={"HEADRACE_BATCHES__PROVIDER_WINDOW": "8", "HEADRACE_WORKER__SLOTS": "4"}
    )
    many = encoded(a_line(f"n{n}", cue={"before_headers_ms": 100}) for n in range(20))
    async with stack.client() as client, stack.client() as other:
        other.headers["authorization"] = f"Bearer {await stack.new_api_key(AccountId('other'))}"
        for _ in range(16):
            await create(client, many)
        await eventually(lambda: len(stack.calls()) > 8, "the first at work")
        began = len(stack.calls())
        created = await create(other, encoded([a_line("a")]))
        batch = await ended(other, created["id"], within=60.0)

    assert batch["request_counts"]["completed"] == 1
    assert len(stack.calls()) - began < 16 * 20 / 4


async def test_the_end_of_a_batch_is_told_by_webhook(stack: Stack) -> None:
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {await stack.new_api_key(ACME, role=Role.ADMIN)}"
        endpoint = await client.post(
            "/api/v1/webhooks", json={"url": "https://example.com/", "events": ["batch.completed"]}
        )
        assert endpoint.is_success, endpoint.text
        created = await create(client, encoded([a_line("a")]))
        await ended(client, created["id"])
        told = (await client.get("/api/v1/webhooks/deliveries")).json()["data"]

    assert [one["type"] for one in told] == ["batch.completed"]
