"""What workers find out of a provider is shown by the api."""

from __future__ import annotations

from typing import Any

import httpx

from shared.domain.conditions import BreakerState
from shared.queue.news import BreakerNews, News, PauseNews, tell
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.integration.queue.support import open_link


async def test_a_breaker_and_a_pause_are_shown_with_their_provider_and_exported(stack: Stack) -> None:
    news: list[News] = [
        BreakerNews("openai", "https://elsewhere.example:443", "default", BreakerState.OPEN, 30, "a worker"),
        PauseNews("openai", "default", 20),
    ]

    async with stack.client() as client, open_link(stack.redis.url) as link:
        await eventually(lambda: slots(client), "a worker that told its slots")
        await tell(link, news)
        shown = await eventually(lambda: unwell(client), "the breaker and the pause")
        exported = (await client.get("/metrics")).text

    assert shown["breaker"] == "open"
    assert 20 < shown["open_seconds"] <= 30
    assert 10 < shown["paused_seconds"] <= 20
    assert 'gateway_breaker_state{provider="openai"} 2.0' in exported


async def slots(client: httpx.AsyncClient) -> bool:
    lines = (await client.get("/metrics")).text.splitlines()
    return any(line.startswith('gateway_provider_slots{provider="openai"} ') for line in lines)


async def unwell(client: httpx.AsyncClient) -> dict[str, Any] | None:
    found: dict[str, Any] = (await client.get("/api/v1/providers/openai")).json()
    return found if found["breaker"] != "closed" and found["paused_seconds"] else None
