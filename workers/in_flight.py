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
    def __init__(self) -> None:
        self._flights: dict[JobId, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def leases(self) -> list[Lease]:
        return [flight.lease for flight in self._flights.values()]

    @contextmanager
    def track(self, lease: Lease) -> Iterator[Flight]:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a job runs inside a task")
        flight = Flight(lease, task)
        self._flights[lease.job.id] = flight
        try:
            yield flight
        finally:
            if self._flights.get(lease.job.id) is flight:
                del self._flights[lease.job.id]

    def stop(self, job_id: JobId, reason: StopReason, *, fence: int | None = None) -> None:
        """Cancel the job's task, once. `fence`: only if it still runs under that one."""
        flight = self._flights.get(job_id)
        if flight is None or flight.stop_reason is not None:
            return
        if fence is None or flight.lease.fence == fence:
            flight.stop_reason = reason
            flight.task.cancel()
