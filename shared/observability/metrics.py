"""Every metric of a process, declared once, with labels from closed sets.

docs/operations/metrics.md says more of each.

    api, of what its callers get:
    gateway_requests_total{provider,status}               how exchanges ended
    gateway_request_duration_seconds{provider,quantile}   over ten minutes; _sum, _count since start
    gateway_request_seconds{provider}                     the same times, to be summed over processes
    gateway_tokens_total{provider,type}                   prompt, completion
    gateway_errors_total{provider,error_type}             validation, rate_limit, provider, ...
    gateway_refusals_total{reason}                        requests that never became a job
    gateway_replays_total{kind}                           requests that another one's job answers
    gateway_open_streams                                  callers that are sent events
    gateway_waiting_requests                              callers that wait for a job, theirs included

    api, of what all processes share:
    gateway_queue_depth{provider,lane}                    jobs no worker has
    gateway_queue_oldest_age_seconds{provider,lane}       how long the first of them waits
    gateway_jobs_in_flight{provider,lane}                 jobs a worker has
    gateway_dead_letters{provider}                        jobs set aside, until an operator purges them
    gateway_breaker_state{provider}                       0 closed, 1 half-open, 2 open
    gateway_provider_paused_seconds{provider}             until calls go on after a refusal for the rate
    gateway_provider_slots{provider}                      jobs its live workers run at once, at most
    gateway_ledger_lag_entries                            settled jobs that the database has not yet
    gateway_ledger_lag_seconds                            how long the first of them waits
    gateway_ledger_rejected_entries                       those that it will never take
    gateway_unkept_jobs                                   ended jobs with a row that does not say so yet
    gateway_unkept_job_seconds                            how long the first of them waits
    gateway_redis_memory_bytes{kind}                      used, max; of a cluster, of its fullest master
    gateway_database_up                                   1 where it answers
    gateway_scheduler_up                                  1 where one does its duties

    worker:
    gateway_queue_wait_seconds{provider,lane}             from the queue to the first worker
    gateway_provider_calls_total{provider,outcome}        success, rate_limit, timeout, unavailable, ...
    gateway_provider_call_seconds{provider}               from the call to the end of its answer
    gateway_time_to_first_token_seconds{provider}         of streams, from the call
    gateway_output_tokens_per_second{provider}            of streams, from the first token on
    gateway_calls_held_back_total{provider,reason}        breaker_open, paused, paced, no_permit
    gateway_requeues_total{provider,reason}               retried, deferred, moved, reclaimed, handed_back
    gateway_jobs_ended_total{provider,outcome}            that a worker ended
    gateway_worker_slots                                  jobs it runs at once, at most
    gateway_worker_jobs                                   jobs it runs

    scheduler:
    gateway_duty_rounds_total{duty,outcome}               success, failure
    gateway_duty_last_success_timestamp_seconds{duty}     or when the process started
    gateway_ledger_jobs_total{provider,outcome}           jobs settled, of every kind and end
    gateway_ledger_tokens_total{provider,type}            prompt, completion, cached
    gateway_ledger_cost_usd_total{provider}               what providers charge for them
    gateway_webhook_deliveries_total{outcome}             delivered, refused, unreachable
    gateway_webhooks_due                                  deliveries whose time has come
    gateway_webhook_due_seconds                           how long the first of them waits
    gateway_batch_lines_open                              requests of open batches without an answer yet
    gateway_jobs_reconciled_total{what}                   queued, kept, expired

    each of them:
    gateway_ready{process}                                   1 while it may be given work
    gateway_event_loop_lag_seconds                        how late a timer fires
    gateway_build_info{version,process,region}            1

Label values come from code and configuration, never from a request: what is not known
counts as `other`. Each process exports its own numbers; sum them in Prometheus. What all processes
share is the exception: every api process reads the same from Redis, so take the max.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from time import monotonic
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from shared.domain.conditions import BreakerState, ProviderCondition
from shared.domain.usage import Outcome
from shared.observability.histogram import Bins, Histogram

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
OTHER: Final = "other"
QUANTILES: Final = (0.5, 0.9, 0.95, 0.99)

STATUSES: Final = frozenset(
    {"success", "invalid", "unauthorized", "rate_limit", "provider", "overloaded", "timeout", "cancelled"}
    | {"internal", OTHER}
)
ERROR_TYPES: Final = frozenset(
    {"authentication", "authorization", "validation", "rate_limit", "provider", "internal", "not_found"}
    | {"conflict", "overloaded", "timeout", "payload_too_large", "quota_exceeded", OTHER}
)
REFUSALS: Final = frozenset(
    {"rate_limit_exceeded", "quota_exceeded", "too_many_waiting", "queue_full", "queue_unavailable"}
    | {"wait_too_long", "no_worker", "overloaded", "model_not_priced"}
)
"""Codes of errors by which the broker itself turns a request away."""
CALL_OUTCOMES: Final = frozenset(
    {"success", "rate_limit", "timeout", "unavailable", "rejected", "credential_refused", "invalid_answer"}
    | {"own_credential_refused", "interrupted", OTHER}
)
HOLDS: Final = frozenset({"breaker_open", "paused", "paced", "no_permit"})
REQUEUES: Final = frozenset({"retried", "deferred", "moved", "reclaimed", "handed_back"})
REPLAYS: Final = frozenset({"idempotency_key", "client_retry", "single_flight"})
_STATUS_OF: Final = {
    401: "unauthorized",
    403: "unauthorized",
    408: "timeout",
    429: "rate_limit",
    499: "cancelled",
    500: "internal",
    502: "provider",
    503: "overloaded",
    504: "timeout",
}


class LaneDepth(Protocol):
    """What a lane holds, as shared.queue.depth measures it."""

    @property
    def provider(self) -> str: ...
    @property
    def lane(self) -> str: ...
    @property
    def queued(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def oldest_age_seconds(self) -> float: ...


class Duty(StrEnum):
    """What a scheduler does again and again."""

    PROMOTE = "promote"
    SETTLE_USAGE = "settle_usage"
    ALERT_QUOTAS = "alert_quotas"
    KEEP_RESULTS = "keep_results"
    RECONCILE_JOBS = "reconcile_jobs"
    DELIVER_WEBHOOKS = "deliver_webhooks"
    RUN_BATCHES = "run_batches"
    HOUSEKEEPING = "housekeeping"
    RETENTION = "retention"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a scrape found out just now. `name`: one of READINGS; `labels`: in the order declared there."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


READINGS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "gateway_ready": ("1 while it may be given work.", ("process",)),
    "gateway_build_info": ("Always 1.", ("version", "process", "region")),
    "gateway_open_streams": ("Callers that are sent events.", ()),
    "gateway_waiting_requests": ("Callers that wait for a job.", ()),
    "gateway_ledger_lag_entries": ("Settled jobs that the database has not yet.", ()),
    "gateway_ledger_lag_seconds": ("How long the first of them waits.", ()),
    "gateway_ledger_rejected_entries": ("Settled jobs that the ledger will never take.", ()),
    "gateway_unkept_jobs": ("Ended jobs with a row that does not say so yet.", ()),
    "gateway_unkept_job_seconds": ("How long the first of them waits.", ()),
    "gateway_redis_memory_bytes": ("Of Redis: used, and max where there is a limit.", ("kind",)),
    "gateway_database_up": ("1 where the database answers.", ()),
    "gateway_scheduler_up": ("1 where a scheduler does its duties.", ()),
    "gateway_worker_slots": ("Jobs this worker runs at once, at most.", ()),
    "gateway_worker_jobs": ("Jobs this worker runs.", ()),
    "gateway_webhooks_due": ("Deliveries whose time has come.", ()),
    "gateway_webhook_due_seconds": ("How long the first of them waits.", ()),
    "gateway_batch_lines_open": ("Requests of open batches without an answer yet.", ()),
}


class LatencyWindow:
    """Quantiles of a sliding window, without keeping the observations.

    Counts per logarithmic bucket, 2 % wide, in frames of a minute of which the last ten
    are read: a quantile is within 1 % of the observation it stands for.
    Source: C. Masson et al., "DDSketch", VLDB 2019, without its merging.
    """

    FRAMES: Final = 10
    FRAME_SECONDS: Final = 60.0
    _BUCKETS_PER_E: Final = 50

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._frames: deque[dict[int, int]] = deque([{}], maxlen=self.FRAMES)
        self._frame_ends = clock() + self.FRAME_SECONDS
        self.count = 0
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        if self._clock() >= self._frame_ends:
            self._turn()
        frame = self._frames[-1]
        bucket = math.floor(math.log(seconds) * self._BUCKETS_PER_E) if seconds > 1e-6 else -700
        frame[bucket] = frame.get(bucket, 0) + 1
        self.count += 1
        self.sum += seconds

    def quantiles(self) -> dict[float, float]:
        """NaN where the window is empty, as Prometheus' own clients answer."""
        if self._clock() >= self._frame_ends:
            self._turn()
        merged: dict[int, int] = {}
        for frame in self._frames:
            for bucket, count in frame.items():
                merged[bucket] = merged.get(bucket, 0) + count
        total = sum(merged.values())
        if total == 0:
            return dict.fromkeys(QUANTILES, math.nan)
        found: dict[float, float] = {}
        seen = 0
        wanted = iter(QUANTILES)
        quantile = next(wanted, None)
        for bucket in sorted(merged):
            seen += merged[bucket]
            while quantile is not None and seen >= quantile * total:
                found[quantile] = math.exp((bucket + 0.5) / self._BUCKETS_PER_E)
                quantile = next(wanted, None)
        return found

    def _turn(self) -> None:
        late = int((self._clock() - self._frame_ends) // self.FRAME_SECONDS) + 1
        for _ in range(min(late, self.FRAMES)):
            self._frames.append({})
        self._frame_ends += late * self.FRAME_SECONDS


class _Durations:
    """gateway_request_duration_seconds: the summary with quantiles that prometheus-client lacks."""

    NAME: Final = "gateway_request_duration_seconds"

    def __init__(self) -> None:
        self.windows: dict[str, LatencyWindow] = {}

    def collect(self) -> Iterator[Metric]:
        family = Metric(self.NAME, "Time from request to the end of its answer, last 10 minutes.", "summary")
        for provider, window in self.windows.items():
            for quantile, seconds in window.quantiles().items():
                family.add_sample(self.NAME, {"provider": provider, "quantile": f"{quantile:g}"}, seconds)
            family.add_sample(f"{self.NAME}_sum", {"provider": provider}, window.sum)
            family.add_sample(f"{self.NAME}_count", {"provider": provider}, window.count)
        yield family


class _Queue:
    """Gauges of the lanes, as the last scrape found them."""

    def __init__(self) -> None:
        self.lanes: tuple[LaneDepth, ...] = ()
        self.dead: Mapping[str, int] = {}
        self.conditions: Mapping[str, ProviderCondition] = {}

    def collect(self) -> Iterator[Metric]:
        labels = ("provider", "lane")
        depth = GaugeMetricFamily("gateway_queue_depth", "Jobs no worker has.", labels=labels)
        age = GaugeMetricFamily(
            "gateway_queue_oldest_age_seconds", "How long the longest waiting job waits.", labels=labels
        )
        in_flight = GaugeMetricFamily("gateway_jobs_in_flight", "Jobs a worker has.", labels=labels)
        for lane in self.lanes:
            at = (lane.provider, str(lane.lane))
            depth.add_metric(at, lane.queued)
            age.add_metric(at, lane.oldest_age_seconds)
            in_flight.add_metric(at, lane.in_flight)
        dead = GaugeMetricFamily("gateway_dead_letters", "Jobs that were set aside.", labels=["provider"])
        for provider, count in self.dead.items():
            dead.add_metric((provider,), count)
        yield from (depth, age, in_flight, dead)
        yield from self._of_providers()

    def _of_providers(self) -> Iterator[Metric]:
        breaker = GaugeMetricFamily(
            "gateway_breaker_state", "0 closed, 1 half-open, 2 open.", labels=["provider"]
        )
        paused = GaugeMetricFamily(
            "gateway_provider_paused_seconds", "Until calls go on after a refusal.", labels=["provider"]
        )
        slots = GaugeMetricFamily(
            "gateway_provider_slots", "Jobs its live workers run at once, at most.", labels=["provider"]
        )
        for provider, condition in self.conditions.items():
            at = (_provider(provider),)
            breaker.add_metric(at, _BREAKER_STATES[condition.breaker])
            paused.add_metric(at, condition.paused_seconds)
            slots.add_metric(at, condition.slots)
        yield from (breaker, paused, slots)


class _Readings:
    """Gauges that are read for each scrape; what could not be read is not told."""

    def __init__(self) -> None:
        self.found: tuple[Reading, ...] = ()

    def collect(self) -> Iterator[Metric]:
        for name, (about, labels) in READINGS.items():
            found = [one for one in self.found if one.name == name]
            if found:
                family = GaugeMetricFamily(name, about, labels=labels)
                for one in found:
                    family.add_metric(one.labels, one.value)
                yield family


_BREAKER_STATES: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}

