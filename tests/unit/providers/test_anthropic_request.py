from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.job import Target
from shared.errors import InvalidJson, InvalidRequest
from shared.providers.profile import ProviderProfile
from tests.unit.providers.support import ANTHROPIC, CLAUDE, a_call, anthropic_messages, golden

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def sent(
    request: dict[str, Any],
    *,
    profile: ProviderProfile = ANTHROPIC,
    target: Target = CLAUDE,
    stream: bool = False,
) -> dict[str, Any]:
    """What Anthropic is sent for a canonical request; `messages` is filled in when left out."""
    body = orjson.dumps({"model": target.model, "messages": HELLO, **request})
    encoded = anthropic_messages.encode(
        a_call(profile, target, body=body, stream=stream, include_usage=False)
    )
    decoded: dict[str, Any] = orjson.loads(encoded.body)
    return decoded


def turns(*messages: dict[str, Any]) -> Any:
    return sent({"messages": list(messages)})["messages"]


def user(*content: dict[str, Any]) -> Any:
    """The blocks one user message with these parts becomes."""
    [turn] = turns({"role": "user", "content": list(content)})
    return turn["content"]


def test_a_whole_conversation_is_carried_over() -> None:
    body = golden("anthropic/conversation.canonical.json")

    request = anthropic_messages.encode(a_call(ANTHROPIC, CLAUDE, body=body, stream=True, include_usage=True))

    assert orjson.loads(request.body) == orjson.loads(golden("anthropic/conversation.request.json"))
    assert request.headers == {}


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("https://proxy.example/v1/", "https://proxy.example/v1/messages"),
        ("https://proxy.example/claude", "https://proxy.example/claude/v1/messages"),
    ],
)
def test_the_path_fits_base_urls_with_and_without_v1(base_url: str, url: str) -> None:
    profile = ANTHROPIC.with_base_url(base_url)

    request = anthropic_messages.encode(
        a_call(profile, CLAUDE, body=orjson.dumps({"messages": HELLO}), stream=False, include_usage=False)
    )

    assert profile.url(request.path) == url


def test_the_least_request_is_complete() -> None:
    assert sent({}) == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 64_000,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    }


@pytest.mark.parametrize(
    ("given", "max_tokens"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 8}, 8),
        ({"max_tokens": 7, "max_completion_tokens": 8}, 8),
        ({"max_tokens": 7, "max_completion_tokens": None}, 7),
    ],
)
def test_the_limit_of_tokens_goes_by_either_name(given: dict[str, Any], max_tokens: int) -> None:
    asked = sent(given)

    assert asked["max_tokens"] == max_tokens
    assert "max_completion_tokens" not in asked


def test_a_model_we_do_not_know_gets_a_limit_every_model_has() -> None:
    assert sent({}, target=Target("anthropic", "claude-nine"))["max_tokens"] == 4096


@pytest.mark.parametrize(("given", "used"), [(0, 0), (0.5, 0.5), (1, 1), (2, 1), (-1, 0)])
def test_temperature_is_kept_within_what_anthropic_takes(given: float, used: float) -> None:
    assert sent({"temperature": given})["temperature"] == used


def test_system_and_developer_messages_become_the_system_prompt_wherever_they_stand() -> None:
    asked = sent(
        {
            "messages": [
                {"role": "system", "content": "one"},
                *HELLO,
                {"role": "developer", "content": [{"type": "text", "text": "two"}]},
            ]
        }
    )

    assert asked["system"] == [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert len(asked["messages"]) == 1


def test_turns_of_one_role_become_one_turn() -> None:
    assert turns(
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": None, "refusal": "d"},
        {"role": "user", "content": "e"},
    ) == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
        {"role": "user", "content": [{"type": "text", "text": "e"}]},
    ]


def test_empty_texts_are_left_out_because_anthropic_refuses_them() -> None:
    assert turns(
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "b"}]},
    ) == [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]


def test_a_last_assistant_turn_loses_its_trailing_space() -> None:
    assert turns(*HELLO, {"role": "assistant", "content": "The answer is "})[-1]["content"] == [
        {"type": "text", "text": "The answer is"}
    ]


def test_tool_calls_keep_their_text_and_their_parsed_arguments() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":["x"]}'}}

    assert turns(*HELLO, {"role": "assistant", "content": "Wait.", "tool_calls": [call]})[1] == {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Wait."},
            {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": ["x"]}},
        ],
    }


def test_a_tool_result_may_be_empty_or_hold_an_image() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://images.example/a.png"}}

    [turn] = turns(
        {"role": "tool", "tool_call_id": "a", "content": ""},
        {"role": "tool", "tool_call_id": "b", "content": [image]},
    )

    assert turn["content"] == [
        {"type": "tool_result", "tool_use_id": "a"},
        {
            "type": "tool_result",
            "tool_use_id": "b",
            "content": [{"type": "image", "source": {"type": "url", "url": "https://images.example/a.png"}}],
        },
    ]


MARK = {"type": "ephemeral"}


