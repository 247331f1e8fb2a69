"""An error as each API words it.

    OpenAI     {"error": {"message", "type", "param", "code"}}
    Anthropic  {"type": "error", "error": {"type", "message"}, "request_id"}
    Cohere     {"id", "message"}
    unified    {"error": {"type", "message", "details", "trace_id"}}

`details` of the unified form also carries `code` and `param` where there are any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shared.domain.job import Surface
from shared.errors import BrokerError
from shared.ids import RequestId

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


def status_in(error: BrokerError, surface: Surface) -> int:
    return 400 if surface is Surface.ANTHROPIC and error.status == 422 else error.status


def error_view(error: BrokerError, surface: Surface, request_id: RequestId) -> dict[str, Any]:
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
