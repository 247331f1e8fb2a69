"""A server that may evict queued jobs is told of, and no api process in front of it calls itself ready."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from api.main import create_app
from shared.queue import eviction
from shared.queue.eviction import EvictionWatch, policy_of
from shared.queue.redis_link import RedisLink
from shared.settings import Settings
from tests.fakes.redis_server import RedisServer
from tests.integration.queue.support import open_link
from tests.unit.observability.log_lines import captured


@pytest.fixture
async def link(private_redis: RedisServer) -> AsyncIterator[RedisLink]:
    async with open_link(private_redis.url) as link:
        yield link


async def set_policy(link: RedisLink, policy: str) -> None:
    await link.execute("CONFIG", "SET", "maxmemory-policy", policy)


async def test_the_policy_is_what_the_server_says(link: RedisLink) -> None:
    assert await policy_of(link) == "noeviction"

    await set_policy(link, "allkeys-lru")

    assert await policy_of(link) == "allkeys-lru"


async def test_a_server_that_refuses_config_is_taken_at_its_word() -> None:
    server = RedisServer(appendonly=False, options=("--rename-command", "CONFIG", ""))
    server.start()
    try:
        async with open_link(server.url) as link:
            assert await policy_of(link) is None
            assert await EvictionWatch(link).complaint() is None
    finally:
        server.stop(forget=True)


async def test_the_server_is_looked_at_once_in_a_while_and_one_error_is_logged(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_policy(link, "allkeys-lru")
    watch = EvictionWatch(link)
    with captured() as lines:
        assert "'allkeys-lru'" in str(await watch.complaint())
        await set_policy(link, "noeviction")
        assert "'allkeys-lru'" in str(await watch.complaint())

        monkeypatch.setattr(eviction, "LOOK_SECONDS", 0.0)
        assert await watch.complaint() is None

    assert [line["level"] for line in lines.events()] == ["ERROR"]


async def test_an_api_in_front_of_a_server_that_evicts_called_itself_ready(
    private_redis: RedisServer, link: RedisLink, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_policy(link, "allkeys-lru")
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    served, app = create_app(Settings(), private_redis.url, b"p" * 48)

    async def ready() -> tuple[int, dict[str, Any]]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=served), base_url="http://localhost"
        ) as client:
            answer = await client.get("/health/ready")
            return answer.status_code, answer.json()

    with captured() as lines:
        async with app.router.lifespan_context(app):
            said = [line for line in lines.events() if line["event"] == "redis evicts"]
            status, view = await ready()
            await set_policy(link, "noeviction")
            monkeypatch.setattr(eviction, "LOOK_SECONDS", 0.0)
            mended = await ready()

    assert [line["level"] for line in said] == ["ERROR"]
    assert (status, view["status"], view["redis"]) == (503, "unavailable", "evicts")
    assert "maxmemory-policy is 'allkeys-lru'" in view["reason"]
    assert "maxmemory is 0" in view["reason"]
    assert (mended[0], mended[1]["redis"]) == (200, "connected")
