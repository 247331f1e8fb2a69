"""People and their accounts at a broker that runs as real processes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import httpx

from tests.fakes.stack import Process, Stack

PASSWORD: Final = "correct horse battery staple"
ADMIN_TOKEN: Final = "the admin token of the tests, long enough"
SETTINGS: Final = {
    "JWT_SECRET": "a secret of the tests that signs access tokens",
    "HEADRACE_LIMITS__AUTH": "1000/1m",
    "HEADRACE_ADMIN_TOKEN": ADMIN_TOKEN,
}
_numbers = count()


def client_with(stack: Stack, token: str, api: Process | None = None) -> httpx.AsyncClient:
    client = stack.client(api)
    client.headers["authorization"] = f"Bearer {token}"
    return client


@dataclass(frozen=True)
class Person:
    """Registered, and logged in to an account of its own."""

    id: str
    email: str
    account: str
    token: str
    stack: Stack

    def client(self, api: Process | None = None) -> httpx.AsyncClient:
        return client_with(self.stack, self.token, api)

    async def into(self, account: str) -> Person:
        """Logged in to another account of its."""
        async with client_with(self.stack, "nothing") as client:
            answer = await client.post(
                "/api/v1/auth/login", json={"email": self.email, "password": PASSWORD, "account": account}
            )
        assert answer.status_code == 200, answer.text
        return Person(self.id, self.email, account, answer.json()["token"], self.stack)


async def a_person(stack: Stack, name: str = "Ada") -> Person:
    email = f"{name.lower()}{next(_numbers)}@people.example.com"
    async with client_with(stack, "nothing") as client:
        answer = await client.post(
            "/api/v1/auth/register", json={"email": email, "password": PASSWORD, "name": name}
        )
    assert answer.status_code == 201, answer.text
    view: dict[str, Any] = answer.json()
    return Person(view["user"]["id"], email, view["account"], view["token"], stack)


async def a_member(of: Person, role: str, name: str = "Grace", **more: Any) -> Person:
    """Somebody else, whom `of` added to its account, logged in there."""
    person = await a_person(of.stack, name)
    async with of.client() as client:
        answer = await client.post("/api/v1/members", json={"email": person.email, "role": role, **more})
    assert answer.status_code == 201, answer.text
    return await person.into(of.account)


async def an_operator(stack: Stack, name: str = "Root") -> Person:
    person = await a_person(stack, name)
    async with client_with(stack, ADMIN_TOKEN) as client:
        answer = await client.patch(f"/api/v1/admin/users/{person.id}", json={"operator": True})
    assert answer.status_code == 200, answer.text
    return person


async def a_key(of: Person, **more: Any) -> dict[str, Any]:
    async with of.client() as client:
        answer = await client.post("/api/v1/api-keys", json={"name": "a key", **more})
    assert answer.status_code == 201, answer.text
    view: dict[str, Any] = answer.json()
    return view


async def status_of(stack: Stack, token: str, api: Process | None = None) -> int:
    """What the broker says to whoever shows this."""
    async with client_with(stack, token, api) as client:
        return (await client.get("/api/v1/auth/me")).status_code
