"""Webhooks over the API, to a receiver on a real socket that verifies them with the reference library."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from standardwebhooks import WebhookVerificationError

from shared.db.engine import create_engine
from shared.db.tables import METADATA
from shared.domain.roles import Role
from shared.ids import AccountId
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.fakes.webhook_receiver import Says, WebhookReceiver
from tests.fixtures.stack import FreshStack
from tests.unit.test_egress_urls import REFUSED

pytestmark = pytest.mark.xdist_group("webhooks")

PATH = "/api/v1/webhooks"
ACME = AccountId("acme")


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver() as started:
        yield started


async def a_stack(fresh_stack: FreshStack, receiver: WebhookReceiver, **options: Any) -> Stack:
    """Whose claims last three seconds."""
    settings = {
        "HEADRACE_EGRESS__PRIVATE_HOSTS": json.dumps([receiver.host]),
        "HEADRACE_WEBHOOKS__TIMEOUT_SECONDS": "2",
    }
    return await fresh_stack(settings=settings, **{"workers": 0, **options})


async def a_client(stack: Stack, account: AccountId = ACME, role: Role = Role.MEMBER) -> httpx.AsyncClient:
    client = stack.client()
    client.headers["authorization"] = f"Bearer {await stack.new_api_key(account, role=role)}"
    return client


async def made(client: httpx.AsyncClient, receiver: WebhookReceiver, stack: Stack) -> dict[str, Any]:
    answer = await client.post(PATH, json={"url": receiver.url})
    assert answer.status_code == 201, answer.text
    endpoint: dict[str, Any] = answer.json()
    stack.secrets.append(("webhook secret", endpoint["secret"]))
    return endpoint


async def delivery(client: httpx.AsyncClient, delivery_id: str, status: str) -> dict[str, Any]:
    """Once it has that status."""

    async def look() -> dict[str, Any] | None:
        found: dict[str, Any] = (await client.get(f"{PATH}/deliveries/{delivery_id}")).json()
        return found if found["status"] == status else None

    found: dict[str, Any] | None = await eventually(look, f"{delivery_id} {status}")
    assert found is not None
    return found


async def test_a_test_reaches_the_endpoint_and_verifies(
    fresh_stack: FreshStack, receiver: WebhookReceiver
) -> None:
    stack = await a_stack(fresh_stack, receiver)
    async with await a_client(stack) as client:
        endpoint = await made(client, receiver, stack)
        sent = await client.post(f"{PATH}/{endpoint['id']}/test")
        done = await delivery(client, sent.json()["id"], "delivered")
        secret = (await client.get(f"{PATH}/{endpoint['id']}/secret")).json()["secret"]
        listed = (await client.get(f"{PATH}/deliveries")).json()

    (call,) = receiver.received
    event = call.verified(endpoint["secret"])
    assert sent.status_code == 202
    assert secret == endpoint["secret"]
    assert event == done["payload"]
    assert (event["type"], event["data"]["endpoint"]) == ("webhook.test", endpoint["id"])
    assert call.id == done["id"]
    assert [(a["status"], a["error"]) for a in done["attempts"]] == [(204, None)]
    assert [row["id"] for row in listed["data"]] == [call.id]


async def test_a_scheduler_killed_once_it_sent_leaves_it_to_be_sent_again(
    fresh_stack: FreshStack, receiver: WebhookReceiver
) -> None:
    stack = await a_stack(fresh_stack, receiver, schedulers=0)
    doomed = await stack.start_scheduler(faultpoints="S5@1")
    async with await a_client(stack) as client:
        endpoint = await made(client, receiver, stack)
        sent = (await client.post(f"{PATH}/{endpoint['id']}/test")).json()["id"]
        assert await doomed.has_ended() == -9
        stack.forget(doomed)
        before = (await client.get(f"{PATH}/deliveries/{sent}")).json()
        await stack.start_scheduler()
        after = await delivery(client, sent, "delivered")

    assert (before["status"], before["attempts"]) == ("pending", [])
    assert len(after["attempts"]) == 1
    assert receiver.ids == [sent, sent]
    assert [call.verified(endpoint["secret"])["type"] for call in receiver.received] == ["webhook.test"] * 2


async def test_jobs_that_end_are_told_to_endpoints_and_to_the_url_they_named(
    fresh_stack: FreshStack, receiver: WebhookReceiver
) -> None:
    stack = await a_stack(fresh_stack, receiver, workers=1)
    chat = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    async with await a_client(stack) as client:
        endpoint = await made(client, receiver, stack)
        own = (await client.get(f"{PATH}/secret")).json()["secret"]
        chatted = await client.post(
            "/api/v1/jobs",
            json={
                "endpoint": "/v1/chat/completions",
                "body": chat,
                "metadata": {"order": "17"},
                "webhook_url": f"{receiver.url}/named",
            },
        )
        responded = await client.post(
            "/api/v1/jobs",
            json={"endpoint": "/v1/responses", "body": {"model": "gpt-4o-mini", "input": "Hello"}},
        )
        await eventually(lambda: len(receiver.received) == 4, "both jobs told")

    named, *others = sorted(receiver.received, key=lambda call: not call.path.endswith("/named"))
    events = {event["type"]: event["data"] for call in others if (event := call.verified(endpoint["secret"]))}
    job = chatted.json()["id"]
    assert named.verified(own)["data"] == {"id": job, "status": "succeeded", "metadata": {"order": "17"}}
    assert set(events) == {"job.succeeded", "response.completed"}
    assert events["response.completed"]["id"].startswith("resp_")
    assert {call.event["data"]["id"] for call in others} >= {job, responded.json()["id"]}


async def test_while_a_secret_is_rotated_both_verify_and_then_the_new_one_alone(
    fresh_stack: FreshStack, receiver: WebhookReceiver
) -> None:
    stack = await a_stack(fresh_stack, receiver)
    async with await a_client(stack) as client:
        first = await made(client, receiver, stack)
        path = f"{PATH}/{first['id']}"
        second = (await client.post(f"{path}/rotate")).json()
        sent = (await client.post(f"{path}/test")).json()
        await delivery(client, sent["id"], "delivered")
        third = (await client.post(f"{path}/rotate", json={"grace_seconds": 0})).json()
        sent = (await client.post(f"{path}/test")).json()
        await delivery(client, sent["id"], "delivered")
        shown = (await client.get(f"{path}/secret")).json()

    in_grace, after = receiver.received
    assert len({first["secret"], second["secret"], third["secret"]}) == 3
    assert in_grace.verified(first["secret"]) == in_grace.verified(second["secret"])
    assert after.verified(third["secret"])
    for dead in (first, second):
        with pytest.raises(WebhookVerificationError):
            after.verified(dead["secret"])
    assert shown["secret"] == third["secret"]


async def test_what_failed_is_sent_once_more_under_its_id(
    fresh_stack: FreshStack, receiver: WebhookReceiver
) -> None:
    stack = await a_stack(fresh_stack, receiver)
    receiver.next_says.append(Says(410))
    async with await a_client(stack) as client:
        endpoint = await made(client, receiver, stack)
        path = f"{PATH}/{endpoint['id']}"
        sent = (await client.post(f"{path}/test")).json()["id"]
        await delivery(client, sent, "given_up")
        disabled = (await client.get(path)).json()
        refused = [
            await client.post(f"{PATH}/deliveries/{sent}/redeliver"),
            await client.post(f"{path}/test"),
        ]
        enabled = await client.patch(path, json={"enabled": True})
        again = await client.post(f"{PATH}/deliveries/{sent}/redeliver")
        done = await delivery(client, sent, "delivered")

    assert (disabled["enabled"], disabled["disabled_because"]) == (False, "gone")
    assert [answer.status_code for answer in refused] == [409, 409]
    assert enabled.json()["disabled_because"] is None
    assert (again.status_code, again.json()["status"]) == (202, "pending")
    assert [attempt["status"] for attempt in done["attempts"]] == [410, 204]
    assert receiver.ids == [sent, sent]


async def test_an_endpoint_is_made_changed_and_deleted_and_all_of_it_is_audited(
    fresh_stack: FreshStack, receiver: WebhookReceiver
) -> None:
    stack = await a_stack(fresh_stack, receiver, schedulers=0)
    async with await a_client(stack, role=Role.ADMIN) as client:
        endpoint = await made(client, receiver, stack)
        path = f"{PATH}/{endpoint['id']}"
        waiting = (await client.post(f"{path}/test")).json()
        moved = await client.patch(path, json={"url": f"{receiver.url}/2", "events": ["job.failed"]})
        follows = (await client.get(f"{PATH}/deliveries/{waiting['id']}")).json()
        off = await client.patch(path, json={"enabled": False, "description": "Off"})
        given_up = (await client.get(f"{PATH}/deliveries/{waiting['id']}")).json()
        listed = (await client.get(PATH)).json()["data"]
        await client.get(f"{path}/secret")
        await client.post(f"{path}/rotate")
        removed = await client.delete(path)
        gone = await client.get(path)
        audit = (await client.get("/api/v1/audit")).json()["data"]

    assert moved.json()["events"] == ["job.failed"]
    assert follows["url"] == f"{receiver.url}/2"
    assert (off.json()["enabled"], off.json()["disabled_because"]) == (False, "asked")
    assert given_up["status"] == "given_up"
    assert listed == [off.json()]
    assert "secret" not in listed[0]
    assert (removed.status_code, gone.status_code) == (204, 404)
    acts = ["created", "tested", "changed", "changed", "secret-read", "rotated", "deleted"]
    assert [event["act"] for event in reversed(audit)] == [f"webhook.{act}" for act in acts]
    assert endpoint["secret"] not in json.dumps(audit)


async def test_deliveries_are_found_by_endpoint_status_and_type_page_by_page(
    fresh_stack: FreshStack, receiver: WebhookReceiver
) -> None:
    stack = await a_stack(fresh_stack, receiver, schedulers=0)
    async with await a_client(stack) as client:
        one, other = [await made(client, receiver, stack) for _ in range(2)]
        sent = [(await client.post(f"{PATH}/{one['id']}/test")).json()["id"] for _ in range(5)]
        await client.post(f"{PATH}/{other['id']}/test")
        await client.delete(f"{PATH}/{other['id']}")
        pages, cursor = [], None
        while True:
            query = {"endpoint": one["id"], "limit": 2, **({"cursor": cursor} if cursor else {})}
            page = (await client.get(f"{PATH}/deliveries", params=query)).json()
            pages.append([row["id"] for row in page["data"]])
            if (cursor := page["next_cursor"]) is None:
                break

        async def count(**query: str) -> int:
            return len((await client.get(f"{PATH}/deliveries", params=query)).json()["data"])

        assert await count() == 6
        assert await count(status="pending") == 5
        assert await count(status="given_up") == 1
        assert await count(status="delivered") == 0
        assert await count(type="webhook.test") == 6
        assert await count(type="job.failed") == 0
        wrong = [
            await client.get(f"{PATH}/deliveries", params=query)
            for query in ({"status": "lost"}, {"type": "job.lost"}, {"cursor": "x"}, {"limit": "0"})
        ]

    assert [row for page in pages for row in page] == sent[::-1]
    assert [answer.status_code for answer in wrong] == [422] * 4


WRONG: list[dict[str, Any]] = [
    {},
    {"url": 7},
    {"url": "https://hooks.example.com/", "events": ["job.lost"]},
    {"url": "https://hooks.example.com/", "events": ["webhook.test"]},
    {"url": "https://hooks.example.com/", "events": "job.failed"},
    {"url": "https://hooks.example.com/", "description": "a\nb"},
    {"url": "https://hooks.example.com/", "enabled": "yes"},
    {"url": "https://hooks.example.com/", "secret": "whsec_mine"},
]


async def test_a_url_that_is_never_called_is_refused(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, schedulers=0)
    async with await a_client(stack) as client:
        good = (await client.post(PATH, json={"url": "https://hooks.example.com/"})).json()
        refused = [await client.post(PATH, json={"url": url}) for url, _ in REFUSED]
        refused += [await client.patch(f"{PATH}/{good['id']}", json={"url": url}) for url, _ in REFUSED]
        refused += [await client.post(PATH, json=body) for body in WRONG]
        left = (await client.get(PATH)).json()["data"]

    assert {answer.status_code for answer in refused} == {422}
    assert [endpoint["url"] for endpoint in left] == ["https://hooks.example.com/"]


async def test_an_account_has_twenty_endpoints_at_most(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, schedulers=0)
    body = {"url": "https://hooks.example.com/", "enabled": False}
    async with await a_client(stack) as client:
        answers = [await client.post(PATH, json=body) for _ in range(21)]

    assert [answer.status_code for answer in answers] == [201] * 20 + [409]
    assert answers[-1].json()["error"]["details"]["code"] == "too_many_webhooks"
    assert not answers[0].json()["enabled"]


async def test_who_may_not_manage_anything_learns_no_secret(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, schedulers=0)
    for role in (Role.SERVICE, Role.VIEWER):
        async with await a_client(stack, role=role) as client:
            assert (await client.get(f"{PATH}/secret")).status_code == 403
            assert (await client.get(PATH)).status_code == 403


async def test_no_secret_is_in_the_database(fresh_stack: FreshStack, receiver: WebhookReceiver) -> None:
    stack = await a_stack(fresh_stack, receiver)
    async with await a_client(stack) as client:
        endpoint = await made(client, receiver, stack)
        secrets = [endpoint["secret"], (await client.get(f"{PATH}/secret")).json()["secret"]]
        sent = (await client.post(f"{PATH}/{endpoint['id']}/test")).json()["id"]
        await delivery(client, sent, "delivered")
    engine = create_engine(stack.database_url)
    async with engine.connect() as connection:
        rows = [
            str(row) for table in METADATA.sorted_tables for row in await connection.execute(select(table))
        ]
    await engine.dispose()

    assert len(rows) > 3
    assert not any(secret.removeprefix("whsec_") in row for secret in secrets for row in rows)


async def test_the_documented_receiver_takes_what_is_sent_and_nothing_else(
    fresh_stack: FreshStack, receiver: WebhookReceiver
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    stack = await a_stack(fresh_stack, receiver)
    async with await a_client(stack) as client:
        endpoint = await made(client, receiver, stack)
        sent = (await client.post(f"{PATH}/{endpoint['id']}/test")).json()["id"]
        await delivery(client, sent, "delivered")
    (call,) = receiver.received
    written: dict[str, Any] = {}
    exec(snippet.replace("whsec_...", endpoint["secret"]), written)  # noqa: S102 - what readers will run

    taken = [written["receive"](call.headers, body) for body in (call.body, call.body, call.body + b" ")]

    assert taken == [204, 204, 400]
    assert list(written["seen"]) == [sent]
