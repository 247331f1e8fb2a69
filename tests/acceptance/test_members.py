"""Members of an account: added, changed and removed over HTTP, in force everywhere within seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.people import SETTINGS, Person, a_key, a_member, a_person, client_with, status_of
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack, start_apart
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("accounts")

MEMBERS = "/api/v1/members"


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    broker = Stack(apis=2, database_template=sqlite_template, settings=SETTINGS)
    start_apart(broker)
    yield broker
    broker.end_now()


async def test_a_member_is_added_by_email_and_works_in_the_account(stack: Stack) -> None:
    ada, grace = await a_person(stack), await a_person(stack, "Grace")

    async with ada.client() as client:
        added = await client.post(
            MEMBERS,
            json={"email": grace.email.upper(), "role": "viewer", "limits": {"requests_per_minute": 5}},
        )
        again = await client.post(MEMBERS, json={"email": grace.email, "role": "admin"})
        nobody = await client.post(MEMBERS, json={"email": "nobody@people.example.com", "role": "viewer"})
        listed = (await client.get(MEMBERS)).json()["data"]
        shown = (await client.get(f"{MEMBERS}/{grace.id}")).json()
    async with (await grace.into(ada.account)).client() as client:
        me = (await client.get("/api/v1/auth/me")).json()
    async with grace.client() as client:
        at_home = (await client.get("/api/v1/auth/me")).json()

    assert (added.status_code, again.status_code, nobody.status_code) == (201, 409, 404)
    assert [member["user"]["id"] for member in listed] == [ada.id, grace.id]
    assert shown == added.json() == listed[1]
    assert shown["limits"]["requests_per_minute"] == 5
    assert (me["account"], me["role"]) == (ada.account, "viewer")
    assert (at_home["account"], at_home["role"]) == (grace.account, "admin")


async def test_a_changed_role_holds_for_sessions_and_keys_under_way(stack: Stack) -> None:
    ada = await a_person(stack)
    grace = await a_member(ada, "admin")
    key = await a_key(grace, role="admin")

    async def roles() -> set[str]:
        found = set()
        for token in (grace.token, key["key"]):
            for api in stack.apis:
                async with client_with(stack, token, api) as client:
                    found.add((await client.get("/api/v1/auth/me")).json()["role"])
        return found

    assert await roles() == {"admin"}
    async with ada.client() as client:
        changed = await client.patch(f"{MEMBERS}/{grace.id}", json={"role": "viewer"})

    async def has_become_a_viewer() -> bool:
        return await roles() == {"viewer"}

    assert changed.json()["role"] == "viewer"
    await eventually(has_become_a_viewer, "viewer at both apis", within=5)
    async with client_with(stack, key["key"]) as client:
        answer = await client.post(
            "/v1/chat/completions",
            json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]},
        )
    assert answer.status_code == 403


async def test_a_removed_member_is_out_with_all_keys_and_may_come_back_at_once(stack: Stack) -> None:
    ada = await a_person(stack)
    grace = await a_member(ada, "member")
    key = await a_key(grace)
    tokens = [(token, api) for token in (grace.token, key["key"]) for api in stack.apis]
    assert [await status_of(stack, *each) for each in tokens] == [200] * 4

    async with ada.client() as client:
        removed = await client.delete(f"{MEMBERS}/{grace.id}")

        async def is_out() -> bool:
            return [await status_of(stack, *each) for each in tokens] == [401] * 4

        await eventually(is_out, "out at both apis", within=5)
        again = await client.delete(f"{MEMBERS}/{grace.id}")
        back = await client.post(MEMBERS, json={"email": grace.email, "role": "member"})

        async def is_back() -> bool:
            return [await status_of(stack, *each) for each in tokens] == [200] * 4

        await eventually(is_back, "back at both apis", within=5)
    assert [removed.status_code, again.status_code, back.status_code] == [204, 404, 201]


async def test_an_account_keeps_an_admin_whatever_happens_at_once(stack: Stack) -> None:
    ada = await a_person(stack)
    async with ada.client() as client:
        alone = [
            await client.delete(f"{MEMBERS}/{ada.id}"),
            await client.patch(f"{MEMBERS}/{ada.id}", json={"role": "viewer"}),
        ]
    grace = await a_member(ada, "admin")
    async with ada.client() as one, grace.client(stack.apis[1]) as other:
        answers = await asyncio.gather(
            one.delete(f"{MEMBERS}/{grace.id}"),
            other.patch(f"{MEMBERS}/{ada.id}", json={"role": "member"}),
        )
    left = ada if answers[0].status_code == 204 else grace
    async with left.client() as client:
        members = (await client.get(MEMBERS)).json()["data"]

    assert [answer.status_code for answer in alone] == [409, 409]
    assert alone[0].json()["error"]["details"]["code"] == "last_admin"
    # The other one came second: the account would have had none, or it was no admin any more.
    done, refused = sorted(answer.status_code for answer in answers)
    assert done in (200, 204)
    assert refused in (401, 403, 409)
    assert [member["role"] for member in members].count("admin") == 1


@pytest.mark.parametrize(("role", "reads"), [("member", 200), ("service", 403), ("viewer", 403)])
async def test_only_admins_change_members(stack: Stack, role: str, reads: int) -> None:
    ada, eve = await a_person(stack), await a_person(stack, "Eve")
    grace = await a_member(ada, role)

    async with grace.client() as client:
        read = await client.get(MEMBERS)
        answers = [
            await client.post(MEMBERS, json={"email": eve.email, "role": "viewer"}),
            await client.patch(f"{MEMBERS}/{grace.id}", json={"role": "admin"}),
            await client.delete(f"{MEMBERS}/{ada.id}"),
        ]

    assert read.status_code == reads
    assert [answer.status_code for answer in answers] == [403, 403, 403]


async def test_a_key_for_members_alone_makes_nobody_more_than_it_is(stack: Stack) -> None:
    ada, eve = await a_person(stack), await a_person(stack, "Eve")
    key = await a_key(ada, role="admin", scopes=["members:write", "models:read", "usage:read"])

    async with client_with(stack, key["key"]) as client:
        answers = {
            role: (await client.post(MEMBERS, json={"email": eve.email, "role": role})).status_code
            for role in ("admin", "member", "service", "viewer")
        }
        raised = await client.patch(f"{MEMBERS}/{eve.id}", json={"role": "admin"})

    assert answers == {"admin": 403, "member": 403, "service": 403, "viewer": 201}
    assert raised.status_code == 403


async def test_of_another_account_there_is_nobody_to_see(stack: Stack) -> None:
    ada, eve = await a_person(stack), await a_person(stack, "Eve")

    async with eve.client() as client:
        answers = [
            await client.get(f"{MEMBERS}/{ada.id}"),
            await client.patch(f"{MEMBERS}/{ada.id}", json={"role": "viewer"}),
            await client.delete(f"{MEMBERS}/{ada.id}"),
        ]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert await status_of(stack, ada.token) == 200


CHANGES: list[Any] = [
    {},
    {"role": "x"},
    {"user_id": "usr_000000000000000000000000"},
    {"limits": []},
    {"created_at": "2020-01-01"},
]
BAD: list[Any] = [
    {},
    [],
    {"email": "a@example.com"},
    {"email": "a@example.com", "role": "operator"},
    {"email": "a@example.com", "role": 1},
    {"email": 1, "role": "viewer"},
    {"email": "", "role": "viewer"},
    {"email": "a@example.com", "role": "viewer", "is_operator": True},
    {"email": "a@example.com", "role": "viewer", "account_id": "default"},
    {"email": "a@example.com", "role": "viewer", "limits": {"daily_requests": -5}},
    {"email": "a@example.com", "role": "viewer", "limits": {"tier": "unlimited"}},
]


async def test_bad_input_is_told_and_changes_nothing(stack: Stack) -> None:
    ada = await a_person(stack)
    async with ada.client() as client:
        answers = [await client.post(MEMBERS, json=body) for body in BAD]
        changes = [await client.patch(f"{MEMBERS}/{ada.id}", json=body) for body in CHANGES]
        strange = [await client.get(f"{MEMBERS}/{name}") for name in ("usr_1", "%20", "x" * 3000)]
        members = (await client.get(MEMBERS)).json()["data"]

    assert [answer.status_code for answer in answers] == [422] * len(BAD)
    assert [answer.status_code for answer in changes] == [422] * 5
    assert [answer.status_code for answer in strange] == [404] * 3
    assert [(member["user"]["id"], member["role"]) for member in members] == [(ada.id, "admin")]


async def test_adding_members_is_limited_as_logins_are(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, schedulers=0, settings={**SETTINGS, "HEADRACE_LIMITS__AUTH": "5/1m"})
    ada: Person = await a_person(stack)

    async with ada.client() as client:
        answers = [
            await client.post(MEMBERS, json={"email": f"{n}@people.example.com", "role": "viewer"})
            for n in range(5)
        ]

    # Registering was the first of the five.
    assert [answer.status_code for answer in answers] == [404] * 4 + [429]
