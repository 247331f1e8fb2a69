"""An Anthropic event stream as OpenAI chat completion chunks.

    message_start        role chunk
    content_block_start  of a tool: its id and name
    content_block_delta  content, reasoning_content or a fragment of arguments
    content_block_stop   of a tool without a fragment: its whole input; of thinking: the whole block
    message_delta        finish chunk
    message_stop         usage chunk, if asked for; finished

Everything else (ping, signatures, citations, blocks of server-side tools) passes in silence.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from shared.domain.usage import Usage
from shared.errors import ProviderAnswerInvalid
from shared.providers import refusals
from shared.providers.dialects.anthropic.answer import (
    UsageCounts,
    completion_id,
    finish_reason,
    tool_call,
)
from shared.providers.profile import ProviderProfile
from shared.providers.sse_reader import SseEvent

_FRAGMENTS: Final = {
    "text_delta": ("text", b'"content":'),
    "thinking_delta": ("thinking", b'"reasoning_content":'),
}
"""Kind of delta -> where its text is, and the field of an OpenAI delta it becomes."""


class AnthropicStream:
    """See `StreamDecoder`."""

    __slots__ = (
        "_calls",
        "_counts",
        "_created",
        "_head",
        "_include_usage",
        "_model",
        "_open_calls",
        "_profile",
        "_tail",
        "_thoughts",
        "_thoughts_told",
        "finish_reason",
        "finished",
        "text_chars",
        "usage",
    )

    def __init__(self, profile: ProviderProfile, *, model: str, created: int, include_usage: bool) -> None:
        self._profile = profile
        self._model = model
        self._created = created
        self._include_usage = include_usage
        self._counts = UsageCounts()
        self._calls = 0
        self._open_calls: dict[int, _OpenCall] = {}
        """Tool calls under way, by Anthropic's index of the block."""
        self._thoughts: dict[int, dict[str, Any]] = {}
        """Blocks of thinking under way, by Anthropic's index: they are told once more, whole and signed."""
        self._thoughts_told = 0
        self._head = b""
        """All of a chunk before its choices, alike throughout the stream. Empty until message_start."""
        self._tail = b',"usage":null}' if include_usage else b"}"
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.finished = False
        self.text_chars = 0

    @property
    def ended(self) -> bool:
        return self.finish_reason is not None

    def feed(self, event: SseEvent) -> list[bytes]:
        if self.finished or event.event == "ping" or not event.data:
            return []
        try:
            document = orjson.loads(event.data)
        except orjson.JSONDecodeError as exc:
            raise self._invalid("is not JSON") from exc
        if type(document) is not dict:
            raise self._invalid("is not an object")
        kind = document.get("type")
        if kind == "content_block_delta":
            return self._delta(document)
        if kind == "error" or event.event == "error" or (kind is None and document.get("error")):
            raise refusals.from_event(document, profile=self._profile)
        if kind == "message_start":
            return self._start(document)
        if kind == "content_block_start":
            return self._open_block(document)
        if kind == "content_block_stop":
            return self._close_block(document)
        if kind == "message_delta":
            return self._end(document)
        if kind == "message_stop":
            self.finished = True
            return [self._usage_chunk()] if self._include_usage and self._head else []
        if type(kind) is not str:
            # Passed over, it would be a piece of the answer that nobody misses.
            raise self._invalid("has no type")
        return []

    def end(self) -> list[bytes]:
        return []

    def _start(self, document: dict[str, Any]) -> list[bytes]:
        message = document.get("message")
        if type(message) is not dict or self._head:
            raise self._invalid("is no start of a message")
        model = message.get("model")
        self._head = orjson.dumps(
            {
                "id": completion_id(message.get("id")),
                "object": "chat.completion.chunk",
                "created": self._created,
                "model": model if isinstance(model, str) else self._model,
            }
        )[:-1]
        self._count(message.get("usage"))
        return [self._chunk(b'{"role":"assistant","content":"","refusal":null}')]

    def _open_block(self, document: dict[str, Any]) -> list[bytes]:
        block = document.get("content_block")
        if type(block) is not dict or type(block.get("type")) is not str:
            raise self._invalid("is no content block")
        kind = block["type"]
        if kind == "tool_use":
            call = _OpenCall(self._calls, block.get("input"))
            self._calls += 1
            self._open_calls[_index(document)] = call
            opening = {"index": call.index, **tool_call(block, "")}
            return [self._chunk(orjson.dumps({"tool_calls": [opening]}))]
        if kind == "text" and block.get("text"):
            return self._text(block["text"], b'"content":')
        if kind in {"thinking", "redacted_thinking"}:
            self._thoughts[_index(document)] = block
            return self._text(block.get("thinking") or "", b'"reasoning_content":')
        return []

    def _delta(self, document: dict[str, Any]) -> list[bytes]:
        delta = document.get("delta")
        if type(delta) is not dict:
            raise self._invalid("is no delta")
        kind = delta.get("type")
        if type(kind) is not str:
            raise self._invalid("is no delta")
        if kind in _FRAGMENTS:
            source, field = _FRAGMENTS[kind]
            chunks = self._text(delta.get(source), field)
            if kind == "thinking_delta":
                self._add_to_thought(document, delta.get(source))
            return chunks
        if kind == "signature_delta":
            if (thought := self._thoughts.get(_index(document))) is not None:
                thought["signature"] = delta.get("signature")
            return []
        if kind == "input_json_delta":
            call = self._open_calls.get(_index(document))
            fragment = delta.get("partial_json")
            if call is None or not fragment:
                return []
            call.has_fragments = True
            return self._arguments(call, fragment)
        return []

    def _add_to_thought(self, document: dict[str, Any], thinking: object) -> None:
        block = self._thoughts.get(_index(document))
        if block is not None and type(thinking) is str:
            block["thinking"] = (block.get("thinking") or "") + thinking

    def _close_block(self, document: dict[str, Any]) -> list[bytes]:
        thought = self._thoughts.pop(_index(document), None)
        if thought is not None:
            # With an index, as OpenAI's client wants of what it puts together from several chunks.
            told = {"index": self._thoughts_told, **thought}
            self._thoughts_told += 1
            return [self._chunk(orjson.dumps({"thinking_blocks": [told]}))]
        call = self._open_calls.pop(_index(document), None)
        if call is None or call.has_fragments:
            return []
        # A call without arguments has no fragments, or one that is empty: OpenAI's clients expect "{}".
        return self._arguments(call, orjson.dumps(call.input).decode())

    def _end(self, document: dict[str, Any]) -> list[bytes]:
        self._count(document.get("usage"))
        delta = document.get("delta")
        reason = finish_reason(delta.get("stop_reason")) if type(delta) is dict else None
        if reason is None or self.finish_reason is not None:
            return []
        self.finish_reason = reason
        return [self._chunk(b"{}", finish=orjson.dumps(reason))]

    def _text(self, text: object, field: bytes) -> list[bytes]:
        if type(text) is not str:
            raise self._invalid("holds no text")
        if not text:
            return []
        self.text_chars += len(text)
        return [self._chunk(b"{%b%b}" % (field, orjson.dumps(text)))]

    def _arguments(self, call: _OpenCall, fragment: object) -> list[bytes]:
        if type(fragment) is not str:
            raise self._invalid("holds no arguments")
        self.text_chars += len(fragment)
        delta = b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}'
        return [self._chunk(delta % (call.index, orjson.dumps(fragment)))]

    def _chunk(self, delta: bytes, *, finish: bytes = b"null") -> bytes:
        if not self._head:
            raise self._invalid("comes before the start of the message")
        return b'%b,"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]%b' % (
            self._head,
            delta,
            finish,
            self._tail,
        )

    def _usage_chunk(self) -> bytes:
        return b'%b,"choices":[],"usage":%b}' % (self._head, orjson.dumps(self._counts.as_openai()))

    def _count(self, usage: object) -> None:
        self._counts.add(usage)
        self.usage = self._counts.usage()

    def _invalid(self, why: str) -> ProviderAnswerInvalid:
        return ProviderAnswerInvalid(
            f"An event of {self._profile.name}'s stream {why}.", provider=self._profile.id
        )


class _OpenCall:
    __slots__ = ("has_fragments", "index", "input")

    def __init__(self, index: int, start_input: object) -> None:
        self.index = index
        """Among the tool calls of the answer: OpenAI counts calls, Anthropic blocks."""
        self.input = start_input if type(start_input) is dict else {}
        self.has_fragments = False


def _index(document: dict[str, Any]) -> int:
    index = document.get("index")
    return index if type(index) is int else -1
