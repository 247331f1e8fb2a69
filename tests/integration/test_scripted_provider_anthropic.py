"""Anthropic's official client against the scripted provider."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam

from tests.fakes.provider import ScriptedProvider

WEATHER: ToolParam = {
    "name": "get_weather",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
    },
}
TWO_CALLS = [{"name": "a", "arguments": {"x": "é" * 10}}, {"name": "b", "arguments": {}}]


@pytest.fixture
async def client(provider: ScriptedProvider) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=provider.url, api_key="k", max_retries=0) as client:
        yield client


def user(text: str) -> list[MessageParam]:
    return [{"role": "user", "content": text}]


async def test_a_plain_call_is_answered_with_what_the_user_said(client: anthropic.AsyncAnthropic) -> None:
    reply = await client.messages.create(
        model="m", max_tokens=9, system="Be brief.", messages=user("hello 😀")
    )

    assert [block.text for block in reply.content if block.type == "text"] == ["You said: hello 😀"]
    assert reply.stop_reason == "end_turn"
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (4, 5)
    assert reply._request_id is not None
    assert reply.id == f"msg_{reply._request_id.removeprefix('req_')}"


async def test_a_stream_sends_its_events_in_the_real_order(client: anthropic.AsyncAnthropic) -> None:
    stream = await client.messages.create(model="m", max_tokens=9, messages=user("one 😀"), stream=True)
    events = [event async for event in stream]

    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    last = events[-2]
    assert last.type == "message_delta"
    assert (last.delta.stop_reason, last.usage.output_tokens) == ("end_turn", 4)


async def test_the_clients_own_accumulator_agrees_with_the_plain_answer(
    client: anthropic.AsyncAnthropic,
) -> None:
    text = "wörld 😀 你好 " * 5
    async with client.messages.stream(model="m", max_tokens=9, messages=user(text)) as stream:
        streamed = await stream.get_final_message()
    plain = await client.messages.create(model="m", max_tokens=9, messages=user(text))

    assert streamed.content[0].type == plain.content[0].type == "text"
    assert streamed.content[0].text == plain.content[0].text == f"You said: {text}"
    assert streamed.usage.output_tokens == plain.usage.output_tokens


async def test_parallel_tool_uses_stream_as_json_fragments(
    client: anthropic.AsyncAnthropic, provider: ScriptedProvider
) -> None:
    await provider.script({"tool_calls": TWO_CALLS, "text": "Let me see."})
    async with client.messages.stream(model="m", max_tokens=9, messages=user("hi")) as stream:
        reply = await stream.get_final_message()

    assert [block.type for block in reply.content] == ["text", "tool_use", "tool_use"]
    assert [b.input for b in reply.content if b.type == "tool_use"] == [{"x": "é" * 10}, {}]
    assert reply.stop_reason == "tool_use"


async def test_an_offered_tool_is_called_and_its_result_ends_the_calling(
    client: anthropic.AsyncAnthropic,
) -> None:
    asked = user("Rome")
    first = await client.messages.create(model="m", max_tokens=9, messages=asked, tools=[WEATHER])
    call = first.content[0]
    assert call.type == "tool_use"
    result: MessageParam = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}],
    }
    second = await client.messages.create(
        model="m",
        max_tokens=9,
        messages=[*asked, {"role": "assistant", "content": first.content}, result],
        tools=[WEATHER],
    )

    assert call.input == {"city": "Rome", "unit": "C"}
    assert [block.text for block in second.content if block.type == "text"] == ["The tool said: sunny"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
async def test_a_status_comes_with_the_type_the_real_one_gives_it(
    client: anthropic.AsyncAnthropic, provider: ScriptedProvider, status: int, kind: str
) -> None:
    await provider.script({"status": status})

    with pytest.raises(anthropic.APIStatusError) as raised:
        await client.messages.create(model="m", max_tokens=9, messages=user("hi"))

    assert raised.value.status_code == status
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["error"]["type"] == kind
    assert raised.value.body["request_id"] == raised.value.request_id


async def test_an_error_event_is_raised_after_the_chunks_before_it(
    client: anthropic.AsyncAnthropic, provider: ScriptedProvider
) -> None:
    await provider.script({"chunks": 9, "error_in_stream": 2})
    stream = await client.messages.create(model="m", max_tokens=9, messages=user("hi"), stream=True)
    seen: list[str] = []

    async def read() -> None:
        async for event in stream:
            seen.append(event.type)  # noqa: PERF401 - what was seen before the error counts

    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        await read()
    assert seen.count("content_block_delta") == 2


async def test_models_are_listed_in_anthropics_form(client: anthropic.AsyncAnthropic) -> None:
    models = [model.id async for model in await client.models.list()]

    assert models == ["scripted-large", "scripted-small"]
