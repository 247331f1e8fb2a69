from __future__ import annotations

from typing import Any

import pytest

from shared.domain.job import JobKind
from shared.errors import InvalidRequest
from shared.providers.presets import Preset, apply

PRESET = Preset(name="p", model="lab/m", system="Be brief.", defaults={"max_tokens": 5, "temperature": 0.1})


@pytest.mark.parametrize(
    ("kind", "given", "completed"),
    [
        (
            JobKind.CHAT,
            {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 9},
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "hi"},
                ],
                "max_completion_tokens": 9,
                "temperature": 0.1,
            },
        ),
        (
            JobKind.MESSAGES,
            {"system": [{"type": "text", "text": "own"}], "max_tokens": 9},
            {
                "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "own"}],
                "max_tokens": 9,
                "temperature": 0.1,
            },
        ),
        (
            JobKind.RESPONSES,
            {"input": "hi", "instructions": "own", "temperature": 1},
            {"input": "hi", "instructions": "Be brief.\n\nown", "temperature": 1, "max_output_tokens": 5},
        ),
        (
            JobKind.COMPLETION,
            {"prompt": "Once"},
            {"prompt": "Be brief.\n\nOnce", "temperature": 0.1, "max_tokens": 5},
        ),
    ],
)
def test_a_preset_completes_what_the_caller_left_open(
    kind: JobKind, given: dict[str, Any], completed: dict[str, Any]
) -> None:
    apply(PRESET, given, kind)

    assert given == completed


def test_a_value_given_as_null_is_none() -> None:
    document: dict[str, Any] = {"messages": [], "temperature": None, "max_tokens": None}

    apply(PRESET, document, JobKind.CHAT)

    assert (document["temperature"], document["max_tokens"]) == (0.1, 5)


def test_where_tokens_are_counted_only_the_system_text_counts() -> None:
    document: dict[str, Any] = {"messages": []}

    apply(PRESET, document, JobKind.COUNT_TOKENS)

    assert document == {"messages": [], "system": "Be brief."}


def test_a_system_text_without_a_place_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        apply(PRESET, {"input": "hi"}, JobKind.EMBEDDINGS)

    assert caught.value.param == "model"
