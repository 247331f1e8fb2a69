"""A chat answer as a Response: the events of its stream, and the object they end in.

    response.created, response.in_progress      of one in the background: .created, .queued, .in_progress
    for each item of the output, one after the other:
        response.output_item.added
        reasoning      reasoning_summary_part.added, reasoning_summary_text.delta..., .done, part.done
        message        for each part: content_part.added, output_text.delta... | refusal.delta...,
                       .done, content_part.done
        function_call  function_call_arguments.delta..., .done
        response.output_item.done
    response.completed | response.incomplete

`sequence_number` counts from 0: it is the ordinal of the job's event less one, so whoever
resumes by the one has resumed by the other.
Source: openai-python 3.52, types/responses/*_event.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import orjson

from shared.errors import ProviderAnswerInvalid
from shared.ids import JobId
from shared.providers.profile import ProviderProfile
from shared.providers.translation.responses_object import Fields, item_id, response_object, response_usage

_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Finish reason of a chat -> why a response is incomplete."""


class ResponseEvents:
    """See `EventTranslator`. `response` is whole after `end`."""

    def __init__(
        self, request: Mapping[str, Any], *, job_id: JobId, model: str, profile: ProviderProfile
    ) -> None:
        self.response: Fields = {}
        self._request = request
        self._job_id = job_id
        self._model = model
        self._profile = profile
        self._output: list[Fields] = []
        self._open: _Item | None = None
        self._calls: set[tuple[str, int]] = set()
        """Under what ids ("" for none) and indexes the tool calls so far were told."""
        self._usage: Fields | None = None
        self._service_tier: str | None = None
        self._incomplete: str | None = None
        self._events: list[bytes] = []
        self._count = 0

    def feed(self, chunk: Fields) -> list[bytes]:
        self._note(chunk)
        if not self._count:
            self._begin()
        for choice in chunk.get("choices") or ():
            # There is one answer: this form cannot ask for more.
            if choice.get("index", 0) == 0:
                self._hear(choice)
        return self._take()

    def end(self) -> list[bytes]:
        if not self._count:
            self._begin()
        self._close()
        if not self._output and self._incomplete is None:
            self._message()
            self._close()
        status = "completed" if self._incomplete is None else "incomplete"
        self.response = self._response(status)
        self.emit(f"response.{status}", response=self.response)
        return self._take()

    def emit(self, kind: str, **fields: Any) -> None:
        # `type` comes first: the `event:` line is read off the beginning.
        self._events.append(orjson.dumps({"type": kind, "sequence_number": self._count, **fields}))
        self._count += 1

    def _take(self) -> list[bytes]:
        events, self._events = self._events, []
        return events

    def _note(self, chunk: Fields) -> None:
        if not self._count and isinstance(chunk.get("model"), str):
            self._model = chunk["model"]
        if isinstance(chunk.get("service_tier"), str):
            self._service_tier = chunk["service_tier"]
        self._usage = response_usage(chunk.get("usage")) or self._usage

    def _begin(self) -> None:
        opening = opening_events(self._request, job_id=self._job_id)
        self._events += opening
        self._count = len(opening)
        # It echoes instructions and tools, which can be long.
        started = orjson.Fragment(orjson.dumps(self._response("in_progress")))
        if not opening:
            self.emit("response.created", response=started)
        self.emit("response.in_progress", response=started)

    def _response(self, status: str) -> Fields:
        return response_object(
            self._request,
            job_id=self._job_id,
            model=self._model,
            status=status,
            output=self._output,
            incomplete=self._incomplete,
            usage=self._usage,
            service_tier=self._service_tier,
        )

    def _hear(self, choice: Fields) -> None:
        delta = choice.get("delta")
        if isinstance(delta, dict):
            # vLLM says `reasoning` from 0.11 on, and for a while said both.
            if reasoning := _text(delta.get("reasoning_content")) or _text(delta.get("reasoning")):
                self._reasoning().add(reasoning)
            if text := _text(delta.get("content")):
                self._message().add("output_text", text, _logprobs(choice.get("logprobs")))
            if refusal := _text(delta.get("refusal")):
                self._message().add("refusal", refusal, [])
            for position, fragment in enumerate(_objects(delta.get("tool_calls"))):
                self._call(fragment, position)
        reason = choice.get("finish_reason")
        if isinstance(reason, str):
            self._incomplete = _INCOMPLETE.get(reason)
            self._close()

    def _reasoning(self) -> _Reasoning:
        if not isinstance(self._open, _Reasoning):
            self._close()
            self._open = _Reasoning(self, len(self._output), item_id("rs", self._job_id, len(self._output)))
        return self._open

    def _message(self) -> _Message:
        if not isinstance(self._open, _Message):
            self._close()
            self._open = _Message(self, len(self._output), item_id("msg", self._job_id, len(self._output)))
        return self._open

    def _call(self, fragment: Fields, position: int) -> None:
        given, index = _text(fragment.get("id")), fragment.get("index")
        place = index if isinstance(index, int) else position
        function = fragment.get("function")
        function = function if isinstance(function, dict) else {}
        call = self._open
        # Some repeat the id in each fragment, some count every call 0 and tell them apart by id.
        if not (isinstance(call, _Call) and call.place == place and given in ("", call.call_id)):
            if (given, place) in self._calls:
                raise ProviderAnswerInvalid(
                    f"{self._profile.name} went back to a tool call that had ended.",
                    provider=self._profile.id,
                )
            self._close()
            self._calls |= {(given, place), ("", place)}
            at = len(self._output)
            call = _Call(
                self,
                at,
                item_id("fc", self._job_id, at),
                given or item_id("call", self._job_id, at),
                place,
                _text(function.get("name")),
            )
            self._open = call
        if arguments := _text(function.get("arguments")):
            call.add(arguments)

    def _close(self) -> None:
        if self._open is not None:
            item = self._open.close("completed" if self._incomplete is None else "incomplete")
            self._output.append(item)
            self._open = None


