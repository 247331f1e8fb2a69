"""Row "wrong type, out of range, ..." of the bad-input matrix, for both chat routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from api.unified_v1.schemas import check_chat
from shared.errors import InvalidRequest
from shared.requests.chat import check_chat_completion

USER = {"role": "user", "content": "hello"}

Check = Callable[[Mapping[str, Any]], None]
both_routes = pytest.mark.parametrize("check", [check_chat_completion, check_chat])


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **fields}


def with_message(**message: Any) -> dict[str, Any]:
    return chat(messages=[USER, message])


@both_routes
@pytest.mark.parametrize(
    "body",
    [
        chat(),
        chat(temperature=0, top_p=1, n=128, seed=-1, max_tokens=1, max_completion_tokens=5, stop=["a"] * 4),
        chat(temperature=None, top_p=None, stop=None, tools=None, tool_choice=None, metadata=None),
        chat(stop="END", stream=True, stream_options={"include_usage": True}, logprobs=True, top_logprobs=20),
        chat(frequency_penalty=-2, presence_penalty=2.0, logit_bias={"50256": -100}, user="u", store=False),
        chat(reasoning_effort="max", verbosity="low", service_tier="flex", parallel_tool_calls=True),
        chat(metadata={"k" * 64: "v" * 512}),
        chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}], tool_choice="auto"),
        chat(
            tools=[{"type": "mcp", "server": "x"}],
            tool_choice={"type": "function", "function": {"name": "f"}},
        ),
        chat(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "s", "schema": {}, "strict": True},
            }
        ),
        chat(response_format={"type": "grammar", "grammar": "x"}),
        chat(unheard_of={"by": ["us"]}, transforms=["middle-out"]),
        chat(messages=[USER] * 10_000),
        with_message(role="system", content="s"),
        with_message(role="developer", content=[{"type": "text", "text": "s"}]),
        with_message(role="assistant", content="s", name=None),
        with_message(role="assistant", content=None, refusal="no"),
        with_message(role="assistant", content=None, audio={"id": "audio_1"}),
        with_message(
            role="assistant",
            tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        ),
        with_message(role="tool", tool_call_id="c", content="s"),
        with_message(role="function", name="f", content=None),
        with_message(
            role="user", content=[{"type": "image_url", "image_url": {"url": "https://x", "detail": "low"}}]
        ),
        with_message(
            role="user", content=[{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]
        ),
        with_message(role="user", content=[{"type": "file", "file": {"file_id": "f"}}]),
        with_message(role="user", content=[{"type": "hologram", "anything": 1}]),
    ],
)
def test_a_request_clients_send_passes(check: Check, body: dict[str, Any]) -> None:
    check(body)


@both_routes
@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"messages": [USER]}, "model"),
        ({"model": "m"}, "messages"),
        (chat(model=""), "model"),
        (chat(model="a\nb"), "model"),
        (chat(model=5), "model"),
        (chat(messages=[]), "messages"),
        (chat(messages=[USER] * 10_001), "messages"),
        (chat(messages="hello"), "messages"),
        (chat(messages=None), "messages"),
        (chat(messages=["hello"]), "messages[0]"),
        (with_message(role="wizard", content="s"), "messages[1].role"),
        (with_message(content="s"), "messages[1].role"),
        (with_message(role="user"), "messages[1].content"),
        (with_message(role="user", content=5), "messages[1].content"),
        (with_message(role="user", content=None), "messages[1].content"),
        (with_message(role="user", content=[]), "messages[1].content"),
        (with_message(role="user", content=["s"]), "messages[1].content[0]"),
        (with_message(role="user", content=[{"text": "s"}]), "messages[1].content[0].type"),
        (with_message(role="user", content=[{"type": "text"}]), "messages[1].content[0].text"),
        (
            with_message(role="user", content=[{"type": "image_url", "image_url": {}}]),
            "messages[1].content[0].image_url.url",
        ),
        (with_message(role="assistant"), "messages[1]"),
        (with_message(role="assistant", content=None, tool_calls=[]), "messages[1]"),
        (
            with_message(
                role="assistant", tool_calls=[{"id": "c", "function": {"name": "f", "arguments": {}}}]
            ),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (with_message(role="tool", content="s"), "messages[1].tool_call_id"),
        (with_message(role="function", content="s"), "messages[1].name"),
        (chat(temperature=2.1), "temperature"),
        (chat(temperature=-0.1), "temperature"),
        (chat(temperature="1"), "temperature"),
        (chat(temperature=True), "temperature"),
        (chat(top_p=1.1), "top_p"),
        (chat(n=0), "n"),
        (chat(n=129), "n"),
        (chat(stop=["a"] * 5), "stop"),
        (chat(stop=5), "stop"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(max_completion_tokens=0.5), "max_completion_tokens"),
        (chat(frequency_penalty=2.5), "frequency_penalty"),
        (chat(presence_penalty=-2.5), "presence_penalty"),
        (chat(top_logprobs=21), "top_logprobs"),
        (chat(logit_bias={"a": 101}), "logit_bias.a"),
        (chat(stream="yes"), "stream"),
        (chat(stream_options=[]), "stream_options"),
        (chat(tools=[{"type": "function"}]), "tools[0]"),
        (chat(tools=[{"type": "function", "function": {}}]), "tools[0].function.name"),
        (chat(tool_choice="sometimes"), "tool_choice"),
        (chat(tool_choice={}), "tool_choice.type"),
        (chat(response_format={"type": "json_schema"}), "response_format"),
        (chat(metadata={str(n): "" for n in range(17)}), "metadata"),
        (chat(metadata={"a": 1}), "metadata.a"),
        (chat(metadata={"a": "v" * 513}), "metadata.a"),
    ],
)
def test_a_field_of_the_wrong_type_or_range_is_named(check: Check, body: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check(body)

    assert (refusal.value.status, refusal.value.param) == (422, path)


@both_routes
def test_a_refusal_repeats_no_value_of_the_caller(check: Check) -> None:
    body = chat(temperature="SECRET", stop={"SECRET": 1}, messages=[{"role": "SECRET", "content": "SECRET"}])

    with pytest.raises(InvalidRequest) as refusal:
        check(body)

    assert "SECRET" not in f"{refusal.value.message} {refusal.value.details}"


@both_routes
def test_at_most_ten_problems_are_told(check: Check) -> None:
    wrong = ("temperature", "top_p", "n", "stream", "seed", "store", "user", "stop", "logprobs", "tools")
    body = chat(**dict.fromkeys((*wrong, "verbosity", "service_tier"), 999.5))

    with pytest.raises(InvalidRequest) as refusal:
        check(body)

    assert len(refusal.value.details["errors"]) == 10
    assert "(11 more)" in refusal.value.message


def test_the_unified_route_refuses_a_provider_that_is_no_name() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check_chat(chat(provider="../etc"))

    assert refusal.value.param == "provider"


def test_the_body_that_was_checked_is_not_changed() -> None:
    body = chat(temperature=1, unknown={"a": [1]})
    before = repr(body)

    check_chat_completion(body)

    assert repr(body) == before
