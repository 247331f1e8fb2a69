"""Whether and when a failed call is tried again."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.job import FallbackOn, Job, JobKind, Lane, Surface, Target
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
from shared.ids import AccountId, ApiKeyId, JobId, RequestId
from shared.queue.consumer import Delivery, Lease
from shared.settings import QueueSettings
from workers.attempts import Move, Retry, Step, full_jitter, next_step

FAILING = [ProviderUnavailable, ProviderTimeout, ProviderAnswerInvalid]
PASSING = [*FAILING, ProviderRateLimited]
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


def a_lease(*, hop_attempts: int = 0, targets: int = 1, fallback_on: Iterable[FallbackOn] = ()) -> Lease:
    job = Job(
        id=JobId("job_1"),
        kind=JobKind.CHAT,
        lane=Lane.INTERACTIVE,
        surface=Surface.OPENAI,
        account=AccountId("acc_1"),
        api_key=ApiKeyId("key_1"),
        request_id=RequestId("req_1"),
        plan=tuple(Target("acme", f"m{number}") for number in range(targets)),
        stream=False,
        include_usage=False,
        budget_ms=60_000,
        body=b"{}",
        fallback_on=frozenset(fallback_on),
    )
    delivery = Delivery(job.id, b"1-0", 0, "acme", Lane.INTERACTIVE)
    return Lease(
        delivery=delivery,
        fence=1,
        job=job,
        attempts=hop_attempts,
        deliveries=1,
        remaining_ms=60_000,
        waited_ms=0,
        begun_at=0.0,
        hop_attempts=hop_attempts,
    )


def step_after(
    error: BrokerError,
    lease: Lease | None = None,
    *,
    emitted: int = 0,
    seed: int = 1,
    settings: QueueSettings | None = None,
) -> Step:
    return next_step(
        error,
        lease or a_lease(),
        emitted=emitted,
        settings=settings or QueueSettings(),
        rng=Random(seed),
    )


@given(attempts=st.integers(0, 1), retry_after=st.floats(0, 60), seed=st.integers())
@pytest.mark.parametrize("kind", PASSING)
def test_a_retry_comes_no_earlier_than_the_provider_asked(
    kind: type[ProviderError], attempts: int, retry_after: float, seed: int
) -> None:
    error = kind("Slow down.", provider="acme", retry_after_seconds=retry_after)

    step = step_after(error, a_lease(hop_attempts=attempts), seed=seed)

    assert isinstance(step, Retry)
    assert retry_after <= step.delay_seconds <= max(retry_after, 0.5)


@pytest.mark.parametrize("kind", [*FAILING])
def test_a_failure_that_may_pass_is_tried_until_the_attempts_are_spent(kind: type[ProviderError]) -> None:
    error, settings = kind("x", provider="acme"), QueueSettings(max_attempts=3)

    steps = [step_after(error, a_lease(hop_attempts=n), settings=settings) for n in range(4)]

    assert [isinstance(step, Retry) and step.counts for step in steps] == [True, True, False, False]
    assert steps[2:] == [None, None]


@pytest.mark.parametrize("hop_attempts", [0, 2, 50])
def test_a_rate_limit_is_waited_out_and_costs_no_attempt(hop_attempts: int) -> None:
    error = ProviderRateLimited("x", provider="acme", retry_after_seconds=30)

    step = step_after(error, a_lease(hop_attempts=hop_attempts))

    assert isinstance(step, Retry)
    assert not step.counts
    assert step.delay_seconds >= 30


@pytest.mark.parametrize("kind", [*PASSING, *LASTING])
def test_nothing_is_tried_again_after_its_first_event(kind: type[ProviderError]) -> None:
    broken = kind("x", provider="acme", retry_after_seconds=1)

    assert step_after(broken, a_lease(targets=2), emitted=1) is None


@pytest.mark.parametrize(
    "error", [*(kind("x", provider="acme") for kind in LASTING), InvalidRequest("x"), BrokerError("x")]
)
def test_a_failure_that_stays_is_final_where_there_is_nowhere_else_to_go(error: BrokerError) -> None:
    assert step_after(error) is None


@pytest.mark.parametrize(
    ("error", "hop_attempts"),
    [
        (ProviderRateLimited("x", provider="acme"), 0),
        (ProviderCredentialRefused("x", provider="acme"), 0),
        (ProviderError("x", provider="acme"), 0),
        (ProviderUnavailable("x", provider="acme"), 2),
        (ProviderTimeout("x", provider="acme"), 2),
    ],
)
def test_what_this_target_cannot_do_the_next_one_may(error: BrokerError, hop_attempts: int) -> None:
    assert step_after(error, a_lease(hop_attempts=hop_attempts, targets=2)) == Move()


@pytest.mark.parametrize(
    "error", [InvalidRequest("x"), BrokerError("x"), ProviderRejected("x", provider="a")]
)
def test_what_is_wrong_with_the_request_is_wrong_everywhere(error: BrokerError) -> None:
    assert step_after(error, a_lease(targets=2, fallback_on=FallbackOn)) is None


@pytest.mark.parametrize(
    ("code", "wish"),
    [
        ("context_length_exceeded", FallbackOn.CONTEXT_LENGTH),
        ("content_filter", FallbackOn.CONTENT_FILTER),
    ],
)
def test_a_prompt_too_long_or_filtered_goes_on_only_where_its_plan_says_so(
    code: str, wish: FallbackOn
) -> None:
    error = ProviderRejected("x", provider="acme", code=code)
    (other,) = set(FallbackOn) - {wish}

    assert step_after(error, a_lease(targets=2, fallback_on={wish})) == Move()
    assert step_after(error, a_lease(targets=2, fallback_on={other})) is None
    assert step_after(error, a_lease(targets=1, fallback_on={wish})) is None
