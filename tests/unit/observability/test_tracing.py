"""Traces within one process: when they are on, what is sampled, what a log line holds, who is waited for."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from opentelemetry.sdk.trace import TracerProvider
from pydantic import ValidationError

from shared.domain.job import Job, JobKind, Lane, Surface, Target
from shared.domain.trace import TraceOrigin
from shared.ids import AccountId, ApiKeyId, RequestId, new_job_id
from shared.observability import logging, tracing
from shared.observability.otlp import Tracing
from shared.settings import LogSettings, Settings
from tests.fakes.otlp_collector import Collector

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = CALLER[:-2] + "00"
ON = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318/"}


def settings(**variables: Any) -> Settings:
    return Settings(_env_file=None, **variables)


@pytest.fixture
def on() -> Iterator[Tracing]:
    with Collector() as collector:
        tracing.start(settings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url), "api")
        assert tracing.active is not None
        yield tracing.active
        tracing.stop()


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, None),
        (ON, "http://127.0.0.1:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c.example/x"}, "https://c.example/x"),
        ({**ON, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c.example/x"}, "https://c.example/x"),
        ({**ON, "OTEL_SDK_DISABLED": "true"}, None),
        ({**ON, "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_TRACES_SAMPLER": "xray"}, None),
    ],
)
def test_an_endpoint_turns_traces_on(variables: dict[str, str], url: str | None) -> None:
    assert settings(**variables).traces_url == url


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({**ON, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({**ON, "OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        ({**ON, "OTEL_TRACES_SAMPLER": "xray"}, "OTEL_TRACES_SAMPLER"),
        ({**ON, "OTEL_TRACES_SAMPLER_ARG": "1.5"}, "OTEL_TRACES_SAMPLER_ARG"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(variables: dict[str, str], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        settings(**variables)


@pytest.mark.parametrize(
    ("sampler", "share", "root", "below_sampled", "below_unsampled", "linked_to_unsampled"),
    [
        ("parentbased_always_on", "", True, True, False, False),
        ("parentbased_always_off", "", False, True, False, False),
        ("parentbased_traceidratio", "0", False, True, False, False),
        ("parentbased_traceidratio", "1", True, True, False, False),
        ("always_on", "", True, True, True, True),
        ("always_off", "", False, False, False, False),
        ("traceidratio", "0.0", False, False, False, False),
        ("traceidratio", "1", True, True, True, True),
    ],
)
def test_samplers_are_the_standard_ones_and_follow_links(
    sampler: str,
    share: str,
    root: bool,
    below_sampled: bool,
    below_unsampled: bool,
    linked_to_unsampled: bool,
) -> None:
    given = {**ON, "OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": share or "1.0"}
    there = Tracing(settings(**given), "api")

    def is_recorded(origin: TraceOrigin | None) -> bool:
        return there.begin("x", origin=origin).is_recording

    assert is_recorded(None) is root
    assert is_recorded(TraceOrigin(CALLER)) is below_sampled
    assert is_recorded(TraceOrigin(UNSAMPLED)) is below_unsampled
    assert is_recorded(TraceOrigin(UNSAMPLED, is_past=True)) is linked_to_unsampled
    there.close()


def test_headers_and_resource_are_as_the_variables_say() -> None:
    with Collector() as collector:
        given = settings(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_EXPORTER_OTLP_HEADERS="X-Tenant=a%20b, authorization=Basic%20Zm9v",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=blue%2Fgreen,service.name=mine",
            region="eu-west-1",
        )
        there = Tracing(given, "worker")
        there.begin("x").end()
        there.close()

        (span,) = collector.spans
    assert collector.headers[0]["x-tenant"] == "a b"
    assert collector.headers[0]["authorization"] == "Basic Zm9v"
    assert span.resource["service.name"] == "mine"
    assert span.resource["deployment.environment.name"] == "blue/green"
    assert span.resource["headrace.process"] == "worker"
    assert span.resource["cloud.region"] == "eu-west-1"


def test_the_service_is_named_for_its_process_unless_it_is_named() -> None:
    names = {}
    with Collector() as collector:
        for named in ("", "ours"):
            given = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
            there = Tracing(settings(**given, **({"OTEL_SERVICE_NAME": named} if named else {})), "api")
            there.begin(named).end()
            there.close()
        names = {span.name: span.resource["service.name"] for span in collector.spans}
    assert names == {"": "headrace-api", "ours": "ours"}


def test_a_job_carries_its_origin_and_a_broken_one_is_none() -> None:
    job = a_job(TraceOrigin(CALLER, "vendor=1"))

    assert Job.from_wire(job.header(), job.body) == job
    assert b"trace" not in a_job(None).header()
    for broken in ('"00-1"', "7", "{}", '{"parent":1}'):
        header = a_job(None).header()[:-1] + b',"trace":' + broken.encode() + b"}"
        assert Job.from_wire(header, b"{}").trace is None


def test_log_lines_within_a_span_say_which_and_others_do_not(on: Tracing) -> None:
    lines = io.BytesIO()
    logging.configure(LogSettings(format="json"), stream=lines)
    span = on.begin("x")
    with tracing.running(span):
        expected = span.ids
        logger.info("within")
        logging.log_fast("fast", {})
    logger.info("after")
    tracing.current.set(span)
    logger.info("left behind")
    tracing.current.set(None)

    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(line.get("trace_id"), line.get("span_id")) for line in told] == [
        expected,
        expected,
        (None, None),
        (None, None),
    ]


def test_off_no_module_of_opentelemetry_is_imported(tmp_path: Path) -> None:
    """In the api FastAPI imports OpenTelemetry's interface, where it finds it; not what does the work."""
    code = """
import sys, workers.main, scheduler.main, cli.main
from shared.observability import tracing
from shared.settings import load_settings
tracing.start(load_settings(), "worker")
def those(*names): return [name for name in sys.modules if name.startswith(names)]
print(those("opentelemetry", "requests", "google.protobuf"))
import api.main
tracing.start(load_settings(), "api")
print(those("opentelemetry.sdk", "opentelemetry.exporter", "requests", "google.protobuf"))
tracing.start(load_settings(otel_exporter_otlp_endpoint="http://127.0.0.1:1"), "api")
print("opentelemetry.sdk.trace" in sys.modules and "requests" in sys.modules)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.splitlines() == ["[]", "[]", "True"], ran.stderr


def test_ending_waits_no_longer_than_the_settings_say() -> None:
    with Collector(hangs=True) as collector:
        given = settings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        quick = given.traces.model_copy(update={"flush_seconds": 0.3})
        there = Tracing(given.model_copy(update={"traces": quick}), "api")
        there.begin("x").end()
        began = time.monotonic()
        there.close()
        took = time.monotonic() - began

        assert collector.bodies
    assert 0.25 < took < 2.0


def test_a_collector_that_refuses_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = io.BytesIO()
    logging.configure(LogSettings(format="json"), stream=lines)
    with Collector(status=400) as collector:
        there = Tracing(settings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url), "api")
        provider = there._provider
        assert isinstance(provider, TracerProvider)
        for _ in range(3):
            there.begin("x").end()
            provider.force_flush()
        collector.status = 200
        there.begin("x").end()
        provider.force_flush()
        there.close()

    told = [_told(line) for line in lines.getvalue().splitlines()]
    assert told[0][:2] == ("WARNING", "traces not exported")
    assert "400" in told[0][2]["reason"]
    assert told[1][:2] == ("INFO", "traces exported again")
    assert told[1][2]["lost_spans"] == 3
    assert len(told) == 2


def _told(line: bytes) -> tuple[str, str, dict[str, Any]]:
    fields = json.loads(line)
    return fields["level"], fields["event"], fields


def a_job(trace: TraceOrigin | None) -> Job:
    return Job(
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
        trace=trace,
    )
