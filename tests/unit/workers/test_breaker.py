"""The breaker: its states, and what pybreaker alone gets wrong under asyncio."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from shared.clock import ManualClock
from shared.domain.conditions import BreakerState
from shared.providers import openai
from shared.settings import BreakerSettings
from workers.breaker import Breaker, BreakerKey, Breakers

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
SETTINGS = BreakerSettings()
KEY = BreakerKey("openai", "https://api.openai.com:443", "default")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def breaker(clock: ManualClock) -> Breaker:
    return Breaker(KEY, SETTINGS, clock)


def trip(breaker: Breaker) -> None:
    for _ in range(SETTINGS.fail_max):
        breaker.admit().failed()
    assert breaker.state is OPEN


# The seven defects.


async def test_the_failure_of_a_coroutine_counts(breaker: Breaker) -> None:
    """pybreaker's decorator sees a coroutine returned, which is a success."""

    async def call() -> None:
        admission = breaker.admit()
        try:
            await asyncio.sleep(0)
            raise ConnectionError
        except ConnectionError:
            admission.failed()

    await asyncio.gather(*(call() for _ in range(SETTINGS.fail_max)))

    assert breaker.state is OPEN


async def test_a_call_runs_without_tornado(breaker: Breaker) -> None:
    """pybreaker's call_async is a NameError without it."""
    admission = breaker.admit()
    await asyncio.sleep(0)

    admission.succeeded()

    assert breaker.admit().allowed


async def test_a_cancelled_call_counts_for_nothing_and_stays_cancelled(breaker: Breaker) -> None:
    """pybreaker's `with calling()` counts it as a failure, and raises CircuitBreakerError in its place."""
    started = asyncio.Event()

    async def call() -> None:
        admission = breaker.admit()
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            admission.abandoned()

    for _ in range(SETTINGS.fail_max):
        started.clear()
        task = asyncio.create_task(call())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert breaker.state is CLOSED


async def test_half_open_lets_one_of_fifty_concurrent_calls_through(
    breaker: Breaker, clock: ManualClock
) -> None:
    """pybreaker lets all fifty."""
    trip(breaker)
    clock.advance(SETTINGS.reset_seconds)
    let_through = 0

    async def call() -> None:
        nonlocal let_through
        admission = breaker.admit()
        let_through += admission.allowed
        await asyncio.sleep(0)

    await asyncio.gather(*(call() for _ in range(50)))

    assert let_through == 1


def test_a_rate_limit_in_half_open_does_not_close_the_breaker(breaker: Breaker, clock: ManualClock) -> None:
    """pybreaker closes on an excluded exception."""
    trip(breaker)
    clock.advance(SETTINGS.reset_seconds)

    breaker.admit().paced()

    assert breaker.state is HALF_OPEN
    assert breaker.admit().is_probe


@pytest.mark.parametrize("ends", ["failed", "overloaded"])
def test_half_of_many_calls_failing_opens_it(breaker: Breaker, clock: ManualClock, ends: str) -> None:
    """pybreaker counts failures in a row alone: every second success starts it anew."""
    for n in range(SETTINGS.window_calls):
        assert breaker.state is CLOSED, n
        admission = breaker.admit()
        if n % 2:
            getattr(admission, ends)()
        else:
            admission.succeeded()
        clock.advance(1)

    assert breaker.state is OPEN


def test_telling_others_waits_for_nobody(clock: ManualClock) -> None:
    """pybreaker's Redis storage blocks the loop at each call; here one callback hears of changes alone."""
    told: list[tuple[BreakerState, float]] = []
    breaker = Breaker(KEY, SETTINGS, clock, lambda _, state, seconds: told.append((state, seconds)))
    for _ in range(100):
        breaker.admit().succeeded()

    trip(breaker)
    clock.advance(SETTINGS.reset_seconds)
    breaker.admit().succeeded()

    assert told == [(OPEN, SETTINGS.reset_seconds), (HALF_OPEN, 0.0), (CLOSED, 0.0)]


# Its states.


def test_an_open_breaker_tells_how_long_it_stays_so(breaker: Breaker, clock: ManualClock) -> None:
    trip(breaker)
    clock.advance(10)

    admission = breaker.admit()

    assert not admission.allowed
    assert admission.refused_seconds == pytest.approx(20)


