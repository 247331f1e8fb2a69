"""OpenAI chat completions: the canonical form itself, so nearly everything passes through untouched.

HOT PATH. A request is parsed only when something has to change, an answer or a
chunk once, to check it and to read its usage; the bytes go on as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from shared.domain.usage import MOST_TOKENS, Usage
from shared.errors import InvalidJson, ProviderAnswerInvalid
from shared.providers import refusals
from shared.providers.dialect import Answer, Call, ProviderRequest
from shared.providers.not_carried_over import not_carried_over, says_something
from shared.providers.profile import ProviderProfile
from shared.providers.sse_reader import SseEvent

PATH: Final = "/chat/completions"
_NO_HEADERS: Final[Mapping[str, str]] = {}


class OpenAiChat:
    def encode(self, call: Call) -> ProviderRequest:
        if self._is_ready(call):
            return ProviderRequest(PATH, call.body, _NO_HEADERS)
        body, headers = adapt(call)
        return ProviderRequest(PATH, body, headers)

    def decode(self, body: bytes, call: Call) -> Answer:
        profile = call.profile
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise ProviderAnswerInvalid(
                f"The answer of {profile.name} is not JSON.", provider=profile.id
            ) from exc
        if type(answer) is not dict:
            raise _not_a_completion(profile)
        choices = answer.get("choices")
        if type(choices) is not list or not choices:
            if answer.get("error") or answer.get("object") == "error":
                raise refusals.from_event(answer, profile=profile)
            raise _not_a_completion(profile)
        for choice in choices:
            if type(choice) is not dict or type(choice.get("message")) is not dict:
                raise _not_a_completion(profile)
        usage = read_usage(answer.get("usage"))
        chars = sum(generated_chars(choice["message"]) for choice in choices) if usage is None else 0
        return Answer(body, usage, _text(choices[0].get("finish_reason")), chars)

    def open_stream(self, call: Call) -> OpenAiChatStream:
        return OpenAiChatStream(call.profile, include_usage=call.include_usage)

    @staticmethod
    def _is_ready(call: Call) -> bool:
        """Whether the body may go out as it is. Wrong only towards parsing it for nothing.

        Quotes inside a JSON string are escaped, so none of these finds can be prompt text.
        """
        body, profile = call.body, call.profile
        if call.stream:
            if b'"include_usage":true' not in body or b'"stream":true' not in body:
                return False
        elif b'"stream":true' in body:
            return False
        if b'"model":"%b"' % profile.model_name(call.target.model).encode() not in body:
            return False
        touched = (*profile.renames, *profile.drops, *profile.refuses, *profile.shapes)
        return not any(b'"%b"' % name.encode() in body for name in touched)


openai_chat: Final = OpenAiChat()


def adapt(call: Call) -> tuple[bytes, Mapping[str, str]]:
    """A body in which the profile's word on parameters is done and, streamed, usage asked for; headers."""
    request = parse_request(call.body)
    headers = fit(request, call)
    if call.stream:
        options = request.get("stream_options")
        request["stream"] = True
        request["stream_options"] = {**(options if type(options) is dict else {}), "include_usage": True}
    else:
        request.pop("stream", None)
        request.pop("stream_options", None)
    return orjson.dumps(request), headers


