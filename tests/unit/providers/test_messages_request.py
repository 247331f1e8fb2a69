"""What a provider of chat completions is sent for a request in Anthropic's form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from shared.domain.job import JobKind, Target
from shared.errors import InvalidRequest
from shared.providers.profile import Capability, ProviderProfile
from tests.unit.providers.support import GPT, OPENAI, VLLM, a_call, golden

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"name": "look", "input_schema": {"type": "object"}}
PHI = Target("vllm", "phi-4")
THINKER = Target("openai", "o3")
DEEPSEEK = replace(OPENAI, id="deepseek", name="DeepSeek")
OPENROUTER = replace(OPENAI, id="openrouter", name="OpenRouter")


def sent(
    request: dict[str, Any],
    *,
    profile: ProviderProfile = OPENAI,
    target: Target = GPT,
    stream: bool = False,
) -> dict[str, Any]:
    """The chat request for one in Anthropic's form; `messages` is filled in when left out."""
    body = orjson.dumps({"model": target.model, "messages": HELLO, **request})
    encoded = profile.codec(JobKind.MESSAGES).encode(a_call(profile, target, body=body, stream=stream))
    assert encoded.path == "/chat/completions"
    decoded: dict[str, Any] = orjson.loads(encoded.body)
    return decoded


def turns(*messages: dict[str, Any], profile: ProviderProfile = OPENAI) -> Any:
    return sent({"messages": list(messages)}, profile=profile)["messages"]


def user(*blocks: dict[str, Any]) -> Any:
    """The messages one user turn of these blocks becomes."""
    return turns({"role": "user", "content": list(blocks)})


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def test_a_whole_conversation_is_carried_over() -> None:
    body = golden("anthropic/messages.request.json")

    request = OPENAI.codec(JobKind.MESSAGES).encode(a_call(OPENAI, THINKER, body=body, stream=True))

    assert orjson.loads(request.body) == orjson.loads(golden("anthropic/messages.chat.json"))
    assert request.headers == {}


def test_the_least_request_is_complete() -> None:
    assert sent({"max_tokens": 9}) == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "hello"}],
        "max_completion_tokens": 9,
    }


def test_a_stream_is_asked_for_with_its_usage() -> None:
    asked = sent({"max_tokens": 9, "stream": True}, stream=True)

    assert asked["stream"] is True
    assert asked["stream_options"] == {"include_usage": True}


def test_servers_of_any_age_are_told_the_limit_by_its_older_name() -> None:
    asked = sent({"max_tokens": 9}, profile=VLLM, target=PHI)

    assert asked["max_tokens"] == 9
    assert "max_completion_tokens" not in asked


def test_a_provider_that_renames_the_limit_gets_it_under_its_own_name() -> None:
    profile = replace(OPENAI, renames={"max_completion_tokens": "max_tokens"})

    assert sent({"max_tokens": 9}, profile=profile)["max_tokens"] == 9


@pytest.mark.parametrize(
    ("system", "content"),
    [("Be brief.", "Be brief."), ([text("Be brief."), text("And kind.")], "Be brief.\nAnd kind.")],
)
def test_the_system_prompt_becomes_the_first_message(system: Any, content: str) -> None:
    assert sent({"system": system})["messages"] == [{"role": "system", "content": content}, *HELLO]


@pytest.mark.parametrize("system", ["", [], None])
def test_an_empty_system_prompt_is_no_message(system: Any) -> None:
    assert sent({"system": system})["messages"] == HELLO


def test_a_system_turn_keeps_its_place() -> None:
    late = {"role": "system", "content": [text("Now in German.")]}

    assert turns(*HELLO, late)[1] == {"role": "system", "content": "Now in German."}


def test_texts_of_one_turn_become_one_string() -> None:
    cached = {**text("b"), "cache_control": {"type": "ephemeral"}}

    assert user(text("a"), cached) == [{"role": "user", "content": "a\nb"}]


def test_images_become_parts_in_their_places() -> None:
    linked = {"type": "image", "source": {"type": "url", "url": "https://images.example/a.png"}}

    assert user(text("a"), PNG, linked, text("b")) == [
        {
            "role": "user",
            "content": [
                text("a"),
                PNG_PART,
                {"type": "image_url", "image_url": {"url": "https://images.example/a.png"}},
                text("b"),
            ],
        }
    ]


