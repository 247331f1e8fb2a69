"""What is kept of a line that ended: how, and status and body as its route would have answered."""

from __future__ import annotations

import orjson

from shared.domain.batch import LineState
from shared.domain.job import Job, JobKind, JobState
from shared.error_forms import error_view, status_in
from shared.errors import DeadlineExceeded
from shared.queue.answers import with_usage
from shared.queue.failures import failure_of
from shared.queue.frames import Result


def answer_of(job: Job, state: JobState, result: Result) -> tuple[LineState, int | None, bytes | None]:
    """Nothing to tell of one that was cancelled or whose time was over: its batch says why."""
    if state is JobState.SUCCEEDED:
        body = with_usage(result) if job.kind is JobKind.EMBEDDINGS else result.body or b"{}"
        return LineState.SUCCEEDED, 200, body
    if state is not JobState.FAILED:
        return LineState(state.value), None, None
    error = failure_of(result, job)
    if error.code == DeadlineExceeded.code:
        # While it ran; its deadline is that of its batch.
        return LineState.EXPIRED, None, None
    view = error_view(error, job.surface, job.request_id)
    return LineState.FAILED, status_in(error, job.surface), orjson.dumps(view, default=str)
