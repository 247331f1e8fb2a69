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
from redis.exceptions import OutOfMemoryError, ResponseError

from shared import keyspace
from shared.domain.allowance import Scope
from shared.ids import AccountId, JobId
from shared.limits.reservations import (
    Conflicting,
    Ended,
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
from tests.fakes.redis_server import RedisServer
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

    def _start(self, name: str, account: AccountId, *args: RedisArg) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._call(name, account, *args))

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
        self.at.may_lapse = True
        self._names = count()

    async def ask(
        self,
        rules: list[Rule],
        *,
        take: int = 1,
        cost: int = 1,
        job: str = "",
        mode: Mode = Mode.CHECK,
        asks: str = "",
    ) -> Reserved | Refused | Unknown | Conflicting:
        job_id = JobId(job or f"job_{next(self._names)}")
        return await self.at.reserve(
            ACME,
            job_id,
            RuleSet(rules),
            tokens=take,
            micro_usd=cost,
            lapse_ms=60_000,
            mode=mode,
            fingerprint=asks,
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
    rules = RuleSet([requests(100), *budget(10**9, a_day=1000)])
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
                    rules,
                    tokens=1,
                    micro_usd=1,
                    lapse_ms=60_000,
                )
                passed += isinstance(answer, Reserved)
            return passed

        passed = await asyncio.gather(*map(call_ten_times, range(64)))

        assert sum(passed) == 100
        counted = await processes[0].counted(ACME, rules)
        assert not isinstance(counted, Unknown)
        assert [one.used for one in counted] == [100, 100, 100, 100]


async def kept(link: RedisLink, account: AccountId) -> dict[bytes, Any]:
    """All that Redis keeps of an account, by the end of the key."""
    prefix = keyspace.holds(account).removesuffix("holds")
    found = {}
    for key in await link.execute("KEYS", prefix + "*"):
        is_hash = await link.execute("TYPE", key) == b"hash"
        read = ("HGETALL", key) if is_hash else ("ZRANGE", key, 0, -1, "WITHSCORES")
        flat = await link.execute(*read)
        found[key.removeprefix(prefix.encode())] = dict(zip(flat[::2], flat[1::2], strict=True))
    return found