# A `_created` series beside each counter would double the number of series.
disable_created_metrics()  # type: ignore[no-untyped-call]  # has no types

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_REQUESTS: Final = Counter(
    "gateway_requests", "Requests by how they ended.", ("provider", "status"), registry=REGISTRY
)
_TOKENS: Final = Counter(
    "gateway_tokens", "Tokens as the provider counted them.", ("provider", "type"), registry=REGISTRY
)
_ERRORS: Final = Counter(
    "gateway_errors", "Errors answered, by type.", ("provider", "error_type"), registry=REGISTRY
)
_REFUSALS: Final = Counter(
    "gateway_refusals", "Requests turned away before they became a job.", ("reason",), registry=REGISTRY
)
_REPLAYS: Final = Counter(
    "gateway_replays", "Requests that another one's job answers.", ("kind",), registry=REGISTRY
)
_CALLS: Final = Counter(
    "gateway_provider_calls", "Calls by how they ended.", ("provider", "outcome"), registry=REGISTRY
)
_HELD_BACK: Final = Counter(
    "gateway_calls_held_back", "Calls not made for now, and why.", ("provider", "reason"), registry=REGISTRY
)
_REQUEUES: Final = Counter(
    "gateway_requeues",
    "Jobs that went back to the queue, and why.",
    ("provider", "reason"),
    registry=REGISTRY,
)
_ENDED: Final = Counter(
    "gateway_jobs_ended", "Jobs that a worker ended.", ("provider", "outcome"), registry=REGISTRY
)
_ROUNDS: Final = Counter(
    "gateway_duty_rounds", "Rounds of the scheduler's duties.", ("duty", "outcome"), registry=REGISTRY
)
_LAST_SUCCESS: Final = Gauge(
    "gateway_duty_last_success_timestamp_seconds",
    "When a round last succeeded, or the process started.",
    ("duty",),
    registry=REGISTRY,
)
_LEDGER_JOBS: Final = Counter(
    "gateway_ledger_jobs", "Jobs settled in the database.", ("provider", "outcome"), registry=REGISTRY
)
_LEDGER_TOKENS: Final = Counter(
    "gateway_ledger_tokens", "Their tokens.", ("provider", "type"), registry=REGISTRY
)
_LEDGER_COST: Final = Counter(
    "gateway_ledger_cost_usd", "What providers charge for them.", ("provider",), registry=REGISTRY
)
_WEBHOOKS: Final = Counter(
    "gateway_webhook_deliveries", "Deliveries tried, by how they ended.", ("outcome",), registry=REGISTRY
)
_RECONCILED: Final = Counter(
    "gateway_jobs_reconciled", "Jobs that Redis had lost or not told of.", ("what",), registry=REGISTRY
)
_SECONDS: Final = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)
_LAG_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_TOKENS_PER_SECOND: Final = (1.0, 2.5, 5.0, 10.0, 20.0, 35.0, 50.0, 75.0, 100.0, 150.0, 250.0, 500.0, 1000.0)
_request_seconds: Final = Histogram(
    "gateway_request_seconds", "Time from request to the end of its answer.", ("provider",), _SECONDS
)
_queue_wait: Final = Histogram(
    "gateway_queue_wait_seconds", "From the queue to the first worker.", ("provider", "lane"), _SECONDS
)
_call_seconds: Final = Histogram(
    "gateway_provider_call_seconds", "From the call to the end of its answer.", ("provider",), _SECONDS
)
_first_token: Final = Histogram(
    "gateway_time_to_first_token_seconds", "Of streams, from the call.", ("provider",), _SECONDS
)
_token_rate: Final = Histogram(
    "gateway_output_tokens_per_second",
    "Of streams, from the first token on.",
    ("provider",),
    _TOKENS_PER_SECOND,
)
_loop_lag: Final = Histogram("gateway_event_loop_lag_seconds", "How late a timer fires.", (), _LAG_SECONDS)
_durations: Final = _Durations()
_queue: Final = _Queue()
_readings: Final = _Readings()
for _collector in (
    *(_durations, _queue, _readings),
    *(_request_seconds, _queue_wait, _call_seconds, _first_token, _token_rate, _loop_lag),
):
    REGISTRY.register(_collector)

