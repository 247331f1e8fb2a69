"""Reservations: never more than the limit, whoever asks; settled once; nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import keyspace
from shared.domain.allowance import Scope
from shared.ids import AccountId, JobId
from shared.limits.reservations import (
    LedgerCounts,
    Mode,
    Refused,
    Reservations,
    Reserved,
    Unknown,
    day_number,
    month_number,
    source,
)
from shared.limits.rules import ONLY_COUNTED, Rule, RuleSet
from shared.queue.redis_link import RedisArg, RedisLink
from tests.integration.queue.support import open_link

ACME = AccountId("acme")
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
KEY, WHOLE = "key:key_1", "account:acme"


class AtTime(Reservations):
    """In the place of Redis TIME, a moment that the test moves."""

    now = NOON

    async def _call(self, name: str, account: AccountId, *args: RedisArg) -> Any:
        ms = int(self.now.timestamp() * 1000)
        text = source(name).replace(
            "local t = redis.call('TIME')", f"local t = {{{ms // 1000}, {ms % 1000}000}}"
        )
        return await self._link.execute("EVAL", text, 1, keyspace.holds(account), *args)

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


def requests(limit: int, seconds: int = 60, subject: str = KEY) -> Rule:
    return Rule(Scope.KEY, subject, f"r{seconds * 1000}", limit, seconds * 1000)


def tokens(limit: int) -> Rule:
    return Rule(Scope.KEY, KEY, "t60000", limit, 60_000)


def calls(limit: int) -> Rule:
    return Rule(Scope.KEY, KEY, "c", limit)


def budget(micro_usd: int, *, a_day: int = ONLY_COUNTED, a_month: int = ONLY_COUNTED) -> list[Rule]:
    return [
        Rule(Scope.ACCOUNT, WHOLE, name, limit)
        for name, limit in (("d", a_day), ("m", a_month), ("s", micro_usd))
    ]


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with open_link(redis_url) as link:
        await link.execute("FLUSHALL")
        yield link


class Caller:
    def __init__(self, link: RedisLink) -> None:
        self.at = AtTime(link)
        self._names = count()

    async def ask(
        self, rules: list[Rule], *, take: int = 1, cost: int = 1, job: str = "", mode: Mode = Mode.CHECK
    ) -> Reserved | Refused | Unknown:
        job_id = JobId(job or f"job_{next(self._names)}")
        return await self.at.reserve(
            ACME, job_id, RuleSet(rules), tokens=take, micro_usd=cost, lapse_ms=60_000, mode=mode
        )

    async def passes(self, rules: list[Rule], **what: Any) -> bool:
        answer = await self.ask(rules, **what)
        assert not isinstance(answer, Unknown)
        return isinstance(answer, Reserved)

    async def settle(self, job: str, *, take: int = 0, cost: int = 0) -> Any:
        return await self.at.settle(ACME, JobId(job), tokens=take, micro_usd=cost, ended_at=self.at.now)

    async def spent(self) -> tuple[int, int]:
        """Of the month's budget: used in all, and of that reserved."""
        found = await self.at.counted(ACME, RuleSet(budget(0)[2:]))
        assert not isinstance(found, Unknown)
        return found[0].used, found[0].reserved


@pytest.fixture
def caller(link: RedisLink) -> Caller:
    return Caller(link)


async def test_of_64_callers_at_once_exactly_as_many_pass_as_the_limit_says(redis_url: str) -> None:
    rules = [requests(100), *budget(10**9, a_day=1000)]
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(open_link(redis_url)) for _ in range(4)]
        await links[0].execute("FLUSHALL")
        processes = [Reservations(link) for link in links]
        await processes[0].seed(ACME, WHOLE, LedgerCounts())

        async def call_ten_times(number: int) -> int:
            passed = 0
            for turn in range(10):
                answer = await processes[number % 4].reserve(
                    ACME,
                    JobId(f"job_{number}_{turn}"),
                    RuleSet(rules),
                    tokens=1,
                    micro_usd=1,
                    lapse_ms=60_000,
                )
                passed += isinstance(answer, Reserved)
            return passed

        passed = await asyncio.gather(*map(call_ten_times, range(64)))

        assert sum(passed) == 100
        counted = await processes[0].counted(ACME, RuleSet(rules))
        assert not isinstance(counted, Unknown)
        assert [one.used for one in counted] == [100, 100, 100, 100]


async def test_a_window_slides_and_never_lets_more_through(caller: Caller) -> None:
    rules = [requests(3)]
    assert [await caller.passes(rules) for _ in range(4)] == [True, True, True, False]

    caller.at.advance(seconds=59.9)
    assert not await caller.passes(rules)

    caller.at.advance(seconds=2)
    assert [await caller.passes(rules) for _ in range(4)] == [True, True, True, False]


