"""The api's side of the queue: accept, attach, cancel, look up, forget."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared import keyspace
from shared.domain.job import TERMINAL, Job, JobState, Surface
from shared.errors import (
    BrokerError,
    IdempotencyMismatch,
    InvalidRequest,
    JobForgotten,
    QueueFull,
    QueueUnavailable,
    TooManyWaiting,
    WaitTooLong,
)
from shared.ids import AccountId, JobId, new_job_id, new_job_id_in
from shared.queue.frames import EventBatch, Result, ResultHead
from shared.queue.redis_link import TRANSIENT, RedisArg, RedisLink
from shared.queue.script_calls import Scripts
from shared.settings import QueueSettings

_WORKER_CHANNEL_PREFIX: Final = keyspace.worker_channel("")
_PAGE: Final = 500
KEY_SECONDS: Final = 86_400.0
"""How long an Idempotency-Key stands for its job, and the job can be found."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """`state` of the job that was there already; None when it is new.

    `joined`: the identical job that stands for this one; its `state` where it is that of an earlier try.
    `position` among those that wait, 1 being next, and what that means in time; 0 when there was room.
    """

    state: JobState | None = None
    joined: JobId | None = None
    position: int = 0
    wait_ms: int = 0

    @property
    def attached(self) -> bool:
        return self.state is not None or self.joined is not None


@dataclass(frozen=True, slots=True)
class Try:
    """One of a client's tries at a request. `digest`: what they share; `again`: not the first of them.

    `window_seconds`: how long the next one may join this one's job.
    """

    digest: str
    again: bool
    window_seconds: float


@dataclass(frozen=True, slots=True)
class AttachedJob:
    """`result` is None while the job is queued or running."""

    job: Job
    state: JobState
    result: Result | None


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job with its body, as it stands. `result` is None while it is queued or running."""

    job: Job
    state: JobState
    result: Result | None


