"""An operator's names and prices, and what workers store of providers, as callers see them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared import keyspace
from shared.providers.model_lists import HealthRecord, ProviderStatus
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.integration.queue.support import open_link

CATALOGUE = """
[[model]]
id = "scripted-huge"
name = "Scripted Huge"
provider = "openai"
context_tokens = 10_000
max_output_tokens = 1_000
usd_per_million = { prompt = 1, completion = 2 }
capabilities = ["chat", "stream"]

[[alias]]
name = "fast"
model = "anthropic/scripted-small"
"""


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    file = tmp_path / "catalogue.toml"
    file.write_text(CATALOGUE, encoding="utf-8")
    settings = {"HEADRACE_CATALOGUE_FILE": str(file)}
    async with Stack(apis=1, workers=1, schedulers=0, settings=settings) as stack:
        yield stack


async def chat(client: httpx.AsyncClient, model: str) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_name_of_the_operator_is_listed_described_and_answered(stack: Stack) -> None:
    async with stack.client() as client:
        cards = {card["id"]: card for card in (await client.get("/v1/models")).json()["data"]}
        described = (await client.get("/v1/models/fast")).json()

        assert cards["fast"]["owned_by"] == described["owned_by"] == "anthropic"
        assert (await chat(client, "fast"))["model"] == "scripted-small"
        assert (await client.get("/api/v1/models")).json()["aliases"]["fast"] == "anthropic/scripted-small"
        (call,) = [call for call in await stack.provider.calls() if call.model == "scripted-small"]
        assert call.path.endswith("/messages")


async def test_a_model_of_the_operator_has_its_price(stack: Stack) -> None:
    async with stack.client() as client:
        body = {"model": "scripted-huge", "messages": [{"role": "user", "content": "Hello there, world"}]}
        estimate = (await client.post("/api/v1/estimate", json=body)).json()
        version = {"anthropic-version": "2023-06-01"}
        described = (await client.get("/v1/models/scripted-huge", headers=version)).json()

    tokens = estimate["prompt_tokens"]
    assert (estimate["low_micro_usd"], estimate["high_micro_usd"]) == (tokens, tokens + 2_000)
    assert (described["display_name"], described["max_tokens"]) == ("Scripted Huge", 1_000)


async def test_limits_and_health_that_workers_stored_are_told(stack: Stack) -> None:
    reset_at = time.time() + 60
    limits = {"tokens": {"limit": 1_000, "remaining": 0, "reset_at": reset_at}}
    away = HealthRecord(ProviderStatus.OFFLINE, time.time(), 12, "provider_unavailable")
    async with stack.client() as client, open_link(stack.redis.url) as link:
        await link.execute("SET", keyspace.limits("openai"), json.dumps(limits))

        async def status() -> bool:
            # The worker's own look at boot may come after this one.
            await link.execute("SET", keyspace.health("openai"), away.to_wire())
            health: dict[str, Any] = (await client.get("/api/v1/health")).json()
            return str(health["providers"]["openai"]) == "offline"

        await eventually(status, "the health of the provider", within=40)
        details = (await client.get("/api/v1/providers/openai")).json()
        health = (await client.get("/api/v1/health")).json()

    assert details["rate_limits"][0]["remaining"] == 0
    assert details["quota"]["status"] == "exhausted"
    assert details["quota"]["resets_at"]
    assert details["health"]["error"] == "provider_unavailable"
    assert health["status"] == "degraded"
