"""What a line of a batch may say, and what it is told that says something else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.batches.faults import Fault
from shared.batches.lines import BadLine, LineRequest, parse_line
from shared.batches.requests import ENDPOINTS, check_request
from shared.batches.results import result_line
from shared.domain.batch import BatchForm, EndedLine, LineState
from shared.errors import BrokerError
from shared.ids import BatchId

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m"}}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


def test_a_good_line_is_a_request() -> None:
    said = parse_line(json.dumps(GOOD).encode(), ordinal=3, endpoints=[CHAT])

    assert said == LineRequest("a", CHAT, {"model": "m"})


@pytest.mark.parametrize(
    ("line", "code", "param", "custom_id"),
    [
        (None, "line_too_long", None, None),
        (b"no", "invalid_json_line", None, None),
        (b"[1]", "invalid_json_line", None, None),
        (b'"text"', "invalid_json_line", None, None),
        (b'{"custom_id": "a", "custom_id": "b"}', "invalid_json_line", "custom_id", None),
        (b'{"custom_id": "\xff"}', "invalid_json_line", None, None),
        (b'{"custom_id": NaN}', "invalid_json_line", None, None),
        (b"{}" * 2, "invalid_json_line", None, None),
        (without("custom_id"), "missing_required_parameter", "custom_id", None),
        ({**GOOD, "custom_id": ""}, "missing_required_parameter", "custom_id", None),
        ({**GOOD, "custom_id": 7}, "invalid_custom_id", "custom_id", None),
        ({**GOOD, "custom_id": "x" * 513}, "invalid_custom_id", "custom_id", None),
        (without("method"), "missing_required_parameter", "method", "a"),
        (without("url"), "missing_required_parameter", "url", "a"),
        (without("body"), "missing_required_parameter", "body", "a"),
        ({**GOOD, "method": "GET"}, "invalid_method", "method", "a"),
        ({**GOOD, "method": ["POST"]}, "invalid_method", "method", "a"),
        ({**GOOD, "url": "/v1/embeddings"}, "invalid_url", "url", "a"),
        ({**GOOD, "url": {}}, "invalid_url", "url", "a"),
        ({**GOOD, "body": []}, "invalid_body", "body", "a"),
        ({**GOOD, "body": "text"}, "invalid_body", "body", "a"),
    ],
)
def test_what_is_wrong_is_told_by_code_and_line(
    line: bytes | dict[str, Any] | None, code: str, param: str | None, custom_id: str | None
) -> None:
    text = json.dumps(line).encode() if isinstance(line, dict) else line

    said = parse_line(text, ordinal=9, endpoints=[CHAT])

    assert isinstance(said, BadLine)
    assert (said.fault.code, said.fault.line, said.custom_id) == (code, 9, custom_id)
    if param is not None:
        assert said.fault.param == param


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_no_endpoint_takes_a_stream_or_nothing(endpoint: str) -> None:
    for body in ({"stream": True}, {}):
        with pytest.raises(BrokerError):
            check_request(endpoint, body)


@pytest.mark.parametrize(("field", "value"), [("previous_response_id", "resp_1"), ("background", True)])
def test_what_only_a_waiting_caller_can_ask_for_is_refused(field: str, value: object) -> None:
    with pytest.raises(BrokerError) as refused:
        check_request(
            "/v1/responses", {"model": "m", "input": "x", field: "resp_1" if field[0] == "p" else True}
        )

    assert refused.value.param == field


@pytest.mark.parametrize("form", BatchForm)
@pytest.mark.parametrize(
    "line",
    [
        EndedLine(1, "a\u2028\n", LineState.SUCCEEDED, 200, b'{"id":1}'),
        EndedLine(1, "a", LineState.FAILED, 400, b'{"error":{}}'),
        EndedLine(1, None, LineState.FAILED, None, b'{"code":"c","message":"m","param":null,"line":1}'),
        EndedLine(1, "a", LineState.EXPIRED, None, None),
        EndedLine(1, "a", LineState.CANCELLED, None, None),
    ],
)
def test_every_result_is_one_line_of_json(form: BatchForm, line: EndedLine) -> None:
    written = result_line(form, BatchId("batch_1"), line)

    assert b"\n" not in written
    told = json.loads(written)
    assert told["custom_id"] == line.custom_id
    if form is BatchForm.ANTHROPIC:
        assert told["result"]["type"] in {"succeeded", "errored", "canceled", "expired"}
    else:
        assert (told["response"] is None) != (told["error"] is None)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("model_not_found", "not_found_error"),
        ("invalid_api_key", "authentication_error"),
        ("quota_exceeded", "billing_error"),
        ("validation_error", "invalid_request_error"),
    ],
)
def test_what_no_route_answered_is_called_as_anthropic_would(code: str, kind: str) -> None:
    fault = Fault(code, "So it is.", None, 1)
    line = EndedLine(1, "a", LineState.FAILED, None, fault.to_wire())

    told = json.loads(result_line(BatchForm.ANTHROPIC, BatchId("batch_1"), line))

    error = {"type": kind, "message": "So it is."}
    assert told["result"] == {"type": "errored", "error": {"type": "error", "error": error}}
