"""Lines of the files that a batch leaves behind, in the form of the API it came by.

    OpenAI     {"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error"}, one null
    Anthropic  {"custom_id", "result": {"type": "succeeded" | "errored" | "canceled" | "expired", ...}}

What a route answered is copied as it is, never parsed.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from shared.batches.faults import Fault
from shared.domain.batch import BatchForm, EndedLine, LineState, line_id_of
from shared.ids import BatchId

_NEVER_RAN: Final = {
    LineState.EXPIRED: ("batch_expired", "This request could not be run before its batch expired."),
    LineState.CANCELLED: ("batch_cancelled", "This request was cancelled with its batch."),
}
_ANTHROPIC_TYPES: Final = {
    "invalid_api_key": "authentication_error",
    "model_not_found": "not_found_error",
    "quota_exceeded": "billing_error",
}
"""As the route would have called it, where it is not `invalid_request_error`."""


def result_line(form: BatchForm, batch: BatchId, line: EndedLine) -> bytes:
    """Without its end."""
    return _anthropic(line) if form is BatchForm.ANTHROPIC else _openai(batch, line)


def _openai(batch: BatchId, line: EndedLine) -> bytes:
    name = line_id_of(batch, line.ordinal)
    head = b'{"id":"%s","custom_id":%s,' % (name.encode(), orjson.dumps(line.custom_id))
    if line.status_code is not None:
        answer = b'{"status_code":%d,"request_id":"%s","body":%s}' % (
            line.status_code,
            name.encode(),
            line.result or b"null",
        )
        return head + b'"response":' + answer + b',"error":null}'
    return head + b'"response":null,"error":' + orjson.dumps(_error_of(line)) + b"}"


def _anthropic(line: EndedLine) -> bytes:
    head = b'{"custom_id":' + orjson.dumps(line.custom_id) + b',"result":'
    if line.state is LineState.SUCCEEDED:
        return head + b'{"type":"succeeded","message":' + (line.result or b"null") + b"}}"
    if line.state is LineState.EXPIRED:
        return head + b'{"type":"expired"}}'
    if line.state is LineState.CANCELLED:
        return head + b'{"type":"canceled"}}'
    error = line.result
    if line.status_code is None or error is None:
        fault = _error_of(line)
        told = {
            "type": _ANTHROPIC_TYPES.get(fault["code"], "invalid_request_error"),
            "message": fault["message"],
        }
        error = orjson.dumps({"type": "error", "error": told})
    return head + b'{"type":"errored","error":' + error + b"}}"


def _error_of(line: EndedLine) -> dict[str, Any]:
    if line.state in _NEVER_RAN:
        code, message = _NEVER_RAN[line.state]
        return {"code": code, "message": message, "param": None, "line": line.ordinal}
    fault = Fault("failed", "This request failed.", None, line.ordinal)
    return (fault if line.result is None else Fault.from_wire(line.result)).to_fields()
