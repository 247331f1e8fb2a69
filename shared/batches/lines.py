"""What a line of the input says: `{"custom_id", "method", "url", "body"}`, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.batches.faults import Fault, fault_of
from shared.errors import BrokerError
from shared.requests.json_body import parse_object
from shared.requests.vectors import MAX_INPUT_NODES

MAX_CUSTOM_ID_CHARS: Final = 512
"""So that an index over them stays small."""


@dataclass(frozen=True, slots=True)
class LineRequest:
    custom_id: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadLine:
    """`custom_id`: where it has one that can be told back."""

    fault: Fault
    custom_id: str | None = None


def parse_line(text: bytes | None, *, ordinal: int, endpoints: Sequence[str]) -> LineRequest | BadLine:
    """`text`: None of a line that is too long. `endpoints`: those that it may name."""
    if text is None:
        return BadLine(Fault("line_too_long", "This line is longer than a request may be.", None, ordinal))
    try:
        said = parse_object(text, max_nodes=MAX_INPUT_NODES)
    except BrokerError as exc:
        return BadLine(Fault("invalid_json_line", _of_a_line(exc.message), exc.param, ordinal))
    custom_id = said.get("custom_id")
    if custom_id is None or custom_id == "":
        return BadLine(_missing("custom_id", ordinal))
    if not isinstance(custom_id, str) or len(custom_id) > MAX_CUSTOM_ID_CHARS:
        problem = f"`custom_id` must be a text of at most {MAX_CUSTOM_ID_CHARS} characters."
        return BadLine(Fault("invalid_custom_id", problem, "custom_id", ordinal))
    fault = _fault_in(said, ordinal, endpoints)
    if fault is not None:
        return BadLine(fault, custom_id)
    return LineRequest(custom_id, said["url"], said["body"])


def duplicate(custom_id: str, *, ordinal: int) -> Fault:
    message = f"The `custom_id` {custom_id!r} is that of an earlier line."
    return Fault("duplicate_custom_id", message, "custom_id", ordinal)


def refused(error: BrokerError, *, ordinal: int) -> Fault:
    """`error`: what the route would answer to the body; where it names a field, it is one of the body."""
    fault = fault_of(error, line=ordinal)
    param = None if fault.param is None else f"body.{fault.param}"
    return Fault(fault.code, fault.message, param, ordinal)


def _fault_in(said: dict[str, Any], ordinal: int, endpoints: Sequence[str]) -> Fault | None:
    for name in ("method", "url"):
        if said.get(name) is None:
            return _missing(name, ordinal)
    if said["method"] != "POST":
        return Fault("invalid_method", "`method` must be POST.", "method", ordinal)
    if said["url"] not in endpoints:
        message = f"`url` must be that of the batch: {', '.join(endpoints)}."
        return Fault("invalid_url", message, "url", ordinal)
    if said.get("body") is None:
        return _missing("body", ordinal)
    if not isinstance(said["body"], dict):
        return Fault("invalid_body", "`body` must be an object.", "body", ordinal)
    return None


def _of_a_line(message: str) -> str:
    """What is said of a body: here it is one line, and its number is told beside."""
    return message.replace("The body", "This line", 1).replace(" at line 1 column ", " at column ")


def _missing(name: str, ordinal: int) -> Fault:
    return Fault("missing_required_parameter", f"`{name}` is required.", name, ordinal)
