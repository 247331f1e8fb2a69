"""A Reply hands on every event once and in order, whatever becomes of the hints."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message

from api.replies import Reply
from shared.domain.job import Job, JobKind, Lane, Surface, Target
from shared.domain.usage import Outcome
from shared.errors import BadRequest, BrokerError, JobLost, ProviderUnavailable
from shared.ids import AccountId, ApiKeyId, RequestId, new_job_id
from shared.queue.frames import EventBatch, Result, ResultHead
from shared.queue.producer import Producer

EVENTS = [b"event %d" % n for n in range(1, 41)]


class Log(Producer):
    """The stored side of one job: its whole event log, in pages, and its result."""

    def __init__(self, sizes: list[int], result: Result | None = None, *, page: int = 2) -> None:
        self.batches: list[EventBatch] = []
        self.ended = result
        self._page = page
        first = 1
        for size in sizes:
            last = min(first + size - 1, len(EVENTS))
            if first <= last:
                self.batches.append(EventBatch(first, last, tuple(EVENTS[first - 1 : last])))
            first = last + 1

    @property
    def last(self) -> int:
        return self.batches[-1].last if self.batches else 0

    async def events_after(self, job_id: str, ordinal: int) -> list[EventBatch]:
        await asyncio.sleep(0)
        return [batch for batch in self.batches if batch.last > ordinal][: self._page]

    async def result(self, job_id: str) -> Result | None:
        return self.ended


def a_job() -> Job:
    return Job(
        id=new_job_id(),
        kind=JobKind.CHAT,
        lane=Lane.INTERACTIVE,
        surface=Surface.OPENAI,
        account=AccountId("a"),
        api_key=ApiKeyId("k"),
        request_id=RequestId("req_12345678"),
        plan=(Target("openai", "m"),),
        stream=True,
        include_usage=False,
        budget_ms=60_000,
        body=b"{}",
    )


async def never() -> Message:
    raise AssertionError("nobody asks whether the caller left")


def a_reply(log: Log) -> Reply:
    return Reply(a_job(), log, receive=never, deadline=float("inf"))


def ended(last: int, outcome: Outcome = Outcome.SUCCEEDED) -> Result:
    error = None if outcome is Outcome.SUCCEEDED else "stream_interrupted"
    return Result(ResultHead(outcome, error=error), b"", last)


async def read_all(reply: Reply, into: list[bytes] | None = None) -> list[bytes]:
    """`into` keeps what came before an error."""
    found = [] if into is None else into
    while (events := await reply.next_events()) is not None:
        found += events
    return found


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=10),
    fates=st.lists(st.sampled_from(["heard", "lost", "twice", "too large"]), min_size=10, max_size=10),
    order=st.randoms(),
    after=st.integers(0, 8),
)
def test_lost_doubled_and_reordered_hints_change_nothing(
    sizes: list[int], fates: list[str], order: object, after: int
) -> None:
    log = Log(sizes)
    heard = [
        replace(batch, events=()) if fate == "too large" else batch
        for batch, fate in zip(log.batches, fates, strict=False)
        for _ in range({"heard": 1, "lost": 0, "twice": 2, "too large": 1}[fate])
    ]
    order.shuffle(heard)  # type: ignore[attr-defined]  # hypothesis' Random
    start = min(after, log.last)

    async def scenario() -> list[bytes]:
        reply = a_reply(log)
        if start:
            reply.start_after(start)
        reader = asyncio.create_task(read_all(reply))
        for batch in heard:
            reply.offer(batch)
            await asyncio.sleep(0)
        reply.offer(ended(log.last))
        return await reader

    assert asyncio.run(scenario()) == EVENTS[start : log.last]


async def test_a_reader_that_falls_behind_catches_up_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.replies._BUFFER_BYTES", 30)
    log = Log([4] * 10)
    reply = a_reply(log)

    for batch in log.batches:
        reply.offer(batch)
    reply.offer(ended(40))

    assert await read_all(reply) == EVENTS


async def test_an_error_comes_after_the_events_before_it() -> None:
    log = Log([3, 3])
    reply = a_reply(log)
    reply.offer(ended(6, Outcome.FAILED))
    found: list[bytes] = []

    with pytest.raises(ProviderUnavailable) as interrupted:
        await read_all(reply, found)

    assert found == EVENTS[:6]
    assert interrupted.value.code == "stream_interrupted"


async def test_a_log_that_is_gone_is_said_and_never_taken_for_the_end() -> None:
    reply = a_reply(Log([]))
    reply.offer(ended(6))

    with pytest.raises(JobLost):
        await read_all(reply)


async def test_a_stream_that_ends_before_where_its_reader_begins_is_said_and_not_empty() -> None:
    reply = a_reply(Log([3]))
    reply.start_after(7)
    reply.offer(ended(3))

    with pytest.raises(BadRequest):
        await read_all(reply)


async def test_a_failure_is_told_to_whoever_saw_more_than_its_log_holds() -> None:
    reply = a_reply(Log([]))
    reply.start_after(7)
    reply.offer(ended(3, Outcome.FAILED))

    with pytest.raises(ProviderUnavailable):
        await read_all(reply)


async def test_a_reader_that_saw_all_of_a_stream_ends_whatever_its_log_lost() -> None:
    reply = a_reply(Log([5]))
    reply.offer(EventBatch(1, 5, tuple(EVENTS[:5])))
    assert len(await reply.next_events() or ()) == 5
    reply.offer(ended(3))

    assert await reply.next_events() is None


async def test_a_tick_with_nothing_new_lets_the_reader_look_at_the_time() -> None:
    reply = a_reply(Log([]))
    waiting = asyncio.create_task(reply.next_events())
    await asyncio.sleep(0)

    reply.wake()

    assert await waiting == ()


async def test_the_first_result_stays_when_a_second_one_is_heard() -> None:
    reply = a_reply(Log([]))
    first = Result(ResultHead(Outcome.SUCCEEDED), b"first")

    reply.offer(first)
    reply.offer(Result(ResultHead(Outcome.SUCCEEDED), b"second"))

    assert (await reply.outcome()).body == b"first"


async def test_a_result_too_large_for_its_hint_is_fetched() -> None:
    whole = Result(ResultHead(Outcome.SUCCEEDED), b"x" * 100_000)
    reply = a_reply(Log([], whole))

    reply.offer(Result(ResultHead(Outcome.SUCCEEDED), None))

    assert (await reply.outcome()).body == whole.body


@pytest.mark.parametrize(
    ("outcome", "error", "status", "code"),
    [
        (Outcome.EXPIRED, None, 504, "deadline_exceeded"),
        (Outcome.CANCELLED, None, 409, "job_cancelled"),
        (Outcome.DEAD, "poison", 500, "poison"),
        (Outcome.FAILED, "stream_interrupted", 502, "stream_interrupted"),
    ],
)
async def test_ends_that_the_queue_itself_decides_are_told(
    outcome: Outcome, error: str | None, status: int, code: str
) -> None:
    reply = a_reply(Log([]))
    reply.offer(Result(ResultHead(outcome, error=error), b""))

    with pytest.raises(BrokerError) as told:
        await reply.outcome()

    assert (told.value.status, told.value.code) == (status, code)
