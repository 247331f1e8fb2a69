"""A line of the input as the job it would be now."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scheduler.batches.means import Means
from shared.batches.faults import Fault
from shared.batches.lines import LineRequest, parse_line, refused
from shared.batches.requests import ENDPOINTS, job_of
from shared.db.repositories.batch_lines import Place
from shared.db.repositories.batches import Batch
from shared.domain.job import Job
from shared.domain.principal import Principal
from shared.errors import BrokerError, Overloaded
from shared.limits.admission import Admission
from shared.limits.rules import RuleSet


def job_of_line(
    batch: Batch,
    principal: Principal,
    means: Means,
    place: Place,
    text: bytes,
    *,
    budget_ms: int,
    admission: Admission,
    rules: RuleSet,
) -> tuple[Job, dict[str, Any]] | Fault | float:
    """With the document it was made of; or what is wrong with it, or in how many seconds to try again."""
    endpoints = (batch.endpoint,) if batch.endpoint else ENDPOINTS
    said = parse_line(text, ordinal=place.ordinal, endpoints=endpoints)
    if not isinstance(said, LineRequest):
        return said.fault
    try:
        job = job_of(
            said.url,
            said.body,
            principal,
            means,
            batch=batch.id,
            ordinal=place.ordinal,
            budget_ms=budget_ms,
            admission=admission,
            rules=rules,
        )
    except Overloaded as exc:
        return exc.retry_after_seconds or 1.0
    except BrokerError as exc:
        return refused(exc, ordinal=place.ordinal)
    return (job if batch.trace is None else replace(job, trace=batch.trace)), said.body
