"""The workers' side of the queue: lease, renew, stream, end, give back.

    XREADGROUP ── begin ──> Lease ── append* ──> finish | retry_later | hand_back
                    ^                  │
                    └── reclaimed: its worker renewed nothing for `lease_idle_seconds`

A Lease carries the fence that `begin` raised. Every later call compares it, so a worker
that was frozen and came back is refused (LeaseLost) and can neither answer nor bill.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from redis.exceptions import RedisError

from shared import faultpoints, keyspace
from shared.domain.job import Job, JobState, Lane, UnknownEnvelope
from shared.domain.usage import Attempt, Outcome, Settlement
from shared.ids import JobId
from shared.observability import metrics
from shared.queue.backlog import refill
from shared.queue.redis_link import TRANSIENT, RedisArg, RedisLink
from shared.queue.script_calls import Scripts
from shared.settings import QueueSettings

_A_DAY_MS: Final = 86_400_000
"""Idle beyond any lease."""
_RETRY_PRICE: Final = 100
"""What a retry takes from its budget, to which a call adds as many as the setting says percent."""
_RETRY_BUDGET_CAP: Final = 100 * _RETRY_PRICE
_ENDED_UNRUN: Final = {
    b"cancelled": Outcome.CANCELLED,
    b"expired": Outcome.EXPIRED,
    b"interrupted": Outcome.FAILED,
    b"dead": Outcome.DEAD,
}
"""How `begin` ends jobs that must not run."""


class LeaseLost(Exception):
    """Another worker holds the job, or it has ended: stop, and say nothing."""


class PutAside(Enum):
    """What became of a job that was to wait: the numbers are the script's."""

    DONE = 1
    PAST_DEADLINE = 2
    NO_RETRY_TO_SPARE = 3
    WAITED_ENOUGH = 4


