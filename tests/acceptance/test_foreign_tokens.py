"""Whoever another issuer vouches for asks models over real processes."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from tests.acceptance.people import ADMIN_TOKEN, PASSWORD, SETTINGS, client_with, status_of
from tests.fakes.eventually import eventually
from tests.fakes.issuer import running_issuer
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("accounts")

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


async def test_a_foreign_token_is_charged_to_its_account_and_manages_what_its_role_may(
    fresh_stack: FreshStack,
) -> None:
    async with running_issuer() as issuer:
        named = issuer.settings(account=None, account_claim="org", role_claim="role").model_dump()
        stack = await fresh_stack(
            apis=2,
            settings={
                **SETTINGS,
                "HEADRACE_ACCOUNTS__ISSUERS": json.dumps([named]),
                "HEADRACE_EGRESS__PRIVATE_HOSTS": json.dumps([f"127.0.0.1:{issuer.port}"]),
            },
        )
        token = issuer.token(datetime.now(UTC), org="acme")
        admin = issuer.token(datetime.now(UTC), org="acme", role="admin")
        async with client_with(stack, ADMIN_TOKEN) as operator:
            nowhere = await status_of(stack, token)
            await operator.post("/api/v1/admin/accounts", json={"id": "acme", "name": "Acme"})
            await operator.patch("/api/v1/admin/accounts/acme", json={"tier": "unlimited"})

            async def is_in() -> bool:
                return await status_of(stack, token) == 200

            # A refusal is repeated for two seconds.
            await eventually(is_in, "its account is there", within=10)
        async with client_with(stack, token, stack.apis[1]) as client:
            answer = await client.post("/v1/chat/completions", json=CHAT)
            me = (await client.get("/api/v1/auth/me")).json()
            refused = [
                await client.get("/api/v1/api-keys"),
                await client.post("/api/v1/api-keys", json={"name": "k"}),
                await client.get("/api/v1/admin/users"),
                await client.post("/api/v1/auth/logout"),
                await client.post(
                    "/api/v1/auth/password", json={"password": PASSWORD, "newPassword": PASSWORD}
                ),
            ]
        async with client_with(stack, admin) as client:
            issued = await client.post("/api/v1/api-keys", json={"name": "k", "owner": "account"})
            operates = await client.get("/api/v1/admin/accounts")

        async def is_charged() -> bool:
            return any(row["account_id"] == "acme" for row in await stack.ledger())

        await eventually(is_charged, "the call in the ledger of the account")
    assert nowhere == 401
    assert answer.status_code == 200
    assert (me["account"], me["role"], me["user"]) == ("acme", "member", None)
    assert me["credential"].startswith("ext_")
    assert [each.status_code for each in refused] == [403] * 5
    assert (issued.status_code, operates.status_code) == (201, 403)
    assert all(token not in api.output() for api in stack.apis)
