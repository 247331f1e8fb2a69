"""What accounts can hear of, and how it becomes deliveries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories import webhook_endpoints, webhooks
from shared.db.repositories.webhook_endpoints import Endpoint
from shared.db.repositories.webhooks import Delivery
from shared.ids import AccountId, WebhookEndpointId, WebhookId


class EventType(StrEnum):
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    JOB_EXPIRED = "job.expired"
    BATCH_COMPLETED = "batch.completed"
    BATCH_FAILED = "batch.failed"
    BATCH_EXPIRED = "batch.expired"
    BATCH_CANCELLED = "batch.cancelled"
    RESPONSE_COMPLETED = "response.completed"
    RESPONSE_FAILED = "response.failed"
    RESPONSE_CANCELLED = "response.cancelled"
    RESPONSE_INCOMPLETE = "response.incomplete"
    QUOTA_THRESHOLD = "quota.threshold"
    WEBHOOK_TEST = "webhook.test"
    """Sent to one endpoint when it is asked for, whatever events that wants."""


SUBSCRIBABLE: Final = tuple(event for event in EventType if event is not EventType.WEBHOOK_TEST)


@dataclass(frozen=True, slots=True)
class Event:
    """`object_id`: what it happened to; of one type, once. `data`: JSON values, thin: ids to look up by,
    and neither prompts nor answers.
    """

    type: EventType
    object_id: str
    at: datetime
    data: Mapping[str, Any]

    @property
    def id(self) -> str:
        return f"{self.type}\n{self.object_id}"

    @property
    def payload(self) -> bytes:
        return orjson.dumps({"type": self.type, "timestamp": self.at.isoformat(), "data": dict(self.data)})


async def note(
    connection: AsyncConnection, account_id: AccountId, event: Event, *, url: str | None = None
) -> None:
    """Have the endpoints of the account told that want this event, and `url`, which a job or a batch named.

    To be called in the transaction that changes what the event tells, so that there is neither without the
    other. Again changes nothing.
    """
    await note_all(connection, [Noted(account_id, event, url)])


@dataclass(frozen=True, slots=True)
class Noted:
    account_id: AccountId
    event: Event
    url: str | None = None


async def note_all(connection: AsyncConnection, noted: Sequence[Noted]) -> None:
    """See `note`."""
    endpoints = {
        account_id: await webhook_endpoints.list_of(connection, account_id)
        for account_id in {one.account_id for one in noted}
    }
    deliveries: list[Delivery] = []
    for one in noted:
        event = one.event
        wanting = (endpoint for endpoint in endpoints[one.account_id] if endpoint.wants(event.type))
        deliveries += [_to_endpoint(event, endpoint) for endpoint in wanting]
        if one.url is not None:
            deliveries.append(_delivery(event, one.account_id, one.url, endpoint_id=None))
    if deliveries:
        await webhooks.add(connection, deliveries)


async def note_for(connection: AsyncConnection, endpoint: Endpoint, event: Event) -> Delivery:
    """Have this endpoint told alone, whatever events it wants."""
    delivery = _to_endpoint(event, endpoint)
    await webhooks.add(connection, [delivery])
    return delivery


def _to_endpoint(event: Event, endpoint: Endpoint) -> Delivery:
    return _delivery(event, endpoint.account_id, endpoint.url, endpoint_id=endpoint.id)


def _delivery(
    event: Event, account_id: AccountId, url: str, *, endpoint_id: WebhookEndpointId | None
) -> Delivery:
    # The account too: a URL may be named by several, and ids of events are unique within one alone.
    name = f"{account_id}\n{event.id}\n{endpoint_id or url}"
    return Delivery(
        id=WebhookId("msg_" + hashlib.sha256(name.encode()).hexdigest()[:32]),
        account_id=account_id,
        endpoint_id=endpoint_id,
        url=url,
        type=event.type,
        payload=event.payload,
        created_at=event.at,
        next_try_at=event.at,
    )
