"""Every script: which keys it is called with, and that sending it twice is sending it once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import pytest
from redis.crc import key_slot

from scheduler.duties.forget_consumers import forget_consumers
from shared import keyspace
from shared.domain.job import OWN_ROW, JobState, Lane, Target
from shared.errors import JobForgotten
from shared.ids import AccountId
from shared.queue.dead_letters import DeadLetters
from shared.queue.delays import Delays
from shared.queue.ended import EndedJobs
from shared.queue.redis_link import RedisArg, RedisLink
from shared.queue.script_calls import SCRIPTS, Scripts, source
from shared.settings import QueueSettings
from tests.integration.queue.support import ACME, PROVIDER, Queue, a_job, redis_version

FILES = {
    file.name.removesuffix(".lua")
    for file in resources.files("shared.queue.scripts").iterdir()
    if file.name.endswith(".lua")
}


@dataclass(frozen=True)
class Call:
    script: str
    keys: list[str]
    args: tuple[RedisArg, ...]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What every caller passes from now on."""
    made: list[Call] = []
    call = Scripts.call

    async def recorded(self: Scripts, name: str, keys: list[str], *args: RedisArg) -> Any:
        made.append(Call(name, keys, args))
        return await call(self, name, keys, *args)

    monkeypatch.setattr(Scripts, "call", recorded)
    return made


async def use_every_script(queue: Queue, link: RedisLink) -> None:
    worker = queue.consumer("worker")
    await worker.create_groups()
    await _purged(queue)
    finished, retried, returned, cancelled = jobs = [a_job(stream=True) for _ in range(4)]
    more = [a_job() for _ in range(30)]
    moved = replace(a_job(), plan=(Target(PROVIDER, "m"), Target("other", "m")))
    twin = replace(a_job(), account=AccountId("twin"))
    await queue.enqueue(*jobs, *more, moved)
    await queue.producer.enqueue(twin, reply_to="", twins="d" * 64)
    read = await queue.read(worker, count=1_000)
    leases = {d.job_id: lease for d in read if (lease := await worker.begin(d)) is not None}
    assert len(leases) == 37
    await worker.move(leases[moved.id], why="no reason", call_failed=True)
    await link.execute("ZADD", keyspace.backlog(0, PROVIDER, Lane.BATCH), 1, "hr:{0}:job:job_none")
    await worker.refill()
    await worker.heartbeat(list(leases.values()))
    await worker.append(leases[finished.id], 1, [b"{}"])
    await queue.finish(worker, leases[finished.id])
    for job in (retried, *more):
        await worker.retry_later(leases[job.id], delay_seconds=0)
    await Delays(link, queue.settings).promote([PROVIDER])
    await worker.hand_back(leases[returned.id])
    await queue.producer.claim_key("d" * 64, cancelled.id, instead_of=None, seconds=60)
    await queue.producer.leave(cancelled, "reader")
    await queue.producer.cancel(cancelled)
    await queue.producer.attach(cancelled.id, ACME, reply_to="hr:reply:other", reader="reader", surface=None)
    await queue.producer.forget(finished.id, ACME)
    await worker.forget()
    await queue.enqueue(kept := replace(a_job(), row=OWN_ROW))
    await queue.producer.listen(kept.id, ACME, reply_to="hr:reply:other")
    await queue.producer.cancel(kept)
    ended = EndedJobs(link, queue.settings)
    for entry in await ended.next(block_ms=0):
        await ended.kept(entry.job_id, entry)


@pytest.mark.parametrize("shards", [1, 16])
async def test_all_keys_of_a_call_are_in_one_slot_of_a_cluster(
    calls: list[Call], link: RedisLink, shards: int
) -> None:
    await use_every_script(Queue(link, QueueSettings(shards=shards, ready_window=1_000)), link)

    assert {call.script for call in calls} == set(SCRIPTS)
    for call in calls:
        assert len({key_slot(key.encode()) for key in call.keys}) == 1, call
    shards_used = {key_slot(key.encode()) for call in calls for key in call.keys}
    assert len(shards_used) == shards


@pytest.mark.parametrize("shards", [1, 16])
async def test_every_key_carries_its_shard_and_nothing_else_as_hash_tag(
    calls: list[Call], link: RedisLink, shards: int
) -> None:
    await use_every_script(Queue(link, QueueSettings(shards=shards, ready_window=1_000)), link)

    tags = {f"{{{shard}}}" for shard in range(shards)}
    for key in {key for call in calls for key in call.keys}:
        prefix, tag, rest = key[:3], key[3 : key.index("}") + 1], key[key.index("}") + 1 :]
        assert prefix == "hr:"
        assert tag in tags
        assert "{" not in rest