def test_a_pdf_becomes_a_file() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}

    [message] = user(
        {"type": "document", "title": "a.pdf", "context": "A letter.", "source": source},
        {"type": "document", "source": source},
    )

    data = "data:application/pdf;base64,AAAA"
    assert message["content"] == [
        text("A letter."),
        {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
        {"type": "file", "file": {"filename": "document.pdf", "file_data": data}},
    ]


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"type": "document", "source": {"type": "text", "data": "x"}}, "x"),
        (
            {"type": "document", "title": "T", "context": "C", "source": {"type": "text", "data": "x"}},
            "T\nC\nx",
        ),
        ({"type": "document", "source": {"type": "content", "content": "x"}}, "x"),
        (
            {"type": "document", "title": "T", "source": {"type": "content", "content": [text("x")]}},
            "T\nx",
        ),
        ({"type": "search_result", "title": "T", "source": "S", "content": [text("x")]}, "T\nS\nx"),
        (
            {"type": "document", "citations": {"enabled": False}, "source": {"type": "text", "data": "x"}},
            "x",
        ),
    ],
    ids=str,
)
def test_documents_of_text_are_read_out(block: dict[str, Any], said: str) -> None:
    assert user(block) == [{"role": "user", "content": said}]


def test_results_of_tools_come_before_what_else_the_user_said() -> None:
    assert user(
        text("And now?"),
        {"type": "tool_result", "tool_use_id": "a", "content": "one"},
        {"type": "tool_result", "tool_use_id": "b", "content": [text("two"), text("three")]},
        {"type": "tool_result", "tool_use_id": "c"},
    ) == [
        {"role": "tool", "tool_call_id": "a", "content": "one"},
        {"role": "tool", "tool_call_id": "b", "content": "two\nthree"},
        {"role": "tool", "tool_call_id": "c", "content": ""},
        {"role": "user", "content": "And now?"},
    ]


def test_images_in_a_result_are_handed_on_with_the_users_message() -> None:
    assert user(
        {"type": "tool_result", "tool_use_id": "a", "content": [PNG]},
        {"type": "tool_result", "tool_use_id": "b", "content": [text("two"), PNG]},
        text("Look."),
    ) == [
        {"role": "tool", "tool_call_id": "a", "content": "The result is attached to the next message."},
        {"role": "tool", "tool_call_id": "b", "content": "two"},
        {"role": "user", "content": [PNG_PART, PNG_PART, text("Look.")]},
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [("no such file", "Error: no such file"), ("Error: gone", "Error: gone"), ("", "Error"), (None, "Error")],
)
def test_a_failed_tool_says_so_in_its_text(content: str | None, told: str) -> None:
    [message] = user({"type": "tool_result", "tool_use_id": "a", "is_error": True, "content": content})

    assert message["content"] == told


def test_calls_of_tools_keep_their_text_and_their_input() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": ["ü"]}}

    said, silent = (
        turns(*HELLO, {"role": "assistant", "content": [*texts, call]})[1] for texts in ([text("Wait.")], [])
    )

    assert said == {
        "role": "assistant",
        "content": "Wait.",
        "tool_calls": [
            {
                "id": "toolu_1",
                "type": "function",
                "function": {"name": "look", "arguments": '{"at":["ü"]}'},
            }
        ],
    }
    assert silent["content"] is None


THOUGHT = [
    {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"},
    {"type": "redacted_thinking", "data": "xyz"},
    text("Yes."),
]


@pytest.mark.parametrize("profile", [VLLM, DEEPSEEK, OPENROUTER], ids=lambda profile: profile.id)
def test_earlier_thinking_is_told_where_it_is_read(profile: ProviderProfile) -> None:
    told = turns(*HELLO, {"role": "assistant", "content": THOUGHT}, profile=profile)[1]

    assert told == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}


def test_earlier_thinking_is_left_out_where_it_would_be_refused() -> None:
    told = turns(*HELLO, {"role": "assistant", "content": THOUGHT})[1]

    assert told == {"role": "assistant", "content": "Yes."}


def test_tools_become_functions() -> None:
    strict = {**TOOL, "type": "custom", "description": "Looks.", "strict": True, "cache_control": {}}

    assert sent({"tools": [TOOL, strict]})["tools"] == [
        {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}},
        {
            "type": "function",
            "function": {
                "name": "look",
                "description": "Looks.",
                "parameters": {"type": "object"},
                "strict": True,
            },
        },
    ]


@pytest.mark.parametrize(
    ("choice", "translated"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "look"}, {"type": "function", "function": {"name": "look"}}),
    ],
)
def test_tool_choices_are_translated(choice: Any, translated: Any) -> None:
    assert sent({"tools": [TOOL], "tool_choice": choice})["tool_choice"] == translated


