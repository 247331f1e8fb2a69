"""Pauses after a refusal for the rate, and how calls begin again."""

from __future__ import annotations

import sys
from random import Random

import pytest

from shared.clock import ManualClock
from shared.errors import ProviderRateLimited
from workers.pacing import Pacing, Pauses, exhausted_seconds

ACCOUNT = ("openai", "default")


def refusal(retry_after: float | None = None) -> ProviderRateLimited:
    return ProviderRateLimited("Slow down.", provider="openai", retry_after_seconds=retry_after)


class Paced:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.pauses = Pauses(self.clock)
        self.pacing = Pacing(self.pauses, ceiling=8, clock=self.clock, rng=Random(1))

    def call(self, *, refused: ProviderRateLimited | None = None) -> None:
        self.clock.advance(0.001)
        started = self.pacing.started(*ACCOUNT)
        if refused is None:
            self.pacing.succeeded(*ACCOUNT)
        else:
            self.pacing.refused(refused, "default", started_at=started)
        self.pacing.ended(*ACCOUNT)

    @property
    def remaining(self) -> float:
        return self.pauses.remaining(*ACCOUNT)


@pytest.fixture
def paced() -> Paced:
    return Paced()


@pytest.mark.parametrize(("wish", "seconds"), [(7.0, 7.0), (1e9, 60.0)])
def test_a_refusal_pauses_as_long_as_the_provider_asked(paced: Paced, wish: float, seconds: float) -> None:
    paced.call(refused=refusal(wish))

    assert paced.remaining == pytest.approx(seconds)
    paced.clock.advance(seconds)
    assert paced.remaining == 0


@pytest.mark.parametrize("wish", [None, 0.0])
def test_without_a_wish_the_pause_doubles_within_full_jitter(paced: Paced, wish: float | None) -> None:
    longest: list[float] = []
    for seed in range(200):
        one = Paced()
        one.pacing._rng = Random(seed)
        for n in range(8):
            one.call(refused=refusal(wish))
            longest[n : n + 1] = [max(one.remaining, longest[n] if n < len(longest) else 0)]
            one.clock.advance(30.0)

    bounds = [1, 2, 4, 8, 16, 30, 30, 30]
    assert all(0.9 * bound < seconds <= bound for seconds, bound in zip(longest, bounds, strict=True))


def test_calls_that_were_under_way_are_refused_as_one(paced: Paced) -> None:
    started = [paced.pacing.started(*ACCOUNT) for _ in range(6)]
    paced.clock.advance(0.1)

    seconds = [paced.pacing.refused(refusal(), "default", started_at=at) for at in started]

    assert paced.pacing.allowance(*ACCOUNT) == 3
    assert max(seconds) <= 1


def test_a_longer_wish_of_the_same_moment_counts(paced: Paced) -> None:
    first, second = (paced.pacing.started(*ACCOUNT) for _ in range(2))

    paced.pacing.refused(refusal(1), "default", started_at=first)
    paced.pacing.refused(refusal(20), "default", started_at=second)

    assert paced.remaining == pytest.approx(20)


def test_a_shorter_pause_does_not_cut_a_longer_one_short(paced: Paced) -> None:
    paced.pauses.pause(*ACCOUNT, 10)
    paced.pauses.pause(*ACCOUNT, 1)

    assert paced.remaining == pytest.approx(10)


def test_only_what_a_process_began_is_told(paced: Paced) -> None:
    paced.pauses.heard(*ACCOUNT, 5)
    assert paced.pauses.untold() == []
    paced.pauses.pause(*ACCOUNT, 3)
    assert paced.pauses.untold() == []

    paced.pauses.pause(*ACCOUNT, 8)
    (news,) = paced.pauses.untold()

    assert news.seconds == pytest.approx(8)
    assert paced.pauses.untold() == []


def test_what_could_not_be_told_is_told_later_and_shorter(paced: Paced) -> None:
    paced.pauses.pause(*ACCOUNT, 8)
    (news,) = paced.pauses.untold()
    paced.pauses.tell_again(news)
    paced.clock.advance(3)

    (again,) = paced.pauses.untold()

    assert again.seconds == pytest.approx(5)


def test_accounts_are_paused_each_by_itself(paced: Paced) -> None:
    paced.call(refused=refusal(5))

    assert paced.pauses.remaining("openai", "own") == 0
    assert paced.pauses.remaining("anthropic", "default") == 0


def test_calls_are_unlimited_until_the_first_refusal(paced: Paced) -> None:
    for _ in range(100):
        paced.call()

    assert paced.pacing.allowance(*ACCOUNT) == sys.maxsize


def test_each_refusal_halves_the_concurrent_calls_down_to_one(paced: Paced) -> None:
    for _ in range(7):
        paced.pacing.started(*ACCOUNT)
    allowed = []

    for _ in range(4):
        paced.call(refused=refusal(1))
        allowed.append(paced.pacing.allowance(*ACCOUNT))

    assert allowed == [4, 2, 1, 1]
    assert paced.pacing.room(*ACCOUNT) == 0


def test_as_many_successes_as_are_allowed_allow_one_more_up_to_no_limit(paced: Paced) -> None:
    paced.call(refused=refusal(1))
    allowed = []

    for _ in range(1 + 2 + 3 + 4 + 5 + 6 + 7):
        paced.call()
        allowed.append(paced.pacing.allowance(*ACCOUNT))

    assert allowed[:6] == [2, 2, 3, 3, 3, 4]
    assert allowed[-2:] == [7, sys.maxsize]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "30s"}, 0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30s"}, 3),
        ({"x-ratelimit-remaining-tokens": "0"}, 0),
        (
            {
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2026-01-01T00:00:20Z",
            },
            2,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "12"}, 12),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "3600"}, 60),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "2020-01-01T00:00:00Z"}, 0),
    ],
)
def test_headers_that_leave_nothing_pause(headers: dict[str, str], seconds: float) -> None:
    assert exhausted_seconds(headers, ManualClock()) == pytest.approx(seconds)