def test_every_script_file_is_called_by_somebody() -> None:
    assert FILES - {"lib"} == set(SCRIPTS)


async def test_flags_are_sent_to_servers_that_know_them_and_to_no_other(link: RedisLink) -> None:
    sent: list[str] = []
    execute = link.execute_everywhere

    async def recorded(*args: RedisArg) -> Any:
        if args[0] == "SCRIPT":
            sent.append(str(args[2]))
        return await execute(*args)

    link.execute_everywhere = recorded  # type: ignore[method-assign]  # a stand-in that records
    await Scripts(link).load()

    knows_flags = await redis_version(link) >= (7, 0)
    flagged = {text for text in sent if text.startswith("#!lua flags=allow-oom\n")}
    assert len(sent) == len(SCRIPTS)
    assert flagged == (
        {source(name, with_flags=True) for name in MAY_EXCEED_MEMORY} if knows_flags else set()
    )
    assert set(sent) == {source(name, with_flags=knows_flags) for name in SCRIPTS}


MAY_EXCEED_MEMORY = {
    "kept",
    "listen",
    "append",
    "attach",
    "begin",
    "cancel",
    "finish",
    "forget",
    "hand_back",
    "leave",
    "move",
    "promote_due",
    "refill",
    "purge",
    "retry_later",
}
"""Those that lead to an end, and so to freed memory. Refusing new work is what full memory is for."""


Contents = Mapping[str, Any]


async def all_keys(link: RedisLink) -> list[Any]:
    return [key for keys in await link.execute_everywhere("KEYS", "*") for key in keys]


async def contents(link: RedisLink) -> Contents:
    """All there is in Redis, but for idle times and TTLs."""
    found: dict[str, Any] = {}
    for key in await all_keys(link):
        kind = await link.execute("TYPE", key)
        if kind == b"hash":
            flat = await link.execute("HGETALL", key)
            found[key] = dict(zip(flat[::2], flat[1::2], strict=True))
        elif kind == b"string":
            found[key] = await link.execute("GET", key)
        elif kind == b"zset":
            found[key] = await link.execute("ZRANGE", key, 0, -1, "WITHSCORES")
        else:
            found[key] = await link.execute("XRANGE", key, "-", "+")
            for group in await link.execute("XINFO", "GROUPS", key):
                rows = await link.execute("XPENDING", key, group[1], "-", "+", 1_000)
                found[f"{key} {group[1]}"] = [row[:2] for row in rows]
    return found


Scene = Callable[[Queue], Awaitable[None]]


async def _enqueued(queue: Queue) -> None:
    await queue.enqueue(a_job())


async def _begun(queue: Queue) -> None:
    worker = queue.consumer("worker")
    await queue.enqueue(a_job())
    await queue.lease(worker)


async def _poisoned(queue: Queue) -> None:
    worker = queue.consumer("worker", settings=queue.settings.model_copy(update={"max_deliveries": 1}))
    await queue.enqueue(job := a_job())
    await queue.lease(worker)
    await queue.make_idle(job, worker)
    (delivery,) = await worker.reclaim(1)
    assert await worker.begin(delivery) is None


async def _redriven(queue: Queue) -> None:
    await _poisoned(queue)
    letters = DeadLetters(queue.link, queue.settings, [PROVIDER])
    (letter,) = (await letters.page()).letters
    await letters.redrive(letter.job_id)


async def _purged(queue: Queue) -> None:
    await _redriven(queue)
    letters = DeadLetters(queue.link, queue.settings, [PROVIDER])
    (letter,) = (await letters.page()).letters
    await letters.purge(letter.job_id)


async def _expired(queue: Queue) -> None:
    worker = queue.consumer("worker")
    await queue.enqueue(job := a_job())
    await queue.link.execute("HSET", keyspace.job(queue.shard(job), job.id), "deadline", 1)
    (delivery,) = await queue.read(worker)
    assert await worker.begin(delivery) is None


async def _renewed(queue: Queue) -> None:
    worker = queue.consumer("worker")
    await queue.enqueue(a_job(), a_job())
    leases = [await queue.lease(worker) for _ in range(2)]
    await worker.heartbeat(leases)


async def _streamed(queue: Queue) -> None:
    worker = queue.consumer("worker")
    await queue.enqueue(a_job(stream=True))
    await worker.append(await queue.lease(worker), 1, [b'{"a":1}', b'{"b":2}'])


async def _finished(queue: Queue) -> None:
    worker = queue.consumer("worker")
    await queue.enqueue(a_job())
    await queue.finish(worker, await queue.lease(worker))


