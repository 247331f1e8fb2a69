"""OpenAI's official client against the scripted provider."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.chat import (
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionMessageParam,
    ChatCompletionToolParam,
)

from tests.fakes.provider import ScriptedProvider

WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
TWO_CALLS = [{"name": "a", "arguments": {"x": "é" * 10}}, {"name": "b", "arguments": {}}]


@pytest.fixture
async def client(provider: ScriptedProvider) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as client:
        yield client


def user(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


async def test_a_plain_call_is_answered_with_what_the_user_said(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="m", messages=user("hello 😀"))

    assert reply.choices[0].message.content == "You said: hello 😀"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "m"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (2, 5)
    assert reply._request_id is not None
    assert reply.id == f"chatcmpl-{reply._request_id.removeprefix('req_')}"


async def test_the_id_carries_the_job(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model="m", messages=user("hi"), extra_headers={"x-headrace-job-id": "job_1"}
    )

    assert reply.id == "chatcmpl-job_1"


async def test_a_stream_keeps_characters_whole_and_reports_usage_when_asked(
    client: openai.AsyncOpenAI,
) -> None:
    text = "wörld 😀 你好 " * 5
    stream = await client.chat.completions.create(
        model="m", messages=user(text), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == f"You said: {text}"
    assert len(said) > 10
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == -(-len(f"You said: {text}") // 4)
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_reports_no_usage_unasked(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="m", messages=user("hi"), stream=True)

    assert [chunk.usage async for chunk in stream if chunk.usage] == []


async def test_an_offered_tool_is_called_and_its_result_ends_the_calling(client: openai.AsyncOpenAI) -> None:
    asked = user("Rome")
    first = await client.chat.completions.create(model="m", messages=asked, tools=[WEATHER])
    assert first.choices[0].message.tool_calls is not None
    call = first.choices[0].message.tool_calls[0]
    assert call.type == "function"
    called: ChatCompletionMessageFunctionToolCallParam = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": call.function.arguments},
    }
    second = await client.chat.completions.create(
        model="m",
        messages=[
            *asked,
            {"role": "assistant", "tool_calls": [called]},
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ],
        tools=[WEATHER],
    )

    assert first.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Rome", "days": 1}
    assert second.choices[0].message.content == "The tool said: sunny"


async def test_parallel_tool_calls_stream_in_fragments(
    client: openai.AsyncOpenAI, provider: ScriptedProvider
) -> None:
    await provider.script({"tool_calls": TWO_CALLS})
    stream = await client.chat.completions.create(model="m", messages=user("hi"), stream=True)
    names: dict[int, str] = {}
    arguments: dict[int, list[str]] = {0: [], 1: []}
    finish: Any = None
    async for chunk in stream:
        finish = chunk.choices[0].finish_reason or finish
        for part in chunk.choices[0].delta.tool_calls or []:
            assert part.function is not None
            if part.function.name:
                names[part.index] = part.function.name
            arguments[part.index].append(part.function.arguments or "")

    assert names == {0: "a", 1: "b"}
    assert len(arguments[0]) > 2
    assert [json.loads("".join(arguments[i])) for i in (0, 1)] == [{"x": "é" * 10}, {}]
    assert finish == "tool_calls"


async def test_parallel_tool_calls_come_in_one_message(
    client: openai.AsyncOpenAI, provider: ScriptedProvider
) -> None:
    await provider.script({"tool_calls": TWO_CALLS})
    reply = await client.chat.completions.create(model="m", messages=user("hi"))

    calls = reply.choices[0].message.tool_calls
    assert calls is not None
    assert [call.function.name for call in calls if call.type == "function"] == ["a", "b"]
    assert reply.choices[0].message.content is None


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
async def test_a_status_is_raised_as_the_clients_own_error(
    client: openai.AsyncOpenAI, provider: ScriptedProvider, status: int, error: type[openai.APIStatusError]
) -> None:
    await provider.script({"status": status, "error_message": "as scripted", "error_code": "some_code"})

    with pytest.raises(error, match="as scripted") as raised:
        await client.chat.completions.create(model="m", messages=user("hi"), stream=True)

    assert raised.value.code == "some_code"
    assert raised.value.type


async def test_an_error_in_the_stream_is_raised_after_the_chunks_before_it(
    client: openai.AsyncOpenAI, provider: ScriptedProvider
) -> None:
    await provider.script({"chunks": 9, "error_in_stream": 2, "error_message": "lost it"})
    stream = await client.chat.completions.create(model="m", messages=user("hi"), stream=True)
    said: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            said.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - what came before the error counts

    with pytest.raises(openai.APIError, match="lost it"):
        await read()
    assert said == ["", "tick ", "tick "]


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    models = [model.id async for model in await client.models.list()]

    assert models == ["scripted-large", "scripted-small"]
    assert (await client.models.retrieve("org/any")).id


async def test_a_body_without_messages_is_refused_by_name(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await client.chat.completions.create(model="m", messages=[])

    assert raised.value.param == "messages"
