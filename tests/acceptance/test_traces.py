"""One trace of a request, from the api through the queue to the provider's call, over real processes."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.acceptance.test_batches import a_line, create, encoded
from tests.acceptance.test_batches import ended as batch_ended
from tests.acceptance.test_jobs import JOBS, a_job, chat, ended
from tests.fakes.eventually import eventually
from tests.fakes.otlp_collector import CollectedSpan, Collector
from tests.fakes.server_process import free_port
from tests.fakes.stack import Stack, start_apart
from tests.fakes.webhook_receiver import WebhookReceiver
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("traces")

CANARY: Final = "canary-prompt-8f1e"
QUICK: Final = {"OTEL_BSP_SCHEDULE_DELAY": "50", "HEADRACE_LOG__FORMAT": "json"}
CHAT: Final = "/v1/chat/completions"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as one:
        yield one


@pytest.fixture(scope="module")
def stack(sqlite_template: Path, collector: Collector) -> Iterator[Stack]:
    broker = Stack(
        database_template=sqlite_template, settings={**QUICK, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    )
    start_apart(broker)
    yield broker
    broker.end_now()


class Caller:
    """Begins a trace, as a caller that traces does."""

    def __init__(self, flags: str = "01") -> None:
        self.trace, self.span = os.urandom(16).hex(), os.urandom(8).hex()
        self.headers = {"traceparent": f"00-{self.trace}-{self.span}-{flags}", "tracestate": "them=here"}


async def trace_of(collector: Collector, trace: str, *, spans: int) -> list[CollectedSpan]:
    async def look() -> list[CollectedSpan] | None:
        found = collector.of_trace(trace)
        return found if len(found) >= spans else None

    try:
        found = await eventually(look, f"{spans} spans of a trace")
    except Exception as exc:
        exc.add_note(f"came: {[(s.name, s.attributes) for s in collector.of_trace(trace)]}")
        raise
    assert found is not None
    assert len(found) == spans, [span.name for span in found]
    return found


def named(spans: list[CollectedSpan], name: str) -> list[CollectedSpan]:
    return [span for span in spans if span.name == name]


async def test_a_plain_request_is_one_trace(stack: Stack, collector: Collector) -> None:
    caller = Caller()
    async with stack.client() as client:
        answer = await client.post(f"{CHAT}?api_key=sk-{CANARY}", json=chat(CANARY), headers=caller.headers)
    spans = await trace_of(collector, caller.trace, spans=4)

    assert answer.status_code == 200
    (server,), (wait,) = named(spans, f"POST {CHAT}"), named(spans, "queue wait")
    (delivery,), (call,) = named(spans, "process openai"), named(spans, "chat gpt-4o-mini")
    assert [server.parent, wait.parent, delivery.parent] == [caller.span, server.id, server.id]
    assert call.parent == delivery.id
    assert {span.state for span in spans} == {"them=here"}
    assert [span.kind for span in (server, wait, delivery, call)] == [
        *("server", "internal", "consumer", "client"),
    ]
    job = answer.headers["x-headrace-job-id"]
    assert server.attributes == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "headrace.request.id": answer.headers["x-request-id"],
        "headrace.job.id": job,
    }
    assert delivery.attributes["messaging.message.id"] == job
    assert delivery.attributes["messaging.destination.name"].startswith("openai/")
    assert delivery.attributes["headrace.job.outcome"] == "succeeded"
    body = answer.json()
    (record,) = [one for one in await stack.provider.calls() if one.job == job]
    assert call.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.stream": False,
        "gen_ai.response.model": body["model"],
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": body["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": body["usage"]["completion_tokens"],
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": int(re.search(r":(\d+)", stack.provider.url)[1]),  # type: ignore[index]  # every URL of a provider here has a port
    }
    assert server.began_at <= delivery.began_at <= call.began_at <= call.ended_at <= delivery.ended_at
    assert wait.began_at <= wait.ended_at <= delivery.began_at + 0.05
    assert record.received is not None
    assert "traceparent" not in record.received["headers"]
    assert {span.resource["service.name"] for span in spans} == {"headrace-api", "headrace-worker"}
    (line,) = [
        one for one in stack.apis[0].events("request") if one["request_id"] == answer.headers["x-request-id"]
    ]
    assert (line["trace_id"], line["span_id"]) == (caller.trace, server.id)


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, {}), ("/v1/messages", {"max_tokens": 50}), ("/v1/responses", {})],
)
async def test_a_streamed_request_tells_the_time_to_its_first_chunk(
    path: str, body: dict[str, Any], stack: Stack, collector: Collector
) -> None:
    caller = Caller()
    asked = {**chat(cue={"text": "one two three", "chunks": 3, "between_chunks_ms": 20}), **body}
    if path == "/v1/responses":
        asked["input"] = asked.pop("messages")
    async with stack.client() as client:
        answer = await client.post(path, json={**asked, "stream": True}, headers=caller.headers)
    spans = await trace_of(collector, caller.trace, spans=4)

    assert answer.status_code == 200
    (server,), (delivery,) = named(spans, f"POST {path}"), named(spans, "process openai")
    (call,) = named(spans, "chat gpt-4o-mini")
    assert (server.parent, delivery.parent, call.parent) == (caller.span, server.id, delivery.id)
    assert call.attributes["gen_ai.request.stream"] is True
    assert call.attributes["gen_ai.response.model"] == "gpt-4o-mini"
    first = call.attributes["gen_ai.response.time_to_first_chunk"]
    assert 0 < first < call.ended_at - call.began_at - 0.02
    assert server.ended_at >= call.ended_at - 0.01


async def test_an_async_job_goes_on_with_the_trace_that_submitted_it(
    stack: Stack, collector: Collector
) -> None:
    caller = Caller()
    async with stack.client() as client:
        accepted = await client.post(JOBS, json=a_job(CANARY), headers=caller.headers)
        await ended(client, accepted.json()["id"])
    spans = await trace_of(collector, caller.trace, spans=4)

    assert accepted.status_code == 202
    (server,), (delivery,) = named(spans, f"POST {JOBS}"), named(spans, "process openai")
    (call,) = named(spans, "chat gpt-4o-mini")
    assert (server.parent, delivery.parent, call.parent) == (caller.span, server.id, delivery.id)
    assert server.attributes["headrace.job.id"] == delivery.attributes["messaging.message.id"]


async def test_each_try_is_a_span_and_so_is_each_target(stack: Stack, collector: Collector) -> None:
    again, onward = Caller(), Caller()
    refused = {"status": 503, "fail_times": {"key": again.trace, "n": 1}}
    fallback = {"fallback_models": ["claude-haiku-4-5"]}
    async with stack.client() as client:
        one = await client.post(CHAT, json=chat(cue=refused), headers=again.headers)
        await stack.provider.script({"status": 401}, match=onward.trace)
        other = await client.post(CHAT, json={**chat(onward.trace), **fallback}, headers=onward.headers)
    assert (one.status_code, other.status_code) == (200, 200)
    assert other.headers["x-headrace-provider"] == "anthropic"

    spans = await trace_of(collector, again.trace, spans=6)
    first, second = named(spans, "process openai")
    (server,) = named(spans, f"POST {CHAT}")
    assert {first.parent, second.parent} == {server.id}
    assert [span.attributes["headrace.job.attempt"] for span in (first, second)] == [1, 2]
    assert [span.attributes["headrace.job.outcome"] for span in (first, second)] == [
        *("put_aside", "succeeded"),
    ]
    assert (first.is_error, second.is_error) == (True, False)
    failed, done = named(spans, "chat gpt-4o-mini")
    assert (failed.parent, done.parent) == (first.id, second.id)
    assert failed.is_error
    assert failed.attributes["error.type"]
    assert failed.attributes["http.response.status_code"] == 503
    assert not server.is_error

    spans = await trace_of(collector, onward.trace, spans=6)
    (left,), (took,) = named(spans, "process openai"), named(spans, "process anthropic")
    (server,) = named(spans, f"POST {CHAT}")
    assert (left.parent, took.parent) == (server.id, server.id)
    assert left.attributes["headrace.job.outcome"] == "moved"
    assert (left.attributes["headrace.job.hop"], took.attributes["headrace.job.hop"]) == (0, 1)
    (call,) = named(spans, "chat claude-haiku-4-5")
    assert call.parent == took.id
    assert call.attributes["gen_ai.provider.name"] == "anthropic"


async def test_lines_of_a_batch_are_traces_of_their_own_that_link_to_it(
    stack: Stack, collector: Collector
) -> None:
    caller = Caller()
    async with stack.client() as client:
        client.headers.update(caller.headers)
        batch = await create(client, encoded([a_line("one"), a_line("two")]))
        del client.headers["traceparent"]
        await batch_ended(client, batch["id"])

    async def look() -> list[CollectedSpan] | None:
        creating = {
            (span.trace, span.id) for span in named(collector.of_trace(caller.trace), "POST /v1/batches")
        }
        linked = [span for span in collector.spans if creating & set(span.links)]
        return linked if len(linked) == 3 else None

    linked = await eventually(look, "spans that link to a batch")
    assert linked is not None
    assert sorted(span.name for span in linked) == ["process openai", "process openai", "queue batch lines"]
    assert all(span.parent == "" and span.trace != caller.trace for span in linked)
    for line in named(linked, "process openai"):
        spans = await trace_of(collector, line.trace, spans=3)
        assert {span.parent for span in spans} == {"", line.id}


async def test_what_is_no_trace_context_is_ignored_and_probes_are_not_traced(
    stack: Stack, collector: Collector
) -> None:
    async with stack.client() as client:
        await client.get("/health/ready")
        odd = await client.get("/v1/models", headers={"traceparent": "00-zz", "tracestate": "=,=;"})
        missing = await client.get("/v1/models/none-of-ours")
    ids = {answer.headers["x-request-id"] for answer in (odd, missing)}

    async def look() -> list[CollectedSpan] | None:
        found = [span for span in collector.spans if span.attributes.get("headrace.request.id") in ids]
        return found if len(found) == 2 else None

    found = await eventually(look, "both spans")
    assert found is not None
    assert (odd.status_code, missing.status_code) == (200, 404)
    assert {span.parent for span in found} == {""}
    assert not any(span.is_error for span in found), "what a caller did wrong is no error of a server"
    assert not any("health" in str(span) for span in collector.spans)


async def test_what_its_caller_does_not_sample_leaves_no_span_but_its_log_lines(
    stack: Stack, collector: Collector
) -> None:
    unsampled, sampled = Caller("00"), Caller()
    async with stack.client() as client:
        answer = await client.post(CHAT, json=chat(), headers=unsampled.headers)
        await client.post(CHAT, json=chat(), headers=sampled.headers)
    await trace_of(collector, sampled.trace, spans=4)

    (line,) = [
        one for one in stack.apis[0].events("request") if one["request_id"] == answer.headers["x-request-id"]
    ]
    assert line["trace_id"] == unsampled.trace
    assert collector.of_trace(unsampled.trace) == []


async def test_nothing_of_prompts_answers_and_keys_is_exported(stack: Stack, collector: Collector) -> None:
    caller = Caller()
    async with stack.client() as client:
        for stream in (False, True):
            cue = {"text": f"{CANARY} answer"}
            asked = chat(CANARY, cue=cue, stream=stream, user=f"user-{CANARY}", metadata={"a": CANARY})
            answer = await client.post(CHAT, json=asked, headers=caller.headers)
            assert "answer" in answer.text
        bad = await client.post(CHAT, json={"model": CANARY, "messages": CANARY}, headers=caller.headers)
        assert bad.status_code in {400, 422}
        await client.get(f"/v1/nowhere/{CANARY}?key={CANARY}", headers=caller.headers)
    await trace_of(collector, caller.trace, spans=4 + 4 + 1 + 1)

    exported = b"".join(collector.bodies)
    assert CANARY.encode() not in exported
    assert all(secret.encode() not in exported for _, secret in stack.secrets)


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
async def test_a_collector_that_is_away_costs_spans_and_nothing_else(
    hangs: bool, fresh_stack: FreshStack
) -> None:
    with Collector(hangs=True) as hanging:
        url = hanging.url if hangs else f"http://127.0.0.1:{free_port()}"
        stack = await fresh_stack(
            settings={**QUICK, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
        )
        slowest = 0.0
        async with stack.client() as client:
            for _ in range(30):
                began = time.monotonic()
                answer = await client.post(CHAT, json=chat())
                slowest = max(slowest, time.monotonic() - began)
                assert answer.status_code == 200
            if hangs:
                await eventually(lambda: len(hanging.bodies) >= 2, "a collector that was asked")
            else:
                await eventually(lambda: stack.log_events("traces not exported"), "word of it")
        everybody = [*stack.apis, *stack.workers, *stack.schedulers]
        for process in everybody:
            began = time.monotonic()
            assert await stack.sigterm(process) == 0
            assert time.monotonic() - began < 5, "longer than draining and flushing may take"

    assert slowest < 2, "nobody waits for a collector"
    output = "".join(stack.logs().values())
    assert len(stack.log_events("traces not exported")) <= len(everybody)
    assert "Traceback" not in output
    assert "opentelemetry" not in output


async def test_a_provider_is_told_the_trace_where_that_is_wanted_and_a_webhooks_receiver_never(
    fresh_stack: FreshStack,
) -> None:
    caller = Caller()
    with Collector() as collector:
        async with WebhookReceiver() as receiver:
            stack = await fresh_stack(
                settings={
                    **QUICK,
                    "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                    "HEADRACE_TRACES__PASS_ON": "true",
                    "HEADRACE_EGRESS__PRIVATE_HOSTS": json.dumps([receiver.host]),
                },
            )
            async with stack.client() as client:
                asked = a_job(webhook_url=f"{receiver.url}?{CANARY}")
                accepted = await client.post(JOBS, json=asked, headers=caller.headers)
            assert accepted.status_code == 202, accepted.text
            spans = await trace_of(collector, caller.trace, spans=4)
            await eventually(lambda: named(collector.spans, "deliver webhook"), "the span of a webhook")
        (record,) = await stack.provider.calls()
    (call,), (delivery,) = named(spans, "chat gpt-4o-mini"), named(collector.spans, "deliver webhook")
    assert record.received is not None
    assert record.received["headers"]["traceparent"] == f"00-{caller.trace}-{call.id}-01"
    assert "tracestate" not in record.received["headers"]
    (sent,) = receiver.received
    assert "traceparent" not in sent.headers
    assert delivery.attributes["headrace.webhook.id"] == sent.id
    assert delivery.attributes["http.response.status_code"] == 204
    assert delivery.resource["service.name"] == "headrace-scheduler"
    assert CANARY not in str(delivery)


async def test_a_trace_that_a_caller_names_may_be_ignored(fresh_stack: FreshStack) -> None:
    caller = Caller()
    with Collector() as collector:
        settings = {**QUICK, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        stack = await fresh_stack(
            workers=0, schedulers=0, settings={**settings, "HEADRACE_TRACES__INCOMING": "ignore"}
        )
        async with stack.client() as client:
            await client.get("/v1/models", headers=caller.headers)
        await eventually(lambda: collector.spans, "a span")
    (span,) = collector.spans
    assert (span.parent, span.state, span.trace == caller.trace) == ("", "", False)
