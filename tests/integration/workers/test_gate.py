"""The gate before a provider: who may call it now, and what the end of a call does to it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random

import pytest
from redis.exceptions import RedisError

from shared import keyspace
from shared.clock import ManualClock
from shared.domain.conditions import BreakerState
from shared.domain.job import Job, JobKind, Lane
from shared.domain.usage import Usage
from shared.errors import (
    BrokerError,
    InvalidRequest,
    ProviderAnswerInvalid,
    ProviderCredentialRefused,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from shared.providers import openai
from shared.providers.profile import AccountLimits
from shared.providers.registry import Registry
from shared.queue.redis_link import RedisLink
from shared.settings import BreakerSettings, Settings, WorkerSettings
from tests.fakes.eventually import eventually
from tests.fakes.redis_server import RedisServer
from tests.integration.queue.support import a_job, open_link
from workers.gate import Gate, Go, Wait, WaitReason

SETTINGS = Settings(_env_file=None, breaker=BreakerSettings(fail_max=2), worker=WorkerSettings(slots=64))
ANSWERED = {"date": "now"}
OPEN, CLOSED, HALF_OPEN = BreakerState.OPEN, BreakerState.CLOSED, BreakerState.HALF_OPEN


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with open_link(redis_url) as link:
        yield link


class Door:
    """A gate, and calls through it."""

    def __init__(self, link: RedisLink, clock: ManualClock, limits: AccountLimits | None = None) -> None:
        self.profile = replace(openai.PROFILE, limits=limits)
        self.gate = Gate.of_worker(
            link,
            SETTINGS,
            Registry([self.profile]),
            consumer="worker",
            providers=[self.profile.id],
            free=lambda: 64,
            clock=clock,
            rng=Random(2),
        )

    async def enter(self, job: Job | None = None, *, remaining_seconds: float = 600) -> Go | Wait:
        job = job or a_job()
        return await self.gate.enter(
            self.profile, job.target, job, holder=f"{job.id}.1", remaining_seconds=remaining_seconds
        )

    async def go(self, job: Job | None = None, *, remaining_seconds: float = 600) -> Go:
        answer = await self.enter(job, remaining_seconds=remaining_seconds)
        assert isinstance(answer, Go), answer
        return answer

    async def wait(self, job: Job | None = None) -> Wait:
        answer = await self.enter(job)
        assert isinstance(answer, Wait), answer
        return answer

    async def call(self, error: BaseException | None = None, *, answered: bool = True) -> None:
        self.gate.leave(await self.go(), error=error, headers=ANSWERED if answered else {})

    @property
    def state(self) -> BreakerState:
        return self.gate.condition(self.profile.id)[0]


@pytest.fixture
def door(link: RedisLink, clock: ManualClock) -> Door:
    return Door(link, clock)


def unavailable(status: int | None = 500, retry_after: float | None = None) -> ProviderUnavailable:
    return ProviderUnavailable(
        "Away.", provider="openai", provider_status=status, retry_after_seconds=retry_after
    )


async def commands_since(link: RedisLink, before: int) -> int:
    """Without the one that asks."""
    return await commands(link) - before - 1


async def commands(link: RedisLink) -> int:
    info: bytes = await link.execute("INFO", "stats")
    (line,) = (line for line in info.split(b"\r\n") if line.startswith(b"total_commands_processed:"))
    return int(line.split(b":")[1])


async def test_a_provider_that_is_well_costs_no_round_trip(link: RedisLink, door: Door) -> None:
    before = await commands(link)

    for _ in range(100):
        await door.call()

    assert await commands_since(link, before) == 0


@pytest.mark.parametrize(
    "error",
    [
        unavailable(),
        unavailable(None),
        ProviderTimeout("Late.", provider="openai"),
        ProviderAnswerInvalid("Nonsense.", provider="openai"),
    ],
)
async def test_failures_of_the_provider_open_its_breaker(door: Door, error: BrokerError) -> None:
    await door.call(error)
    await door.call(error)

    wait = await door.wait()

    assert wait.reason is WaitReason.OPEN
    assert 30 <= wait.seconds <= 30.5
    assert door.gate.room("openai") == 0


@pytest.mark.parametrize(
    "error",
    [
        ProviderRejected("No.", provider="openai", provider_status=400),
        ProviderCredentialRefused("No.", provider="openai", provider_status=401),
        asyncio.CancelledError(),
        RuntimeError("a bug of ours"),
    ],
)
async def test_failures_that_are_not_the_providers_do_not(door: Door, error: BaseException) -> None:
    for _ in range(30):
        await door.call(error)

    assert door.state is CLOSED


@pytest.mark.parametrize("status", [503, 529])
async def test_overload_opens_it_only_when_it_is_most_of_the_window(door: Door, status: int) -> None:
    for _ in range(19):
        await door.call(unavailable(status))
    assert door.state is CLOSED

    await door.call(unavailable(status))

    assert door.state is OPEN


async def test_a_provider_that_comes_and_goes_opens_its_breaker_no_faster_than_it_resets(
    link: RedisLink, clock: ManualClock
) -> None:
    """Up for 2 s and down for 2 s, for 5 min, asked by two workers all the time."""
    doors = [Door(link, clock), Door(link, clock)]
    opened_at: list[float] = []
    left = 0.0
    failed = 0

    for step in range(1_200):
        is_up = step % 16 < 8
        for door in doors:
            answer = await door.enter()
            if isinstance(answer, Go):
                failed += not is_up
                door.gate.leave(
                    answer, error=None if is_up else unavailable(), headers=ANSWERED if is_up else {}
                )
            await door.gate.fleet.tell()
        for door in doors:
            await door.gate.fleet.look()
        _, open_seconds, _ = doors[0].gate.condition("openai")
        if open_seconds > left:
            opened_at.append(step / 4)
        left = open_seconds
        clock.advance(0.25)

    reset = SETTINGS.breaker.reset_seconds
    assert 5 < len(opened_at) <= 300 / reset
    assert all(later - earlier >= reset for earlier, later in itertools.pairwise(opened_at))
    assert failed <= len(opened_at) * len(doors) * SETTINGS.breaker.fail_max


async def test_overload_with_a_wish_pauses(door: Door) -> None:
    await door.call(unavailable(503, retry_after=7))

    wait = await door.wait()

    assert wait.reason is WaitReason.PAUSED
    assert 7 <= wait.seconds <= 7.5


async def test_a_deadline_of_the_caller_says_nothing_of_the_provider(door: Door, clock: ManualClock) -> None:
    for _ in range(5):
        go = await door.go(remaining_seconds=0.5)
        clock.advance(0.5)
        door.gate.leave(go, error=ProviderTimeout("Late.", provider="openai"))

    assert door.state is CLOSED


async def test_a_provider_that_never_answers_in_the_usual_time_fails(door: Door, clock: ManualClock) -> None:
    for _ in range(2):
        go = await door.go(remaining_seconds=60)
        clock.advance(60)
        door.gate.leave(go, error=ProviderTimeout("Late.", provider="openai"))

    assert door.state is OPEN


@pytest.mark.parametrize(
    ("error", "answered", "state"),
    [
        (None, True, CLOSED),
        (ProviderRejected("No.", provider="openai", provider_status=400), True, CLOSED),
        (InvalidRequest("It speaks no such thing."), False, HALF_OPEN),
        (ProviderCredentialRefused("No key.", provider="openai"), False, HALF_OPEN),
        (asyncio.CancelledError(), True, HALF_OPEN),
        (ProviderRateLimited("Slow.", provider="openai", provider_status=429), True, HALF_OPEN),
        (unavailable(), True, OPEN),
        (unavailable(503), True, OPEN),
    ],
)
async def test_only_an_answer_of_the_provider_ends_half_open(
    door: Door, clock: ManualClock, error: BaseException | None, answered: bool, state: BreakerState
) -> None:
    await door.call(unavailable())
    await door.call(unavailable())
    clock.advance(SETTINGS.breaker.reset_seconds)

    await door.call(error, answered=answered)

    assert door.state is state


async def test_others_wait_while_one_probes(door: Door, clock: ManualClock) -> None:
    await door.call(unavailable())
    await door.call(unavailable())
    clock.advance(SETTINGS.breaker.reset_seconds)
    await door.go()

    wait = await door.wait()

    assert wait.reason is WaitReason.OPEN
    assert wait.seconds <= 2
    assert door.gate.pacing._pace("openai", "default").running == 1


async def test_a_rate_limit_pauses_every_worker_and_counts_for_no_breaker(
    link: RedisLink, clock: ManualClock
) -> None:
    first, second = Door(link, clock), Door(link, clock)
    await first.call(ProviderRateLimited("Slow.", provider="openai", retry_after_seconds=5))
    await first.gate.fleet.tell()
    await second.gate.fleet.look()

    waits = [await first.wait(), await second.wait()]

    assert [wait.reason for wait in waits] == [WaitReason.PAUSED] * 2
    assert all(4 < wait.seconds <= 5.5 for wait in waits)
    assert (first.state, second.state) == (CLOSED, CLOSED)
    assert first.gate.room("openai") == 0


async def test_the_end_of_a_pause_is_no_stampede(door: Door, clock: ManualClock) -> None:
    calls = [await door.go() for _ in range(10)]
    clock.advance(0.1)
    for call in calls:
        door.gate.leave(call, error=ProviderRateLimited("Slow.", provider="openai", retry_after_seconds=1))
    clock.advance(1)

    answers = [await door.enter() for _ in range(10)]

    assert sum(isinstance(answer, Go) for answer in answers) == 5
    assert {a.reason for a in answers if isinstance(a, Wait)} == {WaitReason.PACED}
    assert door.gate.room("openai") == 0


@pytest.mark.parametrize("limits", [None, AccountLimits(concurrent=1)])
async def test_of_thousands_that_find_an_account_full_few_come_back_in_a_second(
    link: RedisLink, clock: ManualClock, limits: AccountLimits | None
) -> None:
    door = Door(link, clock, limits)
    if limits is None:
        await door.call(ProviderRateLimited("Slow.", provider="openai", retry_after_seconds=1))
        clock.advance(2)
    await door.go()

    waits = [await door.wait() for _ in range(2_000)]
    urgent = await door.enter(a_job(), remaining_seconds=4)
    other_lane = await door.enter(a_job(lane=Lane.STANDARD))

    assert sum(wait.seconds <= 1 for wait in waits) <= 100
    assert max(wait.seconds for wait in waits) <= 10
    assert isinstance(urgent, Wait)
    assert urgent.seconds <= 1
    assert isinstance(other_lane, Wait)
    assert other_lane.seconds <= 1


async def test_headers_that_leave_nothing_pause_before_a_refusal(door: Door) -> None:
    go = await door.go()

    door.gate.leave(go, headers={"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9"})

    assert (await door.wait()).reason is WaitReason.PAUSED


async def test_leaving_twice_is_leaving_once(door: Door) -> None:
    go = await door.go()
    await door.go()

    for _ in range(5):
        door.gate.leave(go, error=unavailable())

    assert door.state is CLOSED
    assert door.gate.pacing._pace("openai", "default").running == 1


async def test_the_limit_of_an_account_holds_over_workers(link: RedisLink, clock: ManualClock) -> None:
    doors = [Door(link, clock, AccountLimits(concurrent=3)) for _ in range(3)]

    answers = [await door.enter() for door in doors for _ in range(3)]

    assert sum(isinstance(answer, Go) for answer in answers) == 3
    assert {a.reason for a in answers if isinstance(a, Wait)} == {WaitReason.NO_PERMIT}
    assert sum(d.gate.pacing._pace("openai", "default").running for d in doors) == 3


async def test_what_a_call_leaves_of_its_estimate_is_there_for_others(
    link: RedisLink, clock: ManualClock
) -> None:
    door = Door(link, clock, AccountLimits(output_tokens_per_minute=600))
    job = a_job(body=b'{"model":"m","messages":[],"max_tokens":100}')
    go = await door.go(job)
    assert (await door.wait()).reason is WaitReason.NO_PERMIT

    door.gate.leave(go, headers=ANSWERED, usage=Usage(prompt_tokens=1, completion_tokens=2))
    await door.gate.give_back()

    await door.go(a_job(body=b'{"model":"m","messages":[],"max_tokens":90}'))


async def test_a_refused_call_took_no_tokens(link: RedisLink, clock: ManualClock) -> None:
    door = Door(link, clock, AccountLimits(output_tokens_per_minute=600))
    body = b'{"model":"m","messages":[],"max_tokens":100}'
    go = await door.go(a_job(body=body))

    door.gate.leave(
        go, error=ProviderRejected("No.", provider="openai", provider_status=400), headers=ANSWERED
    )
    await door.gate.give_back()

    await door.go(a_job(body=body))


async def test_batch_work_leaves_half_of_the_calls_at_once_to_others(
    link: RedisLink, clock: ManualClock
) -> None:
    door = Door(link, clock, AccountLimits(concurrent=4))

    answers = [await door.enter(a_job(lane=Lane.BATCH)) for _ in range(4)]

    assert sum(isinstance(answer, Go) for answer in answers) == 2
    assert isinstance(await door.enter(), Go)


async def test_embeddings_take_no_output_tokens(link: RedisLink, clock: ManualClock) -> None:
    door = Door(link, clock, AccountLimits(output_tokens_per_minute=1))

    for _ in range(5):
        await door.go(replace(a_job(body=b'{"model":"m","input":"hi"}'), kind=JobKind.EMBEDDINGS))


async def test_an_entrant_cancelled_while_it_asks_takes_nothing(link: RedisLink, clock: ManualClock) -> None:
    door = Door(link, clock, AccountLimits(concurrent=1))
    entering = asyncio.create_task(door.enter())
    await asyncio.sleep(0)
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)
    assert entering.cancelled()

    await door.gate.give_back()

    await door.go()
    assert door.gate.pacing._pace("openai", "default").running == 1


async def test_without_redis_limited_work_waits_and_other_work_goes_on(
    private_redis: RedisServer, clock: ManualClock
) -> None:
    async with open_link(private_redis.url, timeout=1) as link:
        limited, free = Door(link, clock, AccountLimits(concurrent=1)), Door(link, clock)
        private_redis.kill9()

        assert (await limited.wait()).reason is WaitReason.NO_PERMIT
        await free.call()
        with pytest.raises(RedisError):
            await limited.gate.give_back()
        private_redis.start()
        await limited.gate.give_back()

        await limited.go()


async def test_its_duty_gives_back_and_tells_by_itself(redis_url: str) -> None:
    async with open_link(redis_url) as link:
        profile = replace(openai.PROFILE, limits=AccountLimits(concurrent=1))
        gate = Gate.of_worker(
            link, SETTINGS, Registry([profile]), consumer="w", providers=["openai"], free=lambda: 1
        )
        duty = asyncio.create_task(gate.run_forever())
        job = a_job()
        go = await gate.enter(profile, job.target, job, holder="1", remaining_seconds=9)
        assert isinstance(go, Go)
        refused = ProviderRateLimited("Slow.", provider="openai", retry_after_seconds=30)

        gate.leave(go, error=refused)

        async def all_told() -> bool:
            keys = [keyspace.pause("openai", "default"), keyspace.load("openai")]
            held = await link.execute("ZCARD", keyspace.permit_holders("openai", "default"))
            return bool(held == 0 and await link.execute("EXISTS", *keys) == 2)

        await eventually(all_told, "the permit back, the pause and the load told", within=3)
        duty.cancel()
        await asyncio.gather(duty, return_exceptions=True)
        await gate.close()
        assert await link.execute("EXISTS", keyspace.load("openai")) == 0


async def test_entering_and_leaving_costs_next_to_nothing(door: Door) -> None:
    job = a_job()

    async def thousand() -> float:
        started = time.thread_time()
        for _ in range(1_000):
            go = await door.gate.enter(door.profile, job.target, job, holder="h", remaining_seconds=60)
            assert isinstance(go, Go)
            door.gate.leave(go, headers=ANSWERED)
        return (time.thread_time() - started) * 1e6 / 1_000

    assert min([await thousand() for _ in range(5)]) < 60
