"""How a job stands: where in the queue it is, or how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from redis.exceptions import RedisError, ResponseError

from shared import keyspace
from shared.domain.job import TERMINAL, Job, JobState
from shared.errors import QueueUnavailable
from shared.ids import AccountId, JobId
from shared.queue.frames import Result, ResultHead
from shared.queue.redis_link import RedisLink
from shared.settings import QueueSettings

_LOOKED_AT: Final = 1_000
"""Entries of a lane before the job's own: a ready lane is far shorter."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """`job` at the target it is at, without its body; `*_at`: unix milliseconds of Redis TIME.

    `attempts`: provider calls that failed so far. `position` among the jobs of its lane that no
    worker has, 1 being next; None while it runs, has ended, or waits for its provider and not for a turn.
    `result` is None until it ended, and holds no body.
    """

    job: Job
    state: JobState
    created_at: int
    deadline_at: int
    finished_at: int | None
    attempts: int
    position: int | None
    result: Result | None


class JobStatuses:
    def __init__(self, link: RedisLink, settings: QueueSettings) -> None:
        self._link = link
        self._shards = settings.shards

    async def of(self, job_id: JobId, account: AccountId) -> JobStatus | None:
        """None when this account has no such job. Raises QueueUnavailable."""
        try:
            return await self._of(job_id, account)
        except RedisError as exc:
            raise QueueUnavailable("The queue is not reachable right now.", retry_after_seconds=1) from exc

    async def _of(self, job_id: JobId, account: AccountId) -> JobStatus | None:
        key = keyspace.job(keyspace.shard_of(job_id, self._shards), job_id)
        owner, state, header, hop, entry, backlog, created, deadline, finished, attempts, head, last = (
            await self._link.execute(
                "HMGET", key, "account", "state", "header", "hop", "entry", "backlog",
                "created", "deadline", "finished", "attempts", "result_head", "last",
            )
        )  # fmt: skip
        if state is None or owner.decode() != account:
            return None
        job = Job.from_wire(header, b"").at(int(hop or 0))
        job_state = JobState(state.decode())
        waits = job_state is JobState.QUEUED and backlog is not None
        return JobStatus(
            job=job,
            state=job_state,
            created_at=int(created),
            deadline_at=int(deadline),
            finished_at=int(finished) if finished else None,
            attempts=int(attempts),
            position=await self._position(key, job, entry, backlog.decode()) if waits else None,
            result=Result(ResultHead.from_wire(head), None, int(last)) if job_state in TERMINAL else None,
        )

    async def _position(self, key: str, job: Job, entry: bytes, backlog: str) -> int | None:
        shard = keyspace.shard_of(job.id, self._shards)
        lane = keyspace.lane(shard, job.target.provider, job.lane)
        until = entry.decode() or "+"
        in_lane, taken, rank = await self._link.execute_many([
            ("XRANGE", lane, "-", until, "COUNT", _LOOKED_AT),
            ("XPENDING", lane, keyspace.GROUP, "-", until, _LOOKED_AT),
            ("ZRANK", backlog, key),
        ])  # fmt: skip
        if isinstance(taken, ResponseError):
            taken = []  # no worker ever served this lane, so it has no group yet
        for answer in (in_lane, taken, rank):
            if isinstance(answer, Exception):
                raise answer
        ready = max(0, len(in_lane) - len(taken))
        if entry:
            return max(1, ready)
        return None if rank is None else ready + int(rank) + 1
