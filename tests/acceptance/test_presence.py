"""What an api process says of providers, by what the workers beside it serve."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from shared.providers.registry import BUILT_IN
from shared.queue.presence import Presence
from shared.settings import QueueSettings
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.integration.queue.support import open_link

NO_KEYS: dict[str, Any] = {
    **{name: "" for profile in BUILT_IN.values() for name in profile.key_variables},
    # Those need none, only an address.
    **{profile.base_url_variable: "" for profile in BUILT_IN.values() if profile.self_hosted},
}


def chat(provider: str = "openai") -> dict[str, Any]:
    model = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}[provider]
    return {"provider": provider, "model": model, "messages": [{"role": "user", "content": "hello"}]}


async def ask(client: httpx.AsyncClient, provider: str = "openai") -> httpx.Response:
    return await client.post("/api/v1/chat", json=chat(provider))


async def providers_of(client: httpx.AsyncClient) -> list[str]:
    health = (await client.get("/health")).json()
    found: list[str] = health["inference"]["providers"]
    return found


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    """No worker yet, and little patience."""
    settings = {"HEADRACE_QUEUE__UNSERVED_SECONDS": "3"}
    async with Stack(apis=1, workers=0, schedulers=0, settings=settings) as stack:
        yield stack


async def test_a_request_that_no_worker_can_serve_is_refused_at_once_until_one_comes(stack: Stack) -> None:
    async with stack.client() as client:

        async def refused() -> bool:
            # Before that it would wait for a worker, as it does while workers restart.
            try:
                return (await client.post("/api/v1/chat", json=chat(), timeout=0.3)).status_code == 503
            except httpx.ReadTimeout:
                return False

        await eventually(refused, "a refusal", within=10)
        refusal = await ask(client)
        error = refusal.json()["error"]
        assert (refusal.status_code, error["type"]) == (503, "overloaded_error")
        assert (refusal.headers["retry-after"], error["details"]["provider"]) == ("5", "openai")

        await stack.start_worker()

        async def answered() -> bool:
            return (await ask(client)).status_code == 200

        await eventually(answered, "an answer", within=10)


async def test_an_api_process_without_provider_keys_still_lists_models(stack: Stack) -> None:
    api = await stack.start_api(**NO_KEYS)
    async with stack.client(api) as client:
        models = (await client.get("/v1/models")).json()["data"]
        assert {model["owned_by"] for model in models} >= {"openai", "anthropic"}
        assert "openai" in await providers_of(client)


async def test_what_live_workers_serve_is_what_is_listed(stack: Stack) -> None:
    async with stack.client() as client, open_link(stack.redis.url) as link:
        assert await providers_of(client) == list(BUILT_IN)
        await Presence(link, QueueSettings()).announce(["anthropic"])

        async def listed() -> bool:
            return await providers_of(client) == ["anthropic"]

        await eventually(listed, "only anthropic listed", within=10)
        models = (await client.get("/v1/models")).json()["data"]
        assert {model["owned_by"] for model in models} == {"anthropic"}
        unknown = await client.post("/api/v1/chat", json={**chat(), "provider": "acme"})
        assert unknown.json()["error"]["details"]["available_providers"] == ["anthropic"]