def test_thinking_given_back_with_its_signature_comes_first_and_thinking_without_is_left_out() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}
    hidden = {"type": "redacted_thinking", "data": "xyz"}
    unsigned = {"type": "thinking", "thinking": "Of another model.", "signature": ""}
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}

    assert turns(
        *HELLO,
        {
            "role": "assistant",
            "content": "Wait.",
            "reasoning_content": "Hm.",
            "thinking_blocks": [{"index": 0, **thought}, hidden, unsigned],
            "tool_calls": [call],
        },
    )[1]["content"] == [
        thought,
        hidden,
        {"type": "text", "text": "Wait."},
        {"type": "tool_use", "id": "a", "name": "look", "input": {}},
    ]


def test_the_cache_mark_of_a_whole_message_stands_on_its_last_block() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    asked = sent(
        {
            "cache_control": MARK,
            "messages": [
                {"role": "system", "content": "s", "cache_control": MARK},
                {"role": "user", "content": "u", "cache_control": MARK},
                {"role": "assistant", "content": "a", "tool_calls": [call], "cache_control": MARK},
                {"role": "tool", "tool_call_id": "a", "content": "t", "cache_control": MARK},
            ],
            "tools": [{**TOOL, "cache_control": MARK}],
        }
    )

    assert asked["cache_control"] == MARK
    assert asked["system"] == [{"type": "text", "text": "s", "cache_control": MARK}]
    assert [turn["content"][-1]["cache_control"] for turn in asked["messages"]] == [MARK] * 3
    assert "cache_control" not in asked["messages"][1]["content"][0]
    assert asked["tools"][0]["cache_control"] == MARK


@pytest.mark.parametrize(
    ("file_data", "source"),
    [
        ("https://files.example/a.pdf", {"type": "url", "url": "https://files.example/a.pdf"}),
        (
            "data:text/markdown;base64,R3LDvMOfZQ==",
            {"type": "text", "media_type": "text/plain", "data": "Grüße"},
        ),
    ],
)
def test_files_by_url_and_of_text_become_documents(file_data: str, source: dict[str, Any]) -> None:
    part = {"type": "file", "file": {"file_data": file_data}}

    assert user(part) == [{"type": "document", "source": source}]


@pytest.mark.parametrize(
    "file_data",
    ["data:text/plain;base64,/w==", "data:text/plain;base64,%%%", "data:image/png;base64,AAAA", "a"],
)
def test_files_anthropic_cannot_read_are_named(file_data: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        user({"type": "file", "file": {"file_data": file_data}})

    assert caught.value.param == "messages[0].content[0].file.file_data"


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "image/gif", "image/webp", "IMAGE/PNG"])
def test_images_given_as_data_become_base64_sources(kind: str) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:{kind};base64,AAAA"}}

    assert user(part) == [
        {"type": "image", "source": {"type": "base64", "media_type": kind.lower(), "data": "AAAA"}}
    ]


def test_a_pdf_becomes_a_document() -> None:
    part = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}

    assert user(part) == [
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
            "title": "a.pdf",
        }
    ]


def test_anthropics_own_blocks_and_cache_control_go_on_as_they_are() -> None:
    block = {"type": "document", "source": {"type": "url", "url": "https://files.example/a.pdf"}}
    text = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}

    assert user(block, text) == [block, text]


@pytest.mark.parametrize(
    ("choice", "translated"),
    [
        (None, None),
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "look"}}, {"type": "tool", "name": "look"}),
    ],
)
def test_tool_choices_are_translated(choice: Any, translated: Any) -> None:
    assert sent({"tools": [TOOL], "tool_choice": choice}).get("tool_choice") == translated


@pytest.mark.parametrize(
    ("choice", "parallel", "translated"),
    [
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        ("none", False, {"type": "none"}),
    ],
)
def test_parallel_calls_can_be_switched_off(choice: Any, parallel: bool, translated: Any) -> None:
    asked = sent({"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": parallel})

    assert asked.get("tool_choice") == translated


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_a_tool_choice_without_tools_is_left_out(choice: str | None) -> None:
    asked = sent({"tool_choice": choice, "parallel_tool_calls": False, "tools": []})

    assert asked.keys() == {"model", "max_tokens", "messages"}


@pytest.mark.parametrize("parameters", [None, {}, {"properties": {}}])
def test_a_tool_always_has_a_schema_of_an_object(parameters: Any) -> None:
    [tool] = sent({"tools": [{"type": "function", "function": {"name": "look", "parameters": parameters}}]})[
        "tools"
    ]

    assert tool["input_schema"]["type"] == "object"


def test_tools_of_anthropic_go_on_as_they_are() -> None:
    native = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}

    assert sent({"tools": [native, TOOL]})["tools"][0] == native


def test_a_json_schema_becomes_the_output_format() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}

    asked = sent(
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "strict": True, "schema": schema},
            }
        }
    )

    assert asked["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert "response_format" not in asked


def test_text_needs_no_output_format() -> None:
    assert "output_config" not in sent({"response_format": {"type": "text"}})


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("claude-opus-5", "minimal", {"effort": "low"}),
        ("claude-opus-5", "high", {"effort": "high"}),
        ("claude-haiku-4-5", "high", None),
        ("claude-nine", "high", None),
    ],
)
def test_an_effort_is_told_to_models_that_take_one(model: str, effort: str, config: Any) -> None:
    asked = sent({"reasoning_effort": effort}, target=Target("anthropic", model))

    assert asked.get("output_config") == config
    assert "reasoning_effort" not in asked


