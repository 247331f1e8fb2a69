"""What an event says, and which of them an endpoint hears of."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from shared.db.repositories.webhook_endpoints import Endpoint
from shared.ids import AccountId, WebhookEndpointId
from shared.webhooks.events import SUBSCRIBABLE, Event, EventType

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def endpoint(*events: str) -> Endpoint:
    return Endpoint(WebhookEndpointId("wh_1"), AccountId("acme"), "https://hooks.example/", "", events, 1, AT)


def test_the_payload_is_type_time_and_data() -> None:
    event = Event(EventType.JOB_SUCCEEDED, "job_1", AT, {"id": "job_1"})

    assert json.loads(event.payload) == {
        "type": "job.succeeded",
        "timestamp": "2026-01-02T03:04:05+00:00",
        "data": {"id": "job_1"},
    }


def test_an_endpoint_hears_of_what_it_names_or_of_all() -> None:
    assert endpoint("job.failed").wants("job.failed")
    assert not endpoint("job.failed").wants("job.succeeded")
    assert all(endpoint().wants(event) for event in EventType)
    assert not endpoint().disabled("asked", at=AT).wants("job.failed")


def test_a_test_is_nothing_to_subscribe_to() -> None:
    assert EventType.WEBHOOK_TEST not in SUBSCRIBABLE
    assert len(SUBSCRIBABLE) == len(EventType) - 1
