"""The call log: who called, when each call was open, and how it ended.

With a file, each call writes two JSON lines, whole and at once, so that a
reader who kills anything else can count the calls open at any instant:

    {"event": "open", "call": 7, "job": "job_1", "attempt": 1, "path": "/v1/messages",
     "model": "m", "stream": true, "cue": "hang", "open_at": 1790000000.1}
    {"event": "close", ...the same..., "close_at": 1790000001.2, "status": 200,
     "chunks_sent": 12, "outcome": "client_closed"}

`job` and `attempt` are the caller's x-headrace-job-id and x-headrace-attempt.
`status` is null until a status line was sent. Times are Unix seconds.
"""

import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

KEPT_WITHOUT_FILE = 10_000
RECORDED = 200
"""Calls whose headers and body are kept, with --record."""


class Outcome(StrEnum):
    COMPLETE = "complete"
    """All bytes were handed to the kernel."""
    CUT = "cut"
    """We closed early, on cue."""
    CLIENT_CLOSED = "client_closed"
    """The client closed or reset the connection first."""
    STOPPED = "stopped"
    """This process was told to stop."""


@dataclass(slots=True, eq=False)
class Call:
    call: int
    job: str | None
    attempt: int | str | None
    path: str
    model: str | None
    stream: bool
    cue: str | None
    open_at: float
    close_at: float | None = None
    status: int | None = None
    chunks_sent: int = 0
    outcome: Outcome | None = None
    received: tuple[Mapping[bytes, bytes], bytes] | None = None
    """Headers and body, with --record, of the last calls only; never in the file."""

    def opening(self) -> dict[str, Any]:
        return {
            "call": self.call,
            "job": self.job,
            "attempt": self.attempt,
            "path": self.path,
            "model": self.model,
            "stream": self.stream,
            "cue": self.cue,
            "open_at": self.open_at,
        }

    def whole(self) -> dict[str, Any]:
        return self.opening() | {
            "close_at": self.close_at,
            "status": self.status,
            "chunks_sent": self.chunks_sent,
            "outcome": self.outcome,
        }


@dataclass(slots=True)
class Tally:
    """Counts since the last `clear`, for calls whose number is above `after`."""

    after: int
    opened: int = 0
    closed: int = 0
    max_open: int = 0
    chunks_sent: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    statuses: Counter[int | None] = field(default_factory=Counter)

    @property
    def open(self) -> int:
        return self.opened - self.closed


class CallLog:
    """Calls since the last `clear`: all of them with a file, the last 10,000 without."""

    def __init__(self, path: Path | None = None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if path else None
        self._calls: deque[Call] = deque(maxlen=None if path else KEPT_WITHOUT_FILE)
        self._recorded: deque[Call] = deque()
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._last = 0
        self._tally = Tally(after=0)

    def next_number(self) -> int:
        self._last += 1
        return self._last

    def open(self, call: Call) -> None:
        tally = self._tally
        self._calls.append(call)
        tally.opened += 1
        tally.max_open = max(tally.max_open, tally.open)
        if self._file is not None:
            os.write(self._file, orjson.dumps({"event": "open"} | call.opening()) + b"\n")
        if self._waiting:
            self._wake()

    def keep(self, call: Call, headers: Mapping[bytes, bytes], body: bytes) -> None:
        """Remember what `call` received, as long as it is among the last `RECORDED`."""
        call.received = headers, body
        self._recorded.append(call)
        if len(self._recorded) > RECORDED:
            self._recorded.popleft().received = None

    def close(self, call: Call, outcome: Outcome) -> None:
        call.close_at = time.time()
        call.outcome = outcome
        if self._file is not None:
            os.write(self._file, orjson.dumps({"event": "close"} | call.whole()) + b"\n")
        tally = self._tally
        if call.call <= tally.after:
            return
        tally.closed += 1
        tally.chunks_sent += call.chunks_sent
        tally.outcomes[outcome] += 1
        tally.statuses[call.status] += 1
        if self._waiting:
            self._wake()

    async def reach(self, *, opened: int, closed: int) -> None:
        """Wait until so many calls were opened and closed since the last `clear`."""

        def reached() -> bool:
            return self._tally.opened >= opened and self._tally.closed >= closed

        if reached():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((reached, future))
        try:
            await future
        finally:
            self._waiting = [entry for entry in self._waiting if entry[1] is not future]

    def clear(self) -> None:
        """Forget the calls so far, those still open included; the file keeps them."""
        self._calls.clear()
        self._recorded.clear()
        self._tally = Tally(after=self._last)

    def calls(self) -> list[dict[str, Any]]:
        return [call.whole() | {"received": _received(call)} for call in self._calls]

    def stats(self) -> dict[str, Any]:
        tally = self._tally
        return {
            "calls": tally.opened,
            "open": tally.open,
            "max_open": tally.max_open,
            "chunks_sent": tally.chunks_sent,
            "outcomes": {outcome.value: count for outcome, count in tally.outcomes.items()},
            "statuses": {str(status): count for status, count in tally.statuses.items()},
            "cpu_seconds": time.process_time(),
        }

    def shut(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _wake(self) -> None:
        for reached, future in self._waiting:
            if not future.done() and reached():
                future.set_result(None)


def _received(call: Call) -> dict[str, Any] | None:
    if call.received is None:
        return None
    headers, raw = call.received
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    return {"headers": {k.decode("latin-1"): v.decode("latin-1") for k, v in headers.items()}, "body": body}
