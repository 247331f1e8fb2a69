"""OpenAI's older completions, a prompt and its continuation: natively, or through chat.

Natively where the provider continues prompts, for any model not known to be made for chat
alone; OpenAI itself answers 404 for those. Through chat the prompt is what a user says.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from shared.providers.catalogue import load_catalogue
from shared.providers.dialect import Answer, Call, Codec, ProviderRequest, StreamDecoder
from shared.providers.dialects.json_answer import invalid, read_object
from shared.providers.dialects.openai_chat import OpenAiChatStream, adapt, parse_request, read_usage
from shared.providers.not_carried_over import not_carried_over, says_something
from shared.providers.profile import Capability
from shared.providers.translation.via_chat import EventTranslator, ViaChat

PATH: Final = "/completions"


class OpenAiCompletions:
    """See `Codec`."""

    def encode(self, call: Call) -> ProviderRequest:
        return _way(call).encode(call)

    def decode(self, body: bytes, call: Call) -> Answer:
        return _way(call).decode(body, call)

    def open_stream(self, call: Call) -> StreamDecoder:
        return _way(call).open_stream(call)


def _way(call: Call) -> Codec:
    if Capability.COMPLETION not in call.profile.capabilities:
        return completions_via_chat
    known = load_catalogue().find(call.target.model)
    if known is None or known.provider != call.profile.id or Capability.CHAT not in known.capabilities:
        return _NATIVE
    return completions_via_chat


class _Native:
    """See `Codec`."""

    def encode(self, call: Call) -> ProviderRequest:
        body, headers = adapt(call)
        return ProviderRequest(PATH, body, headers)

    def decode(self, body: bytes, call: Call) -> Answer:
        answer = read_object(body, call.profile)
        choices = answer.get("choices")
        if (
            type(choices) is not list
            or not choices
            or any(type(choice) is not dict or type(choice.get("text")) is not str for choice in choices)
        ):
            raise invalid(call.profile, "a completion")
        reason = choices[0].get("finish_reason")
        chars = sum(len(choice["text"]) for choice in choices)
        return Answer(body, read_usage(answer.get("usage")), reason if type(reason) is str else None, chars)

    def open_stream(self, call: Call) -> StreamDecoder:
        return _NativeStream(call.profile, include_usage=call.include_usage)


class _NativeStream(OpenAiChatStream):
    """Chunks of a completion differ from those of a chat in where their text stands."""

    __slots__ = ()

    def _see(self, choice: Any) -> None:
        super()._see(choice)
        text = choice.get("text")
        if type(text) is str:
            self.text_chars += len(text)


class _ThroughChat:
    """See `Translation`. Without `max_tokens` the model decides, where OpenAI's own default is 16."""

    def to_chat(self, call: Call) -> dict[str, Any]:
        request = parse_request(call.body)
        for name, means_nothing in _ONLY_NATIVE.items():
            if request.pop(name, None) not in means_nothing:
                raise not_carried_over(name, f"{call.profile.name} has it for chat models only as a chat.")
        prompt = request.pop("prompt", None)
        if type(prompt) is list and len(prompt) == 1:
            prompt = prompt[0]
        if type(prompt) is not str:
            raise not_carried_over("prompt", f"{call.profile.name} takes one string for this model.")
        for name in sorted(_CHAT_ONLY):
            if says_something(request, name):
                raise not_carried_over(name, "this form has no such parameter.")
        return {**request, "messages": [{"role": "user", "content": prompt}]}

    def from_chat(self, completion: dict[str, Any], call: Call) -> dict[str, Any]:
        choices = [
            {
                "text": choice["message"].get("content") or "",
                "index": choice.get("index", position),
                "logprobs": None,
                "finish_reason": choice.get("finish_reason"),
            }
            for position, choice in enumerate(completion["choices"])
        ]
        usage = completion.get("usage")
        return {**_head(completion, call), "choices": choices, **({"usage": usage} if usage else {})}

    def open_events(self, call: Call) -> EventTranslator:
        return _Events(call)


_ONLY_NATIVE: Final[dict[str, tuple[object, ...]]] = {
    "suffix": (None, ""),
    "echo": (None, False),
    "best_of": (None, 1),
    "logprobs": (None,),
}
"""Parameters that chat has no word for, and their values that ask for nothing."""

_CHAT_ONLY: Final = frozenset(
    {"messages", "tools", "tool_choice", "functions", "function_call", "audio", "modalities"}
)
"""What a chat would answer this form has no room for."""


class _Events:
    """See `EventTranslator`."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def feed(self, chunk: dict[str, Any]) -> list[bytes]:
        choices = [
            {
                "text": (choice.get("delta") or {}).get("content") or "",
                "index": choice.get("index", 0),
                "logprobs": None,
                "finish_reason": choice.get("finish_reason"),
            }
            for choice in chunk.get("choices") or ()
        ]
        told = [choice for choice in choices if choice["text"] or choice["finish_reason"]]
        usage = chunk.get("usage") if self._call.include_usage else None
        if not told and not usage:
            return []
        event = {**_head(chunk, self._call), "choices": told}
        if self._call.include_usage:
            event["usage"] = usage
        return [orjson.dumps(event)]

    def end(self) -> list[bytes]:
        return []


def _head(said: dict[str, Any], call: Call) -> dict[str, Any]:
    return {
        "id": str(said.get("id") or call.job_id).replace("chatcmpl-", "cmpl-", 1),
        "object": "text_completion",
        "created": said.get("created") or 0,
        "model": said.get("model") or call.target.model,
    }


_NATIVE: Final = _Native()
completions_via_chat: Final = ViaChat(_ThroughChat())
openai_completions: Final = OpenAiCompletions()