async def test_the_wait_that_is_told_is_enough(caller: Caller) -> None:
    rules = [requests(2)]
    await caller.ask(rules)
    caller.at.advance(seconds=30)
    await caller.ask(rules)

    refused = await caller.ask(rules)

    assert isinstance(refused, Refused)
    assert refused.rule == rules[0]
    assert refused.used == 2
    caller.at.advance(seconds=refused.wait_seconds - 0.01)
    assert not await caller.passes(rules)
    caller.at.advance(seconds=0.02)
    assert await caller.passes(rules)


async def test_what_one_rule_refuses_counts_under_none(caller: Caller) -> None:
    strict, wide = requests(1, subject=KEY), requests(100, subject=WHOLE)
    await caller.ask([strict, wide])

    assert not await caller.passes([wide, strict])

    counted = await caller.at.counted(ACME, RuleSet([wide]))
    assert not isinstance(counted, Unknown)
    assert counted[0].used == 1


async def test_tokens_are_counted_as_estimated_and_corrected_when_they_are_known(caller: Caller) -> None:
    rules = [tokens(100)]
    await caller.ask(rules, take=90, job="job_a")
    assert not await caller.passes(rules, take=20)

    await caller.settle("job_a", take=30)

    assert await caller.passes(rules, take=20)
    assert await caller.passes(rules, take=50)
    assert not await caller.passes(rules, take=1)


async def test_more_tokens_than_the_limit_run_alone_instead_of_never(caller: Caller) -> None:
    assert await caller.passes([tokens(100)], take=5_000)
    assert not await caller.passes([tokens(100)], take=1)


async def test_calls_at_once_are_free_when_they_end_or_lapse(caller: Caller) -> None:
    rules = [calls(1)]
    await caller.ask(rules, job="job_a")
    assert not await caller.passes(rules)

    await caller.at.end_calls([(ACME, KEY, JobId("job_a"))])
    assert await caller.passes(rules, job="job_b")
    await caller.settle("job_b")
    assert await caller.passes(rules, job="job_c")
    assert not await caller.passes(rules)
    caller.at.advance(seconds=61)

    assert await caller.passes(rules)


async def test_a_budget_holds_what_is_reserved_and_what_was_spent(caller: Caller) -> None:
    rules = budget(100)
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    await caller.ask(rules, cost=60, job="job_a")
    assert not await caller.passes(rules, cost=50)

    await caller.settle("job_a", cost=20)
    await caller.settle("job_a", cost=20)

    assert await caller.spent() == (20, 0)
    assert await caller.passes(rules, cost=80, job="job_b")
    assert await caller.spent() == (100, 80)
    assert not await caller.passes(rules, cost=1)


async def test_a_budget_that_redis_does_not_know_is_asked_of_the_ledger_first(caller: Caller) -> None:
    rules = budget(100, a_day=10, a_month=20)
    assert await caller.ask(rules) == Unknown(WHOLE)

    await caller.at.seed(ACME, WHOLE, LedgerCounts(requests_today=8, requests_month=15, spend_micro_usd=97))
    await caller.at.seed(ACME, WHOLE, LedgerCounts())

    assert await caller.passes(rules, cost=2)
    refused = await caller.ask(rules, cost=2)
    assert isinstance(refused, Refused)
    assert (refused.rule.kind, refused.used) == ("s", 99)
    assert await caller.passes(rules, cost=0)
    refused = await caller.ask(rules, cost=0)
    assert isinstance(refused, Refused)
    assert (refused.rule.kind, refused.used) == ("d", 10)
    assert refused.wait_seconds == 12 * 3600


async def test_days_and_months_begin_anew_with_what_is_still_reserved(caller: Caller) -> None:
    rules = budget(100, a_day=2, a_month=100)
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    caller.at.now = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    await caller.ask(rules, cost=40, job="job_a")
    await caller.ask(rules, cost=40, job="job_b")
    await caller.settle("job_a", cost=40)
    assert not await caller.passes(rules, cost=1)

    caller.at.advance(seconds=2)

    assert await caller.passes(rules, cost=50, job="job_c")
    assert await caller.spent() == (90, 90)
    await caller.settle("job_b", cost=30)
    await caller.settle("job_c", cost=50)
    assert await caller.spent() == (80, 0)


async def test_what_ended_last_month_and_is_settled_this_month_is_not_this_months(caller: Caller) -> None:
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    caller.at.now = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    await caller.ask(budget(100), cost=40, job="job_a")
    ended = caller.at.now
    caller.at.advance(seconds=2)
    await caller.ask(budget(100), cost=1, job="job_b")

    await caller.at.settle(ACME, JobId("job_a"), tokens=0, micro_usd=40, ended_at=ended)

    assert await caller.spent() == (1, 1)


