"""`"model": "auto"`, and what an account prefers it to be, over real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared import keyspace
from shared.domain.job import FallbackOn, Job, Target
from shared.ids import AccountId, JobId
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack, start_apart
from tests.integration.queue.support import open_link

ROUTING = """
[routes.house]
targets = ["anthropic/claude-haiku-4-5", "openai/gpt-4o-mini"]
"""
HELLO = [{"role": "user", "content": "Hello"}]
PATH = "/api/v1/preferences"
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/messages": {"messages": HELLO, "max_tokens": 50},
    "/v1/responses": {"input": "Hello"},
    "/v1/completions": {"prompt": "Hello"},
    "/api/v1/chat": {"messages": HELLO},
    "/generate-text": {"prompt": "Hello"},
    "/summarize": {"text": "Hello"},
}
MINI, HAIKU = Target("openai", "gpt-4o-mini"), Target("anthropic", "claude-haiku-4-5")
DEFAULT = Target("openai", "gpt-4o")


@pytest.fixture(scope="module")
def stack(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    path = tmp_path_factory.mktemp("routing") / "routing.toml"
    path.write_text(ROUTING, encoding="utf-8")
    settings = {"HEADRACE_ROUTING_FILE": str(path), "OPENAI_MODEL": DEFAULT.model}
    broker = Stack(apis=2, schedulers=0, database_template=sqlite_template, settings=settings)
    start_apart(broker)
    yield broker
    broker.end_now()


@pytest.fixture
async def clients(stack: Stack) -> AsyncIterator[list[httpx.AsyncClient]]:
    """One for each api process; the account begins without a preference."""
    async with stack.client(stack.apis[0]) as first, stack.client(stack.apis[1]) as second:
        await first.delete(PATH)
        both = [first, second]
        for client in both:
            await leads_to(client, DEFAULT)
        yield both


async def answered_by(
    client: httpx.AsyncClient, *, path: str = "/v1/chat/completions", **body: Any
) -> Target:
    answer = await client.post(path, json={"model": "auto", **ASKED[path], **body})
    assert answer.status_code == 200, answer.text
    return Target(answer.headers["x-headrace-provider"], answer.headers["x-headrace-model"])


async def leads_to(client: httpx.AsyncClient, target: Target) -> None:
    """`auto` does, within seconds."""

    async def does() -> bool:
        return await answered_by(client) == target

    await eventually(does, f"auto is {target.model}", within=10)


async def prefer(client: httpx.AsyncClient, model: str, **more: Any) -> dict[str, Any]:
    answer = await client.put(PATH, json={"model": model, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_preference_is_read_as_it_was_stored(clients: list[httpx.AsyncClient]) -> None:
    first, second = clients
    assert (await first.get(PATH)).status_code == 404

    stored = await prefer(first, "gpt-4o-mini", fallback_models=["house"], fallback_on=["content_filter"])
    read = (await second.get(PATH)).json()
    replaced = await prefer(second, "house")

    assert read == stored
    assert stored.pop("updated_at")
    assert stored == {
        "model": "gpt-4o-mini",
        "fallback_models": ["house"],
        "fallback_on": ["content_filter"],
    }
    assert (replaced["fallback_models"], replaced["fallback_on"]) == ([], [])
    assert [(await first.delete(PATH)).status_code for _ in range(2)] == [204, 204]
    assert (await second.get(PATH)).status_code == 404


async def test_auto_is_the_default_until_the_account_prefers_and_then_in_every_process(
    clients: list[httpx.AsyncClient],
) -> None:
    first, second = clients

    for model, target in (("gpt-4o-mini", MINI), ("house", HAIKU)):
        await prefer(first, model)
        await leads_to(second, target)
        await leads_to(first, target)

    assert await answered_by(second, model="default") == HAIKU
    assert await answered_by(second, model="gpt-4o-mini") == MINI


@pytest.mark.parametrize("path", ASKED)
async def test_auto_is_a_model_on_every_surface(clients: list[httpx.AsyncClient], path: str) -> None:
    client, _ = clients
    assert await answered_by(client, path=path) == DEFAULT

    await prefer(client, "house")
    await leads_to(client, HAIKU)

    assert await answered_by(client, path=path) == HAIKU


async def test_fallbacks_are_the_preferences_unless_the_request_says(
    clients: list[httpx.AsyncClient], stack: Stack
) -> None:
    client, _ = clients
    await prefer(client, "gpt-4o-mini", fallback_models=["claude-haiku-4-5"], fallback_on=["context_length"])
    await leads_to(client, MINI)

    async def planned(**body: Any) -> Job:
        answer = await client.post("/v1/chat/completions", json={"model": "auto", "messages": HELLO, **body})
        job_id = JobId(answer.headers["x-headrace-job-id"])
        async with open_link(stack.redis.url) as link:
            header = await link.execute("HGET", keyspace.job(0, job_id), "header")
        return Job.from_wire(header, b"")

    preferred, own = await planned(), await planned(fallback_models=["gpt-4o"])

    assert preferred.plan == (MINI, HAIKU)
    assert preferred.fallback_on == {FallbackOn.CONTEXT_LENGTH}
    assert own.plan == (MINI, Target("openai", "gpt-4o"))


async def test_a_request_stays_the_same_when_the_preference_changes(
    clients: list[httpx.AsyncClient],
) -> None:
    client, _ = clients
    key = {"idempotency-key": "auto-1"}
    body = {"model": "auto", "messages": HELLO}
    before = await client.post("/v1/chat/completions", json=body, headers=key)
    await prefer(client, "house")
    await leads_to(client, HAIKU)

    after = await client.post("/v1/chat/completions", json=body, headers=key)

    assert after.status_code == 200, after.text
    assert after.headers["x-headrace-job-id"] == before.headers["x-headrace-job-id"]
    assert after.headers["x-headrace-model"] == DEFAULT.model


async def test_a_preference_is_of_one_account(clients: list[httpx.AsyncClient], stack: Stack) -> None:
    client, _ = clients
    await prefer(client, "house")
    await leads_to(client, HAIKU)

    key = await stack.new_api_key(AccountId("acc_somebody_else"))
    async with stack.client() as other:
        other.headers["authorization"] = f"Bearer {key}"
        read = await other.get(PATH)
        removed = await other.delete(PATH)
        target = await answered_by(other)

    assert (read.status_code, removed.status_code, target) == (404, 204, DEFAULT)
    assert (await client.get(PATH)).json()["model"] == "house"


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 422, "model"),
        ({"model": ""}, 422, "model"),
        ({"model": 7}, 422, "model"),
        ({"model": "gpt-4o", "colour": "red"}, 422, "colour"),
        ({"model": "gpt-4o", "fallback_models": None}, 422, "fallback_models"),
        ({"model": "gpt-4o", "fallback_models": ["gpt-4o"] * 9}, 422, "fallback_models"),
        ({"model": "gpt-4o", "fallback_on": ["rain"]}, 422, "fallback_on[0]"),
        ({"model": "auto"}, 422, "model"),
        ({"model": "hous"}, 404, "hous"),
        ({"model": "gpt-4o", "fallback_models": ["nobody-s"]}, 404, "nobody-s"),
    ],
)
async def test_what_cannot_be_preferred_is_refused_by_name(
    clients: list[httpx.AsyncClient], body: dict[str, Any], status: int, told: str
) -> None:
    client, _ = clients

    answer = await client.put(PATH, json=body)

    assert answer.status_code == status, answer.text
    assert told in answer.json()["error"]["message"]
    assert (await client.get(PATH)).status_code == 404


async def test_without_a_key_nothing_is_told(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.url, trust_env=False) as nobody:
        answers = [
            await nobody.get(PATH),
            await nobody.put(PATH, json={"model": "house"}),
            await nobody.delete(PATH),
        ]

    assert [answer.status_code for answer in answers] == [401, 401, 401]


async def test_a_vector_is_left_to_no_preference(clients: list[httpx.AsyncClient]) -> None:
    answer = await clients[0].post("/v1/embeddings", json={"model": "auto", "input": "Hello"})

    assert answer.status_code == 404
