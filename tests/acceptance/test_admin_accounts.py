"""Accounts and users, for operators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.people import (
    ADMIN_TOKEN,
    PASSWORD,
    SETTINGS,
    a_key,
    a_person,
    an_operator,
    client_with,
    status_of,
)
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack, start_apart
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("accounts")

ACCOUNTS, USERS = "/api/v1/admin/accounts", "/api/v1/admin/users"


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    broker = Stack(apis=2, database_template=sqlite_template, settings=SETTINGS)
    start_apart(broker)
    yield broker
    broker.end_now()


async def test_an_account_is_made_changed_and_its_tier_holds_for_its_keys(stack: Stack) -> None:
    ada = await a_person(stack)
    key = await a_key(ada)

    async with client_with(stack, ADMIN_TOKEN) as client, client_with(stack, key["key"]) as with_key:
        before = (await with_key.get("/api/v1/quota")).json()["limits"]
        made = await client.post(ACCOUNTS, json={"id": "acme", "name": "Acme", "tier": "paid"})
        again = await client.post(ACCOUNTS, json={"id": "acme", "name": "Acme"})
        unnamed = await client.post(ACCOUNTS, json={"name": "Someone"})
        shown = await client.get(f"{ACCOUNTS}/acme")
        changed = await client.patch(
            f"{ACCOUNTS}/{ada.account}",
            json={"tier": "unlimited", "limits": {"daily_requests": 77}, "name": "Ada & Co"},
        )

        async def is_in_force() -> bool:
            limits = (await with_key.get("/api/v1/quota")).json()["limits"]
            return [each["limit"] for each in limits if each["measure"] == "daily_requests"] == [77]

        await eventually(is_in_force, "the new limit", within=5)
        missing = await client.patch(f"{ACCOUNTS}/nobody", json={"tier": "paid"})

    assert {each["limit"] for each in before if each["measure"] == "daily_requests"} == {1000}
    assert (made.status_code, again.status_code, unnamed.status_code) == (201, 409, 201)
    assert shown.json() == made.json()
    assert unnamed.json()["id"].startswith("acc_")
    assert unnamed.json()["tier"] == "standard"
    assert (changed.json()["name"], changed.json()["tier"]) == ("Ada & Co", "unlimited")
    assert missing.status_code == 404


async def test_a_user_is_made_by_an_operator_and_logs_in_to_its_account(stack: Stack) -> None:
    root = await an_operator(stack)
    async with root.client() as client:
        await client.post(ACCOUNTS, json={"id": "initech", "name": "Initech"})
        made = await client.post(
            USERS,
            json={
                "email": "Grace@initech.example.com",
                "name": "Grace",
                "password": PASSWORD,
                "account": "initech",
            },
        )
        again = await client.post(
            USERS, json={"email": "grace@initech.example.com", "name": "G", "password": PASSWORD}
        )
        nowhere = await client.post(
            USERS, json={"email": "x@initech.example.com", "name": "X", "password": PASSWORD, "account": "no"}
        )
        login = await client.post(
            "/api/v1/auth/login", json={"email": "grace@initech.example.com", "password": PASSWORD}
        )
        shown = await client.get(f"{USERS}/{made.json()['id']}")
        found: list[dict[str, Any]] = []
        cursor = ""
        while cursor is not None:
            page = (await client.get(f"{USERS}?limit=2" + (f"&cursor={cursor}" if cursor else ""))).json()
            found += page["data"]
            cursor = page["next_cursor"]
    async with client_with(stack, login.json()["token"]) as client:
        me = (await client.get("/api/v1/auth/me")).json()

    assert (made.status_code, again.status_code, nowhere.status_code) == (201, 409, 404)
    assert made.json()["accounts"] == ["initech"]
    assert (me["account"], me["role"], me["operator"]) == ("initech", "member", False)
    assert shown.json() == made.json()
    assert made.json() in found
    assert "password" not in made.text
    assert len({user["id"] for user in found}) == len(found)


async def test_a_disabled_user_is_out_with_all_keys_until_enabled_again(stack: Stack) -> None:
    root, ada = await an_operator(stack), await a_person(stack)
    key = await a_key(ada)
    tokens = [(token, api) for token in (ada.token, key["key"]) for api in stack.apis]
    assert [await status_of(stack, *each) for each in tokens] == [200] * 4

    async with root.client() as client:
        disabled = await client.patch(f"{USERS}/{ada.id}", json={"disabled": True})

        async def is_out() -> bool:
            return [await status_of(stack, *each) for each in tokens] == [401] * 4

        await eventually(is_out, "out at both apis", within=5)
        login = await client.post("/api/v1/auth/login", json={"email": ada.email, "password": PASSWORD})
        enabled = await client.patch(f"{USERS}/{ada.id}", json={"disabled": False})

        async def is_back() -> bool:
            return [await status_of(stack, key["key"], api) for api in stack.apis] == [200, 200]

        await eventually(is_back, "its key back at both apis", within=5)
        login_after = await client.post("/api/v1/auth/login", json={"email": ada.email, "password": PASSWORD})
    assert disabled.json()["disabled_at"] is not None
    assert enabled.json()["disabled_at"] is None
    assert (login.status_code, login_after.status_code) == (401, 200)
    # Sessions that were ended stay ended.
    assert await status_of(stack, ada.token) == 401


async def test_a_new_password_ends_the_sessions_and_works(stack: Stack) -> None:
    root, ada = await an_operator(stack), await a_person(stack)
    assert await status_of(stack, ada.token) == 200

    async with root.client() as client:
        changed = await client.patch(f"{USERS}/{ada.id}", json={"password": "one of the operator's"})

        async def is_out() -> bool:
            return [await status_of(stack, ada.token, api) for api in stack.apis] == [401, 401]

        await eventually(is_out, "sessions ended", within=5)
        statuses = [
            (await client.post("/api/v1/auth/login", json={"email": ada.email, "password": word})).status_code
            for word in (PASSWORD, "one of the operator's")
        ]
    assert changed.status_code == 200
    assert "one of the operator's" not in changed.text
    assert statuses == [401, 200]


async def test_operators_make_operators_and_do_not_unmake_themselves(stack: Stack) -> None:
    root, ada = await an_operator(stack), await a_person(stack)

    async with root.client() as client, ada.client() as her:
        before = await her.get(f"{USERS}?limit=1")
        own = [
            await client.patch(f"{USERS}/{root.id}", json={"operator": False}),
            await client.patch(f"{USERS}/{root.id}", json={"disabled": True}),
        ]
        raised = await client.patch(f"{USERS}/{ada.id}", json={"operator": True})

        async def operates() -> bool:
            return (await her.get(f"{USERS}?limit=1")).status_code == 200

        await eventually(operates, "her session operates", within=5)
        lowered = await her.patch(f"{USERS}/{root.id}", json={"operator": False})

        async def does_not() -> bool:
            return (await client.get(f"{USERS}?limit=1")).status_code == 403

        await eventually(does_not, "the first one does not any more", within=5)
    assert before.status_code == 403
    assert [answer.status_code for answer in own] == [409, 409]
    assert (raised.json()["operator"], lowered.json()["operator"]) == (True, False)


async def test_an_admin_of_an_account_is_no_operator(stack: Stack) -> None:
    ada = await a_person(stack)
    async with ada.client() as client:
        answers = [
            await client.get(ACCOUNTS),
            await client.post(ACCOUNTS, json={"name": "Mine"}),
            await client.get(f"{ACCOUNTS}/{ada.account}"),
            await client.patch(f"{ACCOUNTS}/{ada.account}", json={"tier": "unlimited"}),
            await client.get(USERS),
            await client.post(USERS, json={"email": "b@example.com", "name": "B", "password": PASSWORD}),
            await client.patch(f"{USERS}/{ada.id}", json={"operator": True}),
        ]
    async with client_with(stack, "junk") as client:
        nobody = [
            await client.get(ACCOUNTS),
            await client.patch(f"{USERS}/{ada.id}", json={"operator": True}),
        ]

    assert [answer.status_code for answer in answers] == [403] * 7
    assert [answer.status_code for answer in nobody] == [401, 401]


async def test_bad_input_is_told(stack: Stack) -> None:
    async with client_with(stack, ADMIN_TOKEN) as client:
        accounts: list[Any] = [
            {},
            [],
            {"name": ""},
            {"name": "A", "id": "../x"},
            {"name": "A", "id": ""},
            {"name": "A", "tier": "gold"},
            {"name": "A", "tier": None},
            {"name": "A", "limits": {"monthly_spend_usd": "much"}},
            {"name": "A", "created_at": "2020-01-01"},
        ]
        users: list[Any] = [
            {},
            {"email": "no address", "name": "A", "password": PASSWORD},
            {"email": "c@example.com", "name": "A", "password": "short"},
            {"email": "c@example.com", "name": "A"},
            {"email": "c@example.com", "name": "A", "password": PASSWORD, "operator": 1},
            {"email": "c@example.com", "name": "A", "password": PASSWORD, "role": "root"},
            {"email": "c@example.com", "name": "A", "password": PASSWORD, "password_hash": "x"},
            {"email": "c@example.com", "name": "A", "password": PASSWORD, "token_version": 3},
        ]
        answers = [await client.post(ACCOUNTS, json=body) for body in accounts]
        answers += [await client.post(USERS, json=body) for body in users]
        answers += [await client.patch(f"{USERS}/usr_{'0' * 24}", json={})]
        missing = [
            await client.patch(f"{USERS}/usr_{'0' * 24}", json={"disabled": True}),
            await client.get(f"{USERS}/usr_1"),
            await client.get(f"{ACCOUNTS}/%20"),
        ]

    assert [answer.status_code for answer in answers] == [422] * len(answers)
    assert [answer.status_code for answer in missing] == [404] * 3
    assert all(PASSWORD not in answer.text for answer in answers)


async def test_the_first_operator_of_the_settings_logs_in_and_operates(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(
        apis=2,
        workers=0,
        schedulers=0,
        settings={
            **SETTINGS,
            "HEADRACE_ADMIN_EMAIL": "root@example.com",
            "HEADRACE_ADMIN_PASSWORD": PASSWORD,
        },
    )
    async with client_with(stack, "nothing") as client:
        login = await client.post(
            "/api/v1/auth/login", json={"email": "root@example.com", "password": PASSWORD}
        )
    async with client_with(stack, login.json()["token"], stack.apis[1]) as client:
        users = (await client.get(USERS)).json()["data"]

    assert [(user["email"], user["operator"]) for user in users] == [("root@example.com", True)]
    assert all(PASSWORD not in process.output() for process in stack.apis)


async def test_the_examples_of_the_documentation_are_taken(stack: Stack) -> None:
    ada = await a_person(stack)
    key = await a_key(ada)
    async with ada.client() as client, client_with(stack, ADMIN_TOKEN) as operator:
        paths = (await client.get("/openapi.json")).json()["paths"]

        def example(path: str, method: str = "post") -> Any:
            return paths[path][method]["requestBody"]["content"]["application/json"]["example"]

        made = example(USERS)
        await operator.post(ACCOUNTS, json={"id": made["account"], "name": "Acme"})
        assert made["email"] == example("/api/v1/members")["email"]
        answers = [
            await operator.post(ACCOUNTS, json=example(ACCOUNTS)),
            await operator.patch(
                f"{ACCOUNTS}/{ada.account}", json=example(f"{ACCOUNTS}/{{account_id}}", "patch")
            ),
            user := await operator.post(USERS, json=made),
            await client.post("/api/v1/members", json=example("/api/v1/members")),
            await client.patch(
                f"/api/v1/members/{user.json()['id']}", json=example("/api/v1/members/{user_id}", "patch")
            ),
            await operator.patch(
                f"{USERS}/{user.json()['id']}", json=example(f"{USERS}/{{user_id}}", "patch")
            ),
            await client.post("/api/v1/api-keys", json=example("/api/v1/api-keys")),
            await client.post(
                f"/api/v1/api-keys/{key['id']}/rotate", json=example("/api/v1/api-keys/{key_id}/rotate")
            ),
        ]

    assert [answer.status_code for answer in answers] == [201, 200, 201, 201, 200, 200, 201, 201]