async def test_what_never_became_a_job_is_taken_back(caller: Caller) -> None:
    rules = [requests(1), tokens(10), calls(1), *budget(10, a_day=1, a_month=1)]
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    assert await caller.passes(rules, take=10, cost=10, job="job_a")

    await caller.at.release(ACME, JobId("job_a"))
    await caller.at.release(ACME, JobId("job_a"))

    assert await caller.passes(rules, take=10, cost=10, job="job_b")
    assert not await caller.passes(rules, take=10, cost=10)


async def test_a_reservation_that_nobody_ends_lapses_and_a_late_end_still_counts(caller: Caller) -> None:
    rules = budget(100)
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    await caller.ask(rules, cost=100, job="job_a")
    caller.at.advance(seconds=61)

    assert await caller.passes(rules, cost=70, job="job_b")
    assert await caller.spent() == (70, 70)

    await caller.settle("job_a", cost=25)
    assert await caller.spent() == (95, 70)
    await caller.settle("job_a", cost=25)
    assert await caller.spent() == (95, 70)


async def test_the_same_job_again_is_granted_what_it_has(caller: Caller) -> None:
    rules = [tokens(10)]
    assert await caller.passes(rules, take=10, job="job_a")

    assert await caller.ask(rules, take=10, job="job_a") == Reserved(before=True)

    counted = await caller.at.counted(ACME, RuleSet(rules))
    assert not isinstance(counted, Unknown)
    assert counted[0].used == 10


async def test_a_repetition_counts_as_a_request_and_costs_nothing(caller: Caller) -> None:
    rules = [requests(2), *budget(100)]
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    await caller.ask(rules, cost=100, job="job_a")
    await caller.settle("job_a", cost=100)

    assert await caller.passes(rules, cost=100, job="job_a", mode=Mode.REPLAY)
    assert not await caller.passes(rules, cost=100, job="job_a", mode=Mode.REPLAY)
    assert await caller.spent() == (100, 0)


async def test_what_must_be_noted_is_counted_beyond_the_limit(caller: Caller) -> None:
    rules = budget(10)
    await caller.at.seed(ACME, WHOLE, LedgerCounts())

    assert await caller.passes(rules, cost=50, mode=Mode.NOTE)

    assert await caller.spent() == (50, 50)
    assert not await caller.passes(rules, cost=1)


async def test_begun_anew_a_budget_forgets_what_was_reserved_under_the_old_count(caller: Caller) -> None:
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    await caller.ask(budget(100), cost=40, job="job_a")

    await caller.at.seed(ACME, WHOLE, LedgerCounts(spend_micro_usd=5), anew=True)
    await caller.settle("job_a", cost=30)

    assert await caller.spent() == (35, 0)


async def test_a_settlement_tells_how_the_budget_stands(caller: Caller) -> None:
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    await caller.ask(budget(100, a_day=5), cost=40, job="job_a")

    told = await caller.settle("job_a", cost=30)

    assert {(one.subject, one.kind, one.used, one.limit) for one in told} == {
        (WHOLE, "d", 1, 5),
        (WHOLE, "m", 1, ONLY_COUNTED),
        (WHOLE, "s", 30, 100),
    }
    assert {one.kind: one.period for one in told} == {
        "d": day_number(NOON),
        "m": month_number(NOON),
        "s": month_number(NOON),
    }


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moment=st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001
async def test_days_and_months_are_those_of_the_calendar(link: RedisLink, moment: datetime) -> None:
    following = datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=UTC)
    ms = int(moment.timestamp() * 1000)
    text = (
        source("settle").split("-- Count what a job")[0]
        + "return {int(day_of(tonumber(ARGV[1]))), int(month_of(tonumber(ARGV[1]))),"
        + " int(month_start_ms(month_of(tonumber(ARGV[1])) + 1))}"
    )

    day, month, next_month_ms = await link.execute("EVAL", text, 0, ms)

    assert int(day) == day_number(moment)
    assert int(month) == month_number(moment)
    assert int(next_month_ms) == int(following.timestamp() * 1000)


async def test_windows_alone_are_forgotten_soon_and_budgets_are_not(caller: Caller, link: RedisLink) -> None:
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    await caller.ask([requests(5), *budget(100)])

    prefix = keyspace.holds(ACME).removesuffix("holds")
    assert 60_000 < await link.execute("PTTL", prefix + KEY) <= 120_000
    assert await link.execute("PTTL", prefix + WHOLE) > 30 * 86_400_000
