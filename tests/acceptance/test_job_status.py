"""A job's state, asked for by whoever sent it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import httpx

from tests.fakes.stack import Stack

CHAT = "/v1/chat/completions"


def say(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **more}


async def status_of(client: httpx.AsyncClient, answer: httpx.Response) -> dict[str, Any]:
    asked = await client.get(f"/api/v1/jobs/{answer.headers['x-headrace-job-id']}")
    assert asked.status_code == 200
    status: dict[str, Any] = asked.json()
    return status


async def test_a_job_tells_how_it_stands_and_how_it_ended(stack: Stack) -> None:
    async with stack.client() as client:
        slow = say('!script {"chunks": 50, "between_chunks_ms": 50}', stream=True)
        async with client.stream("POST", CHAT, json=slow) as stream:
            running = await status_of(client, stream)
        answered = await status_of(client, await client.post(CHAT, json=say("Hello")))
        cut = say('!script {"text": "one two three", "cut": "fin", "cut_after_chunks": 2}', stream=True)
        broken = await status_of(client, await client.post(CHAT, json=cut))

    assert (running["status"], running["queue_position"], running["finished_at"]) == ("running", None, None)
    assert (answered["status"], answered["provider"], answered["error"]) == ("succeeded", "openai", None)
    assert answered["failed_attempts"] == 0
    times = [datetime.fromisoformat(answered[name]) for name in ("created_at", "finished_at", "deadline_at")]
    assert times == sorted(times)
    assert (broken["status"], broken["error"]["code"]) == ("failed", "provider_unavailable")
    assert broken["error"]["message"]


async def test_what_is_no_job_of_the_caller_is_not_found(stack: Stack) -> None:
    async with stack.client() as client:
        for name in ("job_" + "0" * 32, "job_x", "..%2f"):
            missing = await client.get(f"/api/v1/jobs/{name}")
            assert missing.status_code == 404
            assert missing.json()["error"]["message"]
        client.headers["authorization"] = "Bearer nobody"
        assert (await client.get("/api/v1/jobs/job_" + "0" * 32)).status_code == 401
