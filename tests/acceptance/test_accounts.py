"""Registering, logging in and out over real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.fakes.eventually import eventually
from tests.fakes.stack import Process, Stack, start_apart
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("accounts")

PASSWORD = "correct horse battery staple"
SETTINGS = {
    "JWT_SECRET": "a secret of the tests that signs access tokens",
    "HEADRACE_LIMITS__AUTH": "1000/1m",
    "JWT_EXPIRY": "24h",
}
_names = count()


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    broker = Stack(apis=2, database_template=sqlite_template, settings=SETTINGS)
    start_apart(broker)
    yield broker
    broker.end_now()


def client_of(stack: Stack, token: str = "", api: Process | None = None) -> httpx.AsyncClient:
    client = stack.client(api)
    if token:
        client.headers["authorization"] = f"Bearer {token}"
    else:
        del client.headers["authorization"]
    return client


async def registered(client: httpx.AsyncClient, **more: Any) -> tuple[str, dict[str, Any]]:
    """An email, and what registering it answered."""
    email = f"user{next(_names)}@example.com"
    body = {"email": email, "password": PASSWORD, "name": "Ada", **more}
    answer = await client.post("/api/v1/auth/register", json=body)
    assert answer.status_code == 201, answer.text
    view: dict[str, Any] = answer.json()
    return email, view


async def test_registering_logging_in_and_asking_a_model(stack: Stack) -> None:
    async with client_of(stack) as client:
        email, view = await registered(client)
        login = await client.post("/api/v1/auth/login", json={"email": email, "password": PASSWORD})
        alias = await client.post("/auth/login", json={"email": email, "password": PASSWORD})

    assert view["user"]["id"].startswith("usr_")
    assert (view["user"]["email"], view["user"]["name"]) == (email, "Ada")
    assert login.json()["expiresIn"] == alias.json()["expiresIn"] == "24h"
    async with openai.AsyncOpenAI(api_key=login.json()["token"], base_url=f"{stack.apis[1].url}/v1") as sdk:
        answer = await sdk.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}]
        )
    assert answer.choices[0].message.content

    async def is_charged() -> bool:
        return any(row["account_id"] == view["account"] for row in await stack.ledger())

    await eventually(is_charged, "the call in the ledger of the account")


async def test_me_says_what_the_credential_allows(stack: Stack) -> None:
    async with client_of(stack) as client:
        email, view = await registered(client)
    async with client_of(stack, view["token"]) as client, stack.client() as with_key:
        of_session = (await client.get("/api/v1/auth/me")).json()
        of_key = (await with_key.get("/api/v1/auth/me")).json()

    assert of_session["user"]["email"] == email
    assert (of_session["role"], of_session["operator"]) == ("admin", False)
    assert "operate" not in of_session["permissions"]
    assert (of_key["role"], of_key["user"]) == ("service", None)


async def test_a_refresh_works_once_in_either_form_and_not_with_an_access_token(stack: Stack) -> None:
    async with client_of(stack) as client:
        _, view = await registered(client)
        in_header = await client.post(
            "/api/v1/auth/refresh", headers={"authorization": f"Bearer {view['refreshToken']}"}
        )
        in_body = await client.post(
            "/api/v1/auth/refresh", json={"refreshToken": in_header.json()["refreshToken"]}
        )
        by_access_token = await client.post(
            "/api/v1/auth/refresh", headers={"authorization": f"Bearer {view['token']}"}
        )
        stolen = await client.post(
            "/api/v1/auth/refresh",
            json={"refreshToken": view["refreshToken"]},
            headers={"user-agent": "another client"},
        )
        after = await client.post(
            "/api/v1/auth/refresh", json={"refreshToken": in_body.json()["refreshToken"]}
        )

    assert [in_header.status_code, in_body.status_code] == [200, 200]
    assert [by_access_token.status_code, stolen.status_code, after.status_code] == [401, 401, 401]


async def test_a_race_of_refreshes_leaves_one_successor(stack: Stack) -> None:
    async with client_of(stack) as one, client_of(stack, api=stack.apis[1]) as other:
        _, view = await registered(one)
        body = {"refreshToken": view["refreshToken"]}
        answers = await asyncio.gather(
            *(client.post("/api/v1/auth/refresh", json=body) for client in (one, other) for _ in range(4))
        )

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["refreshToken"] for answer in answers}) == 1


@pytest.mark.parametrize("everywhere", [False, True])
async def test_logged_out_a_token_is_dead_at_every_api(stack: Stack, everywhere: bool) -> None:
    async with client_of(stack) as client:
        email, view = await registered(client)
        other = (await client.post("/api/v1/auth/login", json={"email": email, "password": PASSWORD})).json()
    async with (
        client_of(stack, view["token"]) as here,
        client_of(stack, view["token"], stack.apis[1]) as there,
        client_of(stack, other["token"], stack.apis[1]) as elsewhere,
    ):
        for client in (here, there, elsewhere):
            assert (await client.get("/api/v1/auth/me")).status_code == 200

        ended = await here.post("/api/v1/auth/logout", json={"everywhere": everywhere})

        async def is_dead() -> bool:
            statuses = [(await client.get("/api/v1/auth/me")).status_code for client in (here, there)]
            return statuses == [401, 401]

        assert ended.status_code == 204
        await eventually(is_dead, "token dead at both apis", within=5)
        assert (await elsewhere.get("/api/v1/auth/me")).status_code == (401 if everywhere else 200)
        again = await here.post("/api/v1/auth/refresh", json={"refreshToken": view["refreshToken"]})
        assert again.status_code == 401


async def test_a_changed_password_ends_the_other_sessions(stack: Stack) -> None:
    async with client_of(stack) as client:
        email, view = await registered(client)
        other = (await client.post("/api/v1/auth/login", json={"email": email, "password": PASSWORD})).json()
    async with client_of(stack, view["token"]) as client, client_of(stack, other["token"]) as elsewhere:
        assert (await elsewhere.get("/api/v1/auth/me")).status_code == 200
        wrong = await client.post(
            "/api/v1/auth/password", json={"password": "not the one", "newPassword": "another password"}
        )
        changed = await client.post(
            "/api/v1/auth/password", json={"password": PASSWORD, "newPassword": "another password"}
        )

        async def is_dead() -> bool:
            return (await elsewhere.get("/api/v1/auth/me")).status_code == 401

        await eventually(is_dead, "other session dead", within=5)
        old = await client.post("/api/v1/auth/login", json={"email": email, "password": PASSWORD})
        new = await client.post("/api/v1/auth/login", json={"email": email, "password": "another password"})
    async with client_of(stack, changed.json()["token"]) as client:
        assert (await client.get("/api/v1/auth/me")).status_code == 200
    assert [wrong.status_code, old.status_code, new.status_code] == [401, 401, 200]


REGISTER, LOGIN = "/api/v1/auth/register", "/api/v1/auth/login"
BAD: list[tuple[str, Any, int]] = [
    (REGISTER, {}, 422),
    (REGISTER, [], 422),
    (REGISTER, {"email": "a@example.com", "password": PASSWORD}, 422),
    (REGISTER, {"email": "no address", "password": PASSWORD, "name": "A"}, 422),
    (REGISTER, {"email": "a@b", "password": PASSWORD, "name": "A"}, 422),
    (REGISTER, {"email": "a@example.com", "password": "short", "name": "A"}, 422),
    (REGISTER, {"email": "a@example.com", "password": "x" * 257, "name": "A"}, 422),
    (REGISTER, {"email": "a@example.com", "password": 12345678, "name": "A"}, 422),
    (REGISTER, {"email": "a@example.com", "password": PASSWORD, "name": ""}, 422),
    (REGISTER, {"email": "a@example.com", "password": PASSWORD, "name": "A\nB"}, 422),
    (REGISTER, {"email": "a@example.com", "password": PASSWORD, "name": "A", "role": "admin"}, 422),
    (REGISTER, {"email": "a@example.com", "password": PASSWORD, "name": "A", "is_operator": True}, 422),
    (REGISTER, {"email": "a@example.com", "password": PASSWORD, "name": "A", "account_id": "default"}, 422),
    (REGISTER, {"email": "a@example.com", "password": PASSWORD, "name": "A", "id": "usr_1"}, 422),
    (REGISTER, {"email": "a@example.com", "password": PASSWORD, "name": "A", "tier": "unlimited"}, 422),
    (LOGIN, {"email": "a@example.com"}, 422),
    (LOGIN, {"email": "a@example.com", "password": ""}, 401),
    (LOGIN, {"email": "nobody@example.com", "password": PASSWORD}, 401),
    (LOGIN, {"email": "'; DROP TABLE user; --", "password": PASSWORD}, 401),
    (LOGIN, {"email": "a@example.com", "password": PASSWORD, "account": 1}, 422),
    ("/api/v1/auth/refresh", {"refreshToken": "junk"}, 401),
    ("/api/v1/auth/refresh", {"refreshToken": ""}, 422),
    ("/api/v1/auth/refresh", None, 401),
    ("/api/v1/auth/logout", None, 401),
]


@pytest.mark.parametrize(("path", "body", "status"), BAD)
async def test_bad_input_is_told_and_not_repeated(stack: Stack, path: str, body: Any, status: int) -> None:
    async with client_of(stack) as client:
        answer = await (client.post(path) if body is None else client.post(path, json=body))

    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"type", "message", "details", "trace_id"}
    assert PASSWORD not in answer.text


async def test_an_unknown_user_and_a_wrong_password_are_told_alike(stack: Stack) -> None:
    async with client_of(stack) as client:
        email, _ = await registered(client)
        wrong = await client.post("/api/v1/auth/login", json={"email": email, "password": "wrong one"})
        nobody = await client.post("/api/v1/auth/login", json={"email": "x" + email, "password": "wrong one"})

    told = [{**answer.json()["error"], "trace_id": ""} for answer in (wrong, nobody)]
    assert told[0] == told[1]
    assert wrong.status_code == nobody.status_code == 401


async def test_a_key_is_no_session(stack: Stack) -> None:
    async with stack.client() as client:
        answers = [
            await client.post("/api/v1/auth/logout"),
            await client.post("/api/v1/auth/password", json={"password": PASSWORD, "newPassword": PASSWORD}),
        ]

    assert [answer.status_code for answer in answers] == [403, 403]


async def test_logins_are_limited_by_address_and_by_user_over_all_apis(fresh_stack: FreshStack) -> None:
    settings = {**SETTINGS, "HEADRACE_LIMITS__AUTH": "5/1m", "HEADRACE_API__TRUSTED_PROXIES": '["127.0.0.1"]'}
    stack = await fresh_stack(apis=2, workers=0, schedulers=0, settings=settings)

    async def attempt(number: int, address: str, email: str) -> int:
        async with client_of(stack, api=stack.apis[number % 2]) as client:
            answer = await client.post(
                "/api/v1/auth/login",
                json={"email": email, "password": "wrong one"},
                headers={"x-forwarded-for": f"203.0.113.7, {address}"},
            )
            return answer.status_code

    one_address = [await attempt(n, "198.51.100.1", f"{n}@example.com") for n in range(7)]
    one_user = [await attempt(n, f"198.51.100.{n + 10}", "ada@example.com") for n in range(7)]

    assert one_address == [401] * 5 + [429] * 2
    assert one_user == [401] * 5 + [429] * 2


async def test_without_redis_logins_are_refused_or_counted_by_each_process_as_it_is_set(
    fresh_stack: FreshStack,
) -> None:
    body = {"email": "ada@example.com", "password": "wrong one"}
    for policy, expected in (("refuse", [503] * 4), ("allow", [401, 401, 429, 429])):
        settings = {
            **SETTINGS,
            "HEADRACE_LIMITS__AUTH": "2/1m",
            "HEADRACE_LIMITS__WITHOUT_REDIS_ADDRESS": policy,
        }
        stack = await fresh_stack(workers=0, schedulers=0, settings=settings)
        stack.redis.kill9()
        async with client_of(stack) as client:
            answers = [await client.post("/api/v1/auth/login", json=body) for _ in range(4)]
        assert [answer.status_code for answer in answers] == expected


async def test_registration_can_be_closed_and_is_not_there_without_a_secret(fresh_stack: FreshStack) -> None:
    body = {"email": "ada@example.com", "password": PASSWORD, "name": "Ada"}
    closed = await fresh_stack(
        workers=0, schedulers=0, settings={**SETTINGS, "HEADRACE_ACCOUNTS__REGISTRATION": "false"}
    )
    without = await fresh_stack(workers=0, schedulers=0)
    async with client_of(closed) as one, client_of(without) as other:
        answers = [await client.post("/api/v1/auth/register", json=body) for client in (one, other)]

    assert [answer.status_code for answer in answers] == [403, 404]
    assert "JWT_SECRET" in answers[1].json()["error"]["message"]
