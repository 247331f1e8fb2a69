"""The memory of Redis fills up: new work is refused in time, so that work accepted before can end."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import httpx
import pytest

from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.timeout(120)

MESSAGES: Final = [{"role": "user", "content": "Hello"}]
ASKS: Final[dict[str, dict[str, Any]]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/v1/responses": {"input": "Hello"},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/embeddings": {"input": "Hello"},
    "/api/v1/chat": {"provider": "openai", "messages": MESSAGES},
    "/generate-text": {"prompt": "Hello"},
}


async def test_near_full_memory_refuses_every_new_job_and_lets_running_ones_end(
    fresh_stack: FreshStack,
) -> None:
    broker = await fresh_stack()
    async with broker.client() as client:
        running = asyncio.create_task(_ask(client, "/v1/chat/completions", _slow()))
        await eventually(broker.calls, "the running job's call")
        broker.redis.fill_to(85)
        await eventually(lambda: broker.apis[0].events("redis memory"), "the api's notice")

        for path, body in ASKS.items():
            refusal = await _ask(client, path, body)
            assert (path, refusal.status_code) == (path, 503)
            assert "nearly full" in refusal.text
            assert path != "/v1/chat/completions" or refusal.json()["error"]["code"] == "queue_full"
            assert float(refusal.headers["retry-after"]) > 0
        # Nothing is lost even where it fills up to the brim meanwhile.
        broker.redis.call("CONFIG", "SET", "maxmemory", 1)
        assert (await running).status_code == 200

        broker.redis.call("CONFIG", "SET", "maxmemory", 0)
        await eventually(lambda: _is_served(client), "service once memory is free again")
    await eventually(lambda: _charged(broker, 2), "the charges of both")
    assert len(broker.calls()) == 2


async def _ask(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
    return await client.post(path, json={"model": "gpt-4o-mini", **body})


def _slow() -> dict[str, Any]:
    cue = json.dumps({"before_headers_ms": 4000})
    return {"messages": [{"role": "user", "content": f"!script {cue}\nHello"}]}


async def _is_served(client: httpx.AsyncClient) -> bool:
    return (await _ask(client, "/v1/chat/completions", {"messages": MESSAGES})).status_code == 200


async def _charged(broker: Stack, rows: int) -> bool:
    return len(await broker.ledger()) == rows