def test_parallel_calls_can_be_switched_off() -> None:
    asked = sent({"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}})

    assert asked["parallel_tool_calls"] is False


@pytest.mark.parametrize("choice", [None, {"type": "auto"}, {"type": "none"}])
def test_a_tool_choice_without_tools_is_left_out(choice: Any) -> None:
    assert sent({"tools": [], "tool_choice": choice}).keys() == {"model", "messages"}


def test_sampling_parameters_keep_their_meaning() -> None:
    asked = sent({"stop_sequences": ["a", "b"], "temperature": 0.3, "top_p": 0.9})

    assert asked["stop"] == ["a", "b"]
    assert asked["temperature"] == 0.3
    assert asked["top_p"] == 0.9


@pytest.mark.parametrize(("profile", "target"), [(VLLM, PHI), (OPENROUTER, GPT)])
def test_top_k_goes_where_it_is_known(profile: ProviderProfile, target: Target) -> None:
    assert sent({"top_k": 40}, profile=profile, target=target)["top_k"] == 40


@pytest.mark.parametrize(
    ("given", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, "high"),
        ({"thinking": {"type": "disabled"}}, "low"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"output_config": {"effort": "xhigh"}}, "xhigh"),
        (
            {"output_config": {"effort": "low"}, "thinking": {"type": "enabled", "budget_tokens": 32000}},
            "low",
        ),
        ({}, None),
    ],
    ids=str,
)
def test_thinking_becomes_an_effort(given: dict[str, Any], effort: str | None) -> None:
    asked = sent(given, target=THINKER)

    assert asked.get("reasoning_effort") == effort
    assert asked.keys() - {"reasoning_effort"} == {"model", "messages"}


@pytest.mark.parametrize(
    ("profile", "target", "told"),
    [
        (OPENAI, GPT, False),
        (OPENAI, Target("openai", "gpt-nine"), False),
        (VLLM, PHI, True),
        (replace(VLLM, capabilities=frozenset({Capability.CHAT})), PHI, False),
    ],
)
def test_an_effort_is_told_only_to_what_takes_one(
    profile: ProviderProfile, target: Target, told: bool
) -> None:
    asked = sent({"output_config": {"effort": "high"}}, profile=profile, target=target)

    assert ("reasoning_effort" in asked) is told


@pytest.mark.parametrize("where", ["output_config", "output_format"])
def test_an_output_format_becomes_the_response_format(where: str) -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    wanted = {"type": "json_schema", "schema": schema}

    asked = sent({where: {"format": wanted} if where == "output_config" else wanted})

    assert asked["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
    }
    assert where not in asked


def test_the_end_user_is_named_and_a_name_too_long_is_digested() -> None:
    long = "user_" + "0" * 150

    assert sent({"metadata": {"user_id": "u-1"}})["user"] == "u-1"
    assert len(sent({"metadata": {"user_id": long}})["user"]) == 64
    assert sent({"metadata": {"user_id": long}})["user"] == sent({"metadata": {"user_id": long}})["user"]
    assert "user" not in sent({"metadata": {}})


@pytest.mark.parametrize(("tier", "used"), [("auto", None), ("standard_only", "default"), (None, None)])
def test_service_tiers_are_translated(tier: str | None, used: str | None) -> None:
    assert sent({"service_tier": tier}).get("service_tier") == used


def test_hints_and_nulls_are_left_out_and_unknown_parameters_go_on() -> None:
    asked = sent(
        {
            "anthropic_version": "2023-06-01",
            "anthropic_beta": ["b"],
            "cache_control": {"type": "ephemeral"},
            "context_management": {"edits": []},
            "container": None,
            "mcp_servers": [],
            "inference_geo": "global",
            "speed": "fast",
            "repetition_penalty": 1.1,
        }
    )

    assert asked == {"model": "gpt-4o-mini", "messages": HELLO, "repetition_penalty": 1.1}


def in_turn(block: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": [block]}]}


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"top_k": 3}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"container": "c"}, "container"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"functions": [TOOL]}, "functions"),
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"inference_geo": "eu"}, "inference_geo"),
        ({"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]}, "tools[1]"),
        ({"tools": [{"type": "browser_toolset_20260801"}]}, "tools[0]"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
        ({"thinking": {"type": "enabled"}}, "thinking"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config"),
        ({"output_format": {"type": "json_schema"}}, "output_format"),
        ({"system": [PNG]}, "system[0]"),
        ({"messages": "x"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        (in_turn({"type": "image", "source": {"type": "file"}}), "messages[0].content[0].source"),
        (in_turn({"type": "document", "source": {"type": "file"}}), "messages[0].content[0].source"),
        (
            in_turn({"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}}),
            "messages[0].content[0].source",
        ),
        (
            in_turn(
                {
                    "type": "document",
                    "citations": {"enabled": True},
                    "source": {"type": "text", "data": "x"},
                }
            ),
            "messages[0].content[0].citations",
        ),
        (in_turn({"type": "container_upload", "file_id": "f"}), "messages[0].content[0]"),
        (in_turn({"type": "server_tool_use", "id": "s"}, "assistant"), "messages[0].content[0]"),
        (in_turn(PNG, "assistant"), "messages[0].content[0]"),
        (
            in_turn({"type": "tool_use", "id": "a", "name": "b", "input": "c"}, "assistant"),
            "messages[0].content[0].input",
        ),
        (in_turn({"type": "tool_result"}), "messages[0].content[0].tool_use_id"),
        (
            in_turn({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "tool_reference"}]}),
            "messages[0].content[0].content[0]",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_carried_over_is_named(request_: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(request_)

    assert caught.value.param == param
    assert caught.value.status == 400
    assert caught.value.code == "unsupported_parameter"
