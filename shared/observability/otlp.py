"""Traces by OpenTelemetry's SDK, sent as OTLP over HTTP from a thread of their own.

Imported only where traces are on. A collector that is away, slow or full costs spans and nothing else: what
waits is bounded, nobody waits for it, and the log says once that it is so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Final
from urllib.parse import unquote

from loguru import logger
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan
from opentelemetry.util.types import Attributes as SdkAttributes

from shared.domain.trace import TraceOrigin
from shared.ids import new_request_id
from shared.observability.trace_context import TraceContext, parse
from shared.observability.tracing import Attributes, Kind, Span
from shared.settings import Settings

_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "consumer": SpanKind.CONSUMER,
}
_NOTHING: Final = Context()
_SILENCE_SECONDS: Final = 60.0
"""At least so long between two lines about a collector that comes and goes."""


class RunningSpan:
    """tracing.Span, over one of the SDK's."""

    __slots__ = ("_is_open", "_span", "context", "is_recording")

    def __init__(self, span: SdkSpan) -> None:
        self._span = span
        self._is_open = True
        self.context: SpanContext = span.get_span_context()
        self.is_recording: bool = span.is_recording()

    @property
    def ids(self) -> tuple[str, str] | None:
        if not self._is_open:
            return None
        return f"{self.context.trace_id:032x}", f"{self.context.span_id:016x}"

    def origin(self) -> TraceOrigin:
        context = self.context
        here = TraceContext(context.trace_id, context.span_id, int(context.trace_flags))
        state = context.trace_state
        return TraceOrigin(here.traceparent, state.to_header() if state else "")

    def rename(self, name: str) -> None:
        if self.is_recording:
            self._span.update_name(name)

    def tell(self, attributes: Attributes) -> None:
        if self.is_recording and self._is_open:
            self._span.set_attributes(attributes)

    def fail(self, error: str) -> None:
        if self.is_recording and self._is_open:
            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        self._is_open = False
        if self.is_recording:
            self._span.end()


class Tracing:
    """One a process."""

    def __init__(self, settings: Settings, process: str, exporter: SpanExporter | None = None) -> None:
        """`exporter`: in the place of the one of the settings."""
        last_words = _hear_the_sdk()
        self.continues = settings.traces.incoming == "continue"
        self.passes_on = settings.traces.pass_on
        self._flush_seconds = settings.traces.flush_seconds
        sent_by = exporter or OTLPSpanExporter(
            endpoint=settings.traces_url, headers=_headers_of(settings) or None
        )
        self._exporter = _Patient(sent_by, last_words)
        self._provider = TracerProvider(
            sampler=FollowsLinks(sampler_of(settings)),
            resource=resource_of(settings, process),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("headrace", version("headrace"))

    def begin(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: Span | None = None,
        origin: TraceOrigin | TraceContext | None = None,
        attributes: Attributes | None = None,
        began_ago_seconds: float | None = None,
    ) -> RunningSpan:
        """Below `parent`, or where `origin` says, or a trace of its own."""
        within = _NOTHING
        links: tuple[Link, ...] = ()
        if isinstance(parent, RunningSpan):
            within = set_span_in_context(parent._span, _NOTHING)
        elif origin is not None and (remote := _remote(origin)) is not None:
            if isinstance(origin, TraceOrigin) and origin.is_past:
                links = (Link(remote),)
            else:
                within = set_span_in_context(NonRecordingSpan(remote), _NOTHING)
        start = None if began_ago_seconds is None else time.time_ns() - int(began_ago_seconds * 1e9)
        return RunningSpan(
            self._tracer.start_span(
                name, within, _KINDS[kind], attributes=attributes, links=links, start_time=start
            )
        )

    def close(self) -> None:
        """The SDK's own way to end may take half a minute where the collector hangs."""
        ending = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        ending.start()
        # Of a collector that took nothing just now nobody waits for a change of mind.
        ending.join(self._flush_seconds if self._exporter.is_well else 0.0)


class FollowsLinks(Sampler):
    """A trace that begins with a link is recorded where what it links to is; else as `sampler` says."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: SdkAttributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        chosen = self._sampler
        if links and isinstance(chosen, ParentBased):
            chosen = ALWAYS_ON if links[0].context.trace_flags.sampled else ALWAYS_OFF
        return chosen.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return self._sampler.get_description()


def sampler_of(settings: Settings) -> Sampler:
    name = settings.otel_traces_sampler
    root: Sampler
    if name.endswith("traceidratio"):
        root = TraceIdRatioBased(float(settings.otel_traces_sampler_arg))
    else:
        root = ALWAYS_OFF if name.endswith("always_off") else ALWAYS_ON
    return ParentBased(root) if name.startswith("parentbased_") else root


def resource_of(settings: Settings, process: str) -> Resource:
    told = _pairs(settings.otel_resource_attributes)
    named = settings.otel_service_name or told.get("service.name") or f"headrace-{process}"
    return Resource.create(
        {
            "service.namespace": "headrace",
            "service.version": version("headrace"),
            "service.instance.id": new_request_id().removeprefix("req_"),
            "headrace.process": process,
            **({"cloud.region": settings.region} if settings.region else {}),
            **told,
            "service.name": named,
        }
    )


class _Patient(SpanExporter):
    """Says once that the collector takes no spans, and once that it does again."""

    def __init__(self, inner: SpanExporter, last_words: _LastWords) -> None:
        self._inner = inner
        self._last_words = last_words
        self._told_at = -_SILENCE_SECONDS
        self._lost = 0
        self._is_told = False
        self.is_well = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._inner.export(spans)
        except Exception as exc:
            self._last_words.text = type(exc).__name__
            result = SpanExportResult.FAILURE
        self.is_well = result is SpanExportResult.SUCCESS
        now = time.monotonic()
        if not self.is_well:
            self._lost += len(spans)
            if not self._is_told and now - self._told_at > _SILENCE_SECONDS:
                self._is_told, self._told_at = True, now
                logger.warning("traces not exported", reason=self._last_words.text)
        elif self._is_told:
            logger.info("traces exported again", lost_spans=self._lost)
            self._is_told, self._lost = False, 0
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


class _LastWords(logging.Handler):
    """The SDK logs each failure and each span that found no room. Its last sentence is enough."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.text = record.getMessage()


def _hear_the_sdk() -> _LastWords:
    handler = _LastWords()
    sdk = logging.getLogger("opentelemetry")
    sdk.handlers = [handler]
    sdk.propagate = False
    return handler


def _remote(origin: TraceOrigin | TraceContext) -> SpanContext | None:
    context = parse(origin.parent, origin.state) if isinstance(origin, TraceOrigin) else origin
    if context is None:
        return None
    state = _state_of(context.state) if context.state else None
    return SpanContext(
        context.trace_id,
        context.span_id,
        is_remote=True,
        trace_flags=TraceFlags(context.flags),
        trace_state=state,
    )


@lru_cache(maxsize=256)
def _state_of(text: str) -> TraceState:
    return TraceState.from_header([text])


def _headers_of(settings: Settings) -> dict[str, str]:
    told = settings.otel_exporter_otlp_traces_headers or settings.otel_exporter_otlp_headers
    return {} if told is None else _pairs(told.get_secret_value(), lower=True)


def _pairs(text: str | None, *, lower: bool = False) -> dict[str, str]:
    """Of `name=value,name=value`, as W3C Baggage has them; what is none is left out."""
    found: dict[str, str] = {}
    for pair in (text or "").split(","):
        name, equals, value = pair.partition("=")
        if equals and name.strip():
            found[name.strip().lower() if lower else name.strip()] = unquote(value.strip())
    return found