def parse_request(body: bytes) -> dict[str, Any]:
    """Raises InvalidJson."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidJson("The request body is not JSON.") from exc
    if type(request) is not dict:
        raise InvalidJson("The request body is not a JSON object.")
    return request


def fit(request: dict[str, Any], call: Call) -> Mapping[str, str]:
    """What the profile says of parameters, done to `request`; headers they turned into.

    Raises InvalidRequest (400) that names a parameter this provider refuses.
    """
    profile = call.profile
    for name in profile.refuses:
        if says_something(request, name):
            raise not_carried_over(name, f"{profile.name} has no such parameter.")
    for name in profile.drops:
        request.pop(name, None)
    for old, new in profile.renames.items():
        if old in request:
            value = request.pop(old)
            request.setdefault(new, value)
    headers = profile.shape(request) if profile.shapes & request.keys() else _NO_HEADERS
    request["model"] = profile.model_name(call.target.model)
    return headers


class OpenAiChatStream:
    """See `StreamDecoder`."""

    __slots__ = (
        "_begun",
        "_ended",
        "_include_usage",
        "_profile",
        "finish_reason",
        "finished",
        "text_chars",
        "usage",
    )

    def __init__(self, profile: ProviderProfile, *, include_usage: bool) -> None:
        self._profile = profile
        self._include_usage = include_usage
        self._begun: set[int] = set()
        """Indexes of choices: those seen, and those of them that said why they end."""
        self._ended: set[int] = set()
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.finished = False
        self.text_chars = 0

    @property
    def ended(self) -> bool:
        # Some say more of a choice after its end: OpenRouter its usage, Azure what its filter found.
        return bool(self._ended) and self._begun <= self._ended

    def feed(self, event: SseEvent) -> list[bytes]:
        data = event.data.strip()
        if data == b"[DONE]":
            self.finished = True
            return []
        if not data or self.finished:
            return []
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            raise ProviderAnswerInvalid(
                f"An event of {self._profile.name}'s stream is not JSON.", provider=self._profile.id
            ) from exc
        if type(chunk) is not dict:
            raise self._not_a_chunk()
        if chunk.get("error") or chunk.get("object") == "error" or event.event == "error":
            raise refusals.from_event(chunk, profile=self._profile)

        usage = chunk.get("usage")
        if type(usage) is dict:
            self.usage = read_usage(usage) or self.usage
        elif usage is not None:
            chunk["usage"] = None
            data = orjson.dumps(chunk)
        choices = chunk.get("choices")
        if not choices:
            return self._without_choices(chunk, data)
        if type(choices) is not list:
            raise self._not_a_chunk()
        for choice in choices:
            self._see(choice)
        return [orjson.dumps(chunk) if b"\n" in data else data]

    def end(self) -> list[bytes]:
        return []

    def _without_choices(self, chunk: dict[str, Any], data: bytes) -> list[bytes]:
        if chunk.get("usage") is not None and not self._include_usage:
            return []
        if chunk.get("choices") == []:
            return [orjson.dumps(chunk) if b"\n" in data else data]
        if chunk.get("usage") is not None:
            return [orjson.dumps({**chunk, "choices": []})]
        # Some gateways send pings as events with data of their own.
        return []

    def _see(self, choice: Any) -> None:
        if type(choice) is not dict:
            raise self._not_a_chunk()
        index = choice.get("index")
        if type(index) is not int:
            index = 0
        self._begun.add(index)
        reason = choice.get("finish_reason")
        if reason is not None:
            if reason == "error":
                # OpenRouter: the error may stand inside the choice.
                raise refusals.from_event(choice, profile=self._profile)
            # "" is how some say null.
            if type(reason) is str and reason:
                self.finish_reason = reason
                self._ended.add(index)
        delta = choice.get("delta")
        if type(delta) is dict:
            self.text_chars += generated_chars(delta)
        elif delta is not None:
            # Passed over, it would be a piece of the answer that nobody misses.
            raise self._not_a_chunk()

    def _not_a_chunk(self) -> ProviderAnswerInvalid:
        return ProviderAnswerInvalid(
            f"An event of {self._profile.name}'s stream is not a completion chunk.", provider=self._profile.id
        )


_TEXTS: Final = frozenset({"content", "reasoning_content", "reasoning", "refusal"})
"""Fields of a message that hold generated text. vLLM from 0.11 on says `reasoning`."""


def generated_chars(message: dict[str, Any]) -> int:
    """Characters that the model wrote, of a message or of a delta."""
    chars = 0
    for name, value in message.items():
        if type(value) is str:
            if name in _TEXTS:
                chars += len(value)
        elif name == "tool_calls" and type(value) is list:
            chars += sum(map(_argument_chars, value))
    return chars


def _argument_chars(call: object) -> int:
    function = call.get("function") if type(call) is dict else None
    arguments = function.get("arguments") if type(function) is dict else None
    return len(arguments) if type(arguments) is str else 0


def read_usage(usage: object) -> Usage | None:
    """Token counts of a `usage` object; None when there are none worth the name."""
    if type(usage) is not dict:
        return None
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if not prompt and not completion:
        return None
    prompt_details = usage.get("prompt_tokens_details")
    completion_details = usage.get("completion_tokens_details")
    reasoning = _count(completion_details, "reasoning_tokens") if completion_details else 0
    # xAI counts what was reasoned beside the completion, not within it, and bills both: its sum tells.
    # docs.x.ai/docs/key-information/consumption-and-rate-limits; payloads in vercel/ai pull 12425 (2026-02).
    if reasoning and _count(usage, "total_tokens") == prompt + completion + reasoning:
        completion += reasoning
    return Usage(
        prompt,
        completion,
        _count(prompt_details, "cached_tokens") if prompt_details else 0,
        reasoning,
        # OpenRouter's word, of models that charge for it: openrouter.ai/docs/use-cases/usage-accounting.
        cache_write_tokens=_count(prompt_details, "cache_write_tokens") if prompt_details else 0,
    )


def _count(counts: object, name: str) -> int:
    value = counts.get(name) if type(counts) is dict else None
    return min(value, MOST_TOKENS) if type(value) is int and value > 0 else 0


def _text(value: object) -> str | None:
    return value if type(value) is str else None


def _not_a_completion(profile: ProviderProfile) -> ProviderAnswerInvalid:
    return ProviderAnswerInvalid(f"The answer of {profile.name} is not a completion.", provider=profile.id)
