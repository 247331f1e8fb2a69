"""A batch: many requests handed in at once, each of them a job of the batch lane.

    validating ──> in_progress ──> finalizing ──> completed | expired
        │  │            │
        │  └────────────┴──> cancelling ──> cancelled
        └──> failed

A line of it is pending until it is a job, then queued, and then it ended for good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shared.ids import BatchId, JobId, RequestId


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


TRANSITIONS: Final[Mapping[BatchStatus, frozenset[BatchStatus]]] = {
    BatchStatus.VALIDATING: frozenset({BatchStatus.IN_PROGRESS, BatchStatus.FAILED, BatchStatus.CANCELLING}),
    BatchStatus.IN_PROGRESS: frozenset({BatchStatus.FINALIZING, BatchStatus.CANCELLING}),
    BatchStatus.FINALIZING: frozenset({BatchStatus.COMPLETED, BatchStatus.EXPIRED}),
    BatchStatus.CANCELLING: frozenset({BatchStatus.CANCELLED}),
    BatchStatus.COMPLETED: frozenset(),
    BatchStatus.FAILED: frozenset(),
    BatchStatus.EXPIRED: frozenset(),
    BatchStatus.CANCELLED: frozenset(),
}
ENDED: Final = frozenset(status for status, onward in TRANSITIONS.items() if not onward)
OPEN: Final = frozenset(BatchStatus) - ENDED


class LineState(StrEnum):
    PENDING = "pending"
    QUEUED = "queued"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


OPEN_LINES: Final = frozenset({LineState.PENDING, LineState.QUEUED})


class BatchForm(StrEnum):
    """Whose API it came by: how its input and its results look."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    UNIFIED = "unified"


@dataclass(frozen=True, slots=True)
class EndedLine:
    """`status_code`: None where no route answered; then `result` is a fault, if there is one."""

    ordinal: int
    custom_id: str | None
    state: LineState
    status_code: int | None
    result: bytes | None


def job_id_of(batch: BatchId, ordinal: int) -> JobId:
    """The same however often the line is queued, so that it is one job."""
    return JobId(f"job_{_digest(batch, ordinal, 'job')[:32]}")


def line_id_of(batch: BatchId, ordinal: int) -> RequestId:
    """What the line is called in the results, and its request id in every log."""
    return RequestId(f"batch_req_{_digest(batch, ordinal, 'request')[:24]}")


def step_job_id_of(batch: BatchId, part: int, asked: int) -> JobId:
    """Of a step with a provider's own batch: the same however often it is queued."""
    return JobId(f"job_{_digest(batch, part, f'step {asked}')[:32]}")


def row_of(batch: BatchId, ordinal: int) -> str:
    """Where the database keeps what becomes of its job: see Job.row."""
    return f"{batch}:{ordinal}"


def read_row(row: str) -> tuple[BatchId, int]:
    batch, _, ordinal = row.rpartition(":")
    return BatchId(batch), int(ordinal)


def _digest(batch: BatchId, ordinal: int, what: str) -> str:
    return hashlib.sha256(f"{batch}\n{ordinal}\n{what}".encode()).hexdigest()
