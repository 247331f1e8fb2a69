"""Nobody reaches what is another account's: every route with an id, every role, and no credential at all."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from shared.domain.roles import Role
from shared.ids import AccountId
from tests.acceptance.people import SETTINGS, Person, a_person, client_with
from tests.fakes.stack import Stack, start_apart

pytestmark = pytest.mark.xdist_group("isolation")

UNKNOWN: Final = {
    "job_id": "job_" + "0" * 32,
    "response_id": "resp_" + "0" * 32,
    "key_id": "key_aaaaaaaa",
    "credential_id": "key_" + "0" * 24,
    "user_id": "usr_" + "0" * 24,
    "account_id": "acc_" + "0" * 24,
    "conversation_id": "conv_" + "0" * 24,
    "endpoint_id": "wh_" + "0" * 24,
    "delivery_id": "msg_" + "0" * 32,
    "file_id": "file-" + "0" * 24,
    "batch_id": "batch_" + "0" * 32,
    "message_batch_id": "batch_" + "0" * 32,
}
OF_NOBODY: Final = {"provider", "model"}
"""Parameters that name what everybody may know."""
BODIES: Final[dict[str, Any]] = {
    "PATCH /api/v1/members/{user_id}": {"role": "viewer"},
    "PATCH /api/v1/admin/accounts/{account_id}": {"tier": "paid"},
    "PATCH /api/v1/admin/users/{user_id}": {"name": "Eve"},
    "POST /api/v1/api-keys/{key_id}/rotate": {},
    "PATCH /api/v1/webhooks/{endpoint_id}": {"enabled": False},
    "POST /api/v1/webhooks/{endpoint_id}/rotate": {},
}


@dataclass(frozen=True)
class Route:
    method: str
    path: str

    @property
    def parameters(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)

    def filled(self, ids: dict[str, str]) -> str:
        return re.sub(r"{(\w+)}", lambda found: ids[found[1]], self.path)

    async def ask(self, client: httpx.AsyncClient, ids: dict[str, str]) -> httpx.Response:
        body = BODIES.get(f"{self.method} {self.path}")
        return await client.request(self.method, self.filled(ids), **({} if body is None else {"json": body}))


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    broker = Stack(database_template=sqlite_template, settings=SETTINGS)
    start_apart(broker)
    yield broker
    broker.end_now()


@pytest.fixture
async def ada(stack: Stack) -> Person:
    return await a_person(stack, "Ada")


@pytest.fixture
async def eve(stack: Stack) -> Person:
    return await a_person(stack, "Eve")


@pytest.fixture
async def hers(ada: Person) -> AsyncIterator[dict[str, str]]:
    """Ids of what is Ada's, by the parameter that takes them."""
    async with ada.client() as client:
        answered = await client.post(
            "/v1/responses", json={"model": "gpt-4o-mini", "input": "Hello", "store": True}
        )
        assert answered.status_code == 200, answered.text
        key = await client.post("/api/v1/api-keys", json={"name": "laptop"})
        credential = await client.post(
            "/api/v1/keys", json={"provider": "openai", "apiKey": "sk-of-ada-alone-123456", "name": "own"}
        )
        kept = await client.post(
            "/api/v1/chat",
            json={
                "provider": "openai",
                "model": "gpt-4o-mini",
                "messages": [{"role": "user", "content": "Hello"}],
                "conversation_id": "new",
            },
        )
        job = await client.post(
            "/api/v1/jobs",
            json={
                "endpoint": "/v1/responses",
                "body": {"model": "gpt-4o-mini", "input": "Hello"},
            },
        )
        assert job.status_code == 202, job.text
        endpoint = await client.post("/api/v1/webhooks", json={"url": "https://hooks.example.com/ada"})
        tested = await client.post(f"/api/v1/webhooks/{endpoint.json()['id']}/test")
        file = await client.post(
            "/v1/files", files={"file": ("of-ada.jsonl", b"{}")}, data={"purpose": "batch"}
        )
        batch = await client.post(
            "/v1/batches",
            json={
                "input_file_id": file.json()["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        )
        messages = await client.post(
            "/v1/messages/batches",
            json={
                "requests": [
                    {
                        "custom_id": "a",
                        "params": {
                            "model": "claude-haiku-4-5",
                            "max_tokens": 9,
                            "messages": [{"role": "user", "content": "Hello"}],
                        },
                    }
                ]
            },
        )
        yield {
            "endpoint_id": endpoint.json()["id"],
            "delivery_id": tested.json()["id"],
            "job_id": job.json()["id"],
            "batch_id": batch.json()["id"],
            "message_batch_id": messages.json()["id"],
            "response_id": answered.json()["id"],
            "key_id": key.json()["id"],
            "credential_id": credential.json()["id"],
            "user_id": ada.id,
            "account_id": ada.account,
            "file_id": file.json()["id"],
            "conversation_id": kept.headers.get("x-headrace-conversation-id", UNKNOWN["conversation_id"]),
        }


async def routes_with_ids(client: httpx.AsyncClient) -> list[Route]:
    document = (await client.get("/openapi.json")).json()
    routes = [
        Route(method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
        if "{" in path
    ]
    return [route for route in routes if not set(route.parameters) <= OF_NOBODY]


def told(answer: httpx.Response) -> tuple[int, Any]:
    """What may be told apart: all but the id of the request."""
    body = answer.json()
    body["error"].pop("trace_id", None)
    body.pop("request_id", None)
    return answer.status_code, body


async def test_every_parameter_that_names_somebodys_is_known_here(ada: Person) -> None:
    async with ada.client() as client:
        named = {name for route in await routes_with_ids(client) for name in route.parameters}

    assert named - OF_NOBODY <= set(UNKNOWN)
    assert {"job_id", "response_id", "key_id", "credential_id", "user_id", "account_id"} <= named


async def test_another_accounts_id_is_answered_as_an_unknown_one(
    ada: Person, eve: Person, hers: dict[str, str]
) -> None:
    async with ada.client() as owner, eve.client() as stranger:
        for route in await routes_with_ids(owner):
            of_hers, of_nobody = await route.ask(stranger, hers), await route.ask(stranger, UNKNOWN)
            expected = 403 if route.path.startswith("/api/v1/admin/") else 404
            assert of_hers.status_code == expected, route
            assert told(of_hers) == told(of_nobody), route
            assert not any(value in of_hers.text for value in hers.values()), route


async def test_what_is_ones_own_is_found(ada: Person, hers: dict[str, str]) -> None:
    async with ada.client() as owner:
        for path in (
            "/api/v1/jobs/{job_id}",
            "/v1/responses/{response_id}",
            "/v1/files/{file_id}",
            "/v1/batches/{batch_id}",
            "/api/v1/batches/{batch_id}",
            "/v1/messages/batches/{message_batch_id}",
            "/v1/files/{file_id}/content",
            "/api/v1/api-keys/{key_id}",
            "/api/v1/keys/{credential_id}",
            "/api/v1/members/{user_id}",
            "/api/v1/webhooks/{endpoint_id}",
            "/api/v1/webhooks/deliveries/{delivery_id}",
        ):
            answer = await Route("GET", path).ask(owner, hers)
            assert answer.status_code == 200, path


async def test_nobody_is_answered_401_whatever_the_id(
    stack: Stack, ada: Person, hers: dict[str, str]
) -> None:
    async with ada.client() as owner, client_with(stack, "gw_live_nobody") as nobody:
        for route in await routes_with_ids(owner):
            for ids in (hers, UNKNOWN):
                assert (await route.ask(nobody, ids)).status_code == 401, route


@pytest.mark.parametrize("role", [Role.VIEWER, Role.SERVICE, Role.MEMBER])
async def test_a_narrower_role_of_the_account_changes_nothing_of_it(
    stack: Stack, ada: Person, hers: dict[str, str], role: Role
) -> None:
    token = await stack.new_api_key(AccountId(ada.account), role=role)
    changing = ("/api/v1/keys/", "/api/v1/members/", "/api/v1/api-keys/", "/api/v1/admin/")
    async with ada.client() as owner, client_with(stack, token) as client:
        asked = 0
        for route in await routes_with_ids(owner):
            if route.method != "GET" and route.path.startswith(changing):
                asked += 1
                assert (await route.ask(client, hers)).status_code in {403, 404}, route
        assert asked >= 6
        assert (await owner.get(f"/api/v1/keys/{hers['credential_id']}")).status_code == 200
        assert (await owner.get(f"/api/v1/members/{ada.id}")).json()["role"] == "admin"


async def test_lists_hold_what_is_ones_own_alone(ada: Person, eve: Person, hers: dict[str, str]) -> None:
    async with eve.client() as stranger:
        for path in (
            "/api/v1/keys",
            "/api/v1/api-keys",
            "/api/v1/members",
            "/api/v1/usage?by=key",
            "/api/v1/usage/jobs",
            "/api/v1/jobs",
            "/api/v1/audit",
            "/api/v1/quota",
            "/api/v1/webhooks",
            "/api/v1/webhooks/deliveries",
            "/v1/files",
            "/v1/batches",
            "/api/v1/batches",
            "/v1/messages/batches",
        ):
            answer = await stranger.get(path)
            assert answer.status_code == 200, path
            assert not any(value in answer.text for value in hers.values()), path
