"""Jobs, links and the raw state of the queue, for the tests of this folder and of the workers'."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared import keyspace
from shared.domain.job import Job, JobKind, JobState, Lane, Surface, Target
from shared.domain.usage import Outcome, Settlement
from shared.ids import AccountId, ApiKeyId, JobId, RequestId, new_job_id
from shared.queue import links
from shared.queue.consumer import Consumer, Delivery, Lease
from shared.queue.frames import ResultHead
from shared.queue.producer import Producer
from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings

ACME = AccountId("acme")
PROVIDER = "openai"


@asynccontextmanager
async def open_link(url: str, *, timeout: float = 5.0) -> AsyncIterator[RedisLink]:
    link = links.open_link(url, timeout=timeout)
    try:
        yield link
    finally:
        await link.close()


def a_job(
    *,
    job_id: JobId | None = None,
    account: AccountId = ACME,
    provider: str = PROVIDER,
    lane: Lane = Lane.INTERACTIVE,
    stream: bool = False,
    budget_ms: int = 60_000,
    body: bytes = b'{"model":"m","messages":[]}',
) -> Job:
    return Job(
        id=job_id or new_job_id(),
        kind=JobKind.CHAT,
        lane=lane,
        surface=Surface.OPENAI,
        account=account,
        api_key=ApiKeyId("key_a"),
        request_id=RequestId("req_1"),
        plan=(Target(provider, "m"),),
        stream=stream,
        include_usage=False,
        budget_ms=budget_ms,
        body=body,
    )


def settled(lease: Lease, outcome: Outcome = Outcome.SUCCEEDED) -> Settlement:
    target = lease.job.target
    return Settlement(
        outcome=outcome,
        provider=target.provider,
        model=target.model,
        attempts=lease.attempts + 1,
        deliveries=lease.deliveries,
    )


class Queue:
    """One provider's queue as a test uses it: the api's side, a worker's side, and a look inside."""

    def __init__(self, link: RedisLink, settings: QueueSettings) -> None:
        self.link = link
        self.settings = settings
        self.producer = Producer(link, settings)

    def consumer(self, name: str, *, settings: QueueSettings | None = None) -> Consumer:
        return Consumer(self.link, settings or self.settings, name, [PROVIDER])

    async def enqueue(self, *jobs: Job, reply_to: str = "hr:reply:test") -> None:
        for job in jobs:
            await self.producer.enqueue(job, reply_to=reply_to)

    async def read(
        self,
        consumer: Consumer,
        *,
        count: int = 1,
        lanes: tuple[Lane, ...] = tuple(Lane),
        enough: int | None = None,
    ) -> list[Delivery]:
        """Shard by shard: no command may name keys of two where each lives on a node of its own."""
        found: list[Delivery] = []
        for shard in range(self.settings.shards):
            if enough is not None and len(found) >= enough:
                break
            keys = [
                key
                for lane, streams in consumer.lanes
                if lane in lanes
                for key, at, _ in streams
                if at == shard
            ]
            command = consumer.read_command(keys, count=count, block_ms=None)
            found += consumer.deliveries(await self.link.execute(*command))
        return found

    async def lease(self, consumer: Consumer) -> Lease:
        """Of the next job."""
        (delivery,) = await self.read(consumer, enough=1)
        lease = await consumer.begin(delivery)
        assert lease is not None
        return lease

    async def finish(
        self, consumer: Consumer, lease: Lease, state: JobState = JobState.SUCCEEDED, *, body: bytes = b"{}"
    ) -> None:
        settlement = settled(lease, Outcome(state.value))
        await consumer.finish(
            lease, state, head=ResultHead(settlement.outcome).to_wire(), body=body, settlement=settlement
        )

    def a_job_beside(self, job: Job) -> Job:
        """In the same shard."""
        while self.shard(other := a_job()) != self.shard(job):
            pass
        return other

    def shard(self, job: Job) -> int:
        return keyspace.shard_of(job.id, self.settings.shards)

    async def fields(self, job: Job) -> dict[str, str]:
        flat: list[bytes] = await self.link.execute("HGETALL", keyspace.job(self.shard(job), job.id))
        return {k.decode(): v.decode() for k, v in zip(flat[::2], flat[1::2], strict=True)}

    async def state(self, job: Job) -> str:
        return (await self.fields(job))["state"]

    async def pending(self, job: Job) -> dict[str, tuple[str, int]]:
        """Entries of the job's lane that were delivered and not acknowledged: consumer and idle ms."""
        rows = await self.link.execute("XPENDING", self.lane_key(job), keyspace.GROUP, "-", "+", 100_000)
        return {entry.decode(): (consumer.decode(), idle) for entry, consumer, idle, _ in rows}

    async def entries(self, job: Job) -> list[str]:
        """Job ids in the job's lane, in order."""
        rows = await self.link.execute("XRANGE", self.lane_key(job), "-", "+")
        return [fields[1].decode() for _, fields in rows]

    def lane_key(self, job: Job) -> str:
        return keyspace.lane(self.shard(job), job.target.provider, job.lane)

    async def make_idle(self, job: Job, consumer: Consumer, *, ms: int = 3_600_000) -> None:
        """Its worker seems to have renewed nothing for so long."""
        entry = (await self.fields(job))["entry"]
        await self.link.execute(
            "XCLAIM", self.lane_key(job), keyspace.GROUP, consumer.name, 0, entry, "IDLE", ms, "JUSTID"
        )  # fmt: skip

    async def usage(self) -> list[tuple[str, Settlement]]:
        found: list[tuple[str, Settlement]] = []
        for shard in range(self.settings.shards):
            for _, fields in await self.link.execute("XRANGE", keyspace.usage(shard), "-", "+"):
                entry = _pairs(fields)
                found.append((entry[b"job"].decode(), Settlement.from_wire(entry[b"outcome"])))
        return found

    async def dead(self, job: Job) -> list[dict[bytes, bytes]]:
        key = keyspace.dead(self.shard(job), job.target.provider)
        return [_pairs(fields) for _, fields in await self.link.execute("XRANGE", key, "-", "+")]


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def redis_version(link: RedisLink) -> tuple[int, int]:
    info: bytes = await link.execute("INFO", "server")
    line = next(row for row in info.split(b"\r\n") if row.startswith(b"redis_version:"))
    major, minor, *_ = line.removeprefix(b"redis_version:").split(b".")
    return int(major), int(minor)
