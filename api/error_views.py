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
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from api.json_body import render_path
from shared.domain.job import Surface
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

RawHeaders = list[tuple[bytes, bytes]]

MAX_PROBLEMS: Final = 10
MAX_RETRY_AFTER_SECONDS: Final = 60
"""Above it the Anthropic client ignores the header, above 120 the OpenAI one gives up."""

_SURFACES: Final[Mapping[str, Surface]] = {
    "/v1/messages": Surface.ANTHROPIC,
    "/v1/responses": Surface.RESPONSES,
    "/v1/inference/": Surface.UNIFIED,
    "/v1/": Surface.OPENAI,
    "/v2/": Surface.COHERE,
}
"""By prefix, the first that fits."""
_OPENAI_FORM: Final = frozenset({Surface.OPENAI, Surface.RESPONSES})
_ANTHROPIC_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
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
    status = 400 if surface is Surface.ANTHROPIC and error.status == 422 else error.status
    body = _encode(_view(error, surface, request_id))
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
        return b"event: error\ndata: " + _encode(_view(error, surface, request_id)) + b"\n\n"
    if surface is Surface.RESPONSES:
        # OpenAI's own event has no `error` within; the official client raises only if there is one.
        view = _view(error, surface, request_id)
        told = {k: v for k, v in view["error"].items() if k != "type"}
        return b"event: error\ndata: " + _encode({"type": "error", **told, **view}) + b"\n\n"
    return b"data: " + _encode(_view(error, surface, request_id)) + b"\n\n"


def internal_error() -> BrokerError:
    """What a caller hears about an exception we did not foresee."""
    return BrokerError("The gateway failed to handle this request.")


def from_pydantic(exc: ValidationError, *, tagged: frozenset[str] = frozenset()) -> InvalidRequest:
    """The validation error as ours: paths and problems, never values.

    `tagged` names the lists whose items are told apart by a field: pydantic puts the
    tag into the path behind the index, where no caller would look for it. Tags of other
    unions are left out when they start with `~`.
    """
    return _from_problems(
        exc.errors(include_url=False, include_context=True, include_input=False), tagged=tagged
    )


def install(app: FastAPI) -> None:
    """Answer what Starlette and FastAPI raise by themselves in our forms.

    The handler for Exception serves an app that is wrapped in the edge instead of
    holding it as a middleware: Starlette answers first there, the edge logs.
    """
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(BrokerError, _on_broker_error)
    app.add_exception_handler(Exception, _on_exception)


def _view(error: BrokerError, surface: Surface, request_id: RequestId) -> dict[str, Any]:
    if surface is Surface.ANTHROPIC:
        told = {"type": _anthropic_type(error), "message": error.message}
        return {"type": "error", "error": told, "request_id": request_id}
    if surface is Surface.COHERE:
        return {"id": request_id, "message": error.message}
    if surface in _OPENAI_FORM:
        return {
            "error": {
                "message": error.message,
                "type": _openai_type(error),
                "param": error.param,
                "code": error.code,
            }
        }
    details = dict(error.details)
    if error.code is not None:
        details.setdefault("code", error.code)
    if error.param is not None:
        details.setdefault("param", error.param)
    return {
        "error": {
            "type": error.type,
            "message": error.message,
            "details": details,
            "trace_id": request_id,
        }
    }


def _openai_type(error: BrokerError) -> str:
    """OpenAI tells 401, 403 and 404 apart by status and `code`; their `type` is invalid_request_error."""
    if error.type == "quota_exceeded" or error.code == "insufficient_quota":
        return "insufficient_quota"
    if error.status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if error.status < 500 else "server_error"


def _anthropic_type(error: BrokerError) -> str:
    if error.type == "quota_exceeded" or error.code == "insufficient_quota":
        return "billing_error"
    if error.status >= 500:
        return _ANTHROPIC_TYPES.get(error.status, "api_error")
    return _ANTHROPIC_TYPES.get(error.status, "invalid_request_error")


def _retry_after(error: BrokerError) -> int | None:
    if error.retry_after_seconds is not None:
        return max(1, min(MAX_RETRY_AFTER_SECONDS, math.ceil(error.retry_after_seconds)))
    return 1 if isinstance(error, Overloaded) else None


def _encode(view: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(view, default=str)
    except TypeError:
        # Half of a surrogate pair, or an integer beyond 64 bits, in somebody's details.
        return json.dumps(view, default=str, ensure_ascii=False).encode("utf-8", "replace")


def _from_problems(
    problems: Iterable[Mapping[str, Any]], *, tagged: frozenset[str] = frozenset()
) -> InvalidRequest:
    found: dict[tuple[str | int, ...], list[tuple[str, str]]] = {}
    for problem in problems:
        path, said = _restate(problem, _path(problem["loc"], tagged))
        found.setdefault(path, []).append((problem["type"], said))
    # A union reports each branch; the branch that got deepest is the one that was meant.
    deepest = {
        path: _one_sentence(told)
        for path, told in found.items()
        if not any(len(other) > len(path) and other[: len(path)] == path for other in found)
    }
    details = [{"path": render_path(path), "problem": said} for path, said in deepest.items()]
    first = details[0]
    where = first["path"] or "The body"
    more = f" ({len(details) - 1} more)" if len(details) > 1 else ""
    return InvalidRequest(
        f"{where}: {first['problem']}{more}",
        param=first["path"] or None,
        details={"errors": details[:MAX_PROBLEMS]},
    )


def _one_sentence(told: list[tuple[str, str]]) -> str:
    """At one path, a branch of the right type and a wrong value tells more than "not a string"."""
    about_values = [said for kind, said in told if not kind.endswith("_type")]
    return about_values[0] if about_values else ", or: ".join(dict.fromkeys(said for _, said in told))


def _path(location: tuple[str | int, ...], tagged: frozenset[str]) -> tuple[str | int, ...]:
    path: list[str | int] = []
    for index, step in enumerate(location):
        if isinstance(step, str):
            if step.startswith("~") or step == "[key]":
                continue
            if index >= 2 and isinstance(location[index - 1], int) and location[index - 2] in tagged:
                continue
        path.append(step)
    return tuple(path)


def _restate(problem: Mapping[str, Any], path: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], str]:
    """Pydantic's sentence, except where it quotes the value."""
    context = problem.get("ctx", {})
    match problem["type"]:
        case "union_tag_invalid":
            field = str(context["discriminator"]).strip("'")
            return (*path, field), f"must be one of {context['expected_tags']}"
        case "union_tag_not_found":
            return (*path, str(context["discriminator"]).strip("'")), "is required"
        case "missing":
            return path, "is required"
        case "value_error":
            return path, str(context["error"])
        case _:
            return path, str(problem["msg"])


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
    return _respond(request, _from_problems(problems))


async def _on_broker_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, BrokerError)  # noqa: S101 - Starlette dispatches by class
    return _respond(request, exc)


async def _on_exception(request: Request, exc: Exception) -> Response:
    if isinstance(exc, ClientDisconnect):
        raise exc  # nobody to answer; the edge notes that the caller left
    return _respond(request, internal_error())
