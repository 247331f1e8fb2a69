"""A codec for any kind of job that can be said as a chat: translated on the way out and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import orjson

from shared.domain.job import JobKind
from shared.domain.usage import Usage
from shared.providers.dialect import Answer, Call, ProviderRequest, StreamDecoder
from shared.providers.sse_reader import SseEvent


class EventTranslator(Protocol):
    """Canonical chunks of one stream, in order, as events of another form. Stateful; pure."""

    def feed(self, chunk: dict[str, Any]) -> list[bytes]:
        """Event documents for a `chat.completion.chunk`, none with a newline inside."""
        ...

    def end(self) -> list[bytes]:
        """What closes the stream, once it is whole."""
        ...


class Translation(Protocol):
    """One form, to chat and back. Nothing is lost in silence: what chat has no word for is a 400."""

    def to_chat(self, call: Call) -> dict[str, Any]:
        """A canonical chat request for `call.body`; `model`, `stream` and `stream_options` are set for it.

        Raises InvalidRequest (400, `param` set).
        """
        ...

    def from_chat(self, completion: dict[str, Any], call: Call) -> dict[str, Any]:
        """The answer in this form for a `chat.completion`."""
        ...

    def open_events(self, call: Call) -> EventTranslator: ...


class ViaChat:
    """See `Codec`."""

    def __init__(self, translation: Translation) -> None:
        self._translation = translation

    def encode(self, call: Call) -> ProviderRequest:
        document = self._translation.to_chat(call)
        document["model"] = call.target.model
        if call.stream:
            document["stream"] = True
            document["stream_options"] = {"include_usage": True}
        chat = replace(call, body=orjson.dumps(document), include_usage=True)
        return call.profile.codec(JobKind.CHAT).encode(chat)

    def decode(self, body: bytes, call: Call) -> Answer:
        answer = call.profile.codec(JobKind.CHAT).decode(body, call)
        translated = self._translation.from_chat(orjson.loads(answer.body), call)
        return replace(answer, body=orjson.dumps(translated))

    def open_stream(self, call: Call) -> TranslatedStream:
        chat = call.profile.codec(JobKind.CHAT).open_stream(replace(call, include_usage=True))
        return TranslatedStream(chat, self._translation.open_events(call))


class TranslatedStream:
    """See `StreamDecoder`."""

    __slots__ = ("_chat", "_events")

    def __init__(self, chat: StreamDecoder, events: EventTranslator) -> None:
        self._chat = chat
        self._events = events

    @property
    def usage(self) -> Usage | None:
        return self._chat.usage

    @property
    def finish_reason(self) -> str | None:
        return self._chat.finish_reason

    @property
    def ended(self) -> bool:
        return self._chat.ended

    @property
    def finished(self) -> bool:
        return self._chat.finished

    @property
    def text_chars(self) -> int:
        return self._chat.text_chars

    def feed(self, event: SseEvent) -> list[bytes]:
        return self._translated(self._chat.feed(event))

    def end(self) -> list[bytes]:
        return [*self._translated(self._chat.end()), *self._events.end()]

    def _translated(self, chunks: list[bytes]) -> list[bytes]:
        return [document for chunk in chunks for document in self._events.feed(orjson.loads(chunk))]