def consumer_name() -> str:
    """Unique for ever: two processes of one name would take each other's jobs."""
    return f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """An entry handed to this worker; nothing has run yet. `crashes`: workers that died under its job."""

    job_id: JobId
    entry: bytes
    shard: int
    provider: str
    lane: Lane
    crashes: int = 0

    @property
    def lane_key(self) -> str:
        return keyspace.lane(self.shard, self.provider, self.lane)

    @property
    def backlog_key(self) -> str:
        return keyspace.backlog(self.shard, self.provider, self.lane)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a job. `attempts`: provider calls that already failed, `hop_attempts` of them
    at this target; `failures`: why it left the targets before.

    `remaining_ms` to the deadline and `waited_ms` since enqueue, both at begin;
    `begun_at`: time.monotonic() of this process then.
    """

    delivery: Delivery
    fence: int
    job: Job
    attempts: int
    deliveries: int
    remaining_ms: int
    waited_ms: int
    begun_at: float
    hop_attempts: int = 0
    failures: tuple[str, ...] = ()


def _line(attempt: Attempt | None) -> bytes:
    return b"" if attempt is None else attempt.to_wire()


def _seconds_left(lease: Lease) -> float:
    return max(0.0, lease.remaining_ms / 1000 - (time.monotonic() - lease.begun_at))


class Consumer:
    def __init__(self, link: RedisLink, settings: QueueSettings, name: str, providers: Sequence[str]) -> None:
        self.name = name
        self.providers = tuple(providers)
        self._link = link
        self._scripts = Scripts(link)
        self._settings = settings
        self._token = 0
        self._dead_retain_ms = int(settings.dead_retain_seconds * 1000)
        shards = range(settings.shards)
        self.lanes: tuple[tuple[Lane, tuple[tuple[str, int, str], ...]], ...] = tuple(
            (
                lane,
                tuple(
                    (keyspace.lane(shard, provider, lane), shard, provider)
                    for provider in self.providers
                    for shard in shards
                ),
            )
            for lane in Lane
        )
        self._by_key = {
            key.encode(): (shard, provider, lane)
            for lane, keys in self.lanes
            for key, shard, provider in keys
        }
        self._cursors: dict[str, bytes] = {}

    async def _insist(self, script: str, keys: list[str], *args: RedisArg, within_seconds: float) -> Any:
        """Call until the server answers: what a provider was paid for is worth waiting for.

        Raises the last RedisError once `within_seconds` are over, others than TRANSIENT at once.
        """
        give_up_at = time.monotonic() + within_seconds
        pause = 0.02
        while True:
            try:
                return await self._scripts.call(script, keys, *args)
            except TRANSIENT:
                if time.monotonic() + pause > give_up_at:
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, 1.0)

    async def create_groups(self) -> None:
        """Groups start at 0: one created at `$` would never see the jobs already there."""
        for key in self._by_key:
            answer = (
                await self._link.execute_many([("XGROUP", "CREATE", key, keyspace.GROUP, "0", "MKSTREAM")])
            )[0]
            if isinstance(answer, Exception) and not str(answer).startswith("BUSYGROUP"):
                raise answer

    def read_command(self, keys: Sequence[str], *, count: int, block_ms: int | None) -> list[RedisArg]:
        """XREADGROUP over lanes; COUNT holds for each of them. `block_ms` None: do not wait."""
        block: list[RedisArg] = [] if block_ms is None else ["BLOCK", block_ms]
        return [
            "XREADGROUP",
            "GROUP",
            keyspace.GROUP,
            self.name,
            "COUNT",
            count,
            *block,
            "STREAMS",
            *keys,
            *([">"] * len(keys)),
        ]

    def deliveries(self, reply: Any) -> list[Delivery]:
        """What an XREADGROUP reply hands to this worker."""
        found: list[Delivery] = []
        for key, entries in reply or ():
            shard, provider, lane = self._by_key[key]
            found.extend(
                Delivery(JobId(fields[1].decode()), entry, shard, provider, lane)
                for entry, fields in entries
                if fields
            )
        return found

    async def reach(self, shard: int) -> Hashable:
        """What leases and reclaims jobs of this shard, connected now: see RedisLink.reach."""
        return await self._link.reach(keyspace.usage(shard))

    async def reclaim(self, free: int, *, shard: int | None = None) -> list[Delivery]:
        """Up to `free` entries whose worker fell silent. XAUTOCLAIM drops deleted ones from the PEL.

        `shard`: of this one only.
        """
        found: list[Delivery] = []
        idle_ms = int(self._settings.lease_idle_seconds * 1000)
        for lane, streams in self.lanes:
            for key, at, provider in streams:
                if shard not in {None, at}:
                    continue
                cursor = self._cursors.get(key, b"0-0")
                while free - len(found) > 0:
                    reply = await self._link.execute(
                        "XAUTOCLAIM", key, keyspace.GROUP, self.name, idle_ms, cursor, "COUNT",
                        free - len(found),
                    )  # fmt: skip
                    cursor = reply[0]
                    found.extend(
                        Delivery(JobId(fields[1].decode()), entry, at, provider, lane)
                        for entry, fields in (e for e in reply[1] if e and e[1])
                    )
                    if cursor == b"0-0":
                        break
                self._cursors[key] = cursor
        crashes = await self._link.execute_many(
            [("HGET", keyspace.job(d.shard, d.job_id), "deliveries") for d in found]
        )
        return [
            replace(d, crashes=int(count)) if isinstance(count, bytes) else d
            for d, count in zip(found, crashes, strict=True)
        ]

    async def begin(self, delivery: Delivery) -> Lease | None:
        """None when the job must not run: it is over, expired, poisoned, or somewhere else.

        Raises UnknownEnvelope; the job is then left, uncounted, for a worker that can read it.
        Cancelled, it gives the job back before it raises.
        """
        self._token += 1
        token = f"{self.name}.{self._token}"
        try:
            answer = await self._begin(delivery, token, within_seconds=self._settings.lease_idle_seconds)
        except asyncio.CancelledError:
            # The call may have reached the server: the same one again tells, and can be undone.
            with suppress(RedisError):
                answer = await self._begin(delivery, token, within_seconds=2)
                if answer[0] == b"run":
                    await self._give_back(delivery, answer[1], idle_ms=_A_DAY_MS)
            raise
        if answer[0] != b"run":
            if (outcome := _ENDED_UNRUN.get(answer[0])) is not None:
                metrics.count_ended(delivery.provider, outcome)
            return None
        _, fence, header, body, attempts, deliveries, remaining_ms, waited_ms, *at_hop = answer
        hop, hop_attempts, failures = at_hop
        try:
            job = Job.from_wire(header, body).at(hop)
        except UnknownEnvelope:
            # Not idle: this worker's own next sweep would only take it again.
            await self._give_back(delivery, fence, idle_ms=0)
            raise
        return Lease(
            delivery=delivery,
            fence=fence,
            job=job,
            attempts=attempts,
            deliveries=deliveries,
            remaining_ms=remaining_ms,
            waited_ms=waited_ms,
            begun_at=time.monotonic(),
            hop_attempts=hop_attempts,
            failures=tuple(failures.decode().split("\n")) if failures else (),
        )

    async def _begin(self, delivery: Delivery, token: str, *, within_seconds: float) -> Any:
        shard, job_id = delivery.shard, delivery.job_id
        return await self._insist(
            "begin",
            [
                keyspace.job(shard, job_id),
                delivery.lane_key,
                keyspace.events(shard, job_id),
                keyspace.usage(shard),
                keyspace.dead(shard, delivery.provider),
                delivery.backlog_key,
                keyspace.retries(shard, delivery.provider),
            ],
            job_id,
            delivery.entry,
            token,
            self.name,
            self._settings.max_deliveries,
            self._settings.inline_result_bytes,
            self._settings.shard_window,
            self._settings.shard_cap,
            self._dead_retain_ms,
            self._settings.retry_budget_percent,
            _RETRY_BUDGET_CAP,
            within_seconds=within_seconds,
        )

    async def heartbeat(self, leases: Sequence[Lease]) -> list[tuple[Lease, bool]]:
        """Renew all of them. Returns those to stop: (lease, True when asked to, False when lost).

        Raises RedisError, once those that can be renewed are.
        """
        by_shard: dict[int, list[Lease]] = {}
        for lease in leases:
            by_shard.setdefault(lease.delivery.shard, []).append(lease)
        # A node of a cluster that is away must not cost the leases of the others.
        answers = await asyncio.gather(
            *(self._renew(shard, mine) for shard, mine in by_shard.items()), return_exceptions=True
        )
        stop: list[tuple[Lease, bool]] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            stop.extend(answer)
        return stop

    async def _renew(self, shard: int, leases: Sequence[Lease]) -> list[tuple[Lease, bool]]:
        keys = [k for le in leases for k in (keyspace.job(shard, le.job.id), le.delivery.lane_key)]
        args = [a for le in leases for a in (le.delivery.entry, le.fence)]
        answers = await self._scripts.call("heartbeat", keys, self.name, *args)
        return [(lease, answer == 2) for lease, answer in zip(leases, answers, strict=True) if answer != 1]

    async def append(self, lease: Lease, first: int, events: Sequence[bytes]) -> bool:
        """Publish stream events, the first of them being number `first`. False: the job should stop.

        Raises LeaseLost.
        """
        shard, job_id = lease.delivery.shard, lease.job.id
        answer = await self._insist(
            "append",
            [keyspace.job(shard, job_id), keyspace.events(shard, job_id)],
            job_id,
            lease.fence,
            first,
            first + len(events) - 1,
            b"\n".join(events),
            self._settings.inline_result_bytes,
            within_seconds=_seconds_left(lease),
        )
        if answer == 0:
            raise LeaseLost(job_id)
        return bool(answer == 1)

    async def finish(
        self,
        lease: Lease,
        state: JobState,
        *,
        head: bytes,
        body: bytes,
        settlement: Settlement,
        tail: Sequence[bytes] = (),
        tail_first: int = 1,
    ) -> None:
        """End the job. `tail`: the last events of its stream, number `tail_first` and on.

        Raises LeaseLost when the answer came too late to count.
        """
        shard, job_id = lease.delivery.shard, lease.job.id
        finishing = self._insist(
            "finish",
            [
                keyspace.job(shard, job_id),
                lease.delivery.lane_key,
                keyspace.events(shard, job_id),
                keyspace.usage(shard),
            ],
            job_id,
            lease.fence,
            state.value,
            head,
            body,
            settlement.to_wire(),
            self._settings.inline_result_bytes,
            tail_first,
            tail_first + len(tail) - 1,
            b"\n".join(tail),
            within_seconds=_seconds_left(lease) + 60,
        )
        answer = await faultpoints.during("W7", finishing)
        if answer == 0:
            raise LeaseLost(job_id)
        metrics.count_ended(lease.job.target.provider, state)

    async def retry_later(
        self, lease: Lease, *, delay_seconds: float, attempt: Attempt | None = None
    ) -> PutAside:
        """Try again a call that failed. Raises LeaseLost."""
        return await self._put_aside(lease, delay_seconds, call_failed=True, patient=False, attempt=attempt)

    async def defer(
        self, lease: Lease, *, delay_seconds: float, patient: bool = False, attempt: Attempt | None = None
    ) -> PutAside:
        """Put the job aside, as its provider takes no calls: no attempt is counted. Raises LeaseLost.

        A `patient` job and those of the batch lane wait until their deadline, others
        `max_wait_seconds` from when they first had to.
        """
        patient = patient or lease.delivery.lane is Lane.BATCH
        return await self._put_aside(
            lease, delay_seconds, call_failed=False, patient=patient, attempt=attempt
        )

    async def _put_aside(
        self,
        lease: Lease,
        delay_seconds: float,
        *,
        call_failed: bool,
        patient: bool,
        attempt: Attempt | None,
    ) -> PutAside:
        delivery = lease.delivery
        answer = await self._insist(
            "retry_later",
            [
                keyspace.job(delivery.shard, lease.job.id),
                delivery.lane_key,
                keyspace.delayed(delivery.shard, delivery.provider),
                keyspace.retries(delivery.shard, delivery.provider),
            ],
            lease.job.id,
            lease.fence,
            int(delay_seconds * 1000),
            delivery.lane.value,
            "1" if call_failed else "",
            _RETRY_PRICE,
            self._settings.retry_reserve,
            "" if patient else int(self._settings.max_wait_seconds * 1000),
            _line(attempt),
            within_seconds=_seconds_left(lease),
        )
        if answer == 0:
            raise LeaseLost(lease.job.id)
        return PutAside(answer)

    async def move(
        self, lease: Lease, *, why: str, call_failed: bool, attempt: Attempt | None = None
    ) -> bool:
        """Send the job to the next target of its plan; `why` is one line.

        False when its deadline has passed: finish it. Raises LeaseLost, or ValueError when its plan
        has no further target.
        """
        delivery, job = lease.delivery, lease.job
        target = job.next_target
        if target is None:
            raise ValueError("this job has nowhere else to go")
        answer = await self._insist(
            "move",
            [
                keyspace.job(delivery.shard, job.id),
                delivery.lane_key,
                keyspace.lane(delivery.shard, target.provider, delivery.lane),
                keyspace.backlog(delivery.shard, target.provider, delivery.lane),
            ],
            job.id,
            lease.fence,
            job.hop + 1,
            "1" if call_failed else "",
            self._settings.shard_window,
            self._settings.shard_cap,
            why.replace("\n", " "),
            _line(attempt),
            within_seconds=_seconds_left(lease),
        )
        if answer == 0:
            raise LeaseLost(job.id)
        return bool(answer == 1)

    async def refill(self) -> None:
        """Fill this worker's lanes from their backlogs, should nothing that begins do it."""
        await refill(self._link, self._scripts, self._settings, self.providers)

    async def hand_back(self, lease: Lease, *, attempt: Attempt | None = None) -> None:
        """Give the job back uncounted; the next sweep takes it at once. Raises LeaseLost."""
        if not await self._give_back(lease.delivery, lease.fence, idle_ms=_A_DAY_MS, attempt=attempt):
            raise LeaseLost(lease.job.id)
        metrics.count_requeue(lease.job.target.provider, "handed_back")

    async def _give_back(
        self, delivery: Delivery, fence: int, *, idle_ms: int, attempt: Attempt | None = None
    ) -> bool:
        answer = await self._insist(
            "hand_back",
            [keyspace.job(delivery.shard, delivery.job_id), delivery.lane_key],
            delivery.job_id,
            fence,
            self.name,
            idle_ms,
            _line(attempt),
            within_seconds=2,
        )
        return bool(answer == 1)

    async def release(self, delivery: Delivery) -> None:
        """Give back an entry that was read but never begun: the next sweep takes it at once."""
        await self._link.execute(
            "XCLAIM", delivery.lane_key, keyspace.GROUP, self.name, 0, delivery.entry, "IDLE", _A_DAY_MS,
            "JUSTID",
        )  # fmt: skip

    async def forget(self) -> None:
        """Remove this consumer's name where it holds nothing."""
        for key in self._by_key:
            await self._scripts.call("forget_consumer", [key.decode()], self.name)