_providers: Final[set[str]] = {OTHER}
# Finding a child of a metric costs ten times what adding to it does.
_request_children: Final[dict[tuple[str, str], Counter]] = {}
_token_children: Final[dict[str, tuple[Counter, Counter]]] = {}
_call_children: Final[dict[tuple[str, str], tuple[Counter, Bins]]] = {}
_ended_children: Final[dict[tuple[str, str], Counter]] = {}


def know_providers(names: Iterable[str]) -> None:
    """Close the set of provider labels; any other counts as `other`. Call at start."""
    _providers.update(names)


def status_label(status: int) -> str:
    """The outcome that an HTTP status stands for."""
    if status in _STATUS_OF:
        return _STATUS_OF[status]
    if 200 <= status < 400:
        return "success"
    return "invalid" if 400 <= status < 500 else "internal"


def count_request(provider: str | None, status: str, seconds: float) -> None:
    """`status`: one of STATUSES, see status_label."""
    name = _provider(provider)
    child = _request_children.get((name, status))
    if child is None:
        label = status if status in STATUSES else OTHER
        child = _REQUESTS.labels(name, label)
        if label == status:
            _request_children[name, status] = child
    child.inc()
    window = _durations.windows.get(name)
    if window is None:
        window = _durations.windows[name] = LatencyWindow()
    window.observe(seconds)
    _request_seconds.of(name).observe(seconds)


