"""One error in the caller's dialect.

    OpenAI     under /v1/           {"error": {"message", "type", "param", "code"}}
    Anthropic  under /v1/messages   {"type": "error", "error": {"type", "message"}, "request_id"}
    Cohere     under /v2/           {"id", "message"}
    unified    elsewhere            {"error": {"type", "message", "details", "trace_id"}}

`details` of the unified form also carries `code` and `param` where there are any.
Nothing a caller sent is repeated, save names of fields.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from shared.domain.job import Surface
from shared.error_forms import error_view, status_in
from shared.errors import (
    AuthenticationFailed,
    BadRequest,
    BrokerError,
    Conflict,
    InvalidRequest,
    MethodNotAllowed,
    NotAuthorized,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    UnsupportedContent,
)
from shared.ids import RequestId, new_request_id
from shared.requests.problems import from_problems

RawHeaders = list[tuple[bytes, bytes]]

MAX_RETRY_AFTER_SECONDS: Final = 60
_LONGEST_WAIT_SECONDS: Final = 31 * 86_400
"""Above it the Anthropic client ignores the header, above 120 the OpenAI one gives up."""

_SURFACES: Final[Mapping[str, Surface]] = {
    "/v1/messages": Surface.ANTHROPIC,
    "/v1/responses": Surface.RESPONSES,
    "/v1/inference/": Surface.UNIFIED,
    "/v1/": Surface.OPENAI,
    "/v2/": Surface.COHERE,
}
"""By prefix, the first that fits."""
_BY_STATUS: Final[Mapping[int, type[BrokerError]]] = {
    400: BadRequest,
    401: AuthenticationFailed,
    403: NotAuthorized,
    404: NotFound,
    405: MethodNotAllowed,
    409: Conflict,
    413: PayloadTooLarge,
    415: UnsupportedContent,
    422: InvalidRequest,
    503: Overloaded,
}


def surface_of(path: str) -> Surface:
    """The dialect in which errors about this path are told."""
    for prefix, surface in _SURFACES.items():
        if path.startswith(prefix):
            return surface
    return Surface.UNIFIED


def surface_of_scope(scope: Scope) -> Surface:
    """What the route noted, where its path alone does not say it."""
    noted: Surface | None = scope.get("state", {}).get("surface")
    return noted or surface_of(scope["path"])


def render(error: BrokerError, surface: Surface, request_id: RequestId) -> tuple[int, RawHeaders, bytes]:
    """Status, headers and body. The request id header is the edge's to add."""
    status = status_in(error, surface)
    body = _encode(error_view(error, surface, request_id))
    headers: RawHeaders = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *error.headers,
    ]
    seconds = _retry_after(error)
    if seconds is not None:
        headers.append((b"retry-after", b"%d" % seconds))
    if error.status in (408, 409, 429) or error.status >= 500:
        # The official clients repeat these blindly; only some are worth it, and each costs money.
        headers.append((b"x-should-retry", b"true" if error.retryable else b"false"))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, PayloadTooLarge):
        headers.append((b"connection", b"close"))
    return status, headers, body


def stream_frame(error: BrokerError, surface: Surface, request_id: RequestId) -> bytes:
    """The SSE frame that ends a broken stream; no [DONE] follows it."""
    if surface is Surface.ANTHROPIC:
        return b"event: error\ndata: " + _encode(error_view(error, surface, request_id)) + b"\n\n"
    if surface is Surface.RESPONSES:
        # OpenAI's own event has no `error` within; the official client raises only if there is one.
        view = error_view(error, surface, request_id)
        told = {k: v for k, v in view["error"].items() if k != "type"}
        return b"event: error\ndata: " + _encode({"type": "error", **told, **view}) + b"\n\n"
    return b"data: " + _encode(error_view(error, surface, request_id)) + b"\n\n"


def internal_error() -> BrokerError:
    """What a caller hears about an exception we did not foresee."""
    return BrokerError("The gateway failed to handle this request.")


def install(app: FastAPI) -> None:
    """Answer what Starlette and FastAPI raise by themselves in our forms.

    The handler for Exception serves an app that is wrapped in the edge instead of
    holding it as a middleware: Starlette answers first there, the edge logs.
    """
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(BrokerError, _on_broker_error)
    app.add_exception_handler(Exception, _on_exception)


def _retry_after(error: BrokerError) -> int | None:
    if error.retry_after_seconds is not None:
        # Clients that are to try again wait for no longer, and try at a moment of their own instead.
        most = MAX_RETRY_AFTER_SECONDS if error.retryable else _LONGEST_WAIT_SECONDS
        return max(1, min(most, math.ceil(error.retry_after_seconds)))
    return 1 if isinstance(error, Overloaded) else None


def _encode(view: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(view, default=str)
    except TypeError:
        # Half of a surrogate pair, or an integer beyond 64 bits, in somebody's details.
        return json.dumps(view, default=str, ensure_ascii=False).encode("utf-8", "replace")


def _respond(request: Request, error: BrokerError, extra: Mapping[str, str] | None = None) -> Response:
    state = request.scope.setdefault("state", {})
    state["error"] = error
    request_id = state.get("request_id") or new_request_id()
    status, headers, body = render(error, surface_of_scope(request.scope), request_id)
    response = Response(body, status)
    sent = {name for name, _ in headers}
    response.raw_headers = headers + [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in (extra or {}).items()
        if name.lower().encode("latin-1") not in sent
    ]
    return response


async def _on_http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101 - Starlette dispatches by class
    kind = _BY_STATUS.get(exc.status_code)
    error = (kind or (BrokerError if exc.status_code >= 500 else InvalidRequest))(str(exc.detail))
    error.status = exc.status_code
    return _respond(request, error, exc.headers)


async def _on_validation_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 - Starlette dispatches by class
    # FastAPI puts before each path where it stands: query, path, header or body.
    problems = ({**problem, "loc": problem["loc"][1:]} for problem in exc.errors())
    return _respond(request, from_problems(problems))


async def _on_broker_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, BrokerError)  # noqa: S101 - Starlette dispatches by class
    return _respond(request, exc)


async def _on_exception(request: Request, exc: Exception) -> Response:
    if isinstance(exc, ClientDisconnect):
        raise exc  # nobody to answer; the edge notes that the caller left
    return _respond(request, internal_error())
