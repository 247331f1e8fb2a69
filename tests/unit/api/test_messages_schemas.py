"""What is checked of a request in Anthropic's form, before anybody is asked."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.job import JobKind, Target
from shared.errors import InvalidRequest
from shared.providers import anthropic, openai
from shared.providers.dialect import Call
from shared.requests.messages import check_messages, check_token_count

GOOD: dict[str, Any] = {
    "model": "anthropic/claude-haiku-4-5",
    "max_tokens": 9,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "a"},
                {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}},
                {"type": "something_new", "text": 3},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"},
                {"type": "tool_use", "id": "a", "name": "look", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "b"}]}
            ],
        },
        {"role": "system", "content": "Now in German."},
    ],
    "tools": [
        {"name": "look", "input_schema": {"type": "object"}},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 2},
        {"type": "browser_toolset_20260801"},
    ],
    "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "output_config": {"effort": "high"},
    "temperature": 1,
    "top_k": 3,
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u"},
    "unheard_of": {"x": [1]},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with another value where the path leads; None takes it out."""
    document: Any = copy.deepcopy(GOOD)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    at = document
    for step in steps:
        at = at[step]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return dict(document)


def test_a_good_request_passes_with_fields_unknown_here() -> None:
    check_messages(GOOD)
    check_token_count(GOOD)


def test_a_count_needs_no_limit() -> None:
    check_token_count(changed("max_tokens", None))


@pytest.mark.parametrize(
    ("path", "value", "param"),
    [
        ("max_tokens", None, "max_tokens"),
        ("max_tokens", -1, "max_tokens"),
        ("max_tokens", "9", "max_tokens"),
        ("model", None, "model"),
        ("model", "", "model"),
        ("messages", [], "messages"),
        ("messages", "Hello", "messages"),
        ("messages.0.role", "tool", "messages[0].role"),
        ("messages.0.content", 3, "messages[0].content"),
        ("messages.0.content.0.text", None, "messages[0].content[0].text"),
        ("messages.0.content.0.type", None, "messages[0].content[0].type"),
        ("messages.0.content.1.source", None, "messages[0].content[1].source"),
        ("messages.0.content.1.source.url", 3, "messages[0].content[1].source.url"),
        ("messages.1.content.1.input", "{}", "messages[1].content[1].input"),
        ("messages.2.content.0.tool_use_id", None, "messages[2].content[0].tool_use_id"),
        ("messages.2.content.0.content.0.text", 3, "messages[2].content[0].content[0].text"),
        ("system.0.text", 3, "system[0].text"),
        ("tools.0.input_schema", None, "tools[0]"),
        ("tools.0.name", None, "tools[0].name"),
        ("tools.2.type", 3, "tools[2].type"),
        ("tool_choice.type", "required", "tool_choice.type"),
        ("tool_choice.name", None, "tool_choice"),
        ("thinking.budget_tokens", "many", "thinking.budget_tokens"),
        ("temperature", 1.5, "temperature"),
        ("stop_sequences", "END", "stop_sequences"),
        ("metadata.user_id", 3, "metadata.user_id"),
        ("output_config", [], "output_config"),
        ("stream", "yes", "stream"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_messages(changed(path, value))

    assert caught.value.param == param


BLOCKS = ["text", "image", "document", "tool_use", "tool_result", "thinking"]
FIELDS = ["type", "text", "source", "content", "role", "id", "name", "input", "tool_use_id", "data", "url"]
words = st.sampled_from([*BLOCKS, "base64", "url", "user", "assistant"])
keys = st.sampled_from([*FIELDS, "media_type"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
parameters = st.sampled_from([*GOOD, "output_format", "service_tier", "inference_geo", "container", "speed"])


@given(given_=st.dictionaries(parameters, anything, max_size=4))
def test_no_body_is_met_with_anything_but_an_answer_that_names_it(given_: dict[str, Any]) -> None:
    """Neither by the check, nor by what would say it to a provider without one."""
    document = {**GOOD, **given_}
    codecs = [
        (openai.PROFILE, Target("openai", "o3")),
        (anthropic.PROFILE, Target("anthropic", "claude-haiku-4-5")),
    ]

    def judged() -> None:
        check_messages(document)

    def said(profile: Any, target: Target) -> None:
        profile.codec(JobKind.MESSAGES).encode(Call(orjson.dumps(document), target, profile))

    for judge in (judged, *(lambda p=p, t=t: said(p, t) for p, t in codecs)):
        try:
            judge()
        except InvalidRequest as refusal:
            assert refusal.status in {400, 422}  # noqa: PT017 - either way is right
