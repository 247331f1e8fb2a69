"""Why a line of a batch, or a batch as a whole, is not what it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from shared.errors import BrokerError

MAX_TOLD: Final = 100
"""Of a batch that fails as a whole, as many are told with it."""
_MESSAGE_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class Fault:
    """`line`: of the file, from 1; None where it is about no line."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def to_fields(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "param": self.param, "line": self.line}

    def to_wire(self) -> bytes:
        return orjson.dumps(self.to_fields())

    @classmethod
    def from_wire(cls, wire: bytes) -> Fault:
        return cls(**orjson.loads(wire))


def fault_of(error: BrokerError, *, line: int) -> Fault:
    """What a route would have answered, had it been asked."""
    code = error.code or error.type
    return Fault(code, error.message[:_MESSAGE_CHARS], error.param, line)
