"""Anthropic Messages for callers who speak it too: nearly everything passes through untouched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from shared.domain.job import JobKind
from shared.domain.usage import Usage
from shared.errors import InvalidJson, ProviderAnswerInvalid
from shared.providers import refusals
from shared.providers.dialect import Answer, Call, ProviderRequest
from shared.providers.dialects.anthropic.answer import UsageCounts, answer_of, finish_reason, read_message
from shared.providers.dialects.anthropic.paths import messages_path
from shared.providers.dialects.anthropic.wanted_api import take_headers
from shared.providers.profile import ProviderProfile
from shared.providers.sse_reader import SseEvent


class NativeMessages:
    """See `Codec`. Requests and answers keep their bytes unless something has to change."""

    def encode(self, call: Call) -> ProviderRequest:
        body, headers = _adapted(call)
        return ProviderRequest(messages_path(call.profile, JobKind.MESSAGES), body, headers)

    def decode(self, body: bytes, call: Call) -> Answer:
        message = read_message(body, call.profile)
        counts = UsageCounts()
        counts.add(message.get("usage"))
        reason = finish_reason(message.get("stop_reason")) or "stop"
        return answer_of(body, message["content"], counts.usage(), reason)

    def open_stream(self, call: Call) -> NativeStream:
        return NativeStream(call.profile)


class NativeTokenCount(NativeMessages):
    """See `Codec`. Nothing is generated, so nothing was used."""

    def encode(self, call: Call) -> ProviderRequest:
        body, headers = _adapted(call)
        path = messages_path(call.profile, JobKind.COUNT_TOKENS) + "/count_tokens"
        return ProviderRequest(path, body, headers)

    def decode(self, body: bytes, call: Call) -> Answer:
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        if isinstance(answer, dict) and answer.get("error"):
            raise refusals.from_event(answer, profile=call.profile)
        if not isinstance(answer, dict) or type(answer.get("input_tokens")) is not int:
            raise ProviderAnswerInvalid(
                f"The answer of {call.profile.name} is not a count of tokens.", provider=call.profile.id
            )
        return Answer(body, Usage(), None)


native_messages: Final = NativeMessages()
native_token_count: Final = NativeTokenCount()


def _adapted(call: Call) -> tuple[bytes, Mapping[str, str]]:
    try:
        request = orjson.loads(call.body)
    except orjson.JSONDecodeError as exc:
        raise InvalidJson("The request body is not JSON.") from exc
    if type(request) is not dict:
        raise InvalidJson("The request body is not a JSON object.")
    fields = len(request)
    headers = take_headers(request)
    changed = len(request) != fields
    model = call.profile.model_name(call.target.model)
    if request.get("model") != model:
        request["model"] = model
        changed = True
    if call.stream != (request.get("stream") is True):
        if call.stream:
            request["stream"] = True
        else:
            del request["stream"]
        changed = True
    return orjson.dumps(request) if changed else call.body, headers


class NativeStream:
    """See `StreamDecoder`."""

    __slots__ = ("_counts", "_profile", "_started", "finish_reason", "finished", "text_chars", "usage")

    def __init__(self, profile: ProviderProfile) -> None:
        self._profile = profile
        self._counts = UsageCounts()
        self._started = False
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.finished = False
        self.text_chars = 0

    @property
    def ended(self) -> bool:
        return self.finish_reason is not None

    def feed(self, event: SseEvent) -> list[bytes]:
        data = event.data.strip()
        if self.finished or event.event == "ping" or not data:
            return []
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            raise self._invalid("is not JSON") from exc
        kind = document.get("type") if type(document) is dict else None
        if kind == "ping":
            return []
        if kind == "error" or event.event == "error" or (kind is None and _has_error(document)):
            raise refusals.from_event(document, profile=self._profile)
        if type(kind) is not str:
            raise self._invalid("has no type")
        if kind == "message_start":
            self._start(document)
        elif not self._started:
            raise self._invalid("comes before the start of the message")
        elif kind == "content_block_delta":
            self._see_delta(document)
        elif kind == "message_delta":
            self._see_end(document)
        elif kind == "message_stop":
            self.finished = True
            if not self.ended:
                # Passed on, it would make a whole message of what was cut.
                return []
        return [_as_one_line(data, kind, document)]

    def end(self) -> list[bytes]:
        return [] if self.finished else [b'{"type":"message_stop"}']

    def _start(self, document: dict[str, Any]) -> None:
        message = document.get("message")
        if type(message) is not dict or self._started:
            raise self._invalid("is no start of a message")
        self._started = True
        self._count(message.get("usage"))

    def _see_delta(self, document: dict[str, Any]) -> None:
        delta = document.get("delta")
        if type(delta) is not dict or type(delta.get("type")) is not str:
            raise self._invalid("is no delta")
        for name in ("text", "thinking", "partial_json"):
            fragment = delta.get(name)
            if type(fragment) is str:
                self.text_chars += len(fragment)

    def _see_end(self, document: dict[str, Any]) -> None:
        self._count(document.get("usage"))
        delta = document.get("delta")
        if type(delta) is dict:
            self.finish_reason = finish_reason(delta.get("stop_reason")) or self.finish_reason

    def _count(self, usage: object) -> None:
        self._counts.add(usage)
        self.usage = self._counts.usage()

    def _invalid(self, why: str) -> ProviderAnswerInvalid:
        return ProviderAnswerInvalid(
            f"An event of {self._profile.name}'s stream {why}.", provider=self._profile.id
        )


def _has_error(document: object) -> bool:
    return type(document) is dict and bool(document.get("error"))


def _as_one_line(data: bytes, kind: str, document: dict[str, Any]) -> bytes:
    """The event's name on the wire is the first `type` in it, wherever its author wrote that."""
    if b"\n" not in data and data.startswith(
        (b'{"type":"%b"' % kind.encode(), b'{"type": "%b"' % kind.encode())
    ):
        return data
    return orjson.dumps({"type": kind, **document})
