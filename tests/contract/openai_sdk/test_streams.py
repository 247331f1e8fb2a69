"""Streamed answers, through the official OpenAI client."""

from __future__ import annotations

import asyncio

import openai
import pytest

from tests.contract.broker import HEARTBEAT_SECONDS, HOLD_SECONDS
from tests.contract.openai_sdk.conversation import ANTHROPIC, BOTH, OPENAI, hear, hear_async, say, script

pytestmark = pytest.mark.xdist_group("contract")

EMOJI = "Fließend 水車 👩‍👩‍👧‍👦 🇩🇪 🏳️‍🌈 ✅ e\u0301 end"


@pytest.mark.parametrize("model", BOTH)
def test_a_stream_says_what_the_plain_answer_says(client: openai.OpenAI, model: str) -> None:
    plain = client.chat.completions.create(model=model, messages=say("one two three"))
    heard = hear(client.chat.completions.create(model=model, messages=say("one two three"), stream=True))

    assert heard.text == plain.choices[0].message.content == "You said: one two three"
    assert heard.finish_reason == plain.choices[0].finish_reason == "stop"
    assert heard.chunks > 3
    assert len(heard.ids) == len(heard.models) == 1


@pytest.mark.parametrize("model", BOTH)
async def test_the_asynchronous_client_hears_the_same(async_client: openai.AsyncOpenAI, model: str) -> None:
    stream = await async_client.chat.completions.create(model=model, messages=say("one two"), stream=True)

    assert (await hear_async(stream)).text == "You said: one two"


def test_both_dialects_of_providers_sound_alike(client: openai.OpenAI) -> None:
    ours, theirs = (
        hear(
            client.chat.completions.create(
                model=model, messages=say(EMOJI), stream=True, stream_options={"include_usage": True}
            )
        )
        for model in (OPENAI, ANTHROPIC)
    )

    assert ours.text == theirs.text
    assert ours.finish_reason == theirs.finish_reason
    assert [usage.total_tokens for usage in ours.usages] == [usage.total_tokens for usage in theirs.usages]


@pytest.mark.parametrize("model", BOTH)
def test_usage_comes_once_at_the_end_when_asked_for(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(
        model=model, messages=say("x" * 40), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)

    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 23


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("asked", [None, False])
def test_usage_stays_hidden_when_not_asked_for(client: openai.OpenAI, model: str, asked: bool | None) -> None:
    extra = {} if asked is None else {"stream_options": {"include_usage": asked}}

    chunks = list(
        client.chat.completions.create(model=model, messages=say("Hello"), stream=True, extra_body=extra)
    )

    assert not any(chunk.usage for chunk in chunks)
    assert all(chunk.choices for chunk in chunks), "a chunk without choices breaks who reads choices[0]"


@pytest.mark.parametrize("model", BOTH)
async def test_emoji_survive_being_cut_into_chunks_and_into_tcp_writes(
    async_client: openai.AsyncOpenAI, model: str
) -> None:
    async def heard(**cue: object) -> str:
        stream = await async_client.chat.completions.create(
            model=model, messages=script(text=EMOJI, **cue), stream=True
        )
        return (await hear_async(stream)).text

    texts = await asyncio.gather(
        heard(chunks=len(EMOJI)), heard(chunks=5), heard(chunks=9, split_writes=True)
    )

    assert list(texts) == [EMOJI] * 3


@pytest.mark.parametrize("model", BOTH)
def test_a_plain_answer_in_small_tcp_writes_is_whole(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=script(text=EMOJI, split_writes=True))

    assert answer.choices[0].message.content == EMOJI


async def test_heartbeats_before_and_between_events_break_nothing(async_client: openai.AsyncOpenAI) -> None:
    messages = script(
        text="one two three four",
        chunks=4,
        before_headers_ms=(HOLD_SECONDS + 3 * HEARTBEAT_SECONDS + 0.3) * 1000,
        between_chunks_ms=(HEARTBEAT_SECONDS + 0.25) * 1000,
    )

    async def decoded(model: str, headers: dict[str, str]) -> str:
        stream = await async_client.chat.completions.create(
            model=model, messages=messages, stream=True, extra_headers=headers
        )
        return (await hear_async(stream)).text

    async def as_sent(model: str, headers: dict[str, str]) -> list[str]:
        async with async_client.chat.completions.with_streaming_response.create(
            model=model, messages=messages, stream=True, extra_headers=headers
        ) as response:
            return [line async for line in response.iter_lines()]

    ways = [(model, headers) for model in BOTH for headers in ({}, {"x-stream-ids": "true"})]
    texts, wires = await asyncio.gather(
        asyncio.gather(*(decoded(*way) for way in ways)), asyncio.gather(*(as_sent(*way) for way in ways))
    )

    assert list(texts) == ["one two three four"] * len(ways)
    for (_, headers), lines in zip(ways, wires, strict=True):
        first_event = next(number for number, line in enumerate(lines) if line.startswith("data:"))
        assert ": ping" in lines[:first_event], "no heartbeat came before the first event"
        assert ": ping" in lines[first_event:], "no heartbeat came between events"
        assert any(line.startswith("id: job_") for line in lines) is bool(headers)
        assert lines[-2:] == ["data: [DONE]", ""]


@pytest.mark.parametrize("model", BOTH)
def test_a_stream_goes_on_behind_the_event_id_it_was_left_at(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=model, messages=say("one two three"), stream=True, extra_headers={"x-stream-ids": "true"}
    ) as response:
        lines = list(response.iter_lines())
    events = [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]

    whole = hear(client.chat.completions.create(
        model=model, messages=say("one two three"), stream=True,
        extra_headers={"last-event-id": events[0].partition(":")[0] + ":0"},
    ))  # fmt: skip
    rest = hear(client.chat.completions.create(
        model=model, messages=say("one two three"), stream=True, extra_headers={"last-event-id": events[2]}
    ))  # fmt: skip

    assert whole.text == "You said: one two three"
    assert rest.text
    assert rest.text != whole.text
    assert whole.text.endswith(rest.text)


def test_a_stream_that_is_closed_early_leaves_the_connection_usable(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model=OPENAI, messages=script(chunks=50, between_chunks_ms=50), stream=True
    ) as stream:
        next(iter(stream))

    answer = client.chat.completions.create(model=OPENAI, messages=say("Still there?"))

    assert answer.choices[0].message.content == "You said: Still there?"
