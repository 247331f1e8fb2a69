"""Why a job that did not succeed did not, as the error its caller gets."""

from __future__ import annotations

from shared.domain.job import Job
from shared.domain.usage import Outcome
from shared.errors import BrokerError, DeadlineExceeded, JobCancelled, ProviderUnavailable
from shared.queue.frames import Result


def failure_of(result: Result, job: Job) -> BrokerError:
    head = result.head
    if isinstance(head.error, dict):
        return BrokerError.from_fields(head.error)
    details = {"job_id": job.id}
    if head.outcome is Outcome.EXPIRED:
        return DeadlineExceeded("The deadline passed while the job was queued.", details=details)
    if head.outcome is Outcome.CANCELLED:
        return JobCancelled("This job was cancelled.", details=details)
    if head.error == "stream_interrupted":
        return ProviderUnavailable(
            "The stream was interrupted and cannot be continued.",
            provider=job.target.provider,
            code="stream_interrupted",
        )
    if head.outcome is Outcome.DEAD:
        error = BrokerError("This job stopped every worker that ran it and was set aside.", details=details)
        error.code = "poison"
        return error
    return BrokerError("The job failed.", details=details)
