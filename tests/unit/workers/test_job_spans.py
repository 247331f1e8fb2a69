"""Where in a trace a delivery stands, and which model an answer says it is of."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from shared.domain.job import OWN_ROW, Job, JobKind, Lane, Surface, Target
from shared.domain.trace import TraceOrigin
from shared.ids import AccountId, ApiKeyId, RequestId, new_job_id
from shared.observability.otlp import Tracing
from shared.queue.consumer import Delivery, Lease
from shared.settings import Settings
from tests.fakes.otlp_collector import CollectedSpan, Collector
from workers.job_spans import PAST_MS, delivery_span, model_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ORIGIN = TraceOrigin(f"00-{TRACE}-{SPAN}-01")


def spans_of(lease: Lease) -> dict[str, CollectedSpan]:
    with Collector() as collector:
        tracing = Tracing(Settings(_env_file=None, otel_exporter_otlp_endpoint=collector.url), "worker")
        with delivery_span(tracing, lease):
            pass
        tracing.close()
        return {span.name: span for span in collector.spans}


@pytest.mark.parametrize(
    ("row", "waited_ms", "origin", "is_linked"),
    [
        (None, PAST_MS + 1, ORIGIN, False),
        (OWN_ROW, PAST_MS, ORIGIN, False),
        (OWN_ROW, PAST_MS + 1, ORIGIN, True),
        (None, 0, ORIGIN.as_past(), True),
    ],
    ids=["somebody waits", "soon", "long after", "of another day"],
)
def test_a_delivery_is_below_what_it_comes_from_or_links_to_it_if_that_ended_long_ago(
    row: str | None, waited_ms: int, origin: TraceOrigin, is_linked: bool
) -> None:
    spans = spans_of(a_lease(row=row, waited_ms=waited_ms, trace=origin))

    delivery, wait = spans["process openai"], spans["queue wait"]
    assert (delivery.trace == TRACE) is not is_linked
    assert delivery.parent == ("" if is_linked else SPAN)
    assert delivery.links == (((TRACE, SPAN),) if is_linked else ())
    assert (wait.trace, wait.parent) == (delivery.trace, delivery.id if is_linked else SPAN)
    assert wait.ended_at - wait.began_at == pytest.approx(waited_ms / 1000, abs=0.05)


@pytest.mark.parametrize("origin", [None, TraceOrigin("broken")])
def test_a_job_without_a_trace_begins_one(origin: TraceOrigin | None) -> None:
    delivery = spans_of(a_lease(row=None, waited_ms=0, trace=origin))["process openai"]

    assert (delivery.parent, delivery.links) == ("", ())


def test_only_its_first_delivery_tells_the_wait_in_the_queue() -> None:
    again = replace(a_lease(row=None, waited_ms=500, trace=ORIGIN), fence=2)

    assert list(spans_of(again)) == ["process openai"]


@pytest.mark.parametrize(
    ("said", "model"),
    [
        (b'{"model":"a"}', "a"),
        (b'{"type":"message_start","message":{"model":"b"}}', "b"),
        (b'{"type":"response.created","response":{"model":"c"}}', "c"),
        (b'{"model":7}', None),
        (b'{"model":""}', None),
        (b"[]", None),
        (b"", None),
        (b"no json", None),
        (b'{"x":"' + b"x" * 70_000 + b'","model":"d"}', None),
    ],
)
def test_the_model_is_read_from_answers_of_every_form(said: bytes, model: str | None) -> None:
    assert model_of(said) == model


def a_lease(*, row: str | None, waited_ms: int, trace: TraceOrigin | None) -> Lease:
    job = Job(
        id=new_job_id(),
        kind=JobKind.CHAT,
        lane=Lane.STANDARD,
        surface=Surface.OPENAI,
        account=AccountId("acc"),
        api_key=ApiKeyId("key"),
        request_id=RequestId("req_12345678"),
        plan=(Target("openai", "gpt-4o"),),
        stream=False,
        include_usage=False,
        budget_ms=1000,
        body=b"{}",
        row=row,
        trace=trace,
    )
    return Lease(
        delivery=Delivery(job.id, b"1-0", 0, "openai", Lane.STANDARD),
        fence=1,
        job=job,
        attempts=0,
        deliveries=1,
        remaining_ms=1000,
        waited_ms=waited_ms,
        begun_at=time.monotonic(),
    )
