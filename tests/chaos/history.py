"""What happened, as records: the callers' log, the kills, and what Redis and the ledger hold in the end.

Written down while a test runs and judged only afterwards (checker.py), so that what is held
to be right stands in one place and can itself be tested.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Ending(StrEnum):
    WHOLE = "whole"
    """Status 200; a stream came to its [DONE]."""
    ERROR = "error"
    """Status 200, and the stream ended in an error event."""
    REFUSED = "refused"
    """Another status, with a code."""
    CUT = "cut"
    """The body of a stream ended in good order with neither [DONE] nor an error event."""
    LOST = "lost"
    """The connection broke."""


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One `data:` of a stream. `ordinal` is from its `id:` line, None without one."""

    ordinal: int | None
    data: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as its caller saw it. `name` is unique and is the provider's `cue` too.

    `expected`: the text the provider was told to say. Times are Unix seconds.
    """

    name: str
    stream: bool
    expected: str
    began_at: float
    ended_at: float
    ending: Ending
    status: int | None = None
    code: str | None = None
    job: str | None = None
    body: str = ""
    """Of an answer that is no stream, as it came."""
    events: tuple[StreamEvent, ...] = ()
    text: str = ""
    """What the answer, or all chunks of it, said."""
    finishes: int = 0
    """Chunks with a finish reason."""


@dataclass(frozen=True, slots=True)
class Call:
    """A provider call from the provider's log; `name` is the exchange it came from.

    `refused`: the provider answered with an error status.
    """

    name: str
    job: str
    opened_at: float
    closed_at: float | None
    outcome: str | None
    refused: bool = False


@dataclass(slots=True)
class Kill:
    """A worker's sudden death, and the jobs Redis says it held."""

    at: float
    worker: str
    point: str
    in_flight: frozenset[str]
    recovered_at: dict[str, float] = field(default_factory=dict)
    """When each of them was seen running elsewhere, or ended."""


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job's hash and event log in the end."""

    job: str
    state: str
    body: str
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    job: str
    request: str
    outcome: str


@dataclass(slots=True)
class History:
    exchanges: list[Exchange] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    outages: list[tuple[float, float]] = field(default_factory=list)
    """From when to when the queue was away."""
    stored: dict[str, StoredJob] = field(default_factory=dict)
    ledger: list[LedgerRow] = field(default_factory=list)
    left_in_lanes: int = 0
    """Entries in all lanes, delayed sets and the usage stream after everything ended."""

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(_plain(asdict(self)), indent=1), encoding="utf-8")
        return path


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
