"""An account hears of its budget, once for each threshold, where it asked to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.domain.allowance import Limits
from shared.domain.roles import Role
from shared.ids import AccountId
from tests.fakes.eventually import eventually
from tests.fakes.webhook_receiver import WebhookReceiver
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("alerts")

PATH = "/api/v1/account/alerts"


@pytest.fixture
async def hook() -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver() as receiver:
        yield receiver


async def test_each_threshold_is_told_once(fresh_stack: FreshStack, hook: WebhookReceiver) -> None:
    private = json.dumps([hook.host])
    stack = await fresh_stack(settings={"HEADRACE_EGRESS__PRIVATE_HOSTS": private})
    account = AccountId("alerted")
    key = await stack.new_api_key(account, account_limits=Limits(daily_requests=4), role=Role.ADMIN)
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {key}"
        missing = await client.get(PATH)
        asked = await client.put(PATH, json={"url": hook.url, "thresholds": [100, 50]})
        read = await client.get(PATH)
        statuses = [
            (await client.post("/v1/chat/completions", json={**body, "user": str(n)})).status_code
            for n in range(5)
        ]

        await eventually(lambda: len(hook.received) == 2, "both thresholds told", within=15)
        secret = (await client.get("/api/v1/webhooks/secret")).json()["secret"]
        removed = await client.delete(PATH)
        after = await client.get(PATH)

    assert [missing.status_code, asked.status_code] == [404, 200]
    assert [removed.status_code, after.status_code] == [204, 404]
    assert read.json() == {"url": hook.url, "thresholds": [50, 100]}
    assert statuses == [200] * 4 + [429]
    told = {call.event["data"]["threshold_percent"]: call.event["data"] for call in hook.received}
    assert set(told) == {50, 100}
    assert told[100]["account"] == account
    assert (told[100]["scope"], told[100]["measure"]) == ("account", "daily_requests")
    assert (told[100]["used"], told[100]["limit"]) == (4, 4)
    assert len(set(hook.ids)) == 2
    assert {call.verified(secret)["type"] for call in hook.received} == {"quota.threshold"}


REFUSED: list[dict[str, Any]] = [
    {},
    {"url": "http://hooks.example.com/"},
    {"url": "https://127.0.0.1/"},
    {"url": "https://169.254.169.254/latest/meta-data"},
    {"url": "https://2130706433/"},
    {"url": "https://user:secret@hooks.example.com/"},
    {"url": "https://hooks.example.com:22/"},
    {"url": "file:///etc/passwd"},
    {"url": "https://hooks.example.com/", "thresholds": []},
    {"url": "https://hooks.example.com/", "thresholds": [1]},
    {"url": "https://hooks.example.com/", "thresholds": ["80"]},
    {"url": "https://hooks.example.com/", "account_id": "another"},
]


async def test_a_hook_that_is_not_public_is_refused(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, schedulers=0)
    key = await stack.new_api_key(AccountId("alerted"), role=Role.ADMIN)
    async with stack.client() as client:
        client.headers["authorization"] = f"Bearer {key}"
        answers = [await client.put(PATH, json=body) for body in REFUSED]
        stored = await client.get(PATH)

    assert [answer.status_code for answer in answers] == [422] * len(REFUSED)
    assert not any("secret" in answer.text for answer in answers)
    assert stored.status_code == 404


async def test_a_service_may_not_say_where_alerts_go(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, schedulers=0)
    async with stack.client() as client:
        answer = await client.put(PATH, json={"url": "https://hooks.example.com/"})

    assert answer.status_code == 403
