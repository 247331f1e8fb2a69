"""An account's own keys at providers, over real processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from shared.db.engine import create_engine
from shared.domain.roles import Role
from shared.ids import AccountId
from tests.fakes.stack import Stack, start_apart
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("credentials")

PATH = "/api/v1/keys"
CHAT = "/v1/chat/completions"
CANARY = "sk-ant-canary-that-nobody-may-ever-see-xyz"
HELLO = [{"role": "user", "content": "Hello"}]
_numbers = count()


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    broker = Stack(database_template=sqlite_template)
    start_apart(broker)
    yield broker
    broker.end_now()


def an_account() -> str:
    return f"tenant-{next(_numbers)}"


async def client_of(stack: Stack, account: str = "", role: Role = Role.ADMIN) -> httpx.AsyncClient:
    client = stack.client()
    token = await stack.new_api_key(AccountId(account or an_account()), role=role)
    client.headers["authorization"] = f"Bearer {token}"
    return client


async def stored(
    client: httpx.AsyncClient, key: str = CANARY, provider: str = "anthropic", name: str = "Production"
) -> dict[str, Any]:
    answer = await client.post(PATH, json={"provider": provider, "apiKey": key, "name": name})
    assert answer.status_code == 201, answer.text
    view: dict[str, Any] = answer.json()
    return view


async def rows(stack: Stack, query: str, **values: Any) -> list[dict[str, Any]]:
    engine = create_engine(stack.database_url)
    try:
        async with engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(text(query), values)).mappings()]
    finally:
        await engine.dispose()


async def test_a_stored_key_is_shown_masked_and_then_gone(stack: Stack) -> None:
    async with await client_of(stack) as client:
        view = await stored(client)
        listed, read = await client.get(PATH), await client.get(f"{PATH}/{view['id']}")
        deleted = [(await client.delete(f"{PATH}/{view['id']}")).status_code for _ in range(2)]
        after, gone = await client.get(PATH), await client.get(f"{PATH}/{view['id']}")

    assert view["id"].startswith("key_")
    assert (view["provider"], view["name"], view["maskedKey"]) == ("anthropic", "Production", "sk-ant-...xyz")
    assert listed.json() == {"data": [view]}
    assert read.json() == view
    assert deleted == [204, 204]
    assert after.json() == {"data": []}
    assert gone.status_code == 404


async def test_storing_and_revoking_are_audited_once_each_and_without_the_key(stack: Stack) -> None:
    async with await client_of(stack) as client:
        view = await stored(client)
        for _ in range(2):
            await client.delete(f"{PATH}/{view['id']}")

    query = "SELECT * FROM audit_event WHERE object_id = :id ORDER BY at"
    events = await rows(stack, query, id=view["id"])
    assert [event["act"] for event in events] == ["credential.stored", "credential.revoked"]
    assert all(event["actor"].startswith("key_") and event["request_id"] for event in events)
    assert all(event["address"] == "127.0.0.1" for event in events)
    assert CANARY not in str(events)


@pytest.mark.parametrize(
    ("role", "reads", "writes"),
    [(Role.ADMIN, 200, 201), (Role.MEMBER, 200, 403), (Role.VIEWER, 403, 403), (Role.SERVICE, 403, 403)],
)
async def test_roles_decide_who_reads_and_who_stores(
    stack: Stack, role: Role, reads: int, writes: int
) -> None:
    body = {"provider": "openai", "apiKey": CANARY, "name": "x"}
    async with await client_of(stack, role=role) as client:
        assert (await client.get(PATH)).status_code == reads
        assert (await client.post(PATH, json=body)).status_code == writes
        removed = await client.delete(f"{PATH}/key_{'0' * 24}")
    assert removed.status_code == (404 if writes == 201 else 403)


async def test_another_accounts_key_answers_as_one_that_never_was(stack: Stack) -> None:
    async with await client_of(stack) as owner, await client_of(stack) as other:
        view = await stored(owner)
        for credential in (view["id"], f"key_{'0' * 24}", "key_%00", "x" * 300):
            for method in ("GET", "DELETE"):
                answer = await other.request(method, f"{PATH}/{credential}")
                assert answer.status_code in ({404} if "%" not in credential else {400, 404})
                assert CANARY[-8:] not in answer.text
        assert (await other.get(PATH)).json() == {"data": []}
        assert (await owner.get(f"{PATH}/{view['id']}")).status_code == 200


WRONG: list[Any] = [None, 1, [], {}, "", True]
UNSAFE = ("\n", "\r\nx: y", " ", "\t", "é", "\x7f")
GOOD = {"provider": "openai", "apiKey": CANARY, "name": "x"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        *(({k: v for k, v in GOOD.items() if k != missing}, 422) for missing in GOOD),
        *(({**GOOD, name: wrong}, 422) for name in GOOD for wrong in WRONG),
        ({**GOOD, "account": "other"}, 422),
        ({**GOOD, "id": "key_1"}, 422),
        ({**GOOD, "base_url": "https://evil.example"}, 422),
        ({**GOOD, "provider": "nobody"}, 404),
        ({**GOOD, "name": "n" * 201}, 422),
        ({**GOOD, "name": "line\nbreak"}, 422),
        *(
            ({**GOOD, "apiKey": f"{CANARY}{char}"}, 422)
            for char in ("\n", "\r\nx: y", " ", "\t", "é", "\x7f")
        ),
        ({**GOOD, "apiKey": "k" * 4097}, 422),
    ],
)
async def test_what_cannot_be_a_key_is_refused_and_not_repeated(
    stack: Stack, body: dict[str, Any], status: int
) -> None:
    async with await client_of(stack) as client:
        answer = await client.post(PATH, json=body)

        assert answer.status_code == status, answer.text
        assert "canary" not in answer.text
        assert "kkkk" not in answer.text
        assert (await client.get(PATH)).json() == {"data": []}


async def test_without_a_master_key_nothing_is_stored(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, schedulers=0, settings={"HEADRACE_MASTER_PUBLIC_KEY": ""})
    async with await client_of(stack) as client:
        answer = await client.post(PATH, json=GOOD)

    assert answer.status_code == 404
    assert "HEADRACE_MASTER_PUBLIC_KEY" in answer.json()["error"]["message"]
