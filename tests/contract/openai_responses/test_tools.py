"""Functions that the model calls, through the official OpenAI client."""

from __future__ import annotations

import json
from typing import cast

import openai
import pytest
from openai.types.responses import FunctionToolParam, ResponseInputItemParam

from tests.contract.openai_responses.conversation import (
    BOTH,
    TWO_CALLS,
    WEATHER,
    function_calls,
    hear,
    script,
)

pytestmark = pytest.mark.xdist_group("contract")


@pytest.mark.parametrize("model", BOTH)
def test_the_loop_of_call_and_output_closes(client: openai.OpenAI, model: str) -> None:
    conversation: list[ResponseInputItemParam] = [{"role": "user", "content": "Paris"}]
    first = client.responses.create(model=model, input=conversation, tools=[WEATHER])
    (call,) = function_calls(first)
    conversation += [
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"},
    ]

    second = client.responses.create(model=model, input=conversation, tools=[WEATHER])

    assert call.name == "get_weather"
    assert json.loads(call.arguments) == {"city": "Paris", "days": 1}
    assert first.output_text == ""
    assert second.output_text == "The tool said: 21 degrees"
    assert not function_calls(second)


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("stream", [False, True])
def test_functions_are_called_in_parallel(client: openai.OpenAI, model: str, stream: bool) -> None:
    said = script(tool_calls=TWO_CALLS)
    if stream:
        _, answer = hear(client.responses.create(model=model, input=said, tools=[WEATHER], stream=True))
    else:
        answer = client.responses.create(model=model, input=said, tools=[WEATHER], parallel_tool_calls=True)
    calls = function_calls(answer)

    assert [json.loads(call.arguments) for call in calls] == [call["arguments"] for call in TWO_CALLS]
    assert len({call.call_id for call in calls}) == len({call.id for call in calls}) == 2
    assert answer.parallel_tool_calls is True


@pytest.mark.parametrize("model", BOTH)
def test_outputs_of_parallel_calls_go_back_together(client: openai.OpenAI, model: str) -> None:
    said = script(tool_calls=TWO_CALLS)
    first = client.responses.create(model=model, input=said, tools=[WEATHER])
    one, two = function_calls(first)

    second = client.responses.create(
        model=model,
        previous_response_id=first.id,
        input=[
            {"type": "function_call_output", "call_id": one.call_id, "output": "21"},
            {
                "type": "function_call_output",
                "call_id": two.call_id,
                "output": [{"type": "input_text", "text": "22 degrees"}],
            },
        ],
        tools=[WEATHER],
    )

    # Anthropic's form has both results in one turn, and the scripted provider repeats all of it.
    assert second.output_text.startswith("The tool said: ")
    assert second.output_text.endswith("22 degrees")


@pytest.mark.parametrize("model", BOTH)
def test_a_named_function_none_and_only_allowed_ones(client: openai.OpenAI, model: str) -> None:
    other = cast("FunctionToolParam", {**WEATHER, "name": "get_tide"})
    named = client.responses.create(
        model=model,
        input="Paris",
        tools=[other, WEATHER],
        tool_choice={"type": "function", "name": "get_weather"},
    )
    none = client.responses.create(model=model, input="Paris", tools=[WEATHER], tool_choice="none")
    allowed = client.responses.create(
        model=model,
        input="Paris",
        tools=[other, WEATHER],
        tool_choice={
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "get_weather"}],
        },
    )

    assert [call.name for call in function_calls(named)] == ["get_weather"]
    assert not function_calls(none)
    assert none.output_text == "You said: Paris"
    assert [call.name for call in function_calls(allowed)] == ["get_weather"]
