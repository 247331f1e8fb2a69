"""Whether and when a failed call is tried again."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import (
    BrokerError,
    InvalidRequest,
    ProviderAnswerInvalid,
    ProviderCredentialRefused,
    ProviderError,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from shared.settings import QueueSettings
from workers.attempts import full_jitter, retry_delay

PASSING = [ProviderUnavailable, ProviderTimeout, ProviderRateLimited, ProviderAnswerInvalid]
LASTING = [ProviderError, ProviderRejected, ProviderCredentialRefused]

positive = st.floats(0.001, 1_000)


@given(attempt=st.integers(0, 60), base=positive, cap=positive, seed=st.integers())
def test_full_jitter_stays_between_nothing_and_the_doubled_base_or_the_cap(
    attempt: int, base: float, cap: float, seed: int
) -> None:
    assert 0 <= full_jitter(attempt, base=base, cap=cap, rng=Random(seed)) <= min(cap, base * 2**attempt)


def test_full_jitter_spreads_over_the_whole_of_it() -> None:
    waits = [full_jitter(3, base=1, cap=100, rng=Random(seed)) for seed in range(400)]

    assert min(waits) < 0.5
    assert max(waits) > 7.5
    assert 3.5 < sum(waits) / len(waits) < 4.5


@given(
    attempts=st.integers(0, 1),
    retry_after=st.floats(0, 60),
    seed=st.integers(),
)
def test_a_retry_comes_no_earlier_than_the_provider_asked(
    attempts: int, retry_after: float, seed: int
) -> None:
    error = ProviderRateLimited("Slow down.", provider="acme", retry_after_seconds=retry_after)

    delay = retry_delay(error, attempts=attempts, emitted=0, settings=QueueSettings(), rng=Random(seed))

    assert delay is not None
    assert retry_after <= delay <= max(retry_after, 0.5)


@pytest.mark.parametrize("error", PASSING)
def test_a_failure_that_may_pass_is_tried_until_the_attempts_are_spent(error: type[ProviderError]) -> None:
    settings = QueueSettings(max_attempts=3)

    delays = [
        retry_delay(error("x", provider="acme"), attempts=n, emitted=0, settings=settings, rng=Random(1))
        for n in range(4)
    ]

    assert [delay is not None for delay in delays] == [True, True, False, False]


@pytest.mark.parametrize("error", PASSING)
def test_nothing_is_tried_again_after_its_first_event(error: type[ProviderError]) -> None:
    broken = error("x", provider="acme", retry_after_seconds=1)

    assert retry_delay(broken, attempts=0, emitted=1, settings=QueueSettings(), rng=Random(1)) is None


@pytest.mark.parametrize(
    "error", [*(kind("x", provider="acme") for kind in LASTING), InvalidRequest("x"), BrokerError("x")]
)
def test_a_failure_that_stays_is_final(error: BrokerError) -> None:
    assert retry_delay(error, attempts=0, emitted=0, settings=QueueSettings(), rng=Random(1)) is None
