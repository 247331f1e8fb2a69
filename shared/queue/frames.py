"""What is published to a waiting api process: results and stream events.

    r<job>\\n<last>\\n<head>\\n<body>     a result, its body inline
    R<job>\\n<last>\\n<head>\\n           a result whose body must be fetched from the job
    e<job>\\n<first> <last>\\n<events>    stream events, one JSON document a line

`last` is the ordinal of the last event (1-based; 0 when the job did not stream).
The scripts compose these frames; this module reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from shared.domain.usage import Outcome


@dataclass(frozen=True, slots=True)
class ResultHead:
    """How a job ended, as stored. `error` holds the fields of a BrokerError when it failed.

    `status`: HTTP status of the answer. Tokens as settled; `attempts` calls made.
    """

    outcome: Outcome
    status: int = 200
    provider: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 0
    queue_ms: int = 0
    error: dict[str, Any] | str | None = None

    def to_wire(self) -> bytes:
        return orjson.dumps(
            {
                "outcome": self.outcome,
                "status": self.status,
                "provider": self.provider,
                "model": self.model,
                "in": self.prompt_tokens,
                "out": self.completion_tokens,
                "attempts": self.attempts,
                "queue_ms": self.queue_ms,
                "error": self.error,
            }
        )

    @classmethod
    def from_wire(cls, wire: bytes) -> ResultHead:
        fields: dict[str, Any] = orjson.loads(wire)
        return cls(
            outcome=Outcome(fields["outcome"]),
            status=fields.get("status", 500),
            provider=fields.get("provider", ""),
            model=fields.get("model", ""),
            prompt_tokens=fields.get("in", 0),
            completion_tokens=fields.get("out", 0),
            attempts=fields.get("attempts", 0),
            queue_ms=fields.get("queue_ms", 0),
            error=fields.get("error"),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """`body` is None while it still has to be fetched. `last`: ordinal of the last stream event."""

    head: ResultHead
    body: bytes | None
    last: int = 0


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Stream events `first`..`last` (ordinals, 1-based), each one JSON document.

    Of a hint `events` may be empty: they are in the log.
    """

    first: int
    last: int
    events: tuple[bytes, ...]


def parse_frame(frame: bytes) -> tuple[str, Result | EventBatch]:
    """The job id and what is said about it. Raises ValueError on anything else."""
    kind = frame[:1]
    if kind == b"e":
        job_id, ordinals, events = frame[1:].split(b"\n", 2)
        first, last = ordinals.split(b" ")
        return job_id.decode(), EventBatch(int(first), int(last), tuple(events.split(b"\n")))
    if kind == b"E":
        job_id, ordinals = frame[1:].split(b"\n", 1)
        first, last = ordinals.split(b" ")
        return job_id.decode(), EventBatch(int(first), int(last), ())
    if kind in {b"r", b"R"}:
        job_id, stream_end, head, body = frame[1:].split(b"\n", 3)
        return job_id.decode(), Result(
            ResultHead.from_wire(head), body if kind == b"r" else None, int(stream_end)
        )
    raise ValueError(f"unknown frame kind {kind!r}")
