"""An Anthropic message as an OpenAI chat completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from shared.domain.usage import MOST_TOKENS, Usage
from shared.errors import ProviderAnswerInvalid
from shared.providers import refusals
from shared.providers.dialect import Answer
from shared.providers.profile import ProviderProfile

_FINISH_REASONS: Final[Mapping[str, str]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def decode_message(body: bytes, *, profile: ProviderProfile, created: int) -> Answer:
    message = read_message(body, profile)
    content = message["content"]
    counts = UsageCounts()
    counts.add(message.get("usage"))
    reason = finish_reason(message.get("stop_reason")) or "stop"
    answer = {
        "id": completion_id(message.get("id")),
        "object": "chat.completion",
        "created": created,
        "model": message.get("model"),
        "choices": [{"index": 0, "message": _assistant(content), "logprobs": None, "finish_reason": reason}],
        "usage": counts.as_openai(),
    }
    return answer_of(orjson.dumps(answer), content, counts.usage(), reason)


def answer_of(body: bytes, content: list[dict[str, Any]], usage: Usage | None, reason: str) -> Answer:
    return Answer(body, usage, reason, generated_chars(content) if usage is None else 0)


def generated_chars(content: list[dict[str, Any]]) -> int:
    """Characters that the model wrote, the input of its tool calls among them."""
    chars = 0
    for block in content:
        chars += len(_string(block.get("text"))) + len(_string(block.get("thinking")))
        if "input" in block:
            chars += len(orjson.dumps(block["input"]).decode())
    return chars


def read_message(body: bytes, profile: ProviderProfile) -> dict[str, Any]:
    """The message in `body`, its content a list of typed blocks. Raises ProviderError for anything else."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise ProviderAnswerInvalid(
            f"The answer of {profile.name} is not JSON.", provider=profile.id
        ) from exc
    if type(message) is not dict:
        raise _not_a_message(profile)
    if message.get("type") == "error" or message.get("error"):
        raise refusals.from_event(message, profile=profile)
    content = message.get("content")
    if type(content) is not list:
        raise _not_a_message(profile)
    for block in content:
        if type(block) is not dict or type(block.get("type")) is not str:
            raise _not_a_message(profile)
    return message


def _assistant(content: list[dict[str, Any]]) -> dict[str, Any]:
    """`thinking_blocks` is LiteLLM's name for what must be given back unchanged, with its signature,
    when tools were called while thinking.
    """
    text: list[str] = []
    thinking: list[str] = []
    thoughts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in content:
        kind = block.get("type")
        if kind == "text":
            text.append(_string(block.get("text")))
        elif kind in {"thinking", "redacted_thinking"}:
            thinking.append(_string(block.get("thinking")))
            thoughts.append(block)
        elif kind == "tool_use":
            arguments = orjson.dumps(block.get("input") or {}).decode()
            calls.append(tool_call(block, arguments))
        # Blocks of server-side tools have no counterpart; the text around them stands for them.
    message: dict[str, Any] = {"role": "assistant", "content": "".join(text), "refusal": None}
    if calls:
        message["content"] = message["content"] or None
        message["tool_calls"] = calls
    if reasoning := "".join(thinking):
        message["reasoning_content"] = reasoning
    if thoughts:
        message["thinking_blocks"] = thoughts
    return message


def tool_call(block: Mapping[str, Any], arguments: str) -> dict[str, Any]:
    return {
        "id": _string(block.get("id")),
        "type": "function",
        "function": {"name": _string(block.get("name")), "arguments": arguments},
    }


def completion_id(message_id: object) -> str:
    """The same tail as Anthropic's own id, so that one can be found by the other."""
    return "chatcmpl-" + (_string(message_id).removeprefix("msg_") or "unknown")


def finish_reason(stop_reason: object) -> str | None:
    """A reason we do not know yet is an end like any other."""
    return _FINISH_REASONS.get(stop_reason, "stop") if isinstance(stop_reason, str) else None


class UsageCounts:
    """Anthropic's counts, which a stream gives in several events, each cumulative."""

    __slots__ = ("_cache_read", "_cache_written", "_for_an_hour", "_input", "_output", "_said", "_thinking")

    def __init__(self) -> None:
        self._input = self._cache_written = self._cache_read = self._output = self._thinking = 0
        self._for_an_hour = 0
        """Of what was written to the cache. Said at the start of a stream and not always at its end."""
        self._said = False

    def add(self, usage: object) -> None:
        if type(usage) is not dict:
            return
        self._said = True
        self._input = _count(usage, "input_tokens", self._input)
        self._cache_written = _count(usage, "cache_creation_input_tokens", self._cache_written)
        self._cache_read = _count(usage, "cache_read_input_tokens", self._cache_read)
        self._output = _count(usage, "output_tokens", self._output)
        kept = usage.get("cache_creation")
        if type(kept) is dict:
            self._for_an_hour = _count(kept, "ephemeral_1h_input_tokens", self._for_an_hour)
        details = usage.get("output_tokens_details")
        if type(details) is dict:
            self._thinking = _count(details, "thinking_tokens", self._thinking)

    def usage(self) -> Usage | None:
        if not self._said:
            return None
        return Usage(
            self._prompt,
            self._output,
            self._cache_read,
            self._thinking,
            cache_write_tokens=self._cache_written,
            cache_write_1h_tokens=min(self._for_an_hour, self._cache_written),
        )

    def as_openai(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._output,
            "total_tokens": self._prompt + self._output,
            "prompt_tokens_details": {
                "cached_tokens": self._cache_read,
                "cache_write_tokens": self._cache_written,
            },
            "completion_tokens_details": {"reasoning_tokens": self._thinking},
        }

    @property
    def _prompt(self) -> int:
        # Anthropic's input_tokens leaves out what the cache took part in; OpenAI's prompt_tokens has it all.
        return self._input + self._cache_written + self._cache_read


def _count(counts: Mapping[str, Any], name: str, so_far: int) -> int:
    value = counts.get(name)
    return min(value, MOST_TOKENS) if type(value) is int and value >= 0 else so_far


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _not_a_message(profile: ProviderProfile) -> ProviderAnswerInvalid:
    return ProviderAnswerInvalid(f"The answer of {profile.name} is not a message.", provider=profile.id)
