"""Spans of a job: each delivery, how long it had waited, and its call, by the gen_ai conventions.

    (api's span) ── queue wait            once, from when it was accepted to its first worker
                 └─ process openai        each delivery: also each retry and each move is one
                       └─ chat gpt-4o     the call

No prompt, no completion, no key. Source: OpenTelemetry semantic conventions, gen-ai-spans, read 2026-11.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from shared.domain.job import JobKind
from shared.errors import BrokerError
from shared.observability import tracing
from shared.observability.tracing import Attributes, Span
from shared.providers.profile import ProviderProfile
from shared.queue.consumer import Lease
from workers.call_provider import NO_HEADERS, CallProgress, Completed

if TYPE_CHECKING:
    from shared.observability.otlp import Tracing

PAST_MS: Final = 60_000
"""A job that nobody holds a connection for is a trace of its own, linked, once it has waited so long: by
then the trace it came from was told as ended."""
_OPERATIONS: Final[Mapping[JobKind, str]] = {
    JobKind.CHAT: "chat",
    JobKind.MESSAGES: "chat",
    JobKind.RESPONSES: "chat",
    JobKind.COMPLETION: "text_completion",
    JobKind.EMBEDDINGS: "embeddings",
}
"""Those that the conventions name; others go by our own."""
_NAMES: Final = {"xai": "x_ai"}
"""Providers whose name in the conventions is another."""
_LONGEST_READ: Final = 65_536
"""Of an answer, to see which model gave it."""


@contextmanager
def delivery_span(active: Tracing, lease: Lease) -> Iterator[Span]:
    job, delivery = lease.job, lease.delivery
    origin = job.trace
    if origin is not None and job.row is not None and lease.waited_ms > PAST_MS:
        origin = origin.as_past()
    span = active.begin(
        f"process {delivery.provider}",
        kind="consumer",
        origin=origin,
        attributes={
            "messaging.operation.type": "process",
            "messaging.destination.name": f"{delivery.provider}/{delivery.lane.value}",
            "messaging.message.id": job.id,
            "headrace.request.id": job.request_id,
            "headrace.account.id": job.account,
            "headrace.job.kind": job.kind.value,
            "headrace.job.attempt": lease.attempts + 1,
            "headrace.job.delivery": lease.fence,
            "headrace.job.hop": job.hop,
            "headrace.queue.waited_ms": lease.waited_ms,
        },
    )
    if lease.fence == 1 and span.is_recording:
        # Of a linked trace it is a part; else it stands beside, below the api's span.
        is_below = origin is None or origin.is_past
        active.begin(
            "queue wait",
            parent=span if is_below else None,
            origin=origin,
            began_ago_seconds=lease.waited_ms / 1000,
            attributes={"messaging.destination.name": f"{delivery.provider}/{delivery.lane.value}"},
        ).end()
    with tracing.running(span):
        yield span


@dataclass(slots=True)
class CallSpan:
    """`opening`: the first event of a stream, once there is one."""

    span: Span
    began_at: float
    opening: bytes = b""

    def end(
        self,
        progress: CallProgress,
        *,
        error: BaseException | None = None,
        completed: Completed | None = None,
    ) -> None:
        span = self.span
        told: dict[str, Any] = {}
        if progress.status is not None:
            told["http.response.status_code"] = progress.status
        if (usage := progress.counted()) is not None:
            told["gen_ai.usage.input_tokens"] = usage.prompt_tokens
            told["gen_ai.usage.output_tokens"] = usage.completion_tokens
            if usage.cached_tokens:
                told["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
        if progress.finish_reason is not None:
            told["gen_ai.response.finish_reasons"] = (progress.finish_reason,)
        if progress.first_byte_at is not None:
            told["gen_ai.response.time_to_first_chunk"] = max(0.0, progress.first_byte_at - self.began_at)
        said = self.opening
        if completed is not None and not said:
            said = completed.tail[0] if completed.tail else completed.body
        if (model := model_of(said)) is not None:
            told["gen_ai.response.model"] = model
        span.tell(told)
        if isinstance(error, BrokerError):
            span.fail(error.code or error.type)
        elif error is not None:
            span.tell({"error.type": "cancelled"})
        span.end()


def begin_call(active: Tracing, lease: Lease, profile: ProviderProfile) -> CallSpan | None:
    """None where the delivery is not recorded, or makes no call of its own."""
    job, parent = lease.job, tracing.current.get()
    if parent is None or not parent.is_recording or job.kind is JobKind.PROVIDER_BATCH:
        return None
    operation = _OPERATIONS.get(job.kind, job.kind.value)
    told: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _NAMES.get(profile.id, profile.id),
        "gen_ai.request.model": job.target.model,
        "gen_ai.request.stream": job.stream,
        **_address_of(profile.bases.get(job.kind, profile.base_url)),
    }
    span = active.begin(f"{operation} {job.target.model}", kind="client", parent=parent, attributes=told)
    return CallSpan(span, time.monotonic())


def told_to_provider(active: Tracing, call: CallSpan | None) -> Mapping[str, str]:
    """The trace, where the settings want that. No tracestate: it is not about them."""
    if not active.passes_on:
        return NO_HEADERS
    span = tracing.current.get() if call is None else call.span
    return NO_HEADERS if span is None else {"traceparent": span.origin().parent}


def model_of(said: bytes) -> str | None:
    """Which model an answer, or the first event of a stream, names."""
    if not said or len(said) > _LONGEST_READ:
        return None
    try:
        document = orjson.loads(said)
    except orjson.JSONDecodeError:
        return None
    for place in (None, "message", "response"):
        within = document if place is None else document.get(place)
        if isinstance(within, dict) and isinstance(model := within.get("model"), str) and model:
            return model
        if not isinstance(document, dict):
            return None
    return None


@lru_cache(maxsize=64)
def _address_of(base_url: str) -> Attributes:
    parts = urlsplit(base_url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return {}
    return {"server.address": parts.hostname or "", "server.port": port}
