"""Jobs that have a row, from their end until the database has what became of them.

The script that ends such a job writes its id to a stream; whoever keeps it deletes the entry once
the database committed. There is no consumer group: keeping a job twice changes nothing, so any
number may read the same entries, and one that dies leaves them to the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from shared import keyspace
from shared.domain.job import TERMINAL, Job, JobState
from shared.ids import JobId
from shared.queue.redis_link import RedisArg, RedisLink
from shared.queue.script_calls import Scripts
from shared.settings import QueueSettings

_PAGE: Final = 200
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class EndedEntry:
    """`keep_ms`: how long the job stays in Redis once it is kept elsewhere."""

    shard: int
    id: str
    job_id: JobId
    keep_ms: int


@dataclass(frozen=True, slots=True)
class InRedis:
    """A job as Redis has it. `row`: see shared.domain.job.Job. `body_bytes`: size of its answer.

    `keep_ms`: how long to keep it there.
    """

    id: JobId
    state: JobState
    row: str | None
    head: bytes
    body_bytes: int
    last: int
    finished_at: datetime | None

    @property
    def has_ended(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class Answer:
    """`events`: what it streamed, an event a line."""

    body: bytes | None
    events: bytes | None


class EndedJobs:
    """`link` is its own where `wait` is used: nothing else gets an answer on it meanwhile."""

    def __init__(self, link: RedisLink, settings: QueueSettings) -> None:
        self._link = link
        self._scripts = Scripts(link)
        self._shards = settings.shards
        self._keep_ms = int(settings.retain_seconds * 1000)
        self._turn = 0

    async def next(self, *, block_ms: int) -> list[EndedEntry]:
        """The oldest of every shard; waits up to `block_ms` where there are none. Raises RedisError."""
        found: list[EndedEntry] = []
        pages = await self._link.execute_many([
            ("XRANGE", keyspace.ended(shard), "-", "+", "COUNT", _PAGE) for shard in range(self._shards)
        ])  # fmt: skip
        for shard, page in enumerate(pages):
            if isinstance(page, Exception):
                raise page
            found += [_entry(shard, *entry) for entry in page]
        if not found and block_ms:
            # One shard in turn: streams of several slots cannot be read by one command of a cluster.
            self._turn = (self._turn + 1) % self._shards
            stream = keyspace.ended(self._turn)
            answer = await self._link.execute(
                "XREAD", "COUNT", _PAGE, "BLOCK", block_ms, "STREAMS", stream, "0-0"
            )
            found = [_entry(self._turn, *entry) for _, entries in answer or () for entry in entries]
        return found

    async def look(self, ids: list[JobId]) -> dict[JobId, InRedis]:
        """Those that Redis knows. Raises RedisError."""
        keys = [keyspace.job(keyspace.shard_of(job_id, self._shards), job_id) for job_id in ids]
        commands: list[tuple[RedisArg, ...]] = []
        for key in keys:
            commands.append(("HMGET", key, "state", "row", "result_head", "last", "finished"))
            commands.append(("HSTRLEN", key, "result_body"))
        answers = await self._link.execute_many(commands)
        found: dict[JobId, InRedis] = {}
        for index, job_id in enumerate(ids):
            fields, size = answers[2 * index], answers[2 * index + 1]
            for answer in (fields, size):
                if isinstance(answer, Exception):
                    raise answer
            if fields[0] is not None:
                found[job_id] = _in_redis(job_id, fields, size)
        return found

    async def answer_of(self, job: InRedis) -> Answer | None:
        """None where Redis lost it since it was looked at. Raises RedisError."""
        shard = keyspace.shard_of(job.id, self._shards)
        state, body = await self._link.execute("HMGET", keyspace.job(shard, job.id), "state", "result_body")
        if state is None or state.decode() != job.state:
            return None
        if not job.last:
            return Answer(body, None)
        events: list[bytes] = []
        after = 0
        while page := await self._link.execute(
            "XRANGE", keyspace.events(shard, job.id), f"{after + 1}-0", "+", "COUNT", _PAGE
        ):
            for entry_id, fields in page:
                after = int(entry_id.split(b"-")[0])
                events.append(fields[1])
        return Answer(body, b"\n".join(events)) if after >= job.last else None

    async def envelope_of(self, job: InRedis) -> Job | None:
        """At the target where it ended, without its body; None where Redis lost it. Raises RedisError."""
        shard = keyspace.shard_of(job.id, self._shards)
        header, hop = await self._link.execute("HMGET", keyspace.job(shard, job.id), "header", "hop")
        return None if header is None else Job.from_wire(header, b"").at(int(hop or 0))

    async def kept(self, job_id: JobId, entry: EndedEntry | None = None) -> None:
        """The database has it, or never will. Raises RedisError."""
        shard = keyspace.shard_of(job_id, self._shards)
        keys = [keyspace.job(shard, job_id), keyspace.events(shard, job_id), keyspace.ended(shard)]
        await self._scripts.call(
            "kept", keys, "" if entry is None else entry.id, self._keep_ms if entry is None else entry.keep_ms
        )


def _entry(shard: int, entry_id: bytes, fields: list[bytes]) -> EndedEntry:
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    return EndedEntry(shard, entry_id.decode(), JobId(named[b"job"].decode()), int(named[b"keep"]))


def _in_redis(job_id: JobId, fields: list[Any], size: int) -> InRedis:
    state, row, head, last, finished = fields
    return InRedis(
        id=job_id,
        state=JobState(state.decode()),
        row=None if row is None else row.decode(),
        head=head or b"",
        body_bytes=size,
        last=int(last or 0),
        finished_at=None if not finished else _EPOCH + timedelta(milliseconds=int(finished)),
    )
