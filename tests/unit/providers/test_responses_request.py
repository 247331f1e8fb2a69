"""A Responses request, as the chat request that a provider gets."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.job import JobKind, Target
from shared.errors import InvalidRequest
from shared.providers.profile import ProviderProfile
from tests.unit.providers.support import ANTHROPIC, CLAUDE, GPT, OPENAI, VLLM, a_call

Fields = dict[str, Any]

LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":1}'}
MILL = {"name": "mill", "schema": {"type": "object"}, "strict": True}
ALLOWS_HEARING = {"type": "allowed_tools", "tools": [{"type": "function", "name": "hear"}]}
OTHER_CALL = {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "seen"}
HELLO = {"role": "user", "content": "Hello"}
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "encrypted_content": "gAAA",
    "summary": [{"type": "summary_text", "text": "Hm."}],
}


def asked(
    document: Fields, *, profile: ProviderProfile = OPENAI, target: Target = GPT, stream: bool = False
) -> Fields:
    call = a_call(profile, target, body=orjson.dumps({"input": "Hello", **document}), stream=stream)
    chat: Fields = orjson.loads(profile.codec(JobKind.RESPONSES).encode(call).body)
    return chat


def said(*items: Fields, profile: ProviderProfile = OPENAI) -> list[Fields]:
    messages: list[Fields] = asked({"input": list(items)}, profile=profile)["messages"]
    return messages


def refused(document: Fields, *, profile: ProviderProfile = OPENAI, target: Target = GPT) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        asked(document, profile=profile, target=target)
    assert caught.value.status == 400
    assert caught.value.code == "unsupported_parameter"
    return caught.value


def test_text_is_a_message_of_the_user_behind_the_instructions() -> None:
    assert asked({"instructions": "Be brief.", "stream": False}) == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    }


def test_a_stream_asks_for_usage_whatever_its_options_were() -> None:
    chat = asked({"stream": True, "stream_options": {"include_obfuscation": False}}, stream=True)

    assert chat["stream"] is True
    assert chat["stream_options"] == {"include_usage": True}


def test_calls_in_a_row_are_one_message_and_each_output_is_its_own() -> None:
    messages = said(HELLO, CALL, OTHER_CALL, OUTPUT, {**OUTPUT, "call_id": "c2"}, CALL)

    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["c1", "c2"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"a":1}'}
    assert messages[2] == {"role": "tool", "tool_call_id": "c1", "content": "seen"}


def test_calls_stand_in_the_message_whose_words_came_with_them() -> None:
    words = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Let me look."}],
    }

    (_, message, _) = said(HELLO, words, CALL, OUTPUT)

    assert message["content"] == "Let me look."
    assert [call["id"] for call in message["tool_calls"]] == ["c1"]


def test_words_and_refusals_of_the_model_go_back_in_their_own_fields() -> None:
    content = [
        {"type": "output_text", "text": "I ", "annotations": []},
        {"type": "output_text", "text": "see."},
        {"type": "refusal", "refusal": "But no."},
    ]

    (message,) = said({"role": "assistant", "content": content})

    assert message == {"role": "assistant", "content": "I see.", "refusal": "But no."}


def test_an_output_of_parts_keeps_its_picture() -> None:
    output = [
        {"type": "input_text", "text": "seen"},
        {"type": "input_image", "image_url": "https://a.example/b.png"},
    ]

    (_, message) = said(CALL, {**OUTPUT, "output": output})

    assert message["content"] == [
        {"type": "text", "text": "seen"},
        {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
    ]


@pytest.mark.parametrize("follows", [{"role": "assistant", "content": "Yes."}, CALL])
def test_reasoning_goes_back_to_who_reads_it_with_what_it_led_to(follows: Fields) -> None:
    (_, read) = said(HELLO, THOUGHT, follows, profile=VLLM)
    (_, not_read) = said(HELLO, THOUGHT, follows, profile=OPENAI)

    assert read["reasoning_content"] == "Hm."
    assert "reasoning_content" not in not_read
    assert "gAAA" not in str(read)


def test_reasoning_of_a_second_call_joins_that_of_the_first() -> None:
    more = {**THOUGHT, "content": [{"type": "reasoning_text", "text": "Again."}]}

    (_, message) = said(HELLO, THOUGHT, CALL, more, OTHER_CALL, profile=VLLM)

    assert message["reasoning_content"] == "Hm.Again."
    assert len(message["tool_calls"]) == 2


def test_reasoning_that_led_to_nothing_is_left_out() -> None:
    messages = said(THOUGHT, HELLO, {"role": "assistant", "content": "Yes."}, profile=VLLM)

    assert "Hm." not in str(messages)


def test_parameters_have_their_names_in_chat() -> None:
    chat = asked(
        {
            "max_output_tokens": 20,
            "temperature": 0.1,
            "top_p": 0.2,
            "text": {"format": {"type": "json_schema", **MILL}, "verbosity": "low"},
            "reasoning": {"effort": "low", "summary": "auto"},
            "top_logprobs": 3,
            "user": "u",
            "safety_identifier": "s",
            "service_tier": "flex",
            "prompt_cache_key": "k",
            "top_k": 7,
        }
    )

    del chat["messages"], chat["model"]
    assert chat == {
        "max_completion_tokens": 20,
        "temperature": 0.1,
        "top_p": 0.2,
        "response_format": {"type": "json_schema", "json_schema": MILL},
        "verbosity": "low",
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 3,
        "user": "u",
        "safety_identifier": "s",
        "service_tier": "flex",
        "prompt_cache_key": "k",
        "top_k": 7,
    }


def test_what_is_ours_to_keep_or_changes_nothing_is_not_sent() -> None:
    kept = {
        "store": True,
        "metadata": {"a": "b"},
        "previous_response_id": "resp_1",
        "max_tool_calls": 3,
        "truncation": "auto",
        "background": True,
        "conversation": None,
        "include": ["message.input_image.image_url"],
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}},
    }

    assert asked(kept).keys() == {"model", "messages"}


def test_tools_are_written_in_the_form_of_chat() -> None:
    tool = {**LOOK, "cache_control": {"type": "ephemeral"}, "output_schema": {}}
    chat = asked({"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False})

    assert chat["tools"] == [
        {
            "type": "function",
            "cache_control": {"type": "ephemeral"},
            "function": {"name": "look", "parameters": {"type": "object"}, "strict": True},
        }
    ]
    assert (chat["tool_choice"], chat["parallel_tool_calls"]) == ("required", False)


def test_a_named_function_is_chosen_in_the_form_of_chat() -> None:
    chat = asked({"tools": [LOOK], "tool_choice": {"type": "function", "name": "look"}})

    assert chat["tool_choice"] == {"type": "function", "function": {"name": "look"}}


def test_of_tools_only_the_allowed_ones_are_shown() -> None:
    allowed = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "look"}],
    }
    chat = asked({"tools": [{**LOOK, "name": "hear"}, LOOK], "tool_choice": allowed})

    assert [tool["function"]["name"] for tool in chat["tools"]] == ["look"]
    assert chat["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({"tools": [LOOK], "tool_choice": ALLOWS_HEARING}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": {"type": "allowed_tools", "tools": [{"name": []}]}}, "tool_choice"),
        ({"tools": [{**LOOK, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{**LOOK, "async": True}]}, "tools[0].async"),
        ({"tools": [LOOK, {"type": "custom", "name": "c"}]}, "tools[1]"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"input": [CALL, {**OUTPUT, "call_id": None}]}, "input[1].call_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a.example"}]}]},
         "input[0].content[0].file_url"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].file_data"),
        ({"input": [{"role": "user", "content": [{"type": "hologram"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_chat_has_no_word_for_is_named(document: Fields, param: str) -> None:
    assert refused(document).param == param


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"tools": [{**LOOK, "parameters": "x"}]}, "tools[0].parameters"),
        ({"input": [{**CALL, "arguments": "["}]}, "input"),
    ],
)
def test_what_a_provider_has_no_word_for_is_named_as_the_caller_wrote_it(
    document: Fields, param: str
) -> None:
    error = refused(document, profile=ANTHROPIC, target=CLAUDE)

    assert error.param == param
    assert error.message.startswith(f"{param}: ")
