"""Traces, for those who make spans. Off, they cost a look at `active`; OpenTelemetry is not even imported.

    api      POST /v1/chat/completions ───────────────────────────┐
    worker        queue wait ─ process openai ─ chat gpt-4o ──────┘

A span says who, where, how long and how it ended; never what was asked or answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, Protocol

from shared.domain.trace import TraceOrigin
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.observability.otlp import Tracing

Attribute = str | int | float | bool | tuple[str, ...]
Attributes = Mapping[str, Attribute]
Kind = Literal["internal", "server", "client", "consumer"]


class Span(Protocol):
    """One that runs. It is no error to say more of one that nobody records, or that has ended."""

    @property
    def is_recording(self) -> bool:
        """False where it was not sampled: it only has a place in the trace."""
        ...

    @property
    def ids(self) -> tuple[str, str] | None:
        """Of trace and span, in hex digits; None once it ended."""
        ...

    def origin(self) -> TraceOrigin:
        """As what follows from it carries it on."""
        ...

    def rename(self, name: str) -> None: ...

    def tell(self, attributes: Attributes) -> None: ...

    def fail(self, error: str) -> None:
        """`error`: of a closed set."""
        ...

    def end(self) -> None: ...


active: Tracing | None = None
"""None where traces are off. Set once, before anything runs."""
current: ContextVar[Span | None] = ContextVar("current_span", default=None)


def start(settings: Settings, process: str) -> None:
    """Turn traces on where the settings say where to send them. `process`: api, worker or scheduler."""
    global active  # noqa: PLW0603 - a process has one
    if settings.traces_url is None:
        return
    from shared.observability.otlp import Tracing  # noqa: PLC0415 - only where they are on

    active = Tracing(settings, process)


def stop() -> None:
    """Send what is left, no longer than the settings allow."""
    global active  # noqa: PLW0603 - a process has one
    if active is not None:
        active.close()
        active = None


def origin() -> TraceOrigin | None:
    """Of the span that runs here, for a job to carry."""
    if active is None or (span := current.get()) is None:
        return None
    return span.origin()


def tell(name: str, value: Attribute) -> None:
    """An attribute of the span that runs here. No mapping of them: none is built where traces are off."""
    if active is not None and (span := current.get()) is not None:
        span.tell({name: value})


def fail(error: str) -> None:
    if active is not None and (span := current.get()) is not None:
        span.fail(error)


def ids() -> tuple[str, str] | None:
    span = current.get()
    return None if span is None else span.ids


@contextmanager
def spanned(
    name: str,
    *,
    kind: Kind = "internal",
    origin: TraceOrigin | None = None,
    attributes: Attributes | None = None,
) -> Iterator[None]:
    """A span of what runs within, away from the hot path."""
    if active is None:
        yield
        return
    with running(active.begin(name, kind=kind, origin=origin, attributes=attributes)):
        yield


@contextmanager
def running(span: Span) -> Iterator[Span]:
    """`span` is the one that runs here, and ends with the block."""
    token = current.set(span)
    try:
        yield span
    except Exception as exc:
        span.fail(type(exc).__name__)
        raise
    finally:
        span.end()
        current.reset(token)
