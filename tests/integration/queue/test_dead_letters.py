"""Dead letters: found, shown without what was asked, run again once, thrown away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from shared import keyspace
from shared.domain.job import Job, JobState, Lane
from shared.domain.trace import TraceOrigin
from shared.errors import DeadLetterExpired, InvalidRequest, NotFound, QueueFull, QueueUnavailable
from shared.ids import AccountId, new_job_id
from shared.queue.consumer import Consumer
from shared.queue.dead_letters import DeadLetters, Which
from shared.queue.redis_link import RedisLink, ServerLink
from shared.settings import QueueSettings
from tests.integration.queue.support import PROVIDER, Queue, a_job

OTHER = "lab"
SHARDS = 4


@pytest.fixture
def letters(queue: Queue) -> DeadLetters:
    return DeadLetters(queue.link, queue.settings, [PROVIDER, OTHER])


async def dies(queue: Queue, *jobs: Job) -> None:
    """Each runs until it has stopped as many workers as one may."""
    for job in jobs:
        settings = queue.settings.model_copy(update={"max_deliveries": 1})
        worker = Consumer(queue.link, settings, "worker", [job.target.provider])
        await worker.create_groups()
        await queue.enqueue(job)
        await queue.lease(worker)
        await queue.make_idle(job, worker)
        (delivery,) = await worker.reclaim(1)
        assert await worker.begin(delivery) is None


async def expires(queue: Queue, job: Job) -> None:
    assert await queue.link.execute("DEL", keyspace.job(queue.shard(job), job.id)) == 1


async def test_letters_are_listed_newest_first_over_all_shards_and_providers(link: RedisLink) -> None:
    queue = Queue(link, QueueSettings(shards=SHARDS))
    letters = DeadLetters(link, queue.settings, [PROVIDER, OTHER])
    jobs = [a_job(provider=(PROVIDER, OTHER)[n % 2]) for n in range(23)]
    await dies(queue, *jobs)

    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await letters.page(limit=5, cursor=cursor)
        seen += [letter.job_id for letter in page.letters]
        if (cursor := page.cursor) is None:
            break

    assert len({queue.shard(job) for job in jobs}) > 1
    assert seen == [job.id for job in reversed(jobs)]


async def test_entries_of_one_millisecond_in_several_streams_are_each_on_one_page(link: RedisLink) -> None:
    letters = DeadLetters(link, QueueSettings(shards=SHARDS), [PROVIDER, OTHER])
    for shard in range(SHARDS):
        for provider in (PROVIDER, OTHER):
            for sequence in range(3):
                await link.execute(
                    "XADD", keyspace.dead(shard, provider), f"5-{sequence}",
                    "job", f"{provider}.{shard}.{sequence}",
                )  # fmt: skip

    seen: list[str] = []
    cursor: str | None = None
    for _ in range(SHARDS * 2 * 3):
        page = await letters.page(limit=1, cursor=cursor)
        seen += [letter.job_id for letter in page.letters]
        cursor = page.cursor

    assert len(set(seen)) == SHARDS * 2 * 3
    assert cursor is None


async def test_more_letters_than_are_read_at_once_are_all_listed(
    queue: Queue, letters: DeadLetters, link: RedisLink
) -> None:
    for n in range(250):
        await link.execute("XADD", keyspace.dead(0, (PROVIDER, OTHER)[n % 2]), f"{n + 1}-0", "job", f"{n}")

    page = await letters.page(limit=500)

    assert [letter.job_id for letter in page.letters] == [str(n) for n in reversed(range(250))]
    assert page.cursor is None


async def test_letters_are_told_apart_by_provider_account_and_reason(
    queue: Queue, letters: DeadLetters, link: RedisLink
) -> None:
    mine, theirs, elsewhere = a_job(), a_job(account=AccountId("other")), a_job(provider=OTHER)
    await dies(queue, mine, theirs, elsewhere)
    await link.execute("XADD", keyspace.dead(0, PROVIDER), "*", "job", "job_odd", "reason", "odd")

    async def found(**which: str) -> list[str]:
        page = await letters.page(Which(**which))  # type: ignore[arg-type]  # any field of the filter
        assert page.cursor is None
        return [letter.job_id for letter in page.letters]

    assert await found(provider=OTHER) == [elsewhere.id]
    assert await found(account="other") == [theirs.id]
    assert await found(reason="odd") == ["job_odd"]
    assert await found(provider=PROVIDER, account="acme", reason="poison") == [mine.id]
    assert await found(provider="never-heard-of") == []


async def test_a_cursor_that_no_page_gave_is_refused(letters: DeadLetters) -> None:
    for cursor in ("", "0-0:0:openai", "5-0", "5-0:0:openai\n", "(5-0:0:openai"):
        with pytest.raises(InvalidRequest):
            await letters.page(cursor=cursor)


async def test_a_letter_is_shown_without_what_was_asked_unless_that_is_wanted(
    queue: Queue, letters: DeadLetters
) -> None:
    job = a_job(body=b'{"model":"m","messages":["secret"]}')
    await dies(queue, job)

    shown = await letters.show(job.id)
    whole = await letters.show(job.id, include_body=True)

    assert (shown.state, shown.error) == (JobState.FAILED, {"code": "poison"})
    assert (shown.letter.reason, shown.letter.deliveries, shown.letter.account) == ("poison", 1, "acme")
    assert "secret" not in repr(shown)
    assert whole.body == {"model": "m", "messages": ["secret"]}
    assert shown.created_at is not None
    assert shown.finished_at is not None
    assert shown.expires_at is not None
    assert shown.created_at <= shown.letter.died_at < shown.expires_at
    # The server reads its clock for the letter, the script reads it for the end.
    assert abs(shown.letter.died_at - shown.finished_at) < timedelta(seconds=1)


async def test_a_job_that_never_died_is_no_dead_letter(queue: Queue, letters: DeadLetters) -> None:
    await queue.enqueue(job := a_job())

    for ask in (letters.show, letters.redrive, letters.purge):
        with pytest.raises(NotFound):
            await ask(job.id)


@pytest.mark.parametrize("shards", [1, SHARDS])
async def test_a_redriven_job_runs_as_a_new_one_in_the_lane_of_the_old(link: RedisLink, shards: int) -> None:
    queue = Queue(link, QueueSettings(shards=shards))
    letters = DeadLetters(link, queue.settings, [PROVIDER])
    origin = TraceOrigin("00-1-2-01")
    dead = replace(a_job(lane=Lane.BATCH, stream=True), row="batch_1:7", trace=origin)
    await dies(queue, dead)
    before = await queue.fields(dead)

    again = await letters.redrive(dead.id)

    lease = await queue.lease(queue.consumer("healthy"))
    assert (lease.job.id, lease.delivery.lane) == (again.redriven_as, Lane.BATCH)
    assert (lease.attempts, lease.deliveries) == (0, 1)
    assert lease.remaining_ms > dead.budget_ms - 5_000
    # The row of the dead one has ended, and takes no other end.
    assert lease.job.row is None
    assert lease.job.trace == origin.as_past()
    assert {**vars_of(lease.job), "id": dead.id, "row": dead.row, "trace": origin} == vars_of(dead)
    assert await queue.fields(dead) == {**before, "redriven_as": again.redriven_as}
    await queue.finish(queue.consumer("healthy"), lease)
    assert await queue.state(lease.job) == JobState.SUCCEEDED
    assert (await letters.show(dead.id)).letter.redriven_as == again.redriven_as
    # Nobody reads it, and still it is not stopped for that.
    assert (await queue.fields(lease.job))["keep"] == "1"


async def test_fifty_redrives_at_once_make_one_new_job(queue: Queue, letters: DeadLetters) -> None:
    dead = a_job()
    await dies(queue, dead)

    answers = await asyncio.gather(*(letters.redrive(dead.id) for _ in range(50)))
    later = await letters.redrive(dead.id)

    assert len({answer.redriven_as for answer in (*answers, later)}) == 1
    assert sorted(answer.repeated for answer in answers) == [False] + [True] * 49
    assert later.repeated
    assert await queue.entries(dead) == [later.redriven_as]
    shard = queue.shard(dead)
    jobs = await queue.link.execute("KEYS", f"hr:{{{shard}}}:job:*")
    assert {key.decode() for key in jobs} == {
        keyspace.job(shard, dead.id),
        keyspace.job(shard, later.redriven_as),
    }


async def test_a_letter_whose_job_expired_says_so_and_cannot_be_redriven(
    queue: Queue, letters: DeadLetters
) -> None:
    dead = a_job()
    await dies(queue, dead)
    await expires(queue, dead)

    shown = await letters.show(dead.id, include_body=True)
    with pytest.raises(DeadLetterExpired):
        await letters.redrive(dead.id)

    assert (shown.letter.is_kept, shown.state, shown.body) == (False, None, None)
    assert await queue.entries(dead) == []
    assert await letters.redrive_all(Which(provider=PROVIDER)) == await letters.redrive_all(Which())


async def test_all_letters_of_a_provider_are_redriven_once_and_a_limit_is_kept(
    queue: Queue, letters: DeadLetters
) -> None:
    jobs = [a_job() for _ in range(5)]
    elsewhere = a_job(provider=OTHER)
    await dies(queue, *jobs, elsewhere)

    first = await letters.redrive_all(Which(provider=PROVIDER), limit=3)
    rest = await letters.redrive_all(Which(provider=PROVIDER), limit=3)
    none = await letters.redrive_all(Which(provider=PROVIDER), limit=3)

    assert [len(answer.redriven) for answer in (first, rest, none)] == [3, 2, 0]
    assert [answer.more for answer in (first, rest, none)] == [True, False, False]
    redriven = [*first.redriven, *rest.redriven]
    assert [one.job_id for one in redriven] == [job.id for job in reversed(jobs)]
    again = [replace(a_job(), id=one.redriven_as) for one in redriven]
    assert len({job.id for job in again}) == 5
    # In the stream or, beyond an account's share of it, in the backlog.
    assert [await queue.state(job) for job in again] == ["queued"] * 5
    assert await queue.entries(elsewhere) == []


async def test_a_full_lane_takes_no_redriven_job(queue: Queue) -> None:
    dead = a_job()
    waiting = queue.a_job_beside(dead)
    await dies(queue, dead)
    await queue.enqueue(waiting)
    full = queue.settings.model_copy(update={"max_lane_entries": 1})
    letters = DeadLetters(queue.link, full, [PROVIDER])

    with pytest.raises(QueueFull):
        await letters.redrive(dead.id)
    answer = await letters.redrive_all(Which(provider=PROVIDER))

    assert (answer.redriven, answer.more) == ((), True)
    assert await queue.entries(dead) == [waiting.id]
    assert (await letters.show(dead.id)).letter.redriven_as is None


async def test_a_purged_letter_is_gone_and_its_job_is_kept_as_long_as_any_other(
    queue: Queue, letters: DeadLetters, link: RedisLink
) -> None:
    dead, other = a_job(), a_job()
    await dies(queue, dead, other)
    key = keyspace.job(queue.shard(dead), dead.id)
    await link.execute("PEXPIRE", key, 604_800_000)

    await letters.purge(dead.id)

    assert 0 < await link.execute("PTTL", key) <= queue.settings.retain_seconds * 1000
    assert [letter.job_id for letter in (await letters.page()).letters] == [other.id]
    with pytest.raises(NotFound):
        await letters.purge(dead.id)


async def test_letters_older_than_an_age_are_purged_and_younger_ones_stay(
    queue: Queue, letters: DeadLetters, link: RedisLink
) -> None:
    for n in range(250):
        await link.execute("XADD", keyspace.dead(0, OTHER), f"{n + 1}-0", "job", new_job_id())
    await dies(queue, young := a_job())

    assert await letters.purge_older_than(timedelta(days=1), Which(provider=PROVIDER)) == 0
    assert await letters.purge_older_than(timedelta(days=1)) == 250
    assert await letters.purge_older_than(timedelta(days=365_000)) == 0

    assert [letter.job_id for letter in (await letters.page()).letters] == [young.id]


async def test_letters_are_counted_by_provider(link: RedisLink) -> None:
    queue = Queue(link, QueueSettings(shards=SHARDS))
    letters = DeadLetters(link, queue.settings, [PROVIDER, OTHER, "quiet"])
    await dies(queue, *[a_job() for _ in range(3)], a_job(provider=OTHER))

    assert await letters.count() == {PROVIDER: 3, OTHER: 1, "quiet": 0}


async def test_without_redis_every_question_is_answered_with_queue_unavailable() -> None:
    link = ServerLink("redis://127.0.0.1:1/0", timeout=1)
    letters = DeadLetters(link, QueueSettings(), [PROVIDER])

    for ask in (letters.page(), letters.show(new_job_id()), letters.redrive_all(Which())):
        with pytest.raises(QueueUnavailable):
            await ask


def vars_of(job: Job) -> dict[str, object]:
    return {name: getattr(job, name) for name in Job.__slots__}
