"""Tool calls, through the official OpenAI client."""

from __future__ import annotations

import json

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.contract.openai_sdk.conversation import BOTH, WEATHER, function_calls, hear, say, script

pytestmark = pytest.mark.xdist_group("contract")

PARIS = {"city": "Paris, 巴黎 🗼", "days": 3, "detail": {"hourly": True, "fields": ["rain", None]}}
ROME = {"city": "Rome", "days": 1}
TWO_CALLS = [{"name": "get_weather", "arguments": PARIS}, {"name": "get_weather", "arguments": ROME}]


@pytest.mark.parametrize("model", BOTH)
def test_an_offered_tool_is_called(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=say("Paris"), tools=[WEATHER])

    (call,) = function_calls(answer)
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris", "days": 1}
    assert call.id
    assert answer.choices[0].message.content is None
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("model", BOTH)
def test_the_result_of_a_tool_goes_back_to_the_model(client: openai.OpenAI, model: str) -> None:
    first = client.chat.completions.create(model=model, messages=say("Paris"), tools=[WEATHER])
    (call,) = function_calls(first)
    conversation: list[ChatCompletionMessageParam] = [
        *say("Paris"),
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"},
    ]

    second = client.chat.completions.create(model=model, messages=conversation, tools=[WEATHER])

    assert second.choices[0].message.content == "The tool said: 21 degrees"
    assert second.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("model", BOTH)
def test_a_named_tool_is_chosen_and_no_tool_is_respected(client: openai.OpenAI, model: str) -> None:
    named = client.chat.completions.create(
        model=model,
        messages=say("Paris"),
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )
    none = client.chat.completions.create(
        model=model, messages=say("Paris"), tools=[WEATHER], tool_choice="none"
    )

    assert named.choices[0].message.tool_calls
    assert not none.choices[0].message.tool_calls
    assert none.choices[0].message.content == "You said: Paris"


@pytest.mark.parametrize("model", BOTH)
def test_tools_are_called_in_parallel(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=script(tool_calls=TWO_CALLS), tools=[WEATHER], parallel_tool_calls=True
    )

    calls = function_calls(answer)
    assert [json.loads(call.function.arguments) for call in calls] == [PARIS, ROME]
    assert len({call.id for call in calls}) == 2


@pytest.mark.parametrize("model", BOTH)
def test_streamed_fragments_make_the_same_calls(client: openai.OpenAI, model: str) -> None:
    heard = hear(
        client.chat.completions.create(
            model=model,
            messages=script(tool_calls=TWO_CALLS, split_writes=True),
            tools=[WEATHER],
            stream=True,
        )
    )

    assert [json.loads(call["arguments"]) for call in heard.tool_calls.values()] == [PARIS, ROME]
    assert [call["name"] for call in heard.tool_calls.values()] == ["get_weather"] * 2
    assert len({call["id"] for call in heard.tool_calls.values()}) == 2
    assert list(heard.tool_calls) == [0, 1]
    assert heard.argument_fragments > 4
    assert heard.finish_reason == "tool_calls"
    assert heard.text == ""


@pytest.mark.parametrize("model", BOTH)
def test_text_and_a_tool_call_stand_side_by_side(client: openai.OpenAI, model: str) -> None:
    messages = script(text="Let me look.", tool_calls=TWO_CALLS[:1])

    plain = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])
    heard = hear(client.chat.completions.create(model=model, messages=messages, tools=[WEATHER], stream=True))

    assert plain.choices[0].message.content == heard.text == "Let me look."
    assert json.loads(heard.tool_calls[0]["arguments"]) == PARIS
