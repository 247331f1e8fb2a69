"""The official clients against the batches of the scripted provider, which so has the providers' own form."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import anthropic
import openai
import pytest

from tests.fakes.provider import ScriptedProvider


@pytest.fixture
async def fake(provider: ScriptedProvider) -> ScriptedProvider:
    await provider.clear()
    return provider


@pytest.fixture
async def gpt(fake: ScriptedProvider) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=fake.base_url, api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(fake: ScriptedProvider) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=fake.url, api_key="k", max_retries=0) as client:
        yield client


def lines(*texts: str) -> bytes:
    return b"\n".join(
        json.dumps(
            {
                "custom_id": text,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "m", "messages": [{"role": "user", "content": text}]},
            }
        ).encode()
        for text in texts
    )


async def test_openais_client_hands_over_asks_and_reads_what_came_out(
    fake: ScriptedProvider, gpt: openai.AsyncOpenAI
) -> None:
    await fake.script_batches(polls=1)
    file = await gpt.files.create(
        file=("in.jsonl", lines("a", '!script {"status": 400}\nb')), purpose="batch"
    )
    made = await gpt.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"night": "17"},
    )
    running = await gpt.batches.retrieve(made.id)
    ended = await gpt.batches.retrieve(made.id)
    listed = [batch.id async for batch in gpt.batches.list(limit=1)]
    assert ended.output_file_id is not None
    assert ended.error_file_id is not None
    answers = (await gpt.files.content(ended.output_file_id)).text
    errors = (await gpt.files.content(ended.error_file_id)).text

    assert [one.status for one in (made, running, ended)] == ["in_progress", "in_progress", "completed"]
    assert listed == [made.id]
    assert ended.metadata == {"night": "17"}
    assert json.loads(answers)["response"]["body"]["choices"][0]["message"]["content"] == "You said: a"
    assert json.loads(errors)["response"]["status_code"] == 400


async def test_pages_of_openais_list_follow_one_another(
    fake: ScriptedProvider, gpt: openai.AsyncOpenAI
) -> None:
    made = []
    for n in range(5):
        file = await gpt.files.create(file=("in.jsonl", lines(str(n))), purpose="batch")
        made.append(
            await gpt.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        )

    listed = [batch.id async for batch in gpt.batches.list(limit=2)]

    assert listed == [batch.id for batch in reversed(made)]


async def test_anthropics_client_hands_over_asks_and_reads_what_came_out(
    fake: ScriptedProvider, claude: anthropic.AsyncAnthropic
) -> None:
    await fake.script_batches(polls=1)
    made = await claude.messages.batches.create(
        requests=[
            {
                "custom_id": name,
                "params": {
                    "model": "m",
                    "max_tokens": 9,
                    "messages": [{"role": "user", "content": text}],
                },
            }
            for name, text in (("a", "Hello"), ("b", '!script {"status": 529}\nHello'))
        ]
    )
    running = await claude.messages.batches.retrieve(made.id)
    ended = await claude.messages.batches.retrieve(made.id)
    results = {one.custom_id: one.result async for one in await claude.messages.batches.results(made.id)}
    listed = [batch.id async for batch in claude.messages.batches.list(limit=1)]

    assert [one.processing_status for one in (made, running, ended)] == [
        "in_progress",
        "in_progress",
        "ended",
    ]
    assert (made.request_counts.processing, ended.request_counts.succeeded) == (2, 1)
    assert (results["a"].type, results["b"].type) == ("succeeded", "errored")
    assert listed == [made.id]


async def test_a_held_batch_of_either_runs_until_it_is_cancelled(
    fake: ScriptedProvider, gpt: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    await fake.script_batches(held=True)
    file = await gpt.files.create(file=("in.jsonl", lines("a")), purpose="batch")
    made = await gpt.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    cancelled = await gpt.batches.cancel(made.id)
    with pytest.raises(openai.ConflictError):
        await gpt.batches.cancel(made.id)
    other = openai.AsyncOpenAI(base_url=fake.base_url, api_key="another", max_retries=0)
    async with other:
        with pytest.raises(openai.NotFoundError):
            await other.batches.retrieve(made.id)

    assert cancelled.status == "cancelled"
