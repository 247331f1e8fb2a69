"""Batches whose requests come in the body, over real processes: Anthropic's form, and the unified one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from shared.domain.roles import Role
from shared.ids import AccountId
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("inline batches")

MESSAGES: Final = "/v1/messages/batches"
UNIFIED: Final = "/api/v1/batches"
ROUTES: Final = (MESSAGES, UNIFIED)
ENDED: Final = {"completed", "failed", "expired", "cancelled", "ended"}
SLOW: Final = {"before_headers_ms": 60_000}


def said(text: str = "Hello", cue: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"!script {json.dumps(cue)}\n{text}" if cue else text}]


def of_anthropic(custom_id: Any, cue: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    params = {"model": "claude-haiku-4-5", "max_tokens": 64, "messages": said(cue=cue), **more}
    return {"custom_id": custom_id, "params": params}


def of_unified(custom_id: Any, cue: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    body = {"model": "gpt-4o-mini", "messages": said(cue=cue), **more}
    return {"custom_id": custom_id, "url": "/v1/chat/completions", "body": body}


def a_request(route: str, custom_id: Any, cue: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return (of_anthropic if route == MESSAGES else of_unified)(custom_id, cue, **more)


async def create(client: httpx.AsyncClient, route: str, requests: list[Any], **more: Any) -> dict[str, Any]:
    answer = await client.post(route, json={"requests": requests, **more})
    assert answer.status_code == (200 if route == MESSAGES else 202), answer.text
    batch: dict[str, Any] = answer.json()
    return batch


def status_of(batch: dict[str, Any]) -> str:
    return str(batch.get("processing_status") or batch["status"])


async def ended(client: httpx.AsyncClient, route: str, batch_id: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        batch: dict[str, Any] = (await client.get(f"{route}/{batch_id}")).json()
        return batch if status_of(batch) in ENDED else None

    found = await eventually(look, "end of the batch", within=30, every=0.1)
    assert found is not None
    return dict(found)


async def results(client: httpx.AsyncClient, route: str, batch_id: str) -> list[dict[str, Any]]:
    answer = await client.get(f"{route}/{batch_id}/results")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-jsonl"
    return [json.loads(line) for line in answer.text.splitlines()]


def objects_of(stack: Stack) -> list[Path]:
    """All content that is in the storage, also what nobody finished writing."""
    return list((stack.folder / "data" / "files").rglob("obj-*"))


async def test_every_request_of_a_message_batch_is_told_how_it_ended(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_BATCHES__DEADLINE_SECONDS": "4"})
    async with stack.client() as client:
        wanted = [
            of_anthropic("good"),
            of_anthropic("of-another", model="gpt-4o-mini"),
            of_anthropic("hot", temperature="hot"),
            {"custom_id": "nothing", "params": {}},
            of_anthropic("streams", stream=True),
            of_anthropic("refused", {"status": 400}),
            *(of_anthropic(f"slow-{n}", SLOW) for n in range(9)),
        ]
        created = await create(client, MESSAGES, wanted, window=4)
        running = (await client.get(f"{MESSAGES}/{created['id']}")).json()
        early = await client.get(f"{MESSAGES}/{created['id']}/results")
        batch = await ended(client, MESSAGES, created["id"])
        lines = await results(client, MESSAGES, created["id"])
        by_url = await client.get(batch["results_url"])

    nothing_yet = {"processing": 15, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    assert created["request_counts"] == running["request_counts"] == nothing_yet
    assert (early.status_code, early.json()["type"]) == (409, "error")
    assert batch["request_counts"] == {
        "processing": 0, "succeeded": 2, "errored": 4, "canceled": 0, "expired": 9,
    }  # fmt: skip
    assert [line["custom_id"] for line in lines] == [one["custom_id"] for one in wanted]
    kinds = [line["result"]["type"] for line in lines]
    assert kinds == ["succeeded"] * 2 + ["errored"] * 4 + ["expired"] * 9
    assert [json.loads(line) for line in by_url.text.splitlines()] == lines
    for line in lines[:2]:
        assert (line["result"]["message"]["type"], line["result"]["message"]["role"]) == (
            "message",
            "assistant",
        )
    for line in lines[2:6]:
        assert line["result"]["error"]["type"] == "error"
        assert line["result"]["error"]["error"]["type"] == "invalid_request_error"
    assert "temperature" in lines[2]["result"]["error"]["error"]["message"]


async def test_a_unified_batch_whose_time_is_over_tells_what_did_not_run(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(settings={"HEADRACE_BATCHES__DEADLINE_SECONDS": "10"})
    async with stack.client() as client:
        wanted = [of_unified("good"), *(of_unified(f"slow-{n}", SLOW) for n in range(9))]
        created = await create(client, UNIFIED, wanted, window=4)
        early = await client.get(f"{UNIFIED}/{created['id']}/results")
        batch = await ended(client, UNIFIED, created["id"])
        good, *late = await results(client, UNIFIED, created["id"])

    assert (early.status_code, early.json()["error"]["type"]) == (409, "conflict_error")
    assert batch["status"] == "expired"
    assert batch["request_counts"] == {
        "total": 10, "processing": 0, "succeeded": 1, "failed": 0, "cancelled": 0, "expired": 9,
    }  # fmt: skip
    assert (good["custom_id"], good["response"]["status_code"]) == ("good", 200)
    assert [line["custom_id"] for line in late] == [f"slow-{n}" for n in range(9)]
    assert {line["error"]["code"] for line in late} == {"batch_expired"}


@pytest.mark.parametrize("route", ROUTES)
async def test_a_batch_of_nothing_good_ends_with_each_request_told(stack: Stack, route: str) -> None:
    async with stack.client() as client:
        created = await create(client, route, [a_request(route, f"bad-{n}", model=7) for n in range(3)])
        batch = await ended(client, route, created["id"])
        lines = await results(client, route, created["id"])

    counts = batch["request_counts"]
    assert counts["errored" if route == MESSAGES else "failed"] == 3
    assert [line["custom_id"] for line in lines] == ["bad-0", "bad-1", "bad-2"]


@pytest.mark.parametrize("route", ROUTES)
async def test_a_batch_cancelled_before_anybody_read_it_tells_of_every_request(
    fresh_stack: FreshStack, route: str
) -> None:
    stack = await fresh_stack(schedulers=0)
    async with stack.client() as client:
        created = await create(client, route, [a_request(route, f"n{n}") for n in range(520)])
        cancelling = (await client.post(f"{route}/{created['id']}/cancel")).json()
        await stack.start_scheduler(faultpoints="S4@1")
        await stack.schedulers[0].has_ended()
        stack.forget(stack.schedulers[0])
        await stack.start_scheduler()
        batch = await ended(client, route, created["id"])
        lines = await results(client, route, created["id"])

    assert status_of(cancelling) in {"canceling", "cancelling"}
    assert batch["request_counts"]["canceled" if route == MESSAGES else "cancelled"] == 520
    assert sorted(line["custom_id"] for line in lines) == sorted(f"n{n}" for n in range(520))
    assert not stack.calls()


@pytest.mark.parametrize("route", ROUTES)
async def test_a_scheduler_that_dies_half_way_costs_nothing(fresh_stack: FreshStack, route: str) -> None:
    stack = await fresh_stack(schedulers=0)
    async with stack.client() as client:
        created = await create(client, route, [a_request(route, f"n{n}") for n in range(520)])
        # Two pages were checked then, and some of the first window queued.
        await stack.start_scheduler(faultpoints="S4@3")
        await stack.schedulers[0].has_ended()
        stack.forget(stack.schedulers[0])
        await stack.start_scheduler()
        batch = await ended(client, route, created["id"])
        lines = await results(client, route, created["id"])

    assert batch["request_counts"]["succeeded"] == 520
    assert [line["custom_id"] for line in lines] == [f"n{n}" for n in range(520)]
    assert len(stack.calls()) == 520


@pytest.mark.parametrize("route", ROUTES)
async def test_a_cancelled_batch_keeps_what_was_answered(stack: Stack, route: str) -> None:
    known = {call.call for call in stack.calls()}
    async with stack.client() as client:
        wanted = [a_request(route, f"quick-{n}") for n in range(3)]
        wanted += [a_request(route, f"slow-{n}", SLOW) for n in range(20)]
        created = await create(client, route, wanted, window=8)
        unified = f"{UNIFIED}/{created['id']}"

        async def three_are_done() -> bool:
            return int((await client.get(unified)).json()["request_counts"]["succeeded"]) == 3

        await eventually(three_are_done, "the quick ones")
        undeletable = await client.delete(f"{route}/{created['id']}")
        await client.post(f"{route}/{created['id']}/cancel")
        batch = await ended(client, route, created["id"])
        again = await client.post(f"{route}/{created['id']}/cancel")
        lines = await results(client, route, created["id"])

    counts = batch["request_counts"]
    assert (undeletable.status_code, again.status_code) == (409, 409)
    assert (counts["succeeded"], counts["canceled" if route == MESSAGES else "cancelled"]) == (3, 20)
    assert len(lines) == 23
    assert len([call for call in stack.calls() if call.call not in known]) <= 11


async def test_each_request_of_a_unified_batch_names_its_own_route(stack: Stack) -> None:
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "vectors": ("/v1/embeddings", {"model": "openai/text-embedding-3-small", "input": "a"}),
        "message": ("/v1/messages", of_anthropic("")["params"]),
        "response": ("/v1/responses", {"model": "gpt-4o-mini", "input": "Hi"}),
        "wörter, auch mit Leerzeichen": ("/v1/completions", {"model": "gpt-4o-mini", "prompt": "a"}),
    }
    wanted = [
        of_unified("chat"),
        *({"custom_id": name, "url": url, "body": body} for name, (url, body) in bodies.items()),
        {**of_unified("refused", {"status": 400}), "method": "POST"},
        of_unified("nobody", model="nobody/knows-this"),
    ]
    more = {"metadata": {"night": "17"}, "window": 5}
    async with stack.client() as client:
        answer = await client.post(UNIFIED, json={"requests": wanted, **more})
        created = answer.json()
        batch = await ended(client, UNIFIED, created["id"])
        lines = {line["custom_id"]: line for line in await results(client, UNIFIED, created["id"])}
        by_url = await client.get(batch["urls"]["results"])

    assert (answer.status_code, answer.headers["location"]) == (202, f"/api/v1/batches/{created['id']}")
    assert (created["object"], created["form"], created["status"]) == ("batch", "unified", "validating")
    assert created["request_counts"] == {
        "total": 7, "processing": 7, "succeeded": 0, "failed": 0, "cancelled": 0, "expired": 0,
    }  # fmt: skip
    assert (batch["status"], batch["metadata"], batch["window"]) == ("completed", {"night": "17"}, 5)
    assert batch["request_counts"] == {
        "total": 7, "processing": 0, "succeeded": 5, "failed": 2, "cancelled": 0, "expired": 0,
    }  # fmt: skip
    assert (batch["endpoint"], batch["model"], batch["errors"]) == (None, None, [])
    assert batch["usage"]["total_tokens"] > 0
    assert set(lines) == {one["custom_id"] for one in wanted}
    fields = {"chat": "choices", "vectors": "data", "message": "content", "response": "output"}
    for name, field in fields.items():
        assert (lines[name]["error"], lines[name]["response"]["status_code"]) == (None, 200)
        assert field in lines[name]["response"]["body"]
    assert lines["refused"]["response"]["status_code"] == 400
    assert (lines["nobody"]["response"], lines["nobody"]["error"]["code"]) == (None, "model_not_found")
    assert len(by_url.text.splitlines()) == 7


async def test_a_strict_unified_batch_runs_nothing_where_one_request_is_no_good(stack: Stack) -> None:
    async with stack.client() as client:
        created = await create(
            client, UNIFIED, [of_unified("a"), of_unified("b", model=7)], validation="strict"
        )
        batch = await ended(client, UNIFIED, created["id"])
        none = await client.get(f"{UNIFIED}/{created['id']}/results")

    assert (batch["status"], batch["validation"]) == ("failed", "strict")
    assert (batch["errors"][0]["line"], batch["errors"][0]["param"]) == (2, "body.model")
    assert batch["request_counts"]["failed"] == batch["request_counts"]["total"] == 2
    assert none.status_code == 404


async def test_a_unified_batch_takes_a_file_as_well(stack: Stack) -> None:
    lines = [{**of_unified("a"), "method": "POST"}, {**of_unified("b"), "method": "POST", "url": "/v1/none"}]
    content = b"\n".join(json.dumps(line).encode() for line in lines)
    async with stack.client() as client:
        file = await client.post(
            "/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"}
        )
        file_id = file.json()["id"]
        answer = await client.post(UNIFIED, json={"input_file_id": file_id})
        batch = await ended(client, UNIFIED, answer.json()["id"])
        deleted = await client.delete(f"{UNIFIED}/{batch['id']}")
        refused = {
            "both": await client.post(UNIFIED, json={"input_file_id": file_id, "requests": []}),
            "no file": await client.post(UNIFIED, json={"input_file_id": "file-none"}),
        }
        kept = await client.get(f"/v1/files/{file_id}")

    assert (batch["input_file_id"], batch["request_counts"]["succeeded"]) == (file_id, 1)
    assert (deleted.status_code, kept.status_code) == (200, 200)
    assert {name: one.status_code for name, one in refused.items()} == {"both": 422, "no file": 404}


async def test_all_batches_of_an_account_are_in_the_unified_list(stack: Stack) -> None:
    key = await stack.new_api_key(AccountId("lister"))
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {key}"
        made = []
        for route in (MESSAGES, UNIFIED, MESSAGES):
            made.append((await create(client, route, [a_request(route, "a")]))["id"])
            await ended(client, route, made[-1])
        first = (await client.get(UNIFIED, params={"limit": 2})).json()
        # What was behind the cursor need not be there any more.
        await client.delete(f"{UNIFIED}/{made[1]}")
        rest = (await client.get(UNIFIED, params={"limit": 2, "cursor": first["next_cursor"]})).json()
        unified_only = (await client.get(UNIFIED, params={"form": "unified"})).json()["data"]
        messages_only = (await client.get(MESSAGES)).json()
        wrong = await client.get(UNIFIED, params={"cursor": "nonsense"})
        not_its_form = await client.get(f"/v1/batches/{made[0]}")

    assert [one["id"] for one in (*first["data"], *rest["data"])] == made[::-1]
    assert (first["next_cursor"] is None, rest["next_cursor"]) == (False, None)
    assert unified_only == []
    assert [one["id"] for one in messages_only["data"]] == [made[2], made[0]]
    assert (wrong.status_code, not_its_form.status_code) == (422, 404)


@pytest.mark.parametrize("route", ROUTES)
async def test_a_deleted_batch_leaves_no_content_behind(fresh_stack: FreshStack, route: str) -> None:
    stack = await fresh_stack()
    async with stack.client() as client:
        created = await create(client, route, [a_request(route, "a"), a_request(route, "b", model=7)])
        await ended(client, route, created["id"])
        before = len(objects_of(stack))
        deleted = await client.delete(f"{route}/{created['id']}")
        gone = [
            await client.get(f"{route}/{created['id']}"),
            await client.get(f"{route}/{created['id']}/results"),
            await client.delete(f"{route}/{created['id']}"),
        ]
        files = (await client.get("/v1/files")).json()["data"]

    assert deleted.json()["id"] == created["id"]
    assert before == (2 if route == MESSAGES else 3)
    assert [answer.status_code for answer in gone] == [404, 404, 404]
    assert (objects_of(stack), files) == ([], [])


BAD: Final[dict[str, tuple[Any, int, str]]] = {
    "no requests": ({}, 422, "requests"),
    "an empty list": ({"requests": []}, 422, "requests"),
    "no list": ({"requests": {"a": []}}, 422, "requests"),
    "no object": ({"requests": [7]}, 422, "requests[0]"),
    "a hole": (b'{"requests":[{},]}', 422, "requests[0]"),
    "not JSON": (b'{"requests":[{]}', 400, ""),
    "not JSON at all": (b"canary", 400, ""),
    "a key twice": (b'{"requests":[{"custom_id":"a","custom_id":"b"}]}', 400, "requests[0]"),
    "requests twice": (b'{"requests":[],"requests":[]}', 400, "requests"),
    "unknown field": ({"requests": ["GOOD"], "unknown": 1}, 422, "unknown"),
    "unknown field within": ({"requests": ["GOOD", {"more": 1}]}, 422, "requests[1]"),
    "no id": ({"requests": [{"custom_id": None}]}, 422, "requests[0].custom_id"),
    "an empty id": ({"requests": ["GOOD", {"custom_id": ""}]}, 422, "requests[1].custom_id"),
    "a long id": ({"requests": [{"custom_id": "x" * 513}]}, 422, "requests[0].custom_id"),
    "an id twice": ({"requests": ["GOOD", "GOOD"]}, 422, "requests[1].custom_id"),
    "a webhook within": ({"requests": ["GOOD"], "webhook_url": "http://127.0.0.1/"}, 422, "webhook_url"),
    "a window of nothing": ({"requests": ["GOOD"], "window": 0}, 422, "window"),
}


@pytest.mark.parametrize("route", ROUTES)
async def test_a_body_that_is_no_good_is_refused_and_leaves_nothing(
    fresh_stack: FreshStack, route: str
) -> None:
    stack = await fresh_stack(workers=0, schedulers=0)
    good = a_request(route, "good")

    def filled(one: Any) -> Any:
        return good if one == "GOOD" else {**good, **one} if isinstance(one, dict) else one

    told: dict[str, tuple[int, str]] = {}
    async with stack.client() as client:
        for name, (body, _, _) in BAD.items():
            content = body
            if isinstance(body, dict):
                wanted = body.get("requests")
                requests = {"requests": [filled(one) for one in wanted]} if isinstance(wanted, list) else {}
                content = json.dumps({**body, **requests}).encode()
            answer = await client.post(route, content=content, headers={"content-type": "application/json"})
            error = answer.json()["error"]
            param = error["message"] if route == MESSAGES else error["details"].get("param", "")
            told[name] = answer.status_code, param
            assert "canary" not in answer.text
        listed = (await client.get(route)).json()["data"]

    for name, (_, status, param) in BAD.items():
        assert told[name][0] == (400 if route == MESSAGES else status), name
        assert told[name][1].startswith(param), (name, told[name])
    assert (listed, objects_of(stack)) == ([], [])


@pytest.mark.parametrize("route", ROUTES)
async def test_a_body_may_be_larger_here_than_elsewhere_and_no_larger_than_is_set(
    fresh_stack: FreshStack, route: str
) -> None:
    stack = await fresh_stack(
        settings={"HEADRACE_API__MAX_BODY_BYTES": "65536", "HEADRACE_BATCHES__MAX_INLINE_BYTES": "300000"}
    )
    long = "x" * 40_000
    async with stack.client() as client:
        created = await create(client, route, [a_request(route, f"n{n}", user=long) for n in range(6)])
        batch = await ended(client, route, created["id"])
        elsewhere = [
            await client.post("/v1/messages", json={"requests": [long, long]}),
            await client.post(f"{route}/{created['id']}/cancel", json={"requests": [long, long]}),
        ]

        async def chunks() -> AsyncIterator[bytes]:
            yield b'{"requests":['
            for n in range(8):
                yield json.dumps(a_request(route, f"n{n}", user=long)).encode() + b","

        json_type = {"content-type": "application/json"}
        too_large = [
            await client.post(route, json={"requests": [a_request(route, "a", user=long)] * 9}),
            await client.post(route, json={"requests": [a_request(route, "a", user=long + long)]}),
            await client.post(route, content=chunks(), headers=json_type),
        ]
        not_json = await client.post(route, content=b"{}", headers={"content-type": "text/plain"})
        kept = len(objects_of(stack))

    assert batch["request_counts"]["succeeded"] == 6
    assert [answer.status_code for answer in (*elsewhere, *too_large)] == [413] * 5
    assert not_json.status_code == 415
    assert kept == 2


@pytest.mark.parametrize("route", ROUTES)
async def test_too_many_requests_or_too_many_bytes_kept_are_refused(
    fresh_stack: FreshStack, route: str
) -> None:
    stack = await fresh_stack(
        workers=0,
        schedulers=0,
        settings={"HEADRACE_BATCHES__MAX_LINES": "3", "HEADRACE_STORAGE__ACCOUNT_MAX_BYTES": "5000"},
    )
    async with stack.client() as client:
        four = await client.post(route, json={"requests": [a_request(route, f"n{n}") for n in range(4)]})
        heavy = await client.post(route, json={"requests": [a_request(route, "a", user="x" * 6_000)]})
        kept = objects_of(stack)
        await create(client, route, [a_request(route, f"n{n}") for n in range(3)])

    assert four.status_code == (400 if route == MESSAGES else 422)
    assert (heavy.status_code, kept) == (413, [])


@pytest.mark.parametrize("route", ROUTES)
async def test_the_same_key_or_the_same_try_again_is_one_batch(fresh_stack: FreshStack, route: str) -> None:
    stack = await fresh_stack(apis=2, workers=0, schedulers=0)
    wanted = {"requests": [a_request(route, "a")]}
    other = {"requests": [a_request(route, "b")]}
    async with stack.client(stack.apis[0]) as one, stack.client(stack.apis[1]) as two:
        key = {"idempotency-key": "once"}
        made = await asyncio.gather(
            *(client.post(route, json=wanted, headers=key) for client in (one, two) * 5)
        )
        mismatch = await one.post(route, json=other, headers=key)
        first = await one.post(route, json=other, headers={"x-stainless-retry-count": "0"})
        again = await two.post(route, json=other, headers={"x-stainless-retry-count": "1"})
        anew = await two.post(route, json=other, headers={"x-stainless-retry-count": "0"})

    ids = {answer.json()["id"] for answer in made}
    assert len(ids) == 1
    assert mismatch.status_code == (400 if route == MESSAGES else 422)
    assert first.json()["id"] == again.json()["id"] != anew.json()["id"]
    # The input of each, and of nothing else.
    assert len(objects_of(stack)) == 3


@pytest.mark.parametrize("route", ROUTES)
async def test_the_end_is_told_by_webhook_also_to_the_url_of_the_batch(stack: Stack, route: str) -> None:
    token = await stack.new_api_key(AccountId(f"told-{ROUTES.index(route)}"), role=Role.ADMIN)
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {token}"
        await client.post("/api/v1/webhooks", json={"url": "https://example.com/all"})
        url = "https://example.com/of-the-batch"
        created = await create(client, route, [a_request(route, "a")], webhook_url=url)
        await ended(client, route, created["id"])
        cancelled = await create(client, route, [a_request(route, "a", SLOW)])
        await client.post(f"{route}/{cancelled['id']}/cancel")
        await ended(client, route, cancelled["id"])
        told = (await client.get("/api/v1/webhooks/deliveries")).json()["data"]
        shown = (await client.get(f"{UNIFIED}/{created['id']}")).json()

    assert sorted((one["type"], one["url"]) for one in told) == [
        ("batch.cancelled", "https://example.com/all"),
        ("batch.completed", "https://example.com/all"),
        ("batch.completed", url),
    ]
    assert shown["webhook_url"] == url


async def test_results_are_where_the_caller_reaches_us(stack: Stack) -> None:
    async with stack.client() as client:
        created = await create(client, MESSAGES, [of_anthropic("a")])
        plain = await ended(client, MESSAGES, created["id"])
        path = f"/v1/messages/batches/{created['id']}"
        proxied = await client.get(
            path, headers={"host": "broker.example:8443", "x-forwarded-proto": "https"}
        )
        odd = await client.get(path, headers={"x-forwarded-proto": "javascript"})

    assert created["results_url"] is None
    assert plain["results_url"] == odd.json()["results_url"] == f"{stack.url}{path}/results"
    assert proxied.json()["results_url"] == f"https://broker.example:8443{path}/results"


@pytest.mark.parametrize("route", ROUTES)
async def test_viewers_are_refused_and_other_accounts_find_nothing(stack: Stack, route: str) -> None:
    viewer = await stack.new_api_key(AccountId("acc_stack"), role=Role.VIEWER)
    stranger = await stack.new_api_key(AccountId("stranger"))
    async with stack.client() as client:
        created = await create(client, route, [a_request(route, "a")])
        await ended(client, route, created["id"])
        own = f"{route}/{created['id']}"
        asked = [("GET", own), ("GET", f"{own}/results"), ("POST", f"{own}/cancel"), ("DELETE", own)]
        statuses = {
            token: [
                (await client.request(method, path, headers={"authorization": f"Bearer {token}"})).status_code
                for method, path in asked
            ]
            for token in (viewer, stranger)
        }
        listed = await client.get(route, headers={"authorization": f"Bearer {stranger}"})
        still = await client.get(own)

    assert statuses[viewer] == [403] * 4
    assert statuses[stranger] == [404] * 4
    assert listed.json()["data"] == []
    assert still.status_code == 200


async def test_who_leaves_half_way_leaves_nothing(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, schedulers=0)
    _, writer = await asyncio.open_connection("127.0.0.1", stack.apis[0].port)
    head = f"POST {MESSAGES} HTTP/1.1\r\nhost: broker.example\r\nauthorization: Bearer {stack.api_key}\r\n"
    one = json.dumps(of_anthropic("a")).encode()
    writer.write(head.encode() + b"content-type: application/json\r\ncontent-length: 1000000\r\n\r\n")
    writer.write(b'{"requests":[' + one + b"," + one[:40])
    await writer.drain()
    await eventually(lambda: len(objects_of(stack)) == 1, "the first request")
    writer.close()

    await eventually(lambda: not objects_of(stack), "the end of what was begun")

    async with stack.client() as client:
        assert (await client.get(MESSAGES)).json()["data"] == []


async def test_an_account_that_may_keep_no_more_may_still_run_a_file_of_its(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, schedulers=0, settings={"HEADRACE_STORAGE__ACCOUNT_MAX_FILES": "1"})
    async with stack.client() as client:
        form = {"files": {"file": ("in.jsonl", b"{}")}, "data": {"purpose": "batch"}}
        file = await client.post("/v1/files", **form)  # type: ignore[arg-type]  # httpx takes what a dict of options holds
        of_file = await client.post(UNIFIED, json={"input_file_id": file.json()["id"]})
        inline = await client.post(UNIFIED, json={"requests": [of_unified("a")]})

    assert (of_file.status_code, inline.status_code) == (202, 413)
    assert inline.json()["error"]["details"]["code"] == "storage_quota_exceeded"
    assert len(objects_of(stack)) == 1


async def test_a_body_that_is_refused_at_its_start_is_heard_to_its_end(stack: Stack) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"requests":[{"custom_id":"a b","params":{}},'
        for _ in range(200):
            yield b" " * 100_000
        yield b"]}"

    async with stack.client() as client:
        answer = await client.post(MESSAGES, content=chunks(), headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("requests[0].custom_id")


@pytest.mark.parametrize("route", ROUTES)
async def test_a_key_that_is_revoked_ends_what_is_left(stack: Stack, route: str) -> None:
    account = AccountId(f"revoked-{ROUTES.index(route)}")
    owner = await stack.new_api_key(account, role=Role.ADMIN)
    token = await stack.new_api_key(account)
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {token}"
        created = await create(client, route, [a_request(route, f"n{n}", SLOW) for n in range(6)], window=2)
        client.headers["authorization"] = f"Bearer {owner}"
        keys = (await client.get("/api/v1/api-keys")).json()["data"]
        (its_key,) = (key["id"] for key in keys if token.startswith(key["prefix"]))
        assert (await client.delete(f"/api/v1/api-keys/{its_key}")).is_success
        batch = await ended(client, route, created["id"])
        lines = await results(client, route, created["id"])

    counts = dict(batch["request_counts"])
    counts.pop("total", None)
    assert sum(counts.values()) == len(lines) == 6
    if route == MESSAGES:
        errors = [line["result"]["error"]["error"] for line in lines if line["result"]["type"] == "errored"]
        assert {error["type"] for error in errors} == {"authentication_error"}
