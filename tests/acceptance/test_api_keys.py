"""Keys over HTTP: issued, rotated and revoked, and never worth more than whoever issues them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from shared.db.engine import create_engine
from shared.db.tables import audit_event
from tests.acceptance.people import (
    ADMIN_TOKEN,
    SETTINGS,
    a_key,
    a_member,
    a_person,
    an_operator,
    client_with,
    status_of,
)
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack, start_apart
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("accounts")

KEYS = "/api/v1/api-keys"
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    broker = Stack(apis=2, database_template=sqlite_template, settings=SETTINGS)
    start_apart(broker)
    yield broker
    broker.end_now()


async def acts_of(stack: Stack, account: str) -> list[tuple[str, str, str | None]]:
    engine = create_engine(stack.database_url)
    try:
        async with engine.connect() as connection:
            rows = await connection.execute(
                select(audit_event).where(audit_event.c.account_id == account).order_by(audit_event.c.id)
            )
            return [(row.act, row.actor, row.object_id) for row in rows]
    finally:
        await engine.dispose()


def in_days(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()


async def test_a_key_is_shown_once_and_does_what_it_was_given(stack: Stack) -> None:
    ada = await a_person(stack)

    created = await a_key(
        ada,
        models=["openai/*"],
        providers=["openai"],
        scopes=["inference", "models:read"],
        limits={"daily_requests": 7, "monthly_spend_usd": 1.5},
        priority="batch",
        expires_at=in_days(30),
    )

    token = created.pop("key")
    async with ada.client() as client, client_with(stack, token, stack.apis[1]) as with_key:
        shown = await client.get(f"{KEYS}/{created['id']}")
        listed = await client.get(KEYS)
        me = (await with_key.get("/api/v1/auth/me")).json()
        allowed = await with_key.post("/v1/chat/completions", json={"model": "gpt-4o-mini", **CHAT})
        other = await with_key.post("/v1/chat/completions", json={"model": "claude-haiku-4-5", **CHAT})
        usage = await with_key.get("/api/v1/usage")
    assert shown.json() == created
    assert listed.json() == {"data": [created], "next_cursor": None}
    assert token not in shown.text + listed.text
    assert created["limits"]["monthly_spend_usd"] == 1.5
    assert (created["role"], created["user"], created["state"]) == ("service", ada.id, "active")
    assert me["permissions"] == ["inference", "models:read"]
    assert (me["models"], me["providers"]) == (["openai/*"], ["openai"])
    assert [answer.status_code for answer in (allowed, other, usage)] == [200, 404, 403]


async def test_a_rotated_key_is_good_for_its_grace_and_no_longer(stack: Stack) -> None:
    ada = await a_person(stack)
    old = await a_key(ada, models=["openai/*"], priority="standard", expires_at=in_days(10))
    async with ada.client() as client:
        assert await status_of(stack, old["key"], stack.apis[1]) == 200
        with_grace = await client.post(f"{KEYS}/{old['id']}/rotate")
        new = with_grace.json()
        both = [await status_of(stack, token) for token in (old["key"], new["key"])]
        again = await client.post(f"{KEYS}/{old['id']}/rotate")
        newest = (await client.post(f"{KEYS}/{new['id']}/rotate", json={"grace_seconds": 0})).json()
        shown = (await client.get(f"{KEYS}/{old['id']}")).json()

    async def is_dead() -> bool:
        return [await status_of(stack, new["key"], api) for api in stack.apis] == [401, 401]

    await eventually(is_dead, "the key without grace dead at both apis", within=5)
    assert with_grace.status_code == 201
    assert both == [200, 200]
    assert (again.status_code, again.json()["error"]["details"]["code"]) == (409, "key_not_usable")
    assert new["rotated_from"] == old["id"]
    same = ("name", "role", "scopes", "models", "providers", "limits", "priority", "user")
    assert {name: newest[name] for name in same} == {name: old[name] for name in same}
    assert datetime.fromisoformat(shown["expires_at"]) < datetime.now(UTC) + timedelta(hours=1, seconds=1)
    assert datetime.fromisoformat(new["expires_at"]) > datetime.now(UTC) + timedelta(days=9)
    assert await status_of(stack, newest["key"]) == 200


async def test_of_two_rotations_at_once_one_is_done(stack: Stack) -> None:
    ada = await a_person(stack)
    key = await a_key(ada)
    async with ada.client() as one, ada.client(stack.apis[1]) as other:
        answers = await asyncio.gather(
            *(client.post(f"{KEYS}/{key['id']}/rotate") for client in (one, other) for _ in range(2))
        )

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


async def test_a_revoked_key_is_dead_everywhere_and_stays_listed_on_request(stack: Stack) -> None:
    ada = await a_person(stack)
    key = await a_key(ada)
    assert [await status_of(stack, key["key"], api) for api in stack.apis] == [200, 200]

    async with ada.client() as client:
        answers = [await client.delete(f"{KEYS}/{key['id']}") for _ in range(2)]

        async def is_dead() -> bool:
            return [await status_of(stack, key["key"], api) for api in stack.apis] == [401, 401]

        await eventually(is_dead, "revoked key dead at both apis", within=5)
        usual, all_of_them = (
            (await client.get(KEYS)).json(),
            (await client.get(f"{KEYS}?revoked=true")).json(),
        )
        rotated = await client.post(f"{KEYS}/{key['id']}/rotate")
    assert [answer.status_code for answer in answers] == [204, 204]
    assert usual["data"] == []
    assert [each["state"] for each in all_of_them["data"]] == ["revoked"]
    assert rotated.status_code == 409
    assert await acts_of(stack, ada.account) == [
        ("user.registered", ada.id, ada.id),
        ("api-key.created", ada.id, key["id"]),
        ("api-key.revoked", ada.id, key["id"]),
    ]


async def test_a_member_sees_its_own_keys_and_an_admin_all(stack: Stack) -> None:
    ada = await a_person(stack)
    grace = await a_member(ada, "member")
    hers, his = await a_key(ada), await a_key(grace)
    account_s = await a_key(ada, owner="account")

    async with ada.client() as admin, grace.client() as member:
        seen = {key["id"] for key in (await member.get(KEYS)).json()["data"]}
        seen_by_admin = {key["id"] for key in (await admin.get(KEYS)).json()["data"]}
        hidden = [
            await member.get(f"{KEYS}/{hers['id']}"),
            await member.delete(f"{KEYS}/{hers['id']}"),
            await member.post(f"{KEYS}/{hers['id']}/rotate"),
            await member.get(f"{KEYS}/{account_s['id']}"),
            await member.delete(f"{KEYS}/{account_s['id']}"),
        ]
        of_the_account = await member.post(KEYS, json={"name": "a key", "owner": "account"})
        not_ones_own = await admin.post(f"{KEYS}/{his['id']}/rotate")
        revoked = await admin.delete(f"{KEYS}/{his['id']}")

    assert seen == {his["id"]}
    assert seen_by_admin == {hers["id"], his["id"], account_s["id"]}
    assert [answer.status_code for answer in hidden] == [404] * 5
    assert account_s["user"] is None
    assert [answer.status_code for answer in (of_the_account, not_ones_own, revoked)] == [403, 403, 204]
    assert await status_of(stack, hers["key"]) == 200


async def test_of_another_account_there_is_nothing_to_see(stack: Stack) -> None:
    ada, eve = await a_person(stack), await a_person(stack, "Eve")
    key = await a_key(ada)

    async with eve.client() as client:
        answers = [
            await client.get(f"{KEYS}/{key['id']}"),
            await client.delete(f"{KEYS}/{key['id']}"),
            await client.post(f"{KEYS}/{key['id']}/rotate"),
        ]
        listed = await client.get(f"{KEYS}?revoked=true")

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert listed.json()["data"] == []
    assert await status_of(stack, key["key"]) == 200


@pytest.mark.parametrize("role", ["viewer", "service"])
async def test_who_manages_nothing_issues_no_keys(stack: Stack, role: str) -> None:
    ada = await a_person(stack)
    grace = await a_member(ada, role)

    async with grace.client() as client:
        answers = [await client.get(KEYS), await client.post(KEYS, json={"name": "a key"})]

    assert [answer.status_code for answer in answers] == [403, 403]


BEYOND: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"role": "member", "scopes": ["api-keys:own", "inference"]}, {"scopes": ["usage:read"]}),
    (
        {"role": "member", "scopes": ["api-keys:own", "inference"]},
        {"role": "member", "scopes": ["members:read"]},
    ),
    ({"role": "member"}, {"role": "admin"}),
    ({"role": "admin"}, {"role": "admin", "scopes": ["operate"]}),
    ({"role": "member", "models": ["openai/*"]}, {"models": ["anthropic/claude-haiku-4-5"]}),
    ({"role": "member", "models": ["openai/*"]}, {"models": ["*"]}),
    ({"role": "member", "models": ["openai/gpt-4o-mini"]}, {"models": ["openai/gpt-4o"]}),
    ({"role": "member", "providers": ["openai"]}, {"providers": ["openai", "anthropic"]}),
    ({"role": "member", "priority": "batch"}, {"priority": "interactive"}),
    ({"role": "member", "limits": {"daily_requests": 3}}, {}),
]


async def test_a_key_of_the_account_that_sees_no_keys_finds_none(stack: Stack) -> None:
    ada = await a_person(stack)
    narrow = await a_key(ada, owner="account", role="member", scopes=["api-keys:own"])

    async with client_with(stack, narrow["key"]) as client:
        answers = [
            await client.get(f"{KEYS}/{narrow['id']}"),
            await client.delete(f"{KEYS}/{narrow['id']}"),
            await client.get(f"{KEYS}/{(await a_key(ada))['id']}"),
            await client.get(f"{KEYS}/key_00000000"),
        ]

    assert [answer.status_code for answer in answers] == [404] * 4


@pytest.mark.parametrize(("own", "asked"), BEYOND)
async def test_a_key_issues_no_key_that_may_do_more(
    stack: Stack, own: dict[str, Any], asked: dict[str, Any]
) -> None:
    ada = await a_person(stack)
    key = await a_key(ada, **own)

    async with client_with(stack, key["key"]) as client:
        answer = await client.post(KEYS, json={"name": "more", **asked})

    assert answer.status_code == 403, answer.text


async def test_a_key_that_a_narrow_key_issues_is_as_narrow(stack: Stack) -> None:
    ada = await a_person(stack)
    own = await a_key(
        ada,
        role="member",
        scopes=["api-keys:own", "inference"],
        models=["openai/*"],
        providers=["openai"],
        priority="batch",
        expires_at=in_days(5),
    )

    async with client_with(stack, own["key"]) as client:
        issued = (await client.post(KEYS, json={"name": "b", "scopes": ["inference"]})).json()
        longer = (
            await client.post(KEYS, json={"name": "c", "scopes": ["inference"], "expires_at": in_days(9)})
        ).json()
        wide = await a_key(ada)
        taken_over = await client.post(f"{KEYS}/{wide['id']}/rotate")

    for name in ("models", "providers", "priority", "expires_at"):
        assert issued[name] == longer[name] == own[name]
    assert taken_over.status_code == 403


async def test_a_key_of_an_operator_operates_only_where_it_says_so(stack: Stack) -> None:
    root = await an_operator(stack)
    plain = await a_key(root, role="admin")
    operating = await a_key(root, role="admin", scopes=["operate"])

    async with client_with(stack, plain["key"]) as one, client_with(stack, operating["key"]) as other:
        answers = [await client.get("/api/v1/admin/users?limit=1") for client in (one, other)]

    assert [answer.status_code for answer in answers] == [403, 200]


BAD: list[tuple[Any, int]] = [
    ({}, 422),
    ([], 422),
    ({"name": ""}, 422),
    ({"name": "a\nb"}, 422),
    ({"name": "x" * 201}, 422),
    ({"name": "k", "role": "operator"}, 422),
    ({"name": "k", "role": None}, 422),
    ({"name": "k", "scopes": []}, 422),
    ({"name": "k", "scopes": ["everything"]}, 422),
    ({"name": "k", "models": "openai/*"}, 422),
    ({"name": "k", "models": [""]}, 422),
    ({"name": "k", "providers": ["../x"]}, 422),
    ({"name": "k", "priority": "urgent"}, 422),
    ({"name": "k", "expires_at": "tomorrow, maybe"}, 422),
    ({"name": "k", "expires_at": "2020-01-01T00:00:00Z"}, 422),
    ({"name": "k", "expires_at": "9999-12-31T23:59:59-23:59"}, 422),
    ({"name": "k", "expires_at": 1893456000}, 422),
    ({"name": "k", "limits": {"daily_requests": 0}}, 422),
    ({"name": "k", "limits": {"daily_requests": True}}, 422),
    ({"name": "k", "limits": {"daily_requests": 1.5}}, 422),
    ({"name": "k", "limits": {"daily_requests": 10**30}}, 422),
    ({"name": "k", "limits": {"monthly_spend_usd": -1}}, 422),
    ({"name": "k", "limits": {"monthly_spend_micro_usd": 1}}, 422),
    ({"name": "k", "limits": {"window_requests": 5}}, 422),
    ({"name": "k", "owner": "eve"}, 422),
    ({"name": "k", "account_id": "default"}, 422),
    ({"name": "k", "user_id": "usr_000000000000000000000000"}, 422),
    ({"name": "k", "id": "key_00000000"}, 422),
    ({"name": "k", "created_at": "2020-01-01T00:00:00Z"}, 422),
    ({"name": "k", "tier": "unlimited"}, 422),
]


async def test_bad_input_is_told_and_makes_no_key(stack: Stack) -> None:
    ada = await a_person(stack)
    async with ada.client() as client:
        answers = [(body, await client.post(KEYS, json=body), status) for body, status in BAD]
        key = await a_key(ada)
        queries = [
            await client.get(f"{KEYS}?limit=0"),
            await client.get(f"{KEYS}?limit=x"),
            await client.get(f"{KEYS}?cursor=%20"),
            await client.post(f"{KEYS}/{key['id']}/rotate", json={"grace_seconds": -1}),
            await client.post(f"{KEYS}/{key['id']}/rotate", json={"grace_seconds": "1"}),
        ]
        strange = [await client.get(f"{KEYS}/{name}") for name in ("key_x", "..", "key_%2000000", "x" * 3000)]
        listed = (await client.get(KEYS)).json()["data"]

    for body, answer, status in answers:
        assert answer.status_code == status, (body, answer.text)
    assert [answer.status_code for answer in queries] == [422] * 5
    assert [answer.status_code for answer in strange] == [404] * 4
    assert [each["id"] for each in listed] == [key["id"]]


async def test_pages_are_whole_and_the_number_of_keys_is_bounded(stack: Stack) -> None:
    ada = await a_person(stack)
    async with ada.client() as client:
        made = [await client.post(KEYS, json={"name": f"key {number}"}) for number in range(101)]
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            page = (await client.get(f"{KEYS}?limit=30" + (f"&cursor={cursor}" if cursor else ""))).json()
            found += [key["id"] for key in page["data"]]
            cursor = page["next_cursor"]

    assert [answer.status_code for answer in made] == [201] * 100 + [409]
    assert sorted(found) == sorted(answer.json()["id"] for answer in made[:100])


async def test_the_admin_token_is_no_key(stack: Stack) -> None:
    async with client_with(stack, ADMIN_TOKEN) as client:
        assert (await client.post(KEYS, json={"name": "k"})).status_code == 401


async def test_without_redis_a_rotated_key_is_shown_and_good_and_what_is_not_told_is_said(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack(workers=0, schedulers=0, settings=SETTINGS)
    ada = await a_person(stack)
    key, other = await a_key(ada), await a_key(ada)
    async with client_with(stack, key["key"]) as with_key, ada.client() as client:
        assert (await with_key.get("/api/v1/auth/me")).status_code == 200
        stack.redis.kill9()

        rotated = await client.post(f"{KEYS}/{key['id']}/rotate", json={"grace_seconds": 60})
        revoked = await client.delete(f"{KEYS}/{other['id']}")
        shown = await client.get(f"{KEYS}/{other['id']}")

    assert rotated.status_code == 201
    assert await status_of(stack, rotated.json()["key"]) == 200
    assert await status_of(stack, other["key"]) == 401
    assert (revoked.status_code, shown.json()["state"]) == (503, "revoked")
    assert "Revoke it again" in revoked.json()["error"]["message"]


async def test_rotation_with_a_grace_makes_no_more_keys_than_there_may_be(stack: Stack) -> None:
    person = await a_person(stack, "Many")
    async with person.client() as client:
        newest = (await client.post(KEYS, json={"name": "first"})).json()["id"]
        for _ in range(99):
            newest = (await client.post(f"{KEYS}/{newest}/rotate", json={"grace_seconds": 3600})).json()["id"]
        refused = await client.post(f"{KEYS}/{newest}/rotate", json={"grace_seconds": 3600})
        at_once = await client.post(f"{KEYS}/{newest}/rotate", json={"grace_seconds": 0})

    assert (refused.status_code, at_once.status_code) == (409, 201)