def opening_events(request: Mapping[str, Any], *, job_id: JobId) -> list[bytes]:
    """How the events of a response in the background begin, which is known before anybody works on it:
    whoever reads on hears it at once, and finds the same in its log. Of any other: nothing.
    """
    if request.get("background") is not True:
        return []
    waits = response_object(request, job_id=job_id, model=request["model"], status="queued")
    told = orjson.Fragment(orjson.dumps(waits))
    return [
        orjson.dumps({"type": kind, "sequence_number": number, "response": told})
        for number, kind in enumerate(("response.created", "response.queued"))
    ]


class _Item(Protocol):
    def close(self, status: str) -> Fields:
        """Emits its end; the item as it stands in the output."""
        ...


class _Reasoning:
    def __init__(self, events: ResponseEvents, index: int, item: str) -> None:
        self._events = events
        self._text: list[str] = []
        self._item: Fields = {"id": item, "type": "reasoning", "summary": []}
        self._where = {"item_id": item, "output_index": index, "summary_index": 0}
        events.emit("response.output_item.added", output_index=index, item=self._item)
        events.emit("response.reasoning_summary_part.added", **self._where, part=_summary(""))

    def add(self, text: str) -> None:
        self._text.append(text)
        self._events.emit("response.reasoning_summary_text.delta", **self._where, delta=text)

    def close(self, status: str) -> Fields:
        text = "".join(self._text)
        self._events.emit("response.reasoning_summary_text.done", **self._where, text=text)
        self._events.emit("response.reasoning_summary_part.done", **self._where, part=_summary(text))
        item = {**self._item, "summary": [_summary(text)]}
        self._events.emit("response.output_item.done", output_index=self._where["output_index"], item=item)
        return item


class _Message:
    def __init__(self, events: ResponseEvents, index: int, item: str) -> None:
        self._events = events
        self._index = index
        self._id = item
        self._parts: list[Fields] = []
        self._kind = ""
        """Of the part that is open."""
        self._text: list[str] = []
        self._logprobs: list[Fields] = []
        events.emit("response.output_item.added", output_index=index, item=self._item("in_progress"))

    def add(self, kind: str, text: str, logprobs: list[Fields]) -> None:
        """`kind`: output_text or refusal."""
        self._in_part(kind)
        self._text.append(text)
        self._logprobs += logprobs
        told = {"logprobs": logprobs} if kind == "output_text" else {}
        self._events.emit(f"response.{kind}.delta", **self._where(), delta=text, **told)

    def close(self, status: str) -> Fields:
        if not self._kind:
            self._in_part("output_text")
        self._close_part()
        item = self._item(status)
        self._events.emit("response.output_item.done", output_index=self._index, item=item)
        return item

    def _in_part(self, kind: str) -> None:
        if kind != self._kind:
            self._close_part()
            self._kind = kind
            self._events.emit("response.content_part.added", **self._where(), part=_part(kind, "", []))

    def _close_part(self) -> None:
        if not self._kind:
            return
        text = "".join(self._text)
        part = _part(self._kind, text, self._logprobs)
        told = (
            {"text": text, "logprobs": self._logprobs} if self._kind == "output_text" else {"refusal": text}
        )
        self._events.emit(f"response.{self._kind}.done", **self._where(), **told)
        self._events.emit("response.content_part.done", **self._where(), part=part)
        self._parts.append(part)
        self._kind, self._text, self._logprobs = "", [], []

    def _where(self) -> Fields:
        return {"item_id": self._id, "output_index": self._index, "content_index": len(self._parts)}

    def _item(self, status: str) -> Fields:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": list(self._parts),
        }


class _Call:
    def __init__(
        self, events: ResponseEvents, index: int, item: str, call_id: str, place: int, name: str
    ) -> None:
        self.call_id = call_id
        self.place = place
        self._events = events
        self._name = name
        self._arguments: list[str] = []
        self._where = {"item_id": item, "output_index": index}
        events.emit("response.output_item.added", output_index=index, item=self._item("in_progress", ""))

    def add(self, arguments: str) -> None:
        self._arguments.append(arguments)
        self._events.emit("response.function_call_arguments.delta", **self._where, delta=arguments)

    def close(self, status: str) -> Fields:
        arguments = "".join(self._arguments)
        self._events.emit("response.function_call_arguments.done", **self._where, arguments=arguments)
        item = self._item(status, arguments)
        self._events.emit("response.output_item.done", output_index=self._where["output_index"], item=item)
        return item

    def _item(self, status: str, arguments: str) -> Fields:
        return {
            "id": self._where["item_id"],
            "type": "function_call",
            "status": status,
            "call_id": self.call_id,
            "name": self._name,
            "arguments": arguments,
        }


def _part(kind: str, text: str, logprobs: list[Fields]) -> Fields:
    if kind == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _summary(text: str) -> Fields:
    return {"type": "summary_text", "text": text}


def _logprobs(logprobs: object) -> list[Fields]:
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [
        {**_token(token), "top_logprobs": [_token(rival) for rival in _objects(token.get("top_logprobs"))]}
        for token in _objects(tokens)
    ]


def _token(token: Fields) -> Fields:
    """Chat may leave the bytes out, this form has them always."""
    return {
        "token": token.get("token"),
        "logprob": token.get("logprob"),
        "bytes": token.get("bytes") or [],
    }


def _objects(value: object) -> list[Fields]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    """Text, or the text of parts as some providers write it."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    return "".join(part["text"] for part in value if isinstance(part, dict) and type(part.get("text")) is str)
