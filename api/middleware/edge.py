"""The edge: the one middleware, outermost, that every HTTP exchange passes once.

    in    request id accepted or made, target, framing and headers judged
    out   request id and protective headers on every answer, what other origins may read, exceptions
          told as errors, one log line, one metrics call

A preflight is answered here, before anybody asks for a credential: browsers send none with it.

An exception ends here: a BrokerError in the caller's dialect, anything else as
`internal_error` with its traceback in the log. Once an answer has begun nothing is added
to it; the server closes the connection instead.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from loguru import logger as log
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.error_views import RawHeaders, internal_error, render, surface_of_scope
from api.middleware.cors import Cors
from api.middleware.exchange_span import begin_exchange, end_exchange
from api.middleware.protective import page_headers, protective_headers
from api.request_body import too_large
from shared.errors import (
    BadRequest,
    BrokerError,
    MethodNotAllowed,
    NotFound,
    ServerDraining,
    UnsupportedContent,
)
from shared.ids import RequestId, accept_request_id
from shared.observability import tracing
from shared.observability.logging import log_fast
from shared.settings import ApiSettings

OnResponse = Callable[[Scope, int, float], None]
"""Called once an exchange is over: scope (`state` holds what the handler noted), status, seconds."""

CLIENT_GONE: Final = 499
"""Logged as status when the caller left before an answer began; nginx coined it."""

MAX_PATH_CHARS: Final = 2_000

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f\\]")
_NO_TEXT: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Control characters but those of a text with lines: metadata may have them, and be asked for."""
_UNTIDY: Final = re.compile(r"//|/\.\.?(?:/|\Z)")


class Edge:
    """`uploads`: path prefixes whose routes judge content type and size of bodies themselves.
    `larger`: how many bytes a body may have at paths where that is more than elsewhere. `pages`: path
    prefix of what browsers run.

    Notes in `scope["state"]`: `request_id`, and `error` once one was answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ApiSettings,
        log_requests: bool = True,
        on_response: OnResponse | None = None,
        uploads: Sequence[str] = (),
        larger: Mapping[str, int] | None = None,
        pages: str | None = None,
        cors: Cors | None = None,
    ) -> None:
        self._app = app
        self._max_body_bytes = settings.max_body_bytes
        self._log_requests = log_requests
        self._on_response = on_response
        self._uploads = tuple(uploads)
        self._larger = dict(larger or {})
        self._cors = cors
        self._headers = protective_headers(settings)
        self._pages = pages
        self._page_headers = page_headers(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        offered = headers.get(b"x-request-id")
        request_id = accept_request_id(None if offered is None else offered.decode("latin-1"))
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        exchange = None
        if tracing.active is not None and scope["method"] in _METHODS:
            exchange = begin_exchange(tracing.active, scope, scope["method"])
        is_page = self._pages is not None and scope["path"].startswith(self._pages)
        added, preflight = self._page_headers if is_page else self._headers, None
        if self._cors is not None and (origin := headers.get(b"origin")) is not None:
            added = [*added, *self._cors.told(origin)]
            preflight = self._cors.preflight(headers) if scope["method"] == "OPTIONS" else None
        answer = _Answer(send, request_id, added)
        try:
            self._judge(scope, headers)
            if preflight is None:
                await self._app(scope, receive, answer.send)
            else:
                await answer.send({"type": "http.response.start", "status": 204, "headers": preflight})
                await answer.send({"type": "http.response.body", "body": b""})
        except (BrokerError, asyncio.CancelledError) as error:
            await self._answer(answer, scope, error if isinstance(error, BrokerError) else _out_of_time())
        except ClientDisconnect:
            answer.status = answer.status or CLIENT_GONE
        except Exception as exc:
            log.opt(exception=exc).error("request failed", request_id=request_id, route=route_of(scope))
            await self._answer(answer, scope, internal_error())
        finally:
            seconds = perf_counter() - began
            if self._log_requests:
                _log_request(scope, answer.status, seconds)
            if self._on_response is not None:
                self._on_response(scope, answer.status, seconds)
            if exchange is not None:
                end_exchange(exchange, scope, route_of(scope), answer.status)

    def _judge(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raises for what no route should see."""
        method: str = scope["method"]
        if method not in _METHODS:
            raise MethodNotAllowed("This method is not known here.")
        path: str = scope["path"]
        if len(path) > MAX_PATH_CHARS or _UNTIDY.search(path):
            raise NotFound("There is nothing at this path.")
        if _UNPRINTABLE.search(path):
            raise BadRequest("The path contains characters that no path here has.")
        if b"%" in (query := scope["query_string"]):
            _judge_query(query)
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise UnsupportedContent("Compressed request bodies are not accepted: omit Content-Encoding.")

        length = headers.get(b"content-length")
        if length is not None and not length.isdigit():
            raise BadRequest("Content-Length is not a number.")
        size = 0 if length is None else int(length)
        if self._uploads and path.startswith(self._uploads):
            return
        if size > self._max_body_bytes and size > (most := self._larger.get(path, self._max_body_bytes)):
            raise too_large(most)
        if (
            method in _WITH_BODY
            and (size > 0 or b"transfer-encoding" in headers)
            and not _is_json(headers.get(b"content-type"))
        ):
            raise UnsupportedContent("The Content-Type of the request must be application/json.")

    async def _answer(self, answer: _Answer, scope: Scope, error: BrokerError) -> None:
        state: dict[str, Any] = scope["state"]
        state["error"] = error
        if answer.status:
            return
        status, headers, body = render(error, surface_of_scope(scope), state["request_id"])
        await answer.send({"type": "http.response.start", "status": status, "headers": headers})
        await answer.send({"type": "http.response.body", "body": body})


class _Answer:
    """The send half of an exchange: adds headers, remembers the status (0: none yet)."""

    __slots__ = ("_headers", "_request_id", "_send", "status")

    def __init__(self, send: Send, request_id: RequestId, headers: RawHeaders) -> None:
        self._send = send
        self._request_id = request_id.encode()
        self._headers = headers
        self.status = 0

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                *self._headers,
                (b"x-request-id", self._request_id),
                (b"request-id", self._request_id),
            ]
        return self._send(message)


def _out_of_time() -> BrokerError:
    """Of a request that the server cancelled, whose time to drain was over."""
    return ServerDraining("This server is shutting down: send the request again.", retry_after_seconds=1)


def route_of(scope: Scope) -> str:
    """The template of the route (`/v1/models/{model}`), never the path that was asked for."""
    route = scope.get("route")
    if route is None:
        return "other"
    return getattr(route, "path", "other")


def _judge_query(query: bytes) -> None:
    """Whoever decodes it later would put U+FFFD for what is no UTF-8, and PostgreSQL stores no NUL."""
    try:
        text = unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        raise BadRequest("The query string is not UTF-8 once it is decoded.") from None
    if _NO_TEXT.search(text):
        raise BadRequest("The query string contains control characters.")


def _is_json(content_type: bytes | None) -> bool:
    if content_type == b"application/json":
        return True
    return content_type is not None and content_type.split(b";")[0].strip().lower() == b"application/json"


def _log_request(scope: Scope, status: int, seconds: float) -> None:
    state: dict[str, Any] = scope["state"]
    error = state.get("error")
    fields: dict[str, Any] = {
        "method": scope["method"] if scope["method"] in _METHODS else "other",
        "route": route_of(scope),
        "status": status,
        "duration_ms": round(seconds * 1000, 3),
        "request_id": state["request_id"],
    }
    if error is not None:
        fields["error"] = error.code or error.type
    log_fast("request", fields)
