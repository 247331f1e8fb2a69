"""What a call is charged for when its provider did not count."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.usage import Usage
from workers.call_provider import CallProgress
from workers.estimate import MEDIA_TOKENS, prompt_tokens

MEGABYTE = "A" * 1_000_000
MEDIA: list[dict[str, Any]] = [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{MEGABYTE}"}},
    {"type": "input_audio", "input_audio": {"data": MEGABYTE, "format": "wav"}},
    {"type": "file", "file": {"file_data": MEGABYTE, "filename": "a.pdf"}},
]


def asking(content: Any, **fields: Any) -> bytes:
    return orjson.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **fields})


@pytest.mark.parametrize("part", MEDIA, ids=lambda part: part["type"])
def test_a_megabyte_of_base64_is_not_charged_as_prompt_text(part: dict[str, Any]) -> None:
    body = asking([{"type": "text", "text": "12345678"}, part])

    assert prompt_tokens(body) == 2 + MEDIA_TOKENS


def test_messages_text_parts_and_tool_definitions_count_and_nothing_around_them_does() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]

    assert prompt_tokens(asking("12345678", temperature=0.5, user="x" * 1_000)) == 2
    assert prompt_tokens(asking([{"type": "text", "text": "1234"}, {"type": "text", "text": "5"}])) == 2
    assert prompt_tokens(asking("", tools=tools)) == -(-len(orjson.dumps(tools)) // 4)


def test_what_a_tool_was_called_with_counts() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "name", "arguments": "{..}"}}]
    body = orjson.dumps({"messages": [{"role": "assistant", "content": None, "tool_calls": calls}]})

    assert prompt_tokens(body) == 2


@pytest.mark.parametrize(
    "body", [b"", b"not JSON", b"[1]", b'{"messages":7}', b'{"messages":[null,{"content":[1]}]}']
)
def test_no_body_keeps_a_job_from_being_settled(body: bytes) -> None:
    assert 0 <= prompt_tokens(body) <= 2


def test_a_body_is_not_parsed_where_the_provider_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(_: bytes) -> int:
        raise AssertionError("estimated in vain")

    monkeypatch.setattr("workers.call_provider.prompt_tokens", explode)

    assert CallProgress(sent=True, usage=Usage(3, 2)).usage_or_estimate(b"{}") == Usage(3, 2)
    assert CallProgress(sent=False).usage_or_estimate(b"{}") == Usage()
