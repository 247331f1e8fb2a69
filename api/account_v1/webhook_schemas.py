"""What the routes of webhooks take and answer."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Required, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, with_config
from typing_extensions import TypedDict

from shared.db.repositories.webhook_endpoints import Endpoint
from shared.db.repositories.webhooks import Attempt, Delivery, Status
from shared.egress.rules import MAX_URL_CHARS

_STRICT: Final = ConfigDict(extra="forbid", strict=True)
MAX_GRACE_SECONDS: Final = 30 * 86_400
Url = Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_CHARS)]
Description = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
EventName = Literal[
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "job.expired",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "quota.threshold",
]
Events = Annotated[list[EventName], Field(max_length=50)]


@with_config(_STRICT)
class EndpointIn(TypedDict, total=False):
    """`events`: all of them where it is missing or empty."""

    url: Required[Url]
    description: Description
    events: Events
    enabled: bool


@with_config(_STRICT)
class EndpointChange(TypedDict, total=False):
    """What is missing stays."""

    url: Url
    description: Description
    events: Events
    enabled: bool


@with_config(_STRICT)
class RotationIn(TypedDict, total=False):
    """`grace_seconds`: how long the old secret signs as well."""

    grace_seconds: Annotated[int, Field(ge=0, le=MAX_GRACE_SECONDS)]


class EndpointView(BaseModel):
    """`events`: empty for all. `disabled_because`: `asked`, `gone` (it answered 410) or `failing` (for days,
    without one success). `old_secret_until`: while a rotated secret signs besides the new one.
    """

    id: str
    url: str
    description: str
    events: list[str]
    enabled: bool
    created_at: datetime
    disabled_at: datetime | None
    disabled_because: str | None
    failing_since: datetime | None
    old_secret_until: datetime | None

    @classmethod
    def of(cls, endpoint: Endpoint, **more: Any) -> Self:
        return cls(
            id=endpoint.id,
            url=endpoint.url,
            description=endpoint.description,
            events=list(endpoint.events),
            enabled=endpoint.is_enabled,
            created_at=endpoint.created_at,
            disabled_at=endpoint.disabled_at,
            disabled_because=endpoint.disabled_because,
            failing_since=endpoint.failing_since,
            old_secret_until=endpoint.previous_until,
            **more,
        )


class EndpointWithSecret(EndpointView):
    secret: str


class EndpointList(BaseModel):
    data: list[EndpointView]


class SecretView(BaseModel):
    """`whsec_...`, as libraries of Standard Webhooks take it."""

    secret: str


class DeliveryView(BaseModel):
    """`id`: the `webhook-id`. `endpoint`: null where a job or a batch named the URL. `next_try_at`: null once
    it was delivered or given up. `tries`: since it was last sent anew.
    """

    id: str
    endpoint: str | None
    url: str
    type: str
    status: Status
    created_at: datetime
    next_try_at: datetime | None
    tries: int
    delivered_at: datetime | None
    given_up_at: datetime | None

    @classmethod
    def of(cls, delivery: Delivery, **more: Any) -> Self:
        return cls(
            id=delivery.id,
            endpoint=delivery.endpoint_id,
            url=delivery.url,
            type=delivery.type,
            status=delivery.status,
            created_at=delivery.created_at,
            next_try_at=delivery.next_try_at,
            tries=delivery.tries,
            delivered_at=delivery.delivered_at,
            given_up_at=delivery.given_up_at,
            **more,
        )


class AttemptView(BaseModel):
    """`status`: of the answer, null where there was none that counts; then `error` is `timeout`, `redirect`,
    `answer_too_large`, `answer_encoded` or `unreachable`.
    """

    at: datetime
    status: int | None
    error: str | None
    took_ms: int


class WholeDelivery(DeliveryView):
    payload: dict[str, Any]
    attempts: list[AttemptView]

    @classmethod
    def whole(cls, delivery: Delivery, attempts: list[Attempt]) -> Self:
        shown = [
            AttemptView(at=one.at, status=one.status, error=one.error, took_ms=one.took_ms)
            for one in attempts
        ]
        return cls.of(delivery, payload=json.loads(delivery.payload), attempts=shown)


class DeliveryPage(BaseModel):
    data: list[DeliveryView]
    next_cursor: str | None
