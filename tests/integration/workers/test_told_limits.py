"""Limits that a provider tells, from the headers of its answer to the key that the api reads."""

from __future__ import annotations

import orjson

from shared import keyspace
from shared.providers import openai
from shared.providers.duties import rate_limits
from tests.fakes.provider import ScriptedProvider
from tests.integration.queue.support import Queue, a_job
from tests.integration.workers.support import a_worker

BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hello"}]}'


async def test_limits_of_the_last_answer_are_stored_for_the_api(
    queue: Queue, provider: ScriptedProvider
) -> None:
    async with a_worker(queue, provider.base_url) as worker:
        await worker.run(a_job(body=BODY))
        await worker.context.limits.store(queue.link)

    key = keyspace.limits("openai")
    stored = await queue.link.execute("GET", key)
    told = {limit.name: limit for limit in rate_limits(openai.PROFILE, stored)}
    assert (told["requests"].limit, told["requests"].remaining) == (10_000, 9_999)
    assert (told["tokens"].limit, told["tokens"].remaining) == (30_000_000, 29_999_990)
    assert 0 < int(await queue.link.execute("PTTL", key)) <= 600_000


async def test_limits_of_a_refusal_are_told_too_and_silence_writes_nothing(
    queue: Queue, provider: ScriptedProvider
) -> None:
    await provider.script({"status": 429, "headers": {"x-ratelimit-remaining-requests": "0"}})

    async with a_worker(queue, provider.base_url) as worker:
        await worker.context.limits.store(queue.link)
        assert await queue.link.execute("GET", keyspace.limits("openai")) is None
        await worker.run(a_job(body=BODY))
        await worker.context.limits.store(queue.link)

    stored = orjson.loads(await queue.link.execute("GET", keyspace.limits("openai")))
    assert stored["requests"]["remaining"] == 0
