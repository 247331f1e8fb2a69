"""Text Generation Inference's own language: /generate and /generate_stream.

github.com/huggingface/text-generation-inference, docs/openapi.json, read 2026-11.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import orjson

from shared.domain.job import JobKind
from shared.domain.usage import Usage
from shared.errors import ProviderAnswerInvalid
from shared.providers import refusals
from shared.providers.dialect import Answer, Call, ProviderRequest, StreamDecoder
from shared.providers.dialects.http_json import HINTS, max_tokens, only_text
from shared.providers.dialects.json_answer import invalid
from shared.providers.dialects.openai_chat import fit, parse_request
from shared.providers.dialects.prompt_templates import TemplateName, render
from shared.providers.dialects.whole_answer import completion, completion_id, usage_fields
from shared.providers.sse_reader import SseEvent
from shared.providers.tokens import prompt_tokens

_AS_THEY_ARE: Final = ("frequency_penalty", "seed", "top_k", "repetition_penalty", "typical_p")
_KNOWN: Final = HINTS | {*_AS_THEY_ARE, "stop"}
_FINISH_REASONS: Final = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}


@dataclass(frozen=True, slots=True)
class Tgi:
    """See `Codec`."""

    template: TemplateName = "plain"

    def encode(self, call: Call) -> ProviderRequest:
        request = parse_request(call.body)
        headers = fit(request, call)
        only_text(request, _KNOWN)
        body = {"inputs": render(self.template, request["messages"]), "parameters": _parameters(request)}
        path = "/generate_stream" if call.stream else "/generate"
        return ProviderRequest(path, orjson.dumps(body), headers)

    def decode(self, body: bytes, call: Call) -> Answer:
        document = _parsed(body, call)
        # Its SageMaker container answers with a list of one.
        first = document[0] if type(document) is list and document else document
        if type(first) is not dict:
            raise invalid(call.profile, "generated text")
        text = first.get("generated_text")
        if type(text) is not str:
            if first.get("error"):
                raise refusals.from_event(first, profile=call.profile)
            raise invalid(call.profile, "generated text")
        reason, usage = _details(first.get("details"), call)
        return completion(call, text, reason or "stop", usage, int(time.time()))

    def open_stream(self, call: Call) -> StreamDecoder:
        return TgiStream(call)


class TgiStream:
    """See `StreamDecoder`."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._head = {
            "id": completion_id(call),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": call.target.model,
        }
        self._started = False
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.finished = False
        self.text_chars = 0

    @property
    def ended(self) -> bool:
        return self.finished

    def feed(self, event: SseEvent) -> list[bytes]:
        if not event.data.strip() or self.finished:
            return []
        document = _parsed(event.data, self._call)
        if type(document) is dict and document.get("error"):
            raise refusals.from_event(document, profile=self._call.profile)
        token = document.get("token") if type(document) is dict else None
        if type(token) is not dict:
            raise ProviderAnswerInvalid(
                f"An event of {self._call.profile.name}'s stream holds no token.",
                provider=self._call.profile.id,
            )
        chunks = []
        text = token.get("text")
        if type(text) is str and text and not token.get("special"):
            self.text_chars += len(text)
            chunks.append(self._chunk({"content": text}))
        if document.get("generated_text") is not None:
            reason, self.usage = _details(document.get("details"), self._call)
            self.finish_reason, self.finished = reason or "stop", True
            chunks.append(self._chunk({}, self.finish_reason))
            if self.usage is not None and self._call.include_usage:
                chunks.append({**self._head, "choices": [], "usage": usage_fields(self.usage)})
        return [orjson.dumps(chunk) for chunk in chunks]

    def end(self) -> list[bytes]:
        return []

    def _chunk(self, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        if not self._started:
            self._started = True
            delta = {"role": "assistant", **delta}
        return {**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def _parameters(request: dict[str, Any]) -> dict[str, Any]:
    parameters: dict[str, Any] = {"details": True, "return_full_text": False}
    if (limit := max_tokens(request)) is not None:
        parameters["max_new_tokens"] = limit
    # TGI wants a temperature above 0 and a top_p below 1; it is greedy without the first.
    if temperature := request.get("temperature"):
        parameters |= {"temperature": temperature, "do_sample": True}
    if (top_p := request.get("top_p")) is not None and top_p < 1:
        parameters["top_p"] = top_p
    if stop := request.get("stop"):
        parameters["stop"] = [stop] if isinstance(stop, str) else stop
    for name in _AS_THEY_ARE:
        if request.get(name) is not None:
            parameters[name] = request[name]
    return parameters


def _parsed(body: bytes, call: Call) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise invalid(call.profile, "JSON") from exc


def _details(details: object, call: Call) -> tuple[str | None, Usage | None]:
    """The finish reason, and usage: TGI counts the input of a stream only, else that is our estimate."""
    if type(details) is not dict:
        return None, None
    reason = _FINISH_REASONS.get(str(details.get("finish_reason")))
    generated, given = details.get("generated_tokens"), details.get("input_length")
    if type(generated) is not int:
        return reason, None
    if type(given) is int:
        return reason, Usage(given, generated)
    estimate = prompt_tokens(JobKind.CHAT, parse_request(call.body), call.target.model)
    return reason, Usage(estimate, generated, estimated=True)
