"""OpenAI chat completion chunks as the events of an Anthropic message.

    first chunk       message_start
    a new piece       content_block_start, once the block before it is closed
    its fragments     content_block_delta
    end               content_block_stop of what is open, message_delta, message_stop

Blocks stand one after another, while fragments of parallel tool calls may come mixed. The
first block is passed on live; those behind it wait until it is complete: a text when something
else begins, a call when its arguments are a whole JSON value.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import orjson

from shared.errors import ProviderAnswerInvalid
from shared.providers.dialect import Call
from shared.providers.translation.messages_answer import (
    Block,
    estimated_usage,
    objects,
    opening,
    read_input,
    reasoning_of,
    stop_reason,
    string,
    tool_use,
    usage_of,
)

_OPENINGS: Final[dict[str, Block]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


class MessageEvents:
    """See `EventTranslator`."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._started = False
        self._blocks: deque[_Block] = deque()
        """Those not closed yet, in order. The first is the one whose fragments are passed on."""
        self._calls: dict[int, _Block] = {}
        """The latest tool call of each index of OpenAI's."""
        self._closed = 0
        self._called = 0
        self._chars = 0
        self._refused = False
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] | None = None

    def feed(self, chunk: dict[str, Any]) -> list[bytes]:
        events = self._start(chunk)
        self._usage = usage_of(chunk.get("usage")) or self._usage
        for choice in objects(chunk.get("choices")):
            if not choice.get("index"):
                events += self._choice(choice)
        return events

    def end(self) -> list[bytes]:
        events = self._start({})
        while self._blocks:
            events += self._advance()
            if self._blocks:
                events.append(self._close(cut=self._finish_reason == "length"))
        usage = self._usage or estimated_usage(self._call, self._chars)
        reason = stop_reason(self._finish_reason, refused=self._refused, called=self._called > 0)
        delta = {"stop_reason": reason, "stop_sequence": None}
        return [
            *events,
            orjson.dumps({"type": "message_delta", "delta": delta, "usage": usage}),
            orjson.dumps({"type": "message_stop"}),
        ]

    def _start(self, chunk: dict[str, Any]) -> list[bytes]:
        if self._started:
            return []
        self._started = True
        # The prompt is an estimate until message_delta has the count of the provider, who says it last.
        message = {
            **opening(chunk, self._call),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": estimated_usage(self._call, 0),
        }
        return [orjson.dumps({"type": "message_start", "message": message})]

    def _choice(self, choice: dict[str, Any]) -> list[bytes]:
        self._finish_reason = string(choice.get("finish_reason")) or self._finish_reason
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return []
        if thinking := reasoning_of(delta):
            self._block("thinking").add(thinking)
        for text in (string(delta.get("content")), refusal := string(delta.get("refusal"))):
            if text:
                self._block("text").add(text)
        self._refused = self._refused or bool(refusal)
        for fragment in objects(delta.get("tool_calls")):
            self._add_to_call(fragment)
        return self._advance()

    def _block(self, kind: str) -> _Block:
        """The last block, if it is of this kind, else a new one behind it."""
        if not self._blocks or self._blocks[-1].kind != kind:
            self._blocks.append(_Block(kind))
        return self._blocks[-1]

    def _add_to_call(self, fragment: dict[str, Any]) -> None:
        function = fragment.get("function")
        function = function if isinstance(function, dict) else {}
        identity, name = string(fragment.get("id")), string(function.get("name"))
        index = fragment.get("index")
        index = index if isinstance(index, int) else max(self._calls, default=0)
        block = self._calls.get(index)
        # Some servers give whole calls, all with the same index or with none.
        if block is None or (identity and name and block.name and block.identity not in {"", identity}):
            block = _Block("tool_use")
            self._calls[index] = block
            self._blocks.append(block)
        block.identity = block.identity or identity
        block.name = block.name or name
        block.add(string(function.get("arguments")))

    def _advance(self) -> list[bytes]:
        """All that can be said now."""
        events: list[bytes] = []
        while self._blocks:
            block = self._blocks[0]
            if not block.is_open:
                if block.kind == "tool_use" and not block.name:
                    break
                events.append(self._open(block))
            if fragment := block.take():
                self._chars += len(fragment)
                delta = {"type": _DELTAS[block.kind], _FIELDS[block.kind]: fragment}
                events.append(
                    orjson.dumps({"type": "content_block_delta", "index": self._closed, "delta": delta})
                )
            if len(self._blocks) == 1 or not block.is_complete():
                break
            events.append(self._close())
        return events

    def _open(self, block: _Block) -> bytes:
        block.is_open = True
        content = _OPENINGS.get(block.kind)
        if content is None:
            content = {**tool_use(block.identity, block.name, self._called, self._call), "input": {}}
            self._called += 1
        return orjson.dumps({"type": "content_block_start", "index": self._closed, "content_block": content})

    def _close(self, *, cut: bool = False) -> bytes:
        """`cut`: the limit of tokens ended the answer, so that a call may lack the rest of its input."""
        block = self._blocks.popleft()
        if not block.is_open:
            raise ProviderAnswerInvalid(
                f"{self._call.profile.name} called a tool without saying which.",
                provider=self._call.profile.id,
            )
        if block.kind == "tool_use" and not cut:
            read_input(block.arguments, self._call)
        index, self._closed = self._closed, self._closed + 1
        return orjson.dumps({"type": "content_block_stop", "index": index})


_DELTAS: Final = {"text": "text_delta", "thinking": "thinking_delta", "tool_use": "input_json_delta"}
_FIELDS: Final = {"text": "text", "thinking": "thinking", "tool_use": "partial_json"}


class _Block:
    __slots__ = ("_unsaid", "arguments", "identity", "is_open", "kind", "name")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.identity = self.name = ""
        self.arguments = ""
        """Of a tool call: all that came so far."""
        self.is_open = False
        self._unsaid = ""

    def add(self, fragment: str) -> None:
        self._unsaid += fragment
        if self.kind == "tool_use":
            self.arguments += fragment

    def take(self) -> str:
        """What was added and not taken yet. White space alone is no JSON, and waits for more."""
        if self.kind == "tool_use" and not self.arguments.strip():
            return ""
        unsaid, self._unsaid = self._unsaid, ""
        return unsaid

    def is_complete(self) -> bool:
        """Whether nothing can follow. Asked only when something else waits behind it."""
        if self.kind != "tool_use":
            return True
        if not self.arguments.rstrip().endswith("}"):
            return False
        try:
            return type(orjson.loads(self.arguments)) is dict
        except orjson.JSONDecodeError:
            return False