async def test_jobs_of_one_moment_are_answered_and_kept_as_if_each_had_asked_alone(caller: Caller) -> None:
    rules = RuleSet([requests(9), tokens(200), calls(8), *budget(300, a_day=20)])
    alone, link = AccountId("alone"), caller.at._link
    asked = [(f"job_{n % 10}", 5 * n, 10 * n, list(Mode)[n % 7 % 3]) for n in range(14)]
    for account in (ACME, alone):
        for subject in (KEY, WHOLE):
            await caller.at.seed(account, subject, LedgerCounts(requests_today=3))

    def ask(account: AccountId, job: str, take: int, cost: int, mode: Mode) -> Any:
        return caller.at.reserve(
            account, JobId(job), rules, tokens=take, micro_usd=cost, lapse_ms=60_000, mode=mode
        )

    together = await asyncio.gather(*(ask(ACME, *one) for one in asked))
    in_turn = [await ask(alone, *one) for one in asked]

    assert together == in_turn
    assert {type(answer) for answer in together} == {Reserved, Refused}
    assert await kept(link, ACME) == await kept(link, alone)

    caller.at.advance(seconds=2)
    ended = [Ended(JobId(job), take // 2, cost // 3, caller.at.now) for job, take, cost, _ in asked]
    await caller.at.settle_all(ACME, ended)
    for one in ended:
        await caller.at.settle(alone, one.job_id, tokens=one.tokens, micro_usd=one.micro_usd, ended_at=one.at)

    assert await kept(link, ACME) == await kept(link, alone)
    assert set(await kept(link, ACME)) == {KEY.encode(), WHOLE.encode(), b"passed"}


async def test_jobs_of_one_moment_all_hear_of_a_count_that_is_not_known(caller: Caller) -> None:
    rules = RuleSet([requests(5), *budget(10)])

    found = await asyncio.gather(
        *(
            caller.at.reserve(ACME, JobId(f"job_{mode}"), rules, tokens=1, micro_usd=1, lapse_ms=9, mode=mode)
            for mode in Mode
        )
    )

    assert found[0] == found[2] == Unknown(WHOLE)
    assert isinstance(found[1], Reserved)


async def test_a_caller_that_leaves_takes_nobodys_answer_along(caller: Caller) -> None:
    rules = RuleSet([requests(2)])
    asking = [
        asyncio.create_task(
            caller.at.reserve(ACME, JobId(f"job_{n}"), rules, tokens=1, micro_usd=1, lapse_ms=60_000)
        )
        for n in range(3)
    ]
    await asyncio.sleep(0)

    asking[0].cancel()

    found = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(answer) for answer in found] == [asyncio.CancelledError, Reserved, Refused]


async def test_when_redis_refuses_all_jobs_of_the_moment_hear_it(caller: Caller, link: RedisLink) -> None:
    rules = RuleSet([requests(2)])
    await link.execute("SET", keyspace.holds(ACME), "no hash")

    found = await asyncio.gather(
        *(
            caller.at.reserve(ACME, JobId(f"job_{n}"), rules, tokens=1, micro_usd=1, lapse_ms=60_000)
            for n in range(2)
        ),
        return_exceptions=True,
    )

    assert [type(answer) for answer in found] == [ResponseError, ResponseError]


async def test_calls_that_are_over_are_told_again_when_redis_refused_to_hear(
    caller: Caller, link: RedisLink
) -> None:
    rules = RuleSet([calls(1)])
    assert await caller.passes([calls(1)], job="job_a")
    await link.execute("RENAME", keyspace.holds(ACME), "{acme}:aside")
    await link.execute("SET", keyspace.holds(ACME), "no hash")
    caller.at.note_over(ACME, rules.calls, JobId("job_a"))
    with pytest.raises(ResponseError):
        await caller.at.reserve(ACME, JobId("job_b"), rules, tokens=1, micro_usd=1, lapse_ms=60_000)

    await link.execute("RENAME", "{acme}:aside", keyspace.holds(ACME))

    answer = await caller.at.reserve(ACME, JobId("job_b"), rules, tokens=1, micro_usd=1, lapse_ms=60_000)
    assert isinstance(answer, Reserved)


async def test_two_limits_of_one_window_slide_as_one(caller: Caller) -> None:
    rules = [requests(2), requests(3)]
    assert [await caller.passes(rules) for _ in range(3)] == [True, True, False]

    for _ in range(3):
        caller.at.advance(seconds=62)
        assert [await caller.passes(rules) for _ in range(3)] == [True, True, False]


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

    caller.at.note_over(ACME, (KEY,), JobId("job_a"))
    await caller.at.end_calls()
    assert await caller.passes(rules, job="job_b")
    await caller.settle("job_b")
    assert await caller.passes(rules, job="job_c")
    assert not await caller.passes(rules)
    caller.at.advance(seconds=61)

    assert await caller.passes(rules)


async def test_a_call_that_is_over_leaves_its_place_to_the_next(caller: Caller) -> None:
    rules = RuleSet([calls(1)])

    for n in range(3):
        job = JobId(f"job_{n}")
        answer = await caller.at.reserve(ACME, job, rules, tokens=1, micro_usd=1, lapse_ms=60_000)
        assert isinstance(answer, Reserved)
        caller.at.note_over(ACME, rules.calls, job)

    assert caller.at.has_over
    await caller.at.end_calls()
    assert not caller.at.has_over
    assert await caller.passes([calls(1)])


async def test_a_hold_keeps_its_form_for_the_releases_beside_this_one(
    caller: Caller, link: RedisLink
) -> None:
    """As the scripts of the release before write and read it."""
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    await caller.ask(
        [requests(9), tokens(50), calls(7), *budget(100, a_day=5)], take=90, cost=40, job="job_a"
    )
    slot, ms = int(NOON.timestamp()), int(NOON.timestamp() * 1000)
    # Beside these it may hold requests, which nobody gives back any more.
    hold = (
        f"key:key_1\tt60000,{slot},50,50;c,0,1,7\n"
        f"account:acme\td,{day_number(NOON)},1,5;m,{month_number(NOON)},1,-1;s,{ms},40,100"
    )

    assert await link.execute("HGET", keyspace.holds(ACME), "job_a") == hold.encode()


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


async def test_what_is_told_of_a_budget_is_what_was_spent_and_not_what_is_reserved(caller: Caller) -> None:
    await caller.at.seed(ACME, KEY, LedgerCounts())
    rules = [Rule(Scope.KEY, KEY, "s", 1_000)]
    for name in ("job_a", "job_b", "job_c"):
        assert await caller.passes(rules, cost=300, job=name)

    told = await caller.settle("job_a", cost=5)

    assert [(count.kind, count.used, count.limit) for count in told] == [("s", 5, 1_000)]


async def test_a_key_that_is_in_use_is_kept_on_and_never_cut_short(caller: Caller, link: RedisLink) -> None:
    await caller.at.seed(ACME, KEY, LedgerCounts())
    rules = [requests(100), calls(10), Rule(Scope.KEY, KEY, "s", 100)]
    await caller.ask(rules, job="job_a")
    at_once = keyspace.calls_at_once(ACME, KEY)
    keys = (keyspace.holds(ACME), at_once, at_once.removesuffix(":calls"))
    for key in (*keys, keyspace.holds(ACME).removesuffix("holds") + "due"):
        await link.execute("PEXPIRE", key, 86_400_000)

    await caller.ask(rules)
    await caller.ask([requests(100, seconds=1)])

    for key in (*keys, keyspace.holds(ACME).removesuffix("holds") + "due"):
        assert await link.execute("PTTL", key) > 38 * 86_400_000


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
    rules = [tokens(10), calls(1), *budget(10, a_day=1, a_month=1)]
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    assert await caller.passes(rules, take=10, cost=10, job="job_a")

    await caller.at.release(ACME, JobId("job_a"))
    await caller.at.release(ACME, JobId("job_a"))

    assert await caller.passes(rules, take=10, cost=10, job="job_b")
    assert not await caller.passes(rules, take=10, cost=10)


async def test_a_request_that_became_no_job_was_one_all_the_same(caller: Caller, link: RedisLink) -> None:
    rules = [requests(3), *budget(100)]
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    passed = []
    for number in range(5):
        passed.append(await caller.passes(rules, cost=100, job=f"job_{number}"))
        await caller.at.release(ACME, JobId(f"job_{number}"))

    assert passed == [True, True, True, False, False]
    assert await caller.spent() == (0, 0)
    # Where nothing but requests is limited, nothing has to be remembered of a job.
    await caller.ask([requests(9)], job="job_x")
    assert await link.execute("HLEN", keyspace.holds(ACME)) == 0


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


async def test_nothing_lapses_while_nobody_would_hear_how_jobs_ended(caller: Caller, link: RedisLink) -> None:
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    await caller.at.look()
    await caller.ask(budget(100), cost=100, job="job_a")
    caller.at.advance(hours=1)
    alone = (await caller.passes(budget(100), cost=1), await caller.spent())

    await link.execute("SET", keyspace.LEDGER_CURRENT, "1")
    await caller.at.look()

    assert alone == (False, (100, 100))
    assert await caller.spent() == (0, 0)
    assert await caller.passes(budget(100), cost=100)


async def test_a_job_whose_reservation_lapsed_is_measured_anew(caller: Caller) -> None:
    rules = budget(100, a_day=2)
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    await caller.ask(rules, cost=50, job="job_a", asks="f00d")
    caller.at.advance(minutes=3)

    assert not await caller.passes(rules, cost=101, job="job_a", asks="f00d")
    assert await caller.ask(rules, cost=100, job="job_a", asks="f00d") != Reserved(before=True)

    assert await caller.spent() == (100, 100)
    assert not await caller.passes(rules, cost=0, job="job_b")
    await caller.settle("job_a", cost=30)
    assert await caller.spent() == (30, 0)


async def test_a_job_that_is_refused_once_its_reservation_lapsed_is_still_settled(caller: Caller) -> None:
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    await caller.ask(budget(100), cost=50, job="job_a")
    caller.at.advance(minutes=3)
    assert not await caller.passes(budget(100), cost=101, job="job_a")

    await caller.settle("job_a", cost=30)

    assert await caller.spent() == (30, 0)


async def test_the_same_job_again_is_granted_what_it_has(caller: Caller) -> None:
    rules = [tokens(10)]
    assert await caller.passes(rules, take=10, job="job_a")

    assert await caller.ask(rules, take=10, job="job_a") == Reserved(before=True)

    counted = await caller.at.counted(ACME, RuleSet(rules))
    assert not isinstance(counted, Unknown)
    assert counted[0].used == 10


async def test_what_several_requests_of_one_key_hold_is_taken_back_by_the_last(caller: Caller) -> None:
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    assert await caller.passes(budget(100), cost=60, job="job_a", asks="f00d" * 16)
    again = [await caller.ask(budget(100), cost=60, job="job_a", asks="f00d" * 16) for _ in range(2)]
    assert again == [Reserved(before=True)] * 2

    spent = []
    for _ in range(4):
        await caller.at.release(ACME, JobId("job_a"))
        spent.append(await caller.spent())

    assert spent == [(60, 60), (60, 60), (0, 0), (0, 0)]


async def test_what_another_request_of_the_key_took_back_is_settled_all_the_same(caller: Caller) -> None:
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    for _ in range(2):
        await caller.ask(budget(100), cost=60, job="job_a", asks="f00d" * 16)

    await caller.at.release(ACME, JobId("job_a"))
    await caller.settle("job_a", cost=20)

    assert await caller.spent() == (20, 0)


async def test_a_key_under_which_something_else_is_asked_holds_nothing(caller: Caller) -> None:
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    await caller.ask(budget(100), cost=60, job="job_a", asks="f00d" * 16)

    assert await caller.ask(budget(100), cost=1, job="job_a", asks="beef" * 16) == Conflicting()

    assert await caller.spent() == (60, 60)
    await caller.at.release(ACME, JobId("job_a"))
    assert await caller.spent() == (0, 0)


async def test_a_full_redis_holds_up_no_settlement(link: RedisLink, redis_server: RedisServer) -> None:
    reservations, rules = Reservations(link), RuleSet([tokens(100), *budget(10**9)])
    await reservations.seed(ACME, WHOLE, LedgerCounts())
    for job in ("job_a", "job_b", "job_c"):
        await reservations.reserve(
            ACME, JobId(job), rules, tokens=9, micro_usd=50, lapse_ms=60_000, fingerprint="f00d"
        )
    await reservations.reserve(
        ACME, JobId("job_b"), rules, tokens=9, micro_usd=50, lapse_ms=60_000, fingerprint="f00d"
    )

    redis_server.call("CONFIG", "SET", "maxmemory", 1)
    counts = await reservations.settle(
        ACME, JobId("job_a"), tokens=5, micro_usd=20, ended_at=datetime.now(UTC)
    )
    for job in ("job_b", "job_b", "job_c"):
        await reservations.release(ACME, JobId(job))
    with pytest.raises(OutOfMemoryError):
        await reservations.reserve(ACME, JobId("job_d"), rules, tokens=9, micro_usd=50, lapse_ms=60_000)
    redis_server.call("CONFIG", "SET", "maxmemory", 0)

    assert [one.used for one in counts if one.kind == "s"] == [20]
    counted = await reservations.counted(ACME, rules)
    assert not isinstance(counted, Unknown)
    assert [(one.used, one.reserved) for one in counted if one.rule.kind in "ts"] == [(5, 0), (20, 0)]


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


async def test_budgets_above_half_of_their_limit_can_be_read_again(caller: Caller, link: RedisLink) -> None:
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    for job in ("job_a", "job_b"):
        await caller.ask(budget(100, a_day=5), cost=40, job=job)
    await caller.settle("job_a", cost=49)
    before = await caller.at.passed(ACME)

    told = await caller.settle("job_b", cost=1)

    assert before == []
    assert await caller.at.passed(ACME) == [one for one in told if one.kind == "s"]
    left_ms = await link.execute("PTTL", keyspace.passed(ACME))
    assert left_ms > timedelta(days=39) / timedelta(milliseconds=1)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moment=st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001 - Hypothesis wants bounds without a zone, and gives moments with one
async def test_days_and_months_are_those_of_the_calendar(link: RedisLink, moment: datetime) -> None:
    following = datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=UTC)
    ms = int(moment.timestamp() * 1000)
    text = (
        source("settle").split("-- Count what jobs")[0]
        + "return {int(day_of(tonumber(ARGV[1]))), int(month_of(tonumber(ARGV[1]))),"
        + " int(month_start_ms(month_of(tonumber(ARGV[1])) + 1))}"
    )

    day, month, next_month_ms = await link.execute("EVAL", text, 0, ms)

    assert int(day) == day_number(moment)
    assert int(month) == month_number(moment)
    assert int(next_month_ms) == int(following.timestamp() * 1000)


