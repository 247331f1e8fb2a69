"""One JSON call as home-grown servers and Hugging Face Spaces take it, from a template to a pointer.

In the template a whole string "{prompt}", "{messages}", "{model}", "{max_tokens}" or
"{temperature}" stands for that value. One the caller left out is left out of a table, and
null in a list, where the place counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from shared.errors import ProviderAnswerInvalid
from shared.providers import refusals
from shared.providers.dialect import Answer, Call, ProviderRequest, StreamDecoder
from shared.providers.dialects.openai_chat import fit, parse_request
from shared.providers.dialects.prompt_templates import TemplateName, render
from shared.providers.dialects.whole_answer import WholeAnswer, completion
from shared.providers.not_carried_over import not_carried_over, says_something

HINTS: Final = frozenset(
    {
        *("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed"),
        *("max_tokens", "max_completion_tokens", "stream", "stream_options", "user", "metadata", "store"),
        *("service_tier", "parallel_tool_calls", "prompt_cache_key", "safety_identifier"),
    }
)
"""Of a chat: what is left out where there is no place for it."""


@dataclass(frozen=True, slots=True)
class HttpJson:
    """See `Codec`."""

    path: str
    template: Mapping[str, Any]
    answer: str
    prompt: TemplateName = "plain"
    error: str | None = None
    """Where an answer with status 200 says why it is none."""

    def encode(self, call: Call) -> ProviderRequest:
        request = parse_request(call.body)
        headers = fit(request, call)
        only_text(request, HINTS)
        messages = request["messages"]
        values: dict[str, Callable[[], Any]] = {
            "{prompt}": lambda: render(self.prompt, messages),
            "{messages}": lambda: messages,
            "{model}": lambda: request["model"],
            "{max_tokens}": lambda: max_tokens(request),
            "{temperature}": lambda: request.get("temperature"),
        }
        return ProviderRequest(self.path, orjson.dumps(_filled(self.template, values)), headers)

    def decode(self, body: bytes, call: Call) -> Answer:
        profile = call.profile
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise ProviderAnswerInvalid(
                f"The answer of {profile.name} is not JSON.", provider=profile.id
            ) from exc
        if self.error is not None and (reason := _at(document, self.error)):
            said = reason if isinstance(reason, str | dict) else {}
            raise refusals.from_event({"error": said}, profile=profile)
        text = _at(document, self.answer)
        if type(text) is not str:
            if type(document) is dict and document.get("error"):
                raise refusals.from_event(document, profile=profile)
            raise ProviderAnswerInvalid(
                f"The answer of {profile.name} has no text at {self.answer!r}.", provider=profile.id
            )
        return completion(call, text, "stop", None, int(time.time()))

    def open_stream(self, call: Call) -> StreamDecoder:
        return WholeAnswer(self, call)


def only_text(request: dict[str, Any], known: frozenset[str]) -> None:
    """Raises InvalidRequest (400) for a parameter beside model, messages and `known` that says something."""
    for name in request:
        if name not in known and name not in {"model", "messages"} and says_something(request, name):
            raise not_carried_over(name, "this endpoint takes text alone and has no such parameter.")


def max_tokens(request: Mapping[str, Any]) -> Any:
    limit = request.get("max_completion_tokens")
    return request.get("max_tokens") if limit is None else limit


def _filled(node: Any, values: Mapping[str, Callable[[], Any]]) -> Any:
    if isinstance(node, str):
        return values[node]() if node in values else node
    if isinstance(node, list | tuple):
        return [_filled(item, values) for item in node]
    if not isinstance(node, Mapping):
        return node
    filled = {}
    for name, item in node.items():
        value = _filled(item, values)
        # TOML has no null: one that stands here is a value the caller did not give.
        if value is not None:
            filled[name] = value
    return filled


def _at(document: Any, pointer: str) -> Any:
    try:
        return point(document, pointer)
    except LookupError:
        return None


def point(document: Any, pointer: str) -> Any:
    """RFC 6901. Raises LookupError where nothing is."""
    for step in pointer.split("/")[1:]:
        if isinstance(document, dict):
            document = document[step.replace("~1", "/").replace("~0", "~")]
        elif isinstance(document, list) and step.isascii() and step.isdigit():
            document = document[int(step)]
        else:
            raise LookupError(step)
    return document