def count_tokens(provider: str | None, *, prompt: int, completion: int) -> None:
    name = _provider(provider)
    children = _token_children.get(name)
    if children is None:
        children = _TOKENS.labels(name, "prompt"), _TOKENS.labels(name, "completion")
        _token_children[name] = children
    children[0].inc(prompt)
    children[1].inc(completion)


def count_error(provider: str | None, error_type: str) -> None:
    """`error_type`: the `type` of a BrokerError (`rate_limit_error` counts as `rate_limit`)."""
    kind = error_type.removesuffix("_error")
    _ERRORS.labels(_provider(provider), kind if kind in ERROR_TYPES else OTHER).inc()


def expect_refusals() -> None:
    """Counts of 0 from the start, as expect_requeues."""
    for reason in sorted(REFUSALS):
        _REFUSALS.labels(reason)


def count_refusal(code: str | None) -> None:
    """`code`: of a BrokerError that is no provider's. One that is no refusal is not counted."""
    if code in REFUSALS:
        _REFUSALS.labels(code).inc()


def replays() -> dict[str, int]:
    """Of this process, by kind."""
    samples = (sample for metric in _REPLAYS.collect() for sample in metric.samples)
    counted = {sample.labels["kind"]: int(sample.value) for sample in samples}
    return {kind: counted.get(kind, 0) for kind in sorted(REPLAYS)}


