"""A hundred calls of every kind at once, through the official OpenAI client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import openai
import pytest

from tests.contract.openai_sdk.conversation import (
    ANTHROPIC,
    OPENAI,
    WEATHER,
    Heard,
    hear,
    hear_async,
    say,
    script,
)

pytestmark = pytest.mark.xdist_group("contract")

Call = Callable[[openai.AsyncOpenAI, int], Awaitable[None]]


async def plain(client: openai.AsyncOpenAI, number: int) -> None:
    answer = await client.chat.completions.create(model=OPENAI, messages=say(f"plain {number}"))
    assert answer.choices[0].message.content == f"You said: plain {number}"


async def streamed(client: openai.AsyncOpenAI, number: int) -> None:
    stream = await client.chat.completions.create(
        model=OPENAI, messages=say(f"streamed {number} 🗼"), stream=True
    )
    assert (await hear_async(stream)).text == f"You said: streamed {number} 🗼"


async def streamed_by_the_other(client: openai.AsyncOpenAI, number: int) -> None:
    stream = await client.chat.completions.create(
        model=ANTHROPIC, messages=say(f"other {number}"), stream=True
    )
    assert (await hear_async(stream)).text == f"You said: other {number}"


async def tool_called(client: openai.AsyncOpenAI, number: int) -> None:
    stream = await client.chat.completions.create(
        model=ANTHROPIC, messages=say(f"city {number}"), tools=[WEATHER], stream=True
    )
    (call,) = (await hear_async(stream)).tool_calls.values()
    assert json.loads(call["arguments"])["city"] == f"city {number}"


async def invalid(client: openai.AsyncOpenAI, number: int) -> None:
    with pytest.raises(openai.UnprocessableEntityError):
        await client.chat.completions.create(
            model=OPENAI, messages=say("?"), extra_body={"top_p": number + 2}
        )


async def rejected(client: openai.AsyncOpenAI, number: int) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await client.chat.completions.create(
            model=OPENAI, messages=script(status=400, error_message=f"bad {number}")
        )
    assert f"bad {number}" in raised.value.message


async def broken_in_mid_stream(client: openai.AsyncOpenAI, number: int) -> None:
    heard = Heard()
    stream = await client.chat.completions.create(
        model=OPENAI, messages=script(text=f"{number} and so on", error_in_stream=1), stream=True
    )
    with pytest.raises(openai.APIError):
        await hear_async(stream, heard)
    assert heard.text == str(number)


async def unknown(client: openai.AsyncOpenAI, number: int) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model=f"nobody-s-{number}", messages=say("?"))


KINDS: list[Call] = [
    plain,
    streamed,
    streamed_by_the_other,
    tool_called,
    invalid,
    rejected,
    broken_in_mid_stream,
    unknown,
]


async def test_a_hundred_calls_of_every_kind_at_once_get_each_their_own_answer(
    async_client: openai.AsyncOpenAI,
) -> None:
    calls = [kind(async_client, number) for number, kind in enumerate(islice(cycle(KINDS), 100))]

    outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert [outcome for outcome in outcomes if outcome is not None] == []


def test_threads_share_one_synchronous_client(client: openai.OpenAI) -> None:
    def call(number: int) -> str:
        if number % 2:
            messages = say(f"thread {number}")
            return hear(client.chat.completions.create(model=OPENAI, messages=messages, stream=True)).text
        answer = client.chat.completions.create(model=OPENAI, messages=say(f"thread {number}"))
        return answer.choices[0].message.content or ""

    with ThreadPoolExecutor(max_workers=10) as threads:
        texts = list(threads.map(call, range(40)))

    assert texts == [f"You said: thread {number}" for number in range(40)]
