"""A chat answer that came whole, told as a stream: one piece of text, its end, and usage."""

from __future__ import annotations

from typing import Any, Final

import orjson

from shared.domain.usage import Usage
from shared.providers.dialect import Answer, Call, Codec
from shared.providers.sse_reader import SseEvent

_OF_THE_CHUNK: Final = ("id", "created", "model", "system_fingerprint")


class WholeAnswer:
    """See `StreamDecoder`. Its one event is the body that `codec`, a chat codec, decodes."""

    def __init__(self, codec: Codec, call: Call) -> None:
        self._codec = codec
        self._call = call
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.finished = False
        self.text_chars = 0

    @property
    def ended(self) -> bool:
        return self.finished

    def feed(self, event: SseEvent) -> list[bytes]:
        answer = self._codec.decode(event.data, self._call)
        completion = orjson.loads(answer.body)
        self.usage, self.finish_reason, self.finished = answer.usage, answer.finish_reason, True
        self.text_chars = answer.text_chars
        head = {name: completion[name] for name in _OF_THE_CHUNK if name in completion}
        head["object"] = "chat.completion.chunk"
        choices = completion["choices"]
        chunks = [
            {**head, "choices": [_said(choice, at) for at, choice in enumerate(choices)]},
            {**head, "choices": [_ended(choice, at) for at, choice in enumerate(choices)]},
        ]
        usage = completion.get("usage")
        if usage and type(usage) is dict and self._call.include_usage:
            chunks.append({**head, "choices": [], "usage": usage})
        return [orjson.dumps(chunk) for chunk in chunks]

    def end(self) -> list[bytes]:
        return []


def _said(choice: dict[str, Any], at: int) -> dict[str, Any]:
    delta = dict(choice["message"])
    if isinstance(calls := delta.get("tool_calls"), list):
        delta["tool_calls"] = [
            {"index": index, **one} for index, one in enumerate(calls) if isinstance(one, dict)
        ]
    return {"index": at, "delta": delta, "finish_reason": None}


def _ended(choice: dict[str, Any], at: int) -> dict[str, Any]:
    return {"index": at, "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"}


def completion(call: Call, text: str, finish_reason: str | None, usage: Usage | None, created: int) -> Answer:
    """A `chat.completion` for the text that a model wrote."""
    body: dict[str, Any] = {
        "id": completion_id(call),
        "object": "chat.completion",
        "created": created,
        "model": call.target.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": finish_reason,
            }
        ],
    }
    if usage is not None:
        body["usage"] = usage_fields(usage)
    return Answer(orjson.dumps(body), usage, finish_reason, len(text))


def completion_id(call: Call) -> str:
    return f"chatcmpl-{call.job_id.removeprefix('job_')}"


def usage_fields(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