def count_replay(kind: str) -> None:
    """`kind`: one of REPLAYS."""
    _REPLAYS.labels(_known(kind, REPLAYS)).inc()


def observe_wait(provider: str, lane: str, seconds: float) -> None:
    """A job came to its first worker. `lane`: of shared.domain.job."""
    _queue_wait.of(_provider(provider), lane).observe(seconds)


def observe_call(
    provider: str,
    outcome: str,
    seconds: float,
    *,
    first_token_seconds: float | None = None,
    completion_tokens: int = 0,
) -> None:
    """A call ended. `outcome`: one of CALL_OUTCOMES; the rest of a stream that was answered."""
    name = _provider(provider)
    children = _call_children.get((name, outcome))
    if children is None:
        label = _known(outcome, CALL_OUTCOMES)
        children = _CALLS.labels(name, label), _call_seconds.of(name)
        if label == outcome:
            _call_children[name, outcome] = children
    children[0].inc()
    children[1].observe(seconds)
    if first_token_seconds is not None:
        _first_token.of(name).observe(first_token_seconds)
        if completion_tokens and seconds > first_token_seconds:
            _token_rate.of(name).observe(completion_tokens / (seconds - first_token_seconds))


def count_held_back(provider: str, reason: str) -> None:
    """`reason`: one of HOLDS."""
    _HELD_BACK.labels(_provider(provider), _known(reason, HOLDS)).inc()