class Producer:
    def __init__(self, link: RedisLink, settings: QueueSettings) -> None:
        self._link = link
        self._scripts = Scripts(link)
        self._settings = settings
        self._retain_ms = int(settings.retain_seconds * 1000)
        self._max_entries = -(-settings.max_lane_entries // settings.shards)

    async def enqueue(
        self,
        job: Job,
        *,
        reply_to: str,
        reader: str = "",
        keep: bool = False,
        fingerprint: str = "",
        retain_seconds: float | None = None,
        store: bool = False,
        cost: int = 1,
        twins: str | None = None,
        claim: str | None = None,
        claim_seconds: float = 0.0,
        tried: Try | None = None,
        drained_per_second: float = 0.0,
        ahead: int = 0,
        call_seconds: float = 0.0,
    ) -> Accepted:
        """Accepted once this returns. A job id that is known already is attached to, not run again.

        `reader`: token of the request that waits; `keep`: run to the end, also when all readers left.
        `store`: keep its body as long as its result. `cost`: what its tenant's turn pays, in tokens.
        `twins`: digest that identical jobs share, of an id `new_id_beside` it; one in flight is joined.
        `claim`: digest of the Idempotency-Key that stands for it, from now on for `claim_seconds`; never with
        `twins`.
        `tried`: the job of an earlier try is joined if it lies in this shard and runs, or ended well and
        unread; otherwise this is the job that a later one may join.
        `drained_per_second` by all workers of its provider, 0 if unknown; `ahead`: jobs in higher lanes;
        `call_seconds`: what the call takes once it began, 0 if unknown.

        Raises QueueFull, TooManyWaiting, WaitTooLong, QueueUnavailable, IdempotencyMismatch when the id was
        used for another body, or JobForgotten when its job was removed.
        """
        settings = self._settings
        shard = keyspace.shard_of(job.id, settings.shards)
        target = job.target
        keys = [
            keyspace.job(shard, job.id),
            keyspace.lane(shard, target.provider, job.lane),
            keyspace.backlog(shard, target.provider, job.lane),
        ]
        if twins is not None:
            keys.append(keyspace.flight(shard, twins))
        elif claim is not None and keyspace.shard_of(claim, settings.shards) == shard:
            keys.append(keyspace.idempotent(shard, claim))
        if tried is not None:  # never with a key
            keys.append(keyspace.tried(shard, tried.digest))
        answer = await self._call(
            "enqueue",
            keys,
            job.id,
            job.header(),
            job.body,
            job.account,
            job.budget_ms,
            self._retain_ms if retain_seconds is None else int(retain_seconds * 1000),
            self._max_entries,
            reply_to,
            fingerprint,
            reader,
            "1" if keep else "",
            "1" if store else "",
            cost,
            settings.shard_window,
            settings.shard_cap,
            settings.tenant_max_waiting,
            int(drained_per_second * 1000 / settings.shards),
            ahead,
            int(call_seconds * 1000),
            job.row or "",
            "" if claim is None else int(claim_seconds * 1000),
            "" if tried is None else int(tried.window_seconds * 1000),
            "1" if tried is not None and tried.again else "",
        )
        status = answer[0]
        if status == b"queued":
            return Accepted(position=answer[1], wait_ms=int(answer[2])) if len(answer) > 1 else _AT_ONCE
        if status == b"attached":
            return Accepted(state=JobState(answer[1].decode()))
        if status == b"joined":
            return Accepted(joined=JobId(answer[1].decode()))
        if status == b"tried":
            return Accepted(state=JobState(answer[2].decode()), joined=JobId(answer[1].decode()))
        raise _refusal(answer, target.provider, drained_per_second, job.budget_ms)

    def new_id_beside(self, digest: str) -> JobId:
        """Of a job in the shard of `digest`, which its twins share."""
        shards = self._settings.shards
        if shards == 1:
            return new_job_id()
        return new_job_id_in(keyspace.shard_of(digest, shards), lambda name: keyspace.shard_of(name, shards))

    async def earlier_try(self, tried: Try) -> JobId | None:
        """Of a job with a row. A first try has none, and nobody takes an older one for it from now on."""
        key = keyspace.tried(keyspace.shard_of(tried.digest, self._settings.shards), tried.digest)
        if not tried.again:
            await self._execute("DEL", key)
            return None
        job: bytes | None = await self._execute("GET", key)
        return None if job is None else JobId(job.rpartition(b":")[2].decode())

    async def claim_key(
        self, digest: str, job_id: JobId, *, instead_of: JobId | None, seconds: float
    ) -> JobId:
        """The job that an Idempotency-Key stands for: `job_id`, unless another one came first.

        `instead_of`: a job that ended in a way worth another run.
        """
        pointer = keyspace.idempotent(keyspace.shard_of(digest, self._settings.shards), digest)
        held: bytes = await self._call("claim_key", [pointer], job_id, instead_of or "", int(seconds * 1000))
        return JobId(held.decode())

    async def leave(self, job: Job, reader: str) -> None:
        """A reader is gone; `cancel(..., if_unread=True)` decides about the job."""
        shard = keyspace.shard_of(job.id, self._settings.shards)
        await self._call("leave", [keyspace.job(shard, job.id)], reader)

    async def listen(self, job_id: JobId, account: AccountId, *, reply_to: str) -> bool:
        """Whether the channel will hear of the job: not where the account has none, or it ended."""
        shard = keyspace.shard_of(job_id, self._settings.shards)
        return bool(await self._call("listen", [keyspace.job(shard, job_id)], account, reply_to))

    async def cancel(self, job: Job, *, if_unread: bool = False) -> str:
        """`missing`, `kept`, `cancelled`, `stopping` or `done`.

        `if_unread`: only if no reader is left and nobody asked to keep it.
        """
        job_id = job.id
        shard = keyspace.shard_of(job_id, self._settings.shards)
        answer = await self._call(
            "cancel",
            [
                keyspace.job(shard, job_id),
                keyspace.lane(shard, job.target.provider, job.lane),
                keyspace.events(shard, job_id),
                keyspace.usage(shard),
            ],
            job_id,
            job.account,
            "1" if if_unread else "",
            self._settings.inline_result_bytes,
            _WORKER_CHANNEL_PREFIX,
        )
        status: bytes = answer[0]
        return status.decode()

    async def attach(
        self, job_id: JobId, account: AccountId, *, reply_to: str, reader: str, surface: Surface | None
    ) -> AttachedJob | None:
        """None when this account has no such job on that surface.

        Raises InvalidRequest if it does not stream.
        """
        shard = keyspace.shard_of(job_id, self._settings.shards)
        answer = await self._call(
            "attach", [keyspace.job(shard, job_id)], account, reply_to, reader, surface or ""
        )
        if not answer:
            return None
        if answer[0] == b"no_stream":
            raise InvalidRequest("This job does not stream.", param="Last-Event-ID")
        state, header, last, head, body = answer
        job_state = JobState(state.decode())
        result = None
        if job_state in TERMINAL:
            result = Result(ResultHead.from_wire(head), body, int(last or 0))
        return AttachedJob(Job.from_wire(header, b""), job_state, result)

    async def result(self, job_id: JobId) -> Result | JobState | None:
        """The result once there is one, else the state; None when the job is unknown to Redis."""
        shard = keyspace.shard_of(job_id, self._settings.shards)
        state, head, body, last = await self._execute(
            "HMGET", keyspace.job(shard, job_id), "state", "result_head", "result_body", "last"
        )
        if state is None:
            return None
        job_state = JobState(state.decode())
        if job_state not in TERMINAL:
            return job_state
        return Result(ResultHead.from_wire(head), body, int(last))

    async def was_forgotten(self, job_id: JobId) -> bool:
        """Whether it was removed at its owner's wish; its id is not used again."""
        shard = keyspace.shard_of(job_id, self._settings.shards)
        return bool(await self._execute("HEXISTS", keyspace.job(shard, job_id), "forgotten"))

    async def stored(self, job_id: JobId, account: AccountId) -> StoredJob | None:
        """The job and what came of it; None when this account has no such job."""
        shard = keyspace.shard_of(job_id, self._settings.shards)
        owner, state, header, body, head, answer, last = await self._execute(
            "HMGET", keyspace.job(shard, job_id),
            "account", "state", "header", "body", "result_head", "result_body", "last",
        )  # fmt: skip
        if state is None or owner.decode() != account:
            return None
        job_state = JobState(state.decode())
        result = None
        if job_state in TERMINAL:
            result = Result(ResultHead.from_wire(head), answer, int(last))
        return StoredJob(Job.from_wire(header, body or b""), job_state, result)

    async def forget(self, job_id: JobId, account: AccountId) -> str:
        """`missing`, `running` or `forgotten`: only a job that ended can be removed. Its id stays taken."""
        shard = keyspace.shard_of(job_id, self._settings.shards)
        keys = [keyspace.job(shard, job_id), keyspace.events(shard, job_id)]
        answer = await self._call("forget", keys, account)
        status: bytes = answer[0]
        return status.decode()

    async def last_event(self, job_id: JobId) -> bytes | None:
        """What the job's stream said last; None when its log is gone or empty."""
        shard = keyspace.shard_of(job_id, self._settings.shards)
        entries = await self._execute("XREVRANGE", keyspace.events(shard, job_id), "+", "-", "COUNT", 1)
        if not entries:
            return None
        events: bytes = entries[0][1][1]
        return events.rpartition(b"\n")[2]

    async def events_after(self, job_id: JobId, ordinal: int) -> list[EventBatch]:
        """One page of what the event log holds after `ordinal`; [] at its end."""
        shard = keyspace.shard_of(job_id, self._settings.shards)
        entries = await self._execute(
            "XRANGE", keyspace.events(shard, job_id), f"{ordinal + 1}-0", "+", "COUNT", _PAGE
        )
        batches: list[EventBatch] = []
        for entry_id, fields in entries:
            last = int(entry_id.split(b"-")[0])
            events = tuple(fields[1].split(b"\n"))
            batches.append(EventBatch(last - len(events) + 1, last, events))
        return batches

    async def _call(self, script: str, keys: list[str], *args: RedisArg) -> Any:
        return await self._retried(lambda: self._scripts.call(script, keys, *args))

    async def _execute(self, *args: RedisArg) -> Any:
        return await self._retried(lambda: self._link.execute(*args))

    async def _retried(self, call: Any) -> Any:
        """One quick second try: a connection that died idle is only noticed by writing to it."""
        started = time.monotonic()
        try:
            return await call()
        except TRANSIENT as exc:
            if isinstance(exc, RedisTimeoutError) or time.monotonic() - started > 0.1:
                raise _unavailable() from exc
        except OutOfMemoryError as exc:
            raise QueueFull("The queue's memory is full.", retry_after_seconds=5) from exc
        except RedisError as exc:
            raise _unavailable() from exc
        await asyncio.sleep(0.02)
        try:
            return await call()
        except RedisError as exc:
            raise _unavailable() from exc


_AT_ONCE: Final = Accepted()


def _refusal(answer: list[Any], provider: str, drained_per_second: float, budget_ms: int) -> BrokerError:
    status = answer[0]
    if status == b"conflict":
        return IdempotencyMismatch("This Idempotency-Key was used with a different request body.")
    if status == b"forgotten":
        return JobForgotten("The job of this Idempotency-Key is being deleted.")
    if status == b"hopeless":
        excess = (int(answer[1]) - budget_ms) / 1000
        return (TooManyWaiting if answer[2] else WaitTooLong)(
            f"The jobs that wait for {provider} take about {int(answer[1]) / 1000:.1f} s, "
            f"longer than the {budget_ms / 1000:g} s this request allows.",
            retry_after_seconds=honest_wait(excess),
        )
    count = int(answer[1])
    wait = honest_wait(count / drained_per_second / 10 if drained_per_second else 5)
    if status == b"tenant_full":
        return TooManyWaiting(
            f"{count} jobs of this account wait for {provider}, and no more are taken.",
            retry_after_seconds=wait,
        )
    return QueueFull(
        f"The queue for {provider} holds {count} jobs and takes no more right now.",
        retry_after_seconds=wait,
    )


def honest_wait(seconds: float) -> float:
    """What to tell a caller who should come back: within 1 and 60 s, as the official clients wait no
    longer, and off by up to a fifth, so that those turned away together do not return together.
    """
    return round(min(max(seconds, 1.0), 60.0) * random.uniform(0.8, 1.0), 1)  # noqa: S311 - jitter


def _unavailable() -> QueueUnavailable:
    return QueueUnavailable("The queue is not reachable right now.", retry_after_seconds=1)
