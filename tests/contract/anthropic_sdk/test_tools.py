"""Tool calls, through the official Anthropic client."""

from __future__ import annotations

import anthropic
import pytest
from anthropic.types import MessageParam

from tests.contract.anthropic_sdk.conversation import (
    BOTH,
    ECHO,
    WEATHER,
    calls_of,
    echoed,
    say,
    script,
    text_of,
)

pytestmark = pytest.mark.xdist_group("contract")

PARIS = {"city": "Paris, 巴黎 🗼", "days": 3, "detail": {"hourly": True, "fields": ["rain", None]}}
ROME = {"city": "Rome", "days": 1}
TWO_CALLS = [{"name": "get_weather", "arguments": PARIS}, {"name": "get_weather", "arguments": ROME}]


@pytest.mark.parametrize("model", BOTH)
def test_an_offered_tool_is_called_and_its_result_goes_back(client: anthropic.Anthropic, model: str) -> None:
    first = client.messages.create(model=model, max_tokens=50, messages=say("Paris"), tools=[WEATHER])
    (call,) = calls_of(first)
    conversation: list[MessageParam] = [
        *say("Paris"),
        {"role": "assistant", "content": first.content},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}],
        },
    ]

    second = client.messages.create(model=model, max_tokens=50, messages=conversation, tools=[WEATHER])

    assert first.stop_reason == "tool_use"
    assert call.name == "get_weather"
    assert call.input == {"city": "Paris", "days": 1}
    assert text_of(second) == "The tool said: 21 degrees"
    assert second.stop_reason == "end_turn"


@pytest.mark.parametrize("model", BOTH)
def test_a_named_tool_is_chosen_and_no_tool_is_respected(client: anthropic.Anthropic, model: str) -> None:
    named = client.messages.create(
        model=model,
        max_tokens=50,
        messages=say("Paris"),
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
    )
    none = client.messages.create(
        model=model, max_tokens=50, messages=say("Paris"), tools=[WEATHER], tool_choice={"type": "none"}
    )

    assert calls_of(named)
    assert text_of(none) == "You said: Paris"


@pytest.mark.parametrize("model", BOTH)
def test_tools_are_called_in_parallel_plain_and_streamed(client: anthropic.Anthropic, model: str) -> None:
    messages = script(text="Let me look.", tool_calls=TWO_CALLS, split_writes=True)

    plain = client.messages.create(model=model, max_tokens=50, messages=messages, tools=[WEATHER])
    with client.messages.stream(model=model, max_tokens=50, messages=messages, tools=[WEATHER]) as stream:
        fragments = [event.partial_json for event in stream if event.type == "input_json"]
        streamed = stream.get_final_message()

    for message in (plain, streamed):
        assert [call.input for call in calls_of(message)] == [PARIS, ROME]
        assert len({call.id for call in calls_of(message)}) == 2
        assert message.content[0].type == "text"
        assert message.content[0].text == "Let me look."
        assert message.stop_reason == "tool_use"
    assert len(fragments) > 4


def test_results_of_parallel_calls_are_told_apart_by_the_other_dialect(client: anthropic.Anthropic) -> None:
    conversation: list[MessageParam] = [
        *say("Paris and Rome"),
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Paris"}},
                {"type": "tool_use", "id": "b", "name": "get_weather", "input": {"city": "Rome"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "21 degrees"},
                {
                    "type": "tool_result",
                    "tool_use_id": "b",
                    "is_error": True,
                    "content": [{"type": "text", "text": "no such city"}],
                },
                {"type": "text", "text": "Which is warmer?"},
            ],
        },
    ]

    received = echoed(
        client.messages.create(model=ECHO, max_tokens=50, messages=conversation, tools=[WEATHER])
    )

    assert received["body"]["messages"][2:] == [
        {"role": "tool", "tool_call_id": "a", "content": "21 degrees"},
        {"role": "tool", "tool_call_id": "b", "content": "Error: no such city"},
        {"role": "user", "content": "Which is warmer?"},
    ]
    assert received["body"]["tools"][0]["function"]["parameters"] == WEATHER["input_schema"]