async def _put_aside(queue: Queue) -> None:
    worker = queue.consumer("worker")
    await queue.enqueue(a_job())
    await worker.retry_later(await queue.lease(worker), delay_seconds=0)


async def _moved(queue: Queue) -> None:
    worker = queue.consumer("worker")
    await queue.enqueue(replace(a_job(), plan=(Target(PROVIDER, "m"), Target("other", "m"))))
    await worker.move(await queue.lease(worker), why="out of order", call_failed=True)


async def _waiting(queue: Queue) -> None:
    await queue.enqueue(*(a_job() for _ in range(40)))


async def _began_before_a_backlog(queue: Queue) -> None:
    await _waiting(queue)
    await queue.lease(queue.consumer("worker"))


async def _joined(queue: Queue) -> None:
    for job in (a_job(), a_job()):
        await queue.producer.enqueue(job, reply_to="", reader=job.id[-12:], twins="d" * 64)


async def _refilled(queue: Queue) -> None:
    await _waiting(queue)
    await queue.link.execute("XTRIM", keyspace.lane(0, PROVIDER, Lane.INTERACTIVE), "MAXLEN", 0)
    await queue.consumer("worker").refill()


async def _promoted(queue: Queue) -> None:
    await _put_aside(queue)
    await Delays(queue.link, queue.settings).promote([PROVIDER])


async def _handed_back(queue: Queue) -> None:
    worker = queue.consumer("worker")
    await queue.enqueue(a_job())
    await worker.hand_back(await queue.lease(worker))


async def _cancelled_queued(queue: Queue) -> None:
    await queue.enqueue(job := a_job())
    await queue.producer.cancel(job)


async def _cancelled_running(queue: Queue) -> None:
    await queue.enqueue(job := a_job())
    await queue.lease(queue.consumer("worker"))
    await queue.producer.cancel(job)


async def _attached(queue: Queue) -> None:
    await queue.enqueue(job := a_job(stream=True))
    await queue.producer.attach(job.id, ACME, reply_to="hr:reply:other", reader="other", surface=None)


async def _left(queue: Queue) -> None:
    await queue.producer.enqueue(job := a_job(stream=True), reply_to="", reader="other")
    await queue.producer.leave(job, "other")


async def _claimed(queue: Queue) -> None:
    await queue.producer.claim_key("d" * 64, a_job().id, instead_of=None, seconds=60)


async def _forgotten(queue: Queue) -> None:
    await _finished(queue)
    await queue.consumer("worker").forget()


async def _forgotten_job(queue: Queue) -> None:
    await queue.enqueue(job := a_job())
    await queue.producer.cancel(job)
    assert await queue.producer.forget(job.id, ACME) == "forgotten"


async def _kept(queue: Queue) -> None:
    await queue.enqueue(job := replace(a_job(), row=OWN_ROW))
    await queue.producer.cancel(job)
    ended = EndedJobs(queue.link, queue.settings)
    (entry,) = await ended.next(block_ms=0)
    await ended.kept(entry.job_id, entry)


async def _listened(queue: Queue) -> None:
    await queue.enqueue(job := a_job())
    assert await queue.producer.listen(job.id, ACME, reply_to="hr:reply:other")


GOLDEN: list[tuple[str, Scene]] = [
    ("enqueue", _enqueued),
    ("enqueue", _waiting),
    ("enqueue", _joined),
    ("begin", _begun),
    ("begin", _began_before_a_backlog),
    ("move", _moved),
    ("refill", _refilled),
    ("begin", _poisoned),
    ("begin", _expired),
    ("redrive", _redriven),
    ("purge", _purged),
    ("heartbeat", _renewed),
    ("append", _streamed),
    ("finish", _finished),
    ("retry_later", _put_aside),
    ("promote_due", _promoted),
    ("hand_back", _handed_back),
    ("cancel", _cancelled_queued),
    ("cancel", _cancelled_running),
    ("attach", _attached),
    ("leave", _left),
    ("kept", _kept),
    ("listen", _listened),
    ("claim_key", _claimed),
    ("forget_consumer", _forgotten),
    ("forget", _forgotten_job),
]


@pytest.mark.parametrize(("script", "scene"), GOLDEN, ids=[f"{s}{f.__name__}" for s, f in GOLDEN])
async def test_a_call_whose_reply_was_lost_can_be_sent_again(
    queue: Queue, link: RedisLink, calls: list[Call], script: str, scene: Scene
) -> None:
    await scene(queue)
    last = calls[-1]
    once = await contents(link)

    await Scripts(link).call(last.script, last.keys, *last.args)

    assert last.script == script
    assert await contents(link) == once


