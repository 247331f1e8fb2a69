"""What the operators' routes take and answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.queue.dead_letters import MAX_PAGE
from shared.requests.problems import from_pydantic

Name = Annotated[str, Field(min_length=1, max_length=256)]


class DeadLetterView(BaseModel):
    """`kept`: whether it can still be run again. `redriven_as`: the job that it was run again as."""

    job_id: str
    provider: str
    model: str
    reason: str
    died_at: datetime
    attempts: int
    deliveries: int
    account: str | None
    request_id: str | None
    kind: str
    lane: str
    stream: bool
    kept: bool
    redriven_as: str | None


class DeadJobView(DeadLetterView):
    """Once its job expired, `state` says so, and all that the letter itself does not tell is null."""

    state: str
    error: dict[str, Any] | None
    created_at: datetime | None
    deadline: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    body: Any = None


class DeadLetterPage(BaseModel):
    data: list[DeadLetterView]
    next_cursor: str | None


class RedrivenView(BaseModel):
    """`repeated`: it had been run again before, as this same job."""

    job_id: str
    redriven_as: str
    repeated: bool


class NotRedriven(BaseModel):
    job_id: str
    code: str | None
    message: str


class RedrivenAllView(BaseModel):
    """`more`: there may be others left, so ask again."""

    redriven: list[RedrivenView]
    failed: list[NotRedriven]
    more: bool


class Purged(BaseModel):
    job_id: str
    purged: bool = True


class RedriveFilter(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    provider: Name | None = None
    account: Name | None = None
    reason: Name | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = MAX_PAGE


def check_redrive(document: Mapping[str, Any]) -> RedriveFilter:
    """Raises InvalidRequest (422)."""
    try:
        return RedriveFilter.model_validate(document)
    except ValidationError as exc:
        raise from_pydantic(exc) from None