def expect_requeues(providers: Iterable[str]) -> None:
    """Counts of 0 from the start: of a series that is not there yet, the first one is no rise."""
    for provider in providers:
        for reason in sorted(REQUEUES):
            _REQUEUES.labels(_provider(provider), reason)


def count_requeue(provider: str, reason: str) -> None:
    """`reason`: one of REQUEUES."""
    _REQUEUES.labels(_provider(provider), _known(reason, REQUEUES)).inc()


def count_ended(provider: str, outcome: str) -> None:
    """`outcome`: a JobState or Outcome that is an end."""
    name = _provider(provider)
    child = _ended_children.get((name, outcome))
    if child is None:
        child = _ended_children[name, outcome] = _ENDED.labels(name, Outcome(outcome))
    child.inc()


def expect_duties() -> None:
    """This process is a scheduler, and starts."""
    for duty in Duty:
        _LAST_SUCCESS.labels(duty).set_to_current_time()


def count_round(duty: Duty, *, succeeded: bool) -> None:
    _ROUNDS.labels(duty, "success" if succeeded else "failure").inc()
    if succeeded:
        _LAST_SUCCESS.labels(duty).set_to_current_time()


def count_settled(
    provider: str, outcome: Outcome, *, prompt: int, completion: int, cached: int, cost_micro_usd: int
) -> None:
    """A job has its row in the ledger."""
    name = _provider(provider)
    _LEDGER_JOBS.labels(name, outcome).inc()
    for kind, tokens in (("prompt", prompt), ("completion", completion), ("cached", cached)):
        _LEDGER_TOKENS.labels(name, kind).inc(tokens)
    _LEDGER_COST.labels(name).inc(cost_micro_usd / 1_000_000)


def count_webhook(status: int | None, *, delivered: bool) -> None:
    """A delivery was tried. `status`: None where nobody answered."""
    _WEBHOOKS.labels("delivered" if delivered else "unreachable" if status is None else "refused").inc()


def count_reconciled(*, queued: int, kept: int, expired: int) -> None:
    for what, count in (("queued", queued), ("kept", kept), ("expired", expired)):
        _RECONCILED.labels(what).inc(count)


def observe_loop_lag(seconds: float) -> None:
    _loop_lag.of().observe(seconds)


def render(
    lanes: Iterable[LaneDepth] = (),
    dead: Mapping[str, int] | None = None,
    conditions: Mapping[str, ProviderCondition] | None = None,
    readings: Iterable[Reading] = (),
) -> bytes:
    """The text of a scrape. `lanes`: what shared.queue.depth measured just now; the rest by provider."""
    _queue.lanes, _queue.dead, _queue.conditions = tuple(lanes), dead or {}, conditions or {}
    _readings.found = tuple(readings)
    try:
        return generate_latest(REGISTRY)
    finally:
        _queue.lanes, _queue.dead, _queue.conditions = (), {}, {}
        _readings.found = ()


def of_process(process: str, *, ready: bool, region: str) -> list[Reading]:
    """What each process tells of itself. `process`: api, worker or scheduler; `region`: of the settings."""
    return [
        Reading("gateway_build_info", 1, (version("headrace"), process, region)),
        Reading("gateway_ready", float(ready), (process,)),
    ]


def _known(value: str, values: frozenset[str]) -> str:
    return value if value in values else OTHER


def _provider(name: str | None) -> str:
    return name if name in _providers and name is not None else OTHER
