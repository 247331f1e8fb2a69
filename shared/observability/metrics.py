"""Every metric of a process, declared once, with labels from closed sets.

    gateway_requests_total{provider,status}               how exchanges ended
    gateway_request_duration_seconds{provider,quantile}   over ten minutes; _sum, _count since start
    gateway_tokens_total{provider,type}                   prompt, completion
    gateway_errors_total{provider,error_type}             validation, rate_limit, provider, ...
    gateway_queue_depth{provider,lane}                    jobs no worker has
    gateway_queue_oldest_age_seconds{provider,lane}       how long the first of them waits
    gateway_jobs_in_flight{provider,lane}                 jobs a worker has
    gateway_dead_letters{provider}                        jobs set aside, until an operator purges them
    gateway_breaker_state{provider}                       0 closed, 1 half-open, 2 open
    gateway_provider_paused_seconds{provider}             until calls go on after a refusal for the rate
    gateway_provider_slots{provider}                      jobs its live workers run at once, at most

Label values come from code and configuration, never from a request: what is not known
counts as `other`. Each process exports its own numbers; sum them in Prometheus. The gauges of
the queue are the exception: every api process reads the same ones from Redis, so take the max.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from shared.domain.conditions import BreakerState, ProviderCondition

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


_BREAKER_STATES: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}

# A `_created` series beside each counter would double the number of series.
disable_created_metrics()  # type: ignore[no-untyped-call]

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
_durations: Final = _Durations()
_queue: Final = _Queue()
REGISTRY.register(_durations)
REGISTRY.register(_queue)

_providers: Final[set[str]] = {OTHER}
# Finding a child of a metric costs ten times what adding to it does.
_request_children: Final[dict[tuple[str, str], Counter]] = {}
_token_children: Final[dict[str, tuple[Counter, Counter]]] = {}


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


def render(
    lanes: Iterable[LaneDepth] = (),
    dead: Mapping[str, int] | None = None,
    conditions: Mapping[str, ProviderCondition] | None = None,
) -> bytes:
    """The text of a scrape. `lanes`: what shared.queue.depth measured just now; the rest by provider."""
    _queue.lanes, _queue.dead, _queue.conditions = tuple(lanes), dead or {}, conditions or {}
    try:
        return generate_latest(REGISTRY)
    finally:
        _queue.lanes, _queue.dead, _queue.conditions = (), {}, {}


def _provider(name: str | None) -> str:
    return name if name in _providers and name is not None else OTHER
