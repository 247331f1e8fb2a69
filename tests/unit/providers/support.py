"""What the tests of providers share: golden files, profiles, and a client's way of reading a stream."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from shared.clock import ManualClock
from shared.domain.job import Target
from shared.providers import anthropic, openai, vllm
from shared.providers.dialect import Call, StreamDecoder
from shared.providers.dialects.anthropic import ChatAsMessages
from shared.providers.profile import ProviderProfile
from shared.providers.sse_reader import SseEvent, SseReader

OPENAI, ANTHROPIC, VLLM = (
    openai.PROFILE,
    anthropic.PROFILE,
    vllm.PROFILE.with_base_url("http://gpu.example/v1"),
)
GPT = Target("openai", "gpt-4o-mini")
CLAUDE = Target("anthropic", "claude-sonnet-4-5")

NOW = datetime(2026, 1, 1, tzinfo=UTC)
anthropic_messages = ChatAsMessages(clock=ManualClock(NOW))

_GOLDEN = Path(__file__).parents[2] / "golden"


def a_call(
    profile: ProviderProfile,
    target: Target,
    *,
    body: bytes = b"{}",
    stream: bool = False,
    include_usage: bool = False,
) -> Call:
    return Call(body, target, profile, stream=stream, include_usage=include_usage)


def golden(name: str) -> bytes:
    """A file below tests/golden, such as `openai/text.json`."""
    return (_GOLDEN / name).read_bytes()


def events(stream: bytes) -> list[SseEvent]:
    reader = SseReader("test")
    return reader.feed(stream) + reader.close()


def decoded(decoder: StreamDecoder, stream: bytes) -> list[dict[str, Any]]:
    """The chunks a client would parse, in order."""
    return [orjson.loads(chunk) for event in events(stream) for chunk in decoder.feed(event)]


def message_of(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The message a client puts together from the chunks of one stream."""
    message: dict[str, Any] = {"role": None, "content": ""}
    calls: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            message["role"] = delta.get("role", message["role"])
            for name in ("content", "reasoning_content"):
                if delta.get(name):
                    message[name] = message.get(name, "") + delta[name]
            for fragment in delta.get("tool_calls", ()):
                _add_fragment(calls, fragment)
            message.setdefault("thinking_blocks", []).extend(delta.get("thinking_blocks", ()))
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return comparable(message)


def _add_fragment(calls: dict[int, dict[str, Any]], fragment: dict[str, Any]) -> None:
    if fragment["index"] not in calls:
        assert fragment["type"] == "function"
        calls[fragment["index"]] = {
            "id": fragment["id"],
            "name": fragment["function"]["name"],
            "arguments": "",
        }
    else:
        assert "id" not in fragment
    calls[fragment["index"]]["arguments"] += fragment["function"]["arguments"]


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """A message with arguments parsed, and without the difference between no content and an empty one."""
    calls = [
        {
            "id": call["id"],
            "name": call.get("name") or call["function"]["name"],
            "arguments": orjson.loads(call.get("arguments") or call["function"]["arguments"]),
        }
        for call in message.get("tool_calls", ())
    ]
    return {
        "role": message["role"],
        "content": message.get("content") or "",
        "reasoning_content": message.get("reasoning_content") or "",
        "thinking_blocks": [
            {name: value for name, value in block.items() if name != "index"}
            for block in message.get("thinking_blocks") or ()
        ],
        "tool_calls": calls,
    }
