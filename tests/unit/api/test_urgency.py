"""Deadlines and lanes as callers ask for them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from api.urgency import budget_ms, lane_of
from shared.domain.job import JobKind, Lane
from shared.domain.principal import Principal
from shared.errors import InvalidRequest
from shared.ids import AccountId, ApiKeyId
from shared.requests.turn import cost_of


def budget(
    document: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    *,
    stream: bool = False,
    comes_back: float = 0.0,
) -> int:
    return budget_ms(
        Headers(headers or {}),
        document or {},
        most_seconds=600,
        stream=stream,
        comes_back_seconds=comes_back,
    )


@pytest.mark.parametrize(
    ("wish", "ms"),
    [("2", 2_000), ("2.5", 2_500), ("2.5s", 2_500), ("250ms", 250), (" 30 ", 30_000), ("9999", 600_000)],
)
def test_a_caller_says_how_long_it_waits(wish: str, ms: int) -> None:
    assert budget(headers={"x-request-timeout": wish}) == ms


@pytest.mark.parametrize("wish", ["", "0", "-1", "soon", "1e3", "nan", "inf", "1m", "²", "1,5", "0ms"])
def test_what_is_no_time_is_refused(wish: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        budget(headers={"x-request-timeout": wish})

    assert refused.value.param == "X-Request-Timeout"


def test_the_field_says_the_same_and_never_reaches_the_provider() -> None:
    document = {"timeout_seconds": 1.5, "model": "m"}

    assert budget(document) == 1_500
    assert document == {"model": "m"}


@pytest.mark.parametrize("wish", ["1", True, 0, -1, None, [], float("inf"), float("nan")])
def test_a_field_that_is_no_time_is_refused(wish: object) -> None:
    document = {"timeout_seconds": wish}
    if wish is None:
        assert budget(document) == 600_000
        return
    with pytest.raises(InvalidRequest):
        budget(document)


def test_the_header_wins_over_the_field_and_both_over_the_clients_own_patience() -> None:
    patience = {"x-stainless-timeout": "5", "x-stainless-read-timeout": "7"}

    assert budget({"timeout_seconds": 2}, {**patience, "x-request-timeout": "3"}) == 3_000
    assert budget({"timeout_seconds": 2}, patience) == 2_000
    assert budget(headers=patience) == 5_250
    assert budget(headers=patience, comes_back=2) == 7_250
    assert budget({"timeout_seconds": 2}, patience, comes_back=2) == 2_000
    assert budget(headers=patience, stream=True) == 600_000
    assert budget(headers={**patience, "idempotency-key": "one"}) == 600_000
    assert budget(headers={"x-stainless-timeout": "NaN"}) == 600_000


def principal(lane: Lane = Lane.INTERACTIVE) -> Principal:
    return Principal(AccountId("acc"), ApiKeyId("key"), lane=lane)


def lane(document: dict[str, Any], right: Lane = Lane.INTERACTIVE, **headers: str) -> Lane:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lane_of(Headers(named), document, principal(right))


@pytest.mark.parametrize("tier", ["auto", "default", "standard_only", None, 7, "priority"])
def test_a_request_is_in_its_keys_lane_unless_it_says_otherwise(tier: object) -> None:
    assert lane({"service_tier": tier}) is Lane.INTERACTIVE
    assert lane({"service_tier": tier}, Lane.STANDARD) is Lane.STANDARD


def test_what_may_wait_can_say_so() -> None:
    assert lane({"service_tier": "flex"}) is Lane.BATCH
    assert lane({}, x_headrace_priority="Batch") is Lane.BATCH
    assert lane({"service_tier": "flex"}, x_headrace_priority="standard") is Lane.STANDARD


@pytest.mark.parametrize("right", Lane)
@pytest.mark.parametrize("wish", Lane)
def test_nobody_gets_above_the_lane_of_its_key(right: Lane, wish: Lane) -> None:
    order = list(Lane)

    got = lane({}, right, x_headrace_priority=wish)

    assert order.index(got) == max(order.index(right), order.index(wish))


@pytest.mark.parametrize("wish", ["urgent", "", "0"])
def test_a_lane_that_is_none_is_refused(wish: str) -> None:
    with pytest.raises(InvalidRequest, match="interactive, standard, batch"):
        lane({}, x_headrace_priority=wish)


@given(
    kind=st.sampled_from(JobKind),
    limit=st.none() | st.integers() | st.text(),
    size=st.integers(0, 10**8),
)
def test_every_request_costs_something(kind: JobKind, limit: object, size: int) -> None:
    assert 1 <= cost_of(kind, {"max_tokens": limit}, size) <= 10**9


def test_a_long_answer_costs_more_than_a_short_one() -> None:
    short, long = ({"max_tokens": limit} for limit in (16, 16_000))

    assert cost_of(JobKind.CHAT, long, 400) - cost_of(JobKind.CHAT, short, 400) == 15_984
    assert cost_of(JobKind.EMBEDDINGS, long, 400) == cost_of(JobKind.EMBEDDINGS, short, 400) == 101
