"""What a provider has no word for, taken out for callers who ask for that."""

from __future__ import annotations

from typing import Any

import pytest

from api.dropped_params import drop_params
from shared.domain.job import JobKind, Target
from shared.errors import InvalidRequest
from shared.providers import anthropic, openai
from shared.providers.dialect import Call

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


def test_a_prompt_kept_at_openai_is_taken_out_of_a_response() -> None:
    document = {"input": "Hello", "prompt": {"id": "pmpt_1"}, "moderation": {"on": 1}}

    assert sorted(dropped(JobKind.RESPONSES, GPT, document)) == ["moderation", "prompt"]
    assert document == {"input": "Hello"}


def test_a_large_request_is_encoded_once_however_much_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    class Counted(Call):
        def __init__(self, body: bytes, *args: Any, **kwargs: Any) -> None:
            encoded.append(len(body))
            super().__init__(body, *args, **kwargs)

    monkeypatch.setattr("api.dropped_params.Call", Counted)
    document = {
        "messages": [{"role": "user", "content": "x" * 1_000_000}],
        **dict.fromkeys(("n", "logprobs", "seed", "logit_bias", "frequency_penalty"), 1),
    }
    document |= {"n": 2, "logprobs": True, "response_format": {"type": "json_object"}}

    names = dropped(JobKind.CHAT, CLAUDE, document)

    assert len(names) > 3
    assert sum(size > 1_000_000 for size in encoded) == 1


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
