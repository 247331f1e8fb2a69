"""What metrics cost a job, in CPU: `python -m bench.metrics`."""

from __future__ import annotations

import time
from collections.abc import Callable

from shared.domain.job import JobState, Lane
from shared.observability import metrics

_ROUNDS = 5
_TIMES = 100_000


def _in_api() -> None:
    metrics.count_request("openai", "success", 1.3)
    metrics.count_tokens("openai", prompt=12, completion=34)


def _in_worker() -> None:
    metrics.observe_wait("openai", Lane.STANDARD, 0.004)
    metrics.observe_call("openai", "success", 1.3)
    metrics.count_ended("openai", JobState.SUCCEEDED)


def _in_worker_of_a_stream() -> None:
    metrics.observe_wait("openai", Lane.STANDARD, 0.004)
    metrics.observe_call("openai", "success", 1.3, first_token_seconds=0.2, completion_tokens=34)
    metrics.count_ended("openai", JobState.SUCCEEDED)


def _microseconds(work: Callable[[], None]) -> float:
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.process_time()
        for _ in range(_TIMES):
            work()
        best = min(best, time.process_time() - began)
    return best / _TIMES * 1e6


def main() -> None:
    metrics.know_providers(["openai"])
    for name, work in (
        ("api, a request", _in_api),
        ("worker, a job", _in_worker),
        ("worker, a job that streams", _in_worker_of_a_stream),
    ):
        print(f"{name:28} {_microseconds(work):5.2f} us")


if __name__ == "__main__":
    main()
