"""Permits: never more than the limit in any minute, whoever asks, and nothing lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import count

import pytest
from redis.crc import key_slot

from shared import keyspace
from shared.limits.permits import HOLD_SECONDS, Amounts, NoPermit, Permit, Permits
from shared.providers.limits import Limit, Limits
from shared.providers.profile import AccountLimits
from shared.queue.redis_link import RedisLink
from tests.fakes.eventually import eventually
from tests.integration.queue.support import open_link

ACCOUNT = ("openai", "default")


class Time:
    """In the place of Redis TIME, in ms."""

    def __init__(self) -> None:
        self.now = 1_790_000_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds * 1000


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with open_link(redis_url) as link:
        yield link


class Asker:
    """Takes permits of one account under names of its own."""

    def __init__(self, link: RedisLink, time: Time | None = None, **limits: int) -> None:
        self.permits = Permits(link, {"openai": AccountLimits(**limits)}, clock_ms=time)
        self._names = count()

    async def ask(self, wanted: Amounts = Amounts(), *, batch: bool = False) -> Permit | NoPermit:  # noqa: B008 - frozen
        return await self.permits.take(ACCOUNT, f"job.{next(self._names)}", wanted, batch=batch)

    async def get(self, wanted: Amounts = Amounts(), *, batch: bool = False) -> Permit:  # noqa: B008 - frozen
        answer = await self.ask(wanted, batch=batch)
        assert isinstance(answer, Permit), answer
        return answer

    async def granted(self, *, batch: bool = False) -> int:
        """How many can be had at this moment."""
        for n in count():
            if isinstance(await self.ask(batch=batch), NoPermit):
                return n
        raise AssertionError


async def test_a_sixth_of_a_minute_may_come_at_once(link: RedisLink, time: Time) -> None:
    assert await Asker(link, time, requests_per_minute=60).granted() == 10


async def test_a_refused_caller_is_granted_after_the_wait_it_was_told(link: RedisLink, time: Time) -> None:
    asker = Asker(link, time, requests_per_minute=60)
    await asker.granted()
    refused = await asker.ask()
    assert isinstance(refused, NoPermit)
    assert refused.seconds == pytest.approx(1, abs=0.01)

    time.advance(refused.seconds)

    await asker.get()


@pytest.mark.parametrize("limit", [1, 5, 60, 1_000])
async def test_no_minute_sees_more_than_the_limit_and_few_see_much_less(
    link: RedisLink, time: Time, limit: int
) -> None:
    asker = Asker(link, time, requests_per_minute=limit)
    moments: list[float] = []
    step = 60 / limit / 3 if limit < 60 else 1.0
    until = time.now + 300_000

    while time.now < until:
        moments += [time.now] * await asker.granted()
        time.advance(step)

    busiest = max(sum(at <= other < at + 60_000 for other in moments) for at in moments)
    assert busiest <= limit
    assert len(moments) >= 0.8 * limit * 5


async def test_processes_together_take_no_more_than_the_limit(redis_url: str) -> None:
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(open_link(redis_url)) for _ in range(6)]
        askers = [
            Permits(link, {"openai": AccountLimits(requests_per_minute=60, concurrent=7)}) for link in links
        ]

        answers = await asyncio.gather(
            *(
                asker.take(ACCOUNT, f"{n}.{i}", Amounts(), batch=False)
                for n, asker in enumerate(askers)
                for i in range(50)
            )
        )

    assert sum(isinstance(answer, Permit) for answer in answers) == 7


async def test_calls_at_once_are_counted_over_all_processes_in_real_time(redis_url: str) -> None:
    running = most = 0

    async def work(permits: Permits, name: str) -> None:
        nonlocal running, most

        async def permitted() -> Permit | None:
            answer = await permits.take(ACCOUNT, name, Amounts(), batch=False)
            return answer if isinstance(answer, Permit) else None

        permit = await eventually(permitted, "a permit", every=0)
        assert permit is not None
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        assert permit is not None
        await permits.give_back(permit)

    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(open_link(redis_url)) for _ in range(4)]
        workers = [Permits(link, {"openai": AccountLimits(concurrent=3)}) for link in links]
        await asyncio.gather(*(work(p, f"{n}.{i}") for n, p in enumerate(workers) for i in range(20)))

    assert most == 3


async def test_asking_again_is_not_taking_twice(link: RedisLink, time: Time) -> None:
    asker = Asker(link, time, requests_per_minute=12, concurrent=1)

    first = await asker.permits.take(ACCOUNT, "job", Amounts(), batch=False)
    again = await asker.permits.take(ACCOUNT, "job", Amounts(), batch=False)
    assert first == again
    assert isinstance(first, Permit)
    await asker.permits.give_back(first)
    await asker.permits.give_back(first)

    await asker.get()
    assert isinstance(await asker.ask(), NoPermit)


@pytest.mark.parametrize("part", ["input_tokens_per_minute", "output_tokens_per_minute", "tokens_per_minute"])
async def test_tokens_are_counted_as_they_really_were(link: RedisLink, time: Time, part: str) -> None:
    asker = Asker(link, time, **{part: 600})
    permit = await asker.get(Amounts(100, 100))
    assert isinstance(await asker.ask(Amounts(50, 50)), NoPermit)

    await asker.permits.give_back(permit, Amounts(10, 10))

    await asker.get(Amounts(40, 40))
    assert isinstance(await asker.ask(Amounts(60, 60)), NoPermit)


async def test_more_tokens_than_estimated_are_paid_back_before_the_next_call(
    link: RedisLink, time: Time
) -> None:
    asker = Asker(link, time, tokens_per_minute=600)
    permit = await asker.get(Amounts(10))

    await asker.permits.give_back(permit, Amounts(10, 290))
    refused = await asker.ask(Amounts(10))

    assert isinstance(refused, NoPermit)
    assert refused.seconds == pytest.approx(21, abs=0.1)


async def test_a_call_larger_than_the_limit_runs_alone_rather_than_never(link: RedisLink, time: Time) -> None:
    asker = Asker(link, time, tokens_per_minute=600)
    permit = await asker.get(Amounts(5_000))
    await asker.permits.give_back(permit, Amounts(5_000))
    assert isinstance(await asker.ask(Amounts(1)), NoPermit)

    time.advance(600)

    await asker.get(Amounts(5_000))


async def test_batch_work_leaves_a_fifth_free(link: RedisLink, time: Time) -> None:
    asker = Asker(link, time, requests_per_minute=60)

    assert await asker.granted(batch=True) == 8
    assert await asker.granted() == 2


async def test_batch_work_is_at_most_half_of_the_calls_at_once(link: RedisLink, time: Time) -> None:
    asker = Asker(link, time, concurrent=10)
    held = [await asker.get(batch=True) for _ in range(5)]

    assert isinstance(await asker.ask(batch=True), NoPermit)
    assert await asker.granted() == 5
    await asker.permits.give_back(held[0])
    assert isinstance(await asker.ask(batch=True), NoPermit), "the last fifth is not for batch work"
    await asker.get()


@pytest.mark.parametrize("limits", [{"requests_per_minute": 1}, {"concurrent": 1}, {"tokens_per_minute": 1}])
async def test_batch_work_runs_on_the_smallest_account_too(
    link: RedisLink, time: Time, limits: dict[str, int]
) -> None:
    await Asker(link, time, **limits).get(Amounts(1), batch=True)


async def test_the_place_of_a_holder_that_died_is_free_again_and_that_of_one_that_runs_is_not(
    link: RedisLink, time: Time
) -> None:
    alive, dead = (Asker(link, time, concurrent=2) for _ in range(2))
    await alive.permits.take(ACCOUNT, "alive", Amounts(), batch=True)
    await dead.permits.take(ACCOUNT, "dead", Amounts(), batch=False)

    time.advance(HOLD_SECONDS * 0.6)
    await alive.permits.renew()
    time.advance(HOLD_SECONDS * 0.6)

    assert await Asker(link, time, concurrent=2).granted() == 1


async def test_a_holder_that_was_forgotten_gives_nothing_back(link: RedisLink, time: Time) -> None:
    asker = Asker(link, time, tokens_per_minute=600, concurrent=1)
    late = await asker.get(Amounts(100))
    time.advance(HOLD_SECONDS + 1)
    await asker.get(Amounts(100))

    await asker.permits.give_back(late, Amounts(0))

    assert isinstance(await asker.ask(Amounts(1)), NoPermit)


@pytest.mark.parametrize(("told", "granted"), [(30, 5), (600, 10)])
async def test_a_limit_that_the_provider_told_lowers_and_never_raises(
    link: RedisLink, time: Time, told: int, granted: int
) -> None:
    asker = Asker(link, time, requests_per_minute=60)

    asker.permits.told(*ACCOUNT, Limits(requests=Limit(limit=told)))

    assert await asker.granted() == granted


async def test_a_clock_of_the_server_that_goes_back_grants_nothing_more(link: RedisLink, time: Time) -> None:
    asker = Asker(link, time, requests_per_minute=60)
    await asker.granted()

    time.advance(-3600)

    assert await asker.granted() == 0


async def test_accounts_have_limits_each_of_their_own(link: RedisLink, time: Time) -> None:
    asker = Asker(link, time, concurrent=1)
    await asker.get()

    other = await asker.permits.take(("openai", "own"), "job", Amounts(), batch=False)

    assert isinstance(other, Permit)
    assert asker.permits.limited("openai")
    assert not asker.permits.limited("anthropic")


async def test_scripts_are_sent_again_to_a_server_that_lost_them(link: RedisLink, time: Time) -> None:
    asker = Asker(link, time, concurrent=2)
    await asker.get()
    await link.execute("SCRIPT", "FLUSH")

    await asker.get()


async def test_nothing_is_left_behind_by_accounts_that_rest(link: RedisLink) -> None:
    permits = Permits(link, {"openai": AccountLimits(requests_per_minute=60)})
    await permits.take(ACCOUNT, "job", Amounts(), batch=True)

    keys = await link.execute("KEYS", "hr:permits:*")

    left_ms = [await link.execute("PTTL", key) for key in keys]
    assert len(keys) == 3
    assert all(0 < ms <= 125_000 for ms in left_ms)


def test_the_keys_of_an_account_share_a_slot() -> None:
    keys = [
        keyspace.permits(*ACCOUNT),
        keyspace.permit_holders(*ACCOUNT),
        keyspace.permit_holders(*ACCOUNT, batch=True),
    ]

    assert len({key_slot(key.encode()) for key in keys}) == 1
