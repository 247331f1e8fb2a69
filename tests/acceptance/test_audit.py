"""Every administrative act is told, to the account it was done to and to operators."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from shared.domain.roles import Role
from shared.ids import AccountId
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("audit")

ADMIN = "an admin token of thirty-two characters"
PASSWORD = "correct horse battery staple"


async def acts(client: httpx.AsyncClient, path: str = "/api/v1/audit", **query: Any) -> list[str]:
    """From the oldest to the newest, page by page."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": 2, **query, **({} if cursor is None else {"cursor": cursor})}
        page = (await client.get(path, params=params)).json()
        found += [event["act"] for event in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return found[::-1]


async def test_what_an_account_did_is_told_to_it_and_to_operators(fresh_stack: FreshStack) -> None:
    settings = {"JWT_SECRET": "a secret of the tests that signs access tokens", "HEADRACE_ADMIN_TOKEN": ADMIN}
    stack = await fresh_stack(workers=0, schedulers=0, settings=settings)
    user = {"email": "ada@example.com", "password": PASSWORD}
    other = await stack.new_api_key(AccountId("other"), role=Role.ADMIN)
    async with stack.client() as client:
        plain_key = client.headers.pop("authorization")
        view = (await client.post("/api/v1/auth/register", json={**user, "name": "Ada"})).json()
        await client.post("/api/v1/auth/login", json=user)
        await client.post("/api/v1/auth/login", json={**user, "password": "the wrong one"})
        client.headers["authorization"] = f"Bearer {view['token']}"
        await client.put("/api/v1/account/alerts", json={"url": "https://hooks.example.com/"})

        mine = await acts(client)
        only = await acts(client, act="alerts.set")
        event = (await client.get("/api/v1/audit", params={"act": "alerts.set"})).json()["data"][0]
        client.headers["authorization"] = f"Bearer {other}"
        of_other = await acts(client)
        client.headers["authorization"] = plain_key
        refused = await client.get("/api/v1/audit")
        client.headers["authorization"] = f"Bearer {ADMIN}"
        everywhere = await acts(client, "/api/v1/admin/audit")
        by_account = await acts(client, "/api/v1/admin/audit", account=view["account"])
        await client.get("/api/v1/admin/dead-letters")
        of_operators = await client.get("/api/v1/admin/audit", params={"act": "dead-letter.listed"})

    assert mine == by_account == everywhere == ["user.registered", "user.logged-in", "alerts.set"]
    assert only == ["alerts.set"]
    assert (event["actor"], event["account"]) == (view["user"]["id"], view["account"])
    assert event["address"] == "127.0.0.1"
    assert event["request_id"].startswith("req_")
    assert of_other == []
    assert refused.status_code == 403
    listed = of_operators.json()["data"][0]
    assert (listed["actor"], listed["account"]) == ("holder of the admin token", None)
