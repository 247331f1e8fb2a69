"""The span of an HTTP exchange: what was called and how it went, by OpenTelemetry's conventions for HTTP.

Neither path nor query: only the route's template, as others may put anything into the rest.
"""

from __future__ import annotations

from contextvars import Token
from typing import TYPE_CHECKING, Any, Final

from starlette.types import Scope

from shared.observability import tracing
from shared.observability.trace_context import of_headers
from shared.observability.tracing import Span

if TYPE_CHECKING:
    from shared.observability.otlp import Tracing

_ABOUT_THE_PROCESS: Final = ("/health", "/metrics", "/docs", "/openapi.json", "/redoc")
"""Probes and scrapes would be most of all traces."""

Exchange = tuple[Span, Token[Span | None]]


def begin_exchange(active: Tracing, scope: Scope, method: str) -> Exchange | None:
    """None where it is not worth a trace."""
    if method == "OPTIONS" or scope["path"].startswith(_ABOUT_THE_PROCESS):
        return None
    origin = of_headers(scope["headers"]) if active.continues else None
    span = active.begin(
        method,
        kind="server",
        origin=origin,
        attributes={"http.request.method": method, "url.scheme": scope["scheme"]},
    )
    return span, tracing.current.set(span)


def end_exchange(exchange: Exchange, scope: Scope, route: str, status: int) -> None:
    """`status`: 0 where no answer began."""
    span, token = exchange
    if span.is_recording:
        state: dict[str, Any] = scope["state"]
        span.rename(f"{scope['method']} {route}")
        span.tell({"http.route": route, "headrace.request.id": state["request_id"]})
        if status:
            span.tell({"http.response.status_code": status})
        error = state.get("error")
        # Of a server, what the caller did wrong is no error; a stream that broke off is.
        if error is not None and (error.status >= 500 or status < 400):
            span.fail(error.code or error.type)
    span.end()
    tracing.current.reset(token)
