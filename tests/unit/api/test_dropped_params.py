"""What a provider has no word for, taken out for callers who ask for that."""

from __future__ import annotations

from typing import Any

import pytest

from api.dropped_params import drop_params
from shared.domain.job import JobKind, Target
from shared.errors import InvalidRequest
from shared.providers import anthropic, openai

HELLO = [{"role": "user", "content": "hello"}]
CLAUDE, GPT = Target("anthropic", "claude-haiku-4-5"), Target("openai", "gpt-4o-mini")


def dropped(kind: JobKind, target: Target, document: dict[str, Any]) -> list[str]:
    """The names taken out; `document` keeps the rest."""
    profile = {"anthropic": anthropic.PROFILE, "openai": openai.PROFILE}[target.provider]
    return drop_params(document, kind=kind, target=target, profile=profile, stream=False)


def test_parameters_that_anthropic_does_not_know_are_taken_out_of_a_chat() -> None:
    document = {
        "messages": HELLO,
        "n": 2,
        "logprobs": True,
        "response_format": {"type": "json_object"},
        "temperature": 0.5,
    }

    names = dropped(JobKind.CHAT, CLAUDE, document)

    assert sorted(names) == ["logprobs", "n", "response_format"]
    assert document == {"messages": HELLO, "temperature": 0.5}


def test_parameters_that_openai_does_not_know_are_taken_out_of_messages() -> None:
    document = {
        "max_tokens": 9,
        "messages": HELLO,
        "top_k": 3,
        "container": "c",
        "mcp_servers": [{"name": "x"}],
        "inference_geo": "eu",
        "output_config": {"format": {"type": "grammar"}},
        "anthropic_version": "2023-06-01",
    }

    names = dropped(JobKind.MESSAGES, GPT, document)

    assert sorted(names) == ["container", "inference_geo", "mcp_servers", "output_config", "top_k"]
    assert document == {"max_tokens": 9, "messages": HELLO, "anthropic_version": "2023-06-01"}


def test_nothing_is_taken_out_where_all_is_known() -> None:
    document = {"max_tokens": 9, "messages": HELLO, "top_k": 3, "container": "c"}

    assert dropped(JobKind.MESSAGES, CLAUDE, document) == []
    assert dropped(JobKind.CHAT, GPT, {"messages": HELLO, "n": 2}) == []


@pytest.mark.parametrize(
    ("kind", "target", "document", "param"),
    [
        (
            JobKind.CHAT,
            CLAUDE,
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0]",
        ),
        (
            JobKind.MESSAGES,
            GPT,
            {"messages": HELLO, "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "tools[0]",
        ),
        (JobKind.MESSAGES, GPT, {"messages": "x"}, "messages"),
    ],
)
def test_what_is_no_whole_parameter_stays_an_error(
    kind: JobKind, target: Target, document: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        dropped(kind, target, document)

    assert caught.value.param == param