def test_every_script_has_a_golden_replay() -> None:
    assert {script for script, _ in GOLDEN} == set(SCRIPTS)


async def test_a_job_is_forgotten_for_its_owner_alone_and_only_once_it_ended(queue: Queue) -> None:
    await queue.enqueue(job := a_job())

    running = await queue.producer.forget(job.id, ACME)
    foreign = await queue.producer.forget(job.id, AccountId("acc_other"))
    await queue.producer.cancel(job)
    still_foreign = await queue.producer.forget(job.id, AccountId("acc_other"))
    stored = await queue.producer.stored(job.id, ACME)
    forgotten = await queue.producer.forget(job.id, ACME)

    assert (running, foreign, still_foreign, forgotten) == ("running", "missing", "missing", "forgotten")
    assert stored is not None
    # Nothing asks again what it was asked.
    assert (stored.job, stored.state) == (replace(job, body=b""), JobState.CANCELLED)
    assert await queue.producer.stored(job.id, ACME) is None


async def test_nothing_is_left_of_a_stream_that_was_forgotten(queue: Queue, link: RedisLink) -> None:
    worker = queue.consumer("worker")
    await queue.enqueue(job := a_job(stream=True))
    lease = await queue.lease(worker)
    await worker.append(lease, 1, [b'{"a":1}', b'{"b":2}'])
    await queue.finish(worker, lease)
    last = await queue.producer.last_event(job.id)

    forgotten = await queue.producer.forget(job.id, ACME)

    assert (last, forgotten) == (b'{"b":2}', "forgotten")
    assert await queue.producer.last_event(job.id) is None
    (left,) = [key for key in await all_keys(link) if job.id.encode() in key]
    assert await link.execute("HGETALL", left) == [b"forgotten", b"1"]
    assert 0 < await link.execute("PTTL", left) <= queue.settings.retain_seconds * 1000


async def test_the_id_of_a_job_that_was_forgotten_is_not_run_again(queue: Queue) -> None:
    await queue.enqueue(job := a_job())
    await queue.producer.cancel(job)
    await queue.producer.forget(job.id, ACME)

    with pytest.raises(JobForgotten):
        await queue.enqueue(job)

    assert await queue.producer.was_forgotten(job.id)
    assert await queue.producer.result(job.id) is None
    assert await queue.producer.forget(job.id, ACME) == "missing"


async def test_names_of_workers_long_gone_leave_every_lane(
    queue: Queue, link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.duties.forget_consumers.IDLE_SECONDS", -1)
    gone, busy = queue.consumer("gone"), queue.consumer("busy")
    await queue.enqueue(a_job(), a_job())
    await queue.finish(gone, await queue.lease(gone))
    lease = await queue.lease(busy)

    removed = await forget_consumers(link, [PROVIDER, "never-used"], shards=queue.settings.shards)

    lane = lease.delivery.lane_key
    left = {row[1] for row in await link.execute("XINFO", "CONSUMERS", lane, keyspace.GROUP)}
    assert left == {b"busy"}
    assert removed >= 1


@pytest.mark.parametrize("shards", [1, 16])
async def test_a_key_stands_for_its_job_no_longer_than_its_claim_unless_that_is_queued(
    link: RedisLink, shards: int
) -> None:
    queue = Queue(link, QueueSettings(shards=shards))
    digest = "d" * 64
    job = a_job(job_id=queue.producer.new_id_beside(digest))
    pointer = keyspace.idempotent(keyspace.shard_of(digest, shards), digest)
    await queue.producer.claim_key(digest, job.id, instead_of=None, seconds=60)
    claimed = await link.execute("PTTL", pointer)

    await queue.producer.enqueue(job, reply_to="", claim=digest, claim_seconds=86_400)

    assert 0 < claimed <= 60_000
    assert 86_000_000 < await link.execute("PTTL", pointer) <= 86_400_000
    assert await link.execute("GET", pointer) == job.id.encode()


async def test_a_key_that_was_claimed_for_another_job_meanwhile_stays_that_ones(
    queue: Queue, link: RedisLink
) -> None:
    digest = "d" * 64
    job, other = (a_job(job_id=queue.producer.new_id_beside(digest)) for _ in range(2))
    await queue.producer.claim_key(digest, other.id, instead_of=None, seconds=60)

    await queue.producer.enqueue(job, reply_to="", claim=digest, claim_seconds=86_400)

    pointer = keyspace.idempotent(keyspace.shard_of(digest, queue.settings.shards), digest)
    assert await link.execute("GET", pointer) == other.id.encode()