def test_a_failed_probe_opens_it_for_as_long_again(breaker: Breaker, clock: ManualClock) -> None:
    trip(breaker)
    clock.advance(SETTINGS.reset_seconds)

    breaker.admit().failed()

    assert breaker.admit().refused_seconds == pytest.approx(SETTINGS.reset_seconds)


@pytest.mark.parametrize("status", ["failed", "overloaded"])
def test_a_probe_that_meets_an_overloaded_provider_failed(
    breaker: Breaker, clock: ManualClock, status: str
) -> None:
    trip(breaker)
    clock.advance(SETTINGS.reset_seconds)

    getattr(breaker.admit(), status)()

    assert breaker.state is OPEN


def test_a_cancelled_probe_leaves_its_permit_to_the_next(breaker: Breaker, clock: ManualClock) -> None:
    trip(breaker)
    clock.advance(SETTINGS.reset_seconds)

    breaker.admit().abandoned()

    assert breaker.admit().is_probe


def test_success_between_failures_starts_the_count_anew(breaker: Breaker) -> None:
    for _ in range(2):
        for _ in range(SETTINGS.fail_max - 1):
            breaker.admit().failed()
        for _ in range(SETTINGS.fail_max):
            breaker.admit().succeeded()

    assert breaker.state is CLOSED


def test_overload_does_not_count_in_a_row(breaker: Breaker) -> None:
    for _ in range(SETTINGS.window_calls - 1):
        breaker.admit().overloaded()

    assert breaker.state is CLOSED


def test_failures_older_than_the_window_are_forgotten(breaker: Breaker, clock: ManualClock) -> None:
    for _ in range(SETTINGS.window_calls - 1):
        breaker.admit().overloaded()
    clock.advance(SETTINGS.window_seconds)

    for _ in range(SETTINGS.window_calls - 1):
        breaker.admit().overloaded()

    assert breaker.state is CLOSED


def test_calls_from_before_it_opened_do_not_judge_the_provider_after(
    breaker: Breaker, clock: ManualClock
) -> None:
    late_failure, late_success = breaker.admit(), breaker.admit()
    trip(breaker)
    clock.advance(SETTINGS.reset_seconds)
    probe = breaker.admit()

    late_success.succeeded()
    assert breaker.state is HALF_OPEN
    probe.succeeded()
    for _ in range(SETTINGS.fail_max - 1):
        breaker.admit().failed()
    late_failure.failed()

    assert breaker.state is CLOSED


def test_an_admission_ends_once(breaker: Breaker) -> None:
    admission = breaker.admit()

    for _ in range(SETTINGS.fail_max):
        admission.failed()

    assert breaker.state is CLOSED


def test_what_another_process_found_is_believed_and_not_told_again(clock: ManualClock) -> None:
    told: list[BreakerState] = []
    breaker = Breaker(KEY, SETTINGS, clock, lambda _, state, __: told.append(state))

    breaker.adopt_open(12)
    assert breaker.admit().refused_seconds == pytest.approx(12)
    breaker.adopt_closed()

    assert breaker.admit().allowed
    assert told == []


def test_a_probe_of_another_process_holds_this_one_off(breaker: Breaker, clock: ManualClock) -> None:
    trip(breaker)
    clock.advance(SETTINGS.reset_seconds)
    breaker.admit().abandoned()

    breaker.hold_off(1)

    assert breaker.admit().refused_seconds == pytest.approx(1)
    clock.advance(1)
    assert breaker.admit().is_probe


def test_each_origin_and_credential_has_a_breaker_of_its_own(clock: ManualClock) -> None:
    breakers = Breakers(SETTINGS, clock=clock)
    moved = replace(openai.PROFILE, base_url="https://proxy.example/v1")
    trip(breakers.get(openai.PROFILE, "default"))

    assert breakers.get(openai.PROFILE, "default").state is OPEN
    assert breakers.get(openai.PROFILE, "own").state is CLOSED
    assert breakers.get(moved, "default").state is CLOSED
    assert len(breakers.of("openai")) == 3


def test_news_of_a_breaker_nobody_asked_for_yet_are_kept(clock: ManualClock) -> None:
    breakers = Breakers(SETTINGS, clock=clock)
    key = BreakerKey("openai", openai.PROFILE.origin, "default")

    breakers.heard(key, OPEN, 5)

    assert breakers.get(openai.PROFILE, "default").open_seconds == pytest.approx(5)
