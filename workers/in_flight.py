"""The jobs this process runs: whose leases to renew, and which task to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from shared.ids import JobId
from shared.queue.consumer import Lease


class StopReason(Enum):
    CANCELLED = "its caller does not want it any more"
    LOST = "another worker holds it"


@dataclass(slots=True)
class Flight:
    lease: Lease
    task: asyncio.Task[None]
    stop_reason: StopReason | None = None


class InFlight:
    """A job may fly twice here: reclaimed by its own worker, while its first run still hangs."""

    def __init__(self) -> None:
        self._flights: dict[JobId, dict[int, Flight]] = {}
        """By job and fence."""

    def __len__(self) -> int:
        return sum(map(len, self._flights.values()))

    def leases(self) -> list[Lease]:
        return [flight.lease for flights in self._flights.values() for flight in flights.values()]

    @contextmanager
    def track(self, lease: Lease) -> Iterator[Flight]:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a job runs inside a task")
        # Whatever flies already under an older fence could only be refused in the end.
        flights = self._flights.setdefault(lease.job.id, {})
        for fence, other in flights.items():
            if fence < lease.fence:
                _stop(other, StopReason.LOST)
        flight = flights[lease.fence] = Flight(lease, task)
        try:
            yield flight
        finally:
            del flights[lease.fence]
            if not flights:
                del self._flights[lease.job.id]

    def stop(self, job_id: JobId, reason: StopReason, *, fence: int | None = None) -> None:
        """Cancel the job's tasks, each once. `fence`: only the one that runs under it."""
        for held, flight in self._flights.get(job_id, {}).items():
            if fence is None or held == fence:
                _stop(flight, reason)


def _stop(flight: Flight, reason: StopReason) -> None:
    if flight.stop_reason is None:
        flight.stop_reason = reason
        flight.task.cancel()
