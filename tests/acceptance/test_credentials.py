"""An account's own keys at providers, over real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from api.account_v1.credentials import MAX_KEYS
from shared.db.engine import create_engine
from shared.db.repositories import provider_credentials
from shared.domain.roles import Role
from shared.ids import AccountId, CredentialId
from shared.queue.links import open_link
from tests.fakes.eventually import eventually
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


async def asked(client: httpx.AsyncClient, model: str = "anthropic/claude-haiku-4-5") -> httpx.Response:
    return await client.post(CHAT, json={"model": model, "messages": HELLO, "max_tokens": 50})


async def keys_seen(stack: Stack) -> list[str]:
    """By the provider, in order, since it was last cleared."""
    calls = await stack.provider.calls()
    headers = [call.received["headers"] for call in calls if call.received is not None]
    return [told.get("x-api-key") or told["authorization"].removeprefix("Bearer ") for told in headers]


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


async def test_keys_stored_and_deleted_at_once_are_all_stored_and_deleted(stack: Stack) -> None:
    async with await client_of(stack) as client:
        views = await asyncio.gather(*(stored(client, f"{CANARY}{n}") for n in range(8)))
        paths = [f"{PATH}/{view['id']}" for view in views] * 2
        deleted = await asyncio.gather(*(client.delete(path) for path in paths))
        left = await client.get(PATH)

    assert len({view["id"] for view in views}) == 8
    assert [answer.status_code for answer in deleted] == [204] * 16
    assert left.json() == {"data": []}
    query = "SELECT * FROM audit_event WHERE act = 'credential.revoked' AND object_id = :id"
    assert [len(await rows(stack, query, id=view["id"])) for view in views] == [1] * 8


async def test_an_account_holds_no_more_than_so_many(stack: Stack) -> None:
    account = AccountId(an_account())
    async with await client_of(stack, account) as client:
        credential = CredentialId((await stored(client))["id"])
        engine = create_engine(stack.database_url)
        async with engine.begin() as connection:
            first = await provider_credentials.find(connection, credential, account=account)
            assert first is not None
            for number in range(MAX_KEYS - 1):
                copy = replace(first, id=CredentialId(f"key_{number:024x}"))
                await provider_credentials.create(connection, copy)
        await engine.dispose()

        one_more = await client.post(PATH, json=GOOD)
        held = (await client.get(PATH)).json()["data"]

    assert one_more.status_code == 409
    assert len(held) == MAX_KEYS


async def test_without_a_master_key_nothing_is_stored(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, schedulers=0, settings={"HEADRACE_MASTER_PUBLIC_KEY": ""})
    async with await client_of(stack) as client:
        answer = await client.post(PATH, json=GOOD)

    assert answer.status_code == 404
    assert "HEADRACE_MASTER_PUBLIC_KEY" in answer.json()["error"]["message"]


async def test_requests_of_the_account_go_out_on_its_own_key_and_everybody_elses_on_the_brokers(
    stack: Stack,
) -> None:
    async with await client_of(stack) as owner, await client_of(stack) as other:
        before = await asked(owner)
        await stack.provider.clear()
        await stored(owner)

        answers = [await asked(client) for client in (owner, other, owner)]
        elsewhere = await asked(owner, "openai/gpt-4o-mini")

    assert [answer.status_code for answer in (before, *answers, elsewhere)] == [200] * 5
    assert await keys_seen(stack) == [CANARY, "scripted", CANARY, "scripted"]


async def test_members_and_programs_of_the_account_use_it_without_seeing_it(stack: Stack) -> None:
    account = an_account()
    async with await client_of(stack, account) as admin, await client_of(stack, account, Role.SERVICE) as app:
        await stored(admin)
        await stack.provider.clear()

        assert (await asked(app)).status_code == 200

    assert await keys_seen(stack) == [CANARY]


async def test_a_deleted_key_is_used_no_more_and_the_one_before_takes_its_place(stack: Stack) -> None:
    async with await client_of(stack) as client:
        await stored(client, "sk-ant-the-first-one-of-the-two")
        second = await stored(client)
        await asked(client)
        await stack.provider.clear()

        await client.delete(f"{PATH}/{second['id']}")
        assert (await asked(client)).status_code == 200

    assert await keys_seen(stack) == ["sk-ant-the-first-one-of-the-two"]


@pytest.mark.parametrize(
    ("status", "code"), [(401, "provider_credential_refused"), (429, "rate_limit_exceeded")]
)
async def test_a_bad_key_of_one_account_is_its_own_trouble(stack: Stack, status: int, code: str) -> None:
    bad = f"sk-ant-refused-with-{status}-and-so-on"
    async with await client_of(stack) as unlucky, await client_of(stack) as other:
        await stored(unlucky, bad)
        refused = await asked(unlucky)
        after = [await asked(other) for _ in range(3)]

    error = refused.json()["error"]
    assert error["code"] == code
    assert bad not in refused.text
    assert refused.status_code == (429 if status == 429 else 502)
    assert [answer.status_code for answer in after] == [200] * 3


async def test_calls_on_an_own_key_are_in_the_ledger_by_its_id_and_bill_nothing(stack: Stack) -> None:
    async with await client_of(stack) as client:
        view = await stored(client)
        answer = await asked(client)
        job = answer.headers["x-headrace-job-id"]

    async def is_settled() -> bool:
        return bool(await rows(stack, "SELECT 1 FROM usage WHERE job_id = :job", job=job))

    await eventually(is_settled, "job in the ledger")
    [row] = await rows(stack, "SELECT * FROM usage WHERE job_id = :job", job=job)
    assert (row["credential_id"], row["billed_micro_usd"]) == (view["id"], 0)
    assert row["cost_micro_usd"] > 0


async def test_a_provider_that_only_the_account_has_a_key_for_works_for_it_alone(
    fresh_stack: FreshStack,
) -> None:
    settings = {"ANTHROPIC_API_KEY": "", "HEADRACE_QUEUE__UNSERVED_SECONDS": "4"}
    stack = await fresh_stack(settings=settings)
    async with await client_of(stack) as owner, await client_of(stack) as other:
        await stored(owner)

        async def is_refused() -> bool:
            return bool((await asked(other)).json()["error"]["code"] == "no_worker")

        await eventually(is_refused, "nobody serves it for the others", within=20)
        assert (await asked(owner)).status_code == 200
        assert (await asked(other, "openai/gpt-4o-mini")).status_code == 200
        listed = (await other.get("/api/v1/providers")).json()["providers"]

    assert CANARY in await keys_seen(stack)
    ids = [provider["id"] for provider in listed]
    assert "openai" in ids
    assert "anthropic" not in ids


async def validated(client: httpx.AsyncClient, key: str, provider: str = "anthropic") -> httpx.Response:
    return await client.post(f"{PATH}/validate", json={"provider": provider, "apiKey": key})


async def test_a_good_key_is_valid_and_shows_its_models(stack: Stack) -> None:
    async with await client_of(stack) as client:
        for provider in ("anthropic", "openai"):
            answer = await validated(client, CANARY, provider)

            assert answer.status_code == 200, answer.text
            assert answer.json() == {
                "valid": True,
                "provider": provider,
                "details": {"hasAccess": True, "models": ["scripted-large", "scripted-small"]},
            }
        assert (await client.get(PATH)).json() == {"data": []}


@pytest.mark.parametrize(("status", "valid"), [(401, False), (403, False), (402, True)])
async def test_a_refused_key_is_an_answer(stack: Stack, status: int, valid: bool) -> None:
    async with await client_of(stack) as client:
        answer = await validated(client, f"sk-refused-with-{status}")

    assert answer.status_code == 200, answer.text
    details = {"hasAccess": False, "models": []}
    assert answer.json() == {"valid": valid, "provider": "anthropic", "details": details}


@pytest.mark.parametrize(("status", "told"), [(429, 429), (500, 502), (503, 503)])
async def test_a_provider_that_does_not_say_is_an_error_and_nothing_of_the_brokers(
    stack: Stack, status: int, told: int
) -> None:
    async with await client_of(stack) as client, await client_of(stack) as other:
        answer = await validated(client, f"sk-refused-with-{status}")
        after = await asked(other)

    assert answer.status_code == told, answer.text
    assert "valid" not in answer.json()
    assert "sk-refused" not in answer.text
    assert after.status_code == 200


async def test_a_check_is_charged_nothing(stack: Stack) -> None:
    account = an_account()
    async with await client_of(stack, account) as client:
        await validated(client, CANARY)

    async def is_settled() -> bool:
        return bool(await rows(stack, query, account=account))

    query = "SELECT * FROM usage WHERE account_id = :account"
    await eventually(is_settled, "check in the ledger")
    [row] = await rows(stack, query, account=account)
    assert (row["kind"], row["credential_id"], row["outcome"]) == (
        "credential_check",
        "candidate",
        "succeeded",
    )
    charged = ("cost_micro_usd", "billed_micro_usd", "prompt_tokens", "completion_tokens")
    assert [row[name] for name in charged] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"apiKey": CANARY}, 422),
        ({"provider": "openai"}, 422),
        ({"provider": "openai", "apiKey": CANARY, "name": "x"}, 422),
        ({"provider": "openai", "apiKey": f"{CANARY}\r\nx: y"}, 422),
        ({"provider": "nobody", "apiKey": CANARY}, 404),
        ({"provider": "perplexity", "apiKey": CANARY}, 400),
    ],
)
async def test_what_cannot_be_checked_is_refused_and_not_repeated(
    stack: Stack, body: dict[str, Any], status: int
) -> None:
    async with await client_of(stack) as client:
        answer = await client.post(f"{PATH}/validate", json=body)

    assert answer.status_code == status, answer.text
    assert "canary" not in answer.text


@pytest.mark.parametrize("role", [Role.MEMBER, Role.VIEWER, Role.SERVICE])
async def test_only_who_may_store_keys_may_try_them(stack: Stack, role: Role) -> None:
    async with await client_of(stack, role=role) as client:
        assert (await validated(client, CANARY)).status_code == 403


async def test_the_key_is_nowhere_but_in_the_call(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack()
    async with await client_of(stack) as client, await client_of(stack) as other:
        view = await stored(client)
        listed = await client.get(PATH)
        validated = await client.post(f"{PATH}/validate", json={"provider": "anthropic", "apiKey": CANARY})
        streamed = await client.post(
            CHAT, json={"model": "anthropic/claude-haiku-4-5", "messages": HELLO, "stream": True}
        )
        answered = await asked(client)
        foreign = await other.get(f"{PATH}/{view['id']}")
        wrong = await client.post(PATH, json={"provider": "nobody", "apiKey": CANARY, "name": CANARY[:3]})
        usage = await client.get("/api/v1/usage/jobs")

    said = [listed, validated, streamed, answered, foreign, wrong, usage]
    assert validated.status_code == 200
    assert streamed.status_code == answered.status_code == 200
    assert not [answer.text for answer in said if CANARY in answer.text]
    assert not [name for name, output in stack.logs().items() if CANARY in output]
    assert CANARY not in str([await rows(stack, f"SELECT * FROM {table}") for table in TABLES])  # noqa: S608 - the test's own words
    found = await everything_in(stack.redis.url)
    assert len(found) > 5
    assert view["id"].encode() in found
    assert CANARY.encode() not in found
    assert CANARY in await keys_seen(stack)


TABLES = ("account", "api_key", "provider_credential", "usage", "usage_attempt", "audit_event")


async def everything_in(url: str) -> bytes:
    """Every key of a Redis with what it holds, and not as a dump: those may be compressed."""
    readers: dict[bytes, tuple[Any, ...]] = {
        b"string": ("GET",),
        b"hash": ("HGETALL",),
        b"stream": ("XRANGE", "-", "+"),
        b"zset": ("ZRANGE", 0, -1),
        b"set": ("SMEMBERS",),
        b"list": ("LRANGE", 0, -1),
    }
    link = open_link(url, timeout=5)
    parts = []
    try:
        for key in await link.execute("KEYS", "*"):
            command, *rest = readers[(await link.execute("TYPE", key))]
            parts.append(key + repr(await link.execute(command, key, *rest)).encode())
    finally:
        await link.close()
    return b"\n".join(parts)