@pytest.mark.parametrize(
    ("given", "user_id"),
    [
        ({"user": "u"}, "u"),
        ({"safety_identifier": "s", "user": "u"}, "s"),
        ({"metadata": {"user_id": "m", "team": "t"}, "user": "u"}, "m"),
    ],
)
def test_the_end_user_is_named_in_the_metadata(given: dict[str, Any], user_id: str) -> None:
    asked = sent(given)

    assert asked["metadata"] == {"user_id": user_id}
    assert asked.keys() == {"model", "max_tokens", "messages", "metadata"}


@pytest.mark.parametrize(
    ("tier", "used"), [("auto", "auto"), ("default", "standard_only"), ("standard_only", "standard_only")]
)
def test_service_tiers_are_translated(tier: str, used: str) -> None:
    assert sent({"service_tier": tier})["service_tier"] == used


def test_stop_may_be_one_text_several_or_none() -> None:
    assert sent({"stop": "a"})["stop_sequences"] == ["a"]
    assert sent({"stop": ["a", "b"]})["stop_sequences"] == ["a", "b"]
    assert "stop_sequences" not in sent({"stop": []})


def test_unknown_parameters_go_on_and_nulls_do_not() -> None:
    asked = sent({"top_k": 3, "thinking": {"type": "adaptive"}, "inference_geo": None, "top_p": None})

    assert asked["top_k"] == 3
    assert asked["thinking"] == {"type": "adaptive"}
    assert asked.keys() == {"model", "max_tokens", "messages", "top_k", "thinking"}


def test_hints_and_values_that_change_nothing_are_left_out() -> None:
    asked = sent(
        {
            "n": 1,
            "seed": 3,
            "store": True,
            "logprobs": False,
            "top_logprobs": 0,
            "logit_bias": {},
            "presence_penalty": 0.0,
            "frequency_penalty": 0,
            "modalities": ["text"],
            "metadata": {"team": "t"},
            "prompt_cache_key": "k",
            "verbosity": "low",
            "prediction": {"type": "content", "content": "x"},
            "stream_options": {"include_usage": True},
            "stream": False,
            "functions": [],
        }
    )

    assert asked.keys() == {"model", "max_tokens", "messages"}


def test_the_wanted_version_of_the_api_travels_as_a_header() -> None:
    body = orjson.dumps({"messages": HELLO, "anthropic_version": "2023-01-01"})

    request = anthropic_messages.encode(
        a_call(ANTHROPIC, CLAUDE, body=body, stream=False, include_usage=False)
    )

    assert request.headers == {"anthropic-version": "2023-01-01"}
    assert "anthropic_version" not in orjson.loads(request.body)


ASSISTANT = {"role": "assistant"}


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{"name": "x"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"stop": " \n"}, "stop"),
        ({"stop": ["a", 3]}, "stop"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"anthropic_version": "a\r\nb: c"}, "anthropic_version"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]"),
        ({"tools": [TOOL, {"type": "function"}]}, "tools[1].function"),
        ({"tools": "x"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
            "messages[0].content[0].text",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
            "messages[0].content[0].file",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        ({"messages": [{**ASSISTANT, "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{**ASSISTANT, "audio": {"id": "a"}}]}, "messages[0].audio"),
        ({"messages": [{**ASSISTANT, "function_call": {"name": "x"}}]}, "messages[0].function_call"),
        ({"messages": [{**ASSISTANT, "tool_calls": [{"type": "custom"}]}]}, "messages[0].tool_calls[0]"),
        (
            {
                "messages": [
                    {**ASSISTANT, "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{"}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            {
                "messages": [
                    {**ASSISTANT, "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "3"}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"messages": [{**ASSISTANT, "thinking_blocks": "x"}]}, "messages[0].thinking_blocks"),
        (
            {"messages": [{**ASSISTANT, "thinking_blocks": [{"type": "thinking"}]}]},
            "messages[0].thinking_blocks[0]",
        ),
        ({"anthropic_beta": "a b"}, "anthropic_beta"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "tool_call_id": "", "content": "x"}]}, "messages[0].tool_call_id"),
    ],
)
def test_what_cannot_be_carried_over_is_named(request_: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(request_)

    assert caught.value.param == param
    assert caught.value.status == 400
    assert caught.value.code == "unsupported_parameter"
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example/a.png",
        "data:image/tiff;base64,AAAA",
        "data:image/png,AAAA",
        "file:///etc/passwd",
        "cat.png",
    ],
)
def test_images_anthropic_cannot_read_are_named(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        user({"type": "image_url", "image_url": {"url": url}})

    assert caught.value.param == "messages[0].content[0].image_url.url"


@pytest.mark.parametrize("body", [b"{", b"[]"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        anthropic_messages.encode(a_call(ANTHROPIC, CLAUDE, body=body, stream=False, include_usage=False))
