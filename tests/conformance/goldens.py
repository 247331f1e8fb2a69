"""Bodies in the form of one provider: tests/golden/<id>/, and what has to be in there.

README.md                    where the forms were read, and when
text.json, text.sse          one answer, plain and streamed
tools.*, reasoning.*         the same with calls of tools; with reasoning
usage.json                   what each of these used, as a `Usage`
limits.json                  headers, and the `Limits` they mean at `NOW`; {} where none are told
embeddings.json, rerank.json, summarization.json, models.json
error_in_stream.sse          a stream that breaks, where it does so in a way of its own
<what>.<status>.error.json   bodies of errors; `MEANS` lists what
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from shared.domain.job import JobKind, Target
from shared.domain.usage import Usage
from shared.errors import (
    ProviderCredentialRefused,
    ProviderError,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)
from shared.providers.dialect import Call
from shared.providers.profile import Capability, ProviderProfile
from shared.providers.sse_reader import SseReader

ROOT: Final = Path(__file__).parents[1] / "golden"
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
MEANS: Final[dict[str, type[ProviderError]]] = {
    "bad_request": ProviderRejected,
    "context_length": ProviderRejected,
    "old_form": ProviderRejected,
    "unknown_model": ProviderRejected,
    "moderation": ProviderRejected,
    "invalid_key": ProviderCredentialRefused,
    "out_of_credit": ProviderCredentialRefused,
    "insufficient_quota": ProviderCredentialRefused,
    "in_flight_budget": ProviderRateLimited,
    "rate_limit": ProviderRateLimited,
    "server_error": ProviderUnavailable,
}
"""What an error of that name has to become."""
NEEDED_ERRORS: Final = frozenset({"invalid_key", "server_error"})
_ERROR: Final = re.compile(r"(?P<stem>[a-z_]+)\.(?P<status>\d{3})\.error\.json\Z")


@dataclass(frozen=True, slots=True)
class GoldenError:
    """`stem`: what went wrong, such as `rate_limit`."""

    stem: str
    status: int
    body: bytes


def missing(profile: ProviderProfile) -> list[str]:
    """The files that a provider with these capabilities still needs."""
    needed = ["README.md", "text.json", "text.sse", "usage.json", "limits.json"]
    if Capability.FUNCTION_CALLING in profile.capabilities:
        needed += ["tools.json", "tools.sse"]
    if Capability.EMBEDDINGS in profile.capabilities:
        needed.append("embeddings.json")
    if Capability.RERANK in profile.capabilities:
        needed.append("rerank.json")
    if Capability.SUMMARIZATION in profile.capabilities:
        needed.append("summarization.json")
    if profile.models_path:
        needed.append("models.json")
    folder = ROOT / profile.id
    lacking = [name for name in needed if not (folder / name).is_file()]
    told = {golden.stem for golden in errors(profile)}
    return [*lacking, *(f"{what}.<status>.error.json" for what in sorted(NEEDED_ERRORS - told))]


def usage(profile: ProviderProfile) -> Usage:
    return Usage(**orjson.loads(read(profile, "usage.json")))


def answers(profile: ProviderProfile) -> list[str]:
    """The names of the answers that are there plain and streamed."""
    folder = ROOT / profile.id
    return [
        name
        for name in ("text", "tools", "reasoning")
        if (folder / f"{name}.json").is_file() and (folder / f"{name}.sse").is_file()
    ]


def errors(profile: ProviderProfile) -> list[GoldenError]:
    found = []
    for file in sorted((ROOT / profile.id).glob("*.error.json")):
        name = _ERROR.match(file.name)
        assert name is not None, f"{file.name} is not named <what>.<status>.error.json"
        found.append(GoldenError(name["stem"], int(name["status"]), file.read_bytes()))
    return found


def read(profile: ProviderProfile, name: str) -> bytes:
    return (ROOT / profile.id / name).read_bytes()


def call_of(
    profile: ProviderProfile, kind: JobKind, body: dict[str, Any] | None = None, *, stream: bool = False
) -> Call:
    model = "golden-model"
    document = {"model": model, **(body or BODIES[kind])}
    return Call(orjson.dumps(document), Target(profile.id, model), profile, stream=stream)


BODIES: Final[dict[JobKind, dict[str, Any]]] = {
    JobKind.CHAT: {"messages": [{"role": "user", "content": "Hello"}]},
    JobKind.COMPLETION: {"prompt": "Hello"},
    JobKind.EMBEDDINGS: {"input": "Hello", "encoding_format": "float"},
    JobKind.RERANK: {"query": "q", "documents": ["a", "b"], "top_n": 2},
    JobKind.SUMMARIZATION: {"text": "A long text."},
    JobKind.MESSAGES: {"max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]},
    JobKind.RESPONSES: {"input": "Hello"},
    JobKind.COUNT_TOKENS: {"messages": [{"role": "user", "content": "Hello"}]},
}
"""The least request of each kind."""


def streamed_message(profile: ProviderProfile, stream: bytes) -> dict[str, Any]:
    """The message a client puts together from a provider's chat stream, and how it ended."""
    decoder = profile.codec(JobKind.CHAT).open_stream(call_of(profile, JobKind.CHAT, stream=True))
    reader = SseReader(profile.id)
    chunks = []
    for event in reader.feed(stream) + reader.close():
        if decoder.finished:
            break
        chunks += [orjson.loads(chunk) for chunk in decoder.feed(event)]
    chunks += [orjson.loads(chunk) for chunk in decoder.end()]
    return {**assembled(chunks), "finish_reason": decoder.finish_reason, "usage": decoder.usage}


def assembled(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    content, reasoning = "", ""
    calls: dict[int, dict[str, str]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            content += delta.get("content") or ""
            reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
            for fragment in delta.get("tool_calls") or ():
                call = calls.setdefault(fragment["index"], {"id": "", "name": "", "arguments": ""})
                function = fragment.get("function", {})
                call["id"] += fragment.get("id") or ""
                call["name"] += function.get("name") or ""
                call["arguments"] += function.get("arguments") or ""
    return {"content": content, "reasoning": reasoning, "calls": [parsed(calls[i]) for i in sorted(calls)]}


def plain_message(body: bytes) -> dict[str, Any]:
    """The same of a `chat.completion`."""
    choice = orjson.loads(body)["choices"][0]
    message = choice["message"]
    return {
        "content": message.get("content") or "",
        "reasoning": message.get("reasoning_content") or message.get("reasoning") or "",
        "calls": [parsed({"id": call["id"], **call["function"]}) for call in message.get("tool_calls") or ()],
        "finish_reason": choice["finish_reason"],
    }


def parsed(call: dict[str, str]) -> dict[str, Any]:
    return {"id": call["id"], "name": call["name"], "arguments": orjson.loads(call["arguments"] or "{}")}