async def test_what_jobs_hold_is_kept_for_as_long_as_new_ones_come(caller: Caller, link: RedisLink) -> None:
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    prefix = keyspace.holds(ACME).removesuffix("holds")
    await caller.ask([calls(100), *budget(100)], job="job_a", cost=10)
    # A key's calls are of their own age: what is reserved may just have been put off for another key's job.
    for keys in ([prefix + "holds", prefix + "due"], [f"{prefix}{KEY}:calls"]):
        for key in keys:
            await link.execute("PEXPIRE", key, 19 * 86_400_000)

        await caller.ask([calls(100), *budget(100)], cost=10)

        for key in keys:
            assert await link.execute("PTTL", key) > 39 * 86_400_000


async def test_windows_alone_are_forgotten_soon_and_budgets_are_not(caller: Caller, link: RedisLink) -> None:
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    await caller.ask([requests(5), *budget(100)])

    prefix = keyspace.holds(ACME).removesuffix("holds")
    assert 60_000 < await link.execute("PTTL", prefix + KEY) <= 120_000
    assert await link.execute("PTTL", prefix + WHOLE) > 30 * 86_400_000


async def test_a_window_of_a_year_is_remembered_beside_a_budget(caller: Caller, link: RedisLink) -> None:
    year = 365 * 86_400
    rules = [requests(1, seconds=year, subject=WHOLE), *budget(100)]
    await caller.at.seed(ACME, WHOLE, LedgerCounts())
    await caller.ask(rules)

    key = keyspace.holds(ACME).removesuffix("holds") + WHOLE
    assert await link.execute("PTTL", key) > 364 * 86_400_000
    await caller.at.seed(ACME, WHOLE, LedgerCounts(), anew=True)
    assert await link.execute("PTTL", key) > 364 * 86_400_000
