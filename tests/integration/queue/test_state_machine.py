"""The scripts on a real Redis, held after every step to a model and to what must never happen.

A failing run prints the steps that lead to it, and the line that reproduces them. More examples:
HEADRACE_STATE_MACHINE_EXAMPLES=5000.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared import keyspace
from shared.domain.job import TERMINAL, TRANSITIONS, Job, JobState, Lane
from shared.domain.usage import Settlement
from shared.errors import IdempotencyMismatch, QueueFull
from shared.ids import AccountId, JobId
from shared.queue import depth
from shared.queue.consumer import Consumer, Delivery, Lease, LeaseLost
from shared.queue.delays import Delays
from shared.queue.frames import Result, ResultHead
from shared.queue.producer import Producer
from shared.queue.redis_link import RedisLink
from shared.queue.script_calls import Scripts
from shared.settings import QueueSettings
from tests.integration.queue.model import Model, ModelJob, essence, text
from tests.integration.queue.support import ACME, PROVIDER, a_job, settled

EXAMPLES: Final = int(os.environ.get("HEADRACE_STATE_MACHINE_EXAMPLES", "180"))
STEPS: Final = 50

SETTINGS: Final = QueueSettings(max_deliveries=2, max_lane_entries=2, inline_result_bytes=8)
BUDGET_MS: Final = 3_600_000
LANES: Final = (Lane.INTERACTIVE, Lane.STANDARD)
LANE_KEYS: Final = {lane: keyspace.lane(0, PROVIDER, lane) for lane in Lane}
FIXED_KEYS: Final = {
    *LANE_KEYS.values(),
    keyspace.delayed(0, PROVIDER),
    keyspace.dead(0, PROVIDER),
    keyspace.usage(0),
}
WORKERS: Final = ("one", "two", "three")
STRANGER: Final = AccountId("stranger")

Call = tuple[str, list[str], tuple[Any, ...]]

workers = st.sampled_from(WORKERS)
channels = st.sampled_from(["hr:reply:a", "hr:reply:b"])


class ModelledScripts(Scripts):
    """Each call is made of the server and of the model, and remembered."""

    def __init__(self, link: RedisLink, model: Model, calls: list[Call]) -> None:
        super().__init__(link)
        self._model = model
        self._calls = calls

    async def call(self, name: str, keys: list[str], *args: Any) -> Any:
        answer = await super().call(name, keys, *args)
        expected = self._model.apply(name, keys, [text(arg) for arg in args])
        assert essence(name, answer) == expected, f"{name} answered {answer}, not {expected}"
        self._calls.append((name, keys, args))
        return answer


class QueueMachine(RuleBasedStateMachine):
    jobs: Bundle[Job] = Bundle("jobs")
    deliveries: Bundle[tuple[str, Delivery]] = Bundle("deliveries")
    leases: Bundle[tuple[str, Lease]] = Bundle("leases")

    def __init__(self, runner: asyncio.Runner, link: RedisLink) -> None:
        super().__init__()
        self._runner = runner
        self.link = link
        self.model = Model(list(LANE_KEYS.values()))
        self.calls: list[Call] = []
        self.seen: dict[str, dict[str, str]] = {}
        self.appended: dict[str, str] = {}
        scripts = ModelledScripts(link, self.model, self.calls)
        self.scripts = scripts
        self.producer = Producer(link, SETTINGS)
        self.delays = Delays(link, shards=1)
        self.consumers = {name: Consumer(link, SETTINGS, name, [PROVIDER]) for name in WORKERS}
        self.producer._scripts = self.delays._scripts = scripts
        for consumer in self.consumers.values():
            consumer._scripts = scripts
        self.run(link.execute("FLUSHALL"))
        self.run(self.consumers["one"].create_groups())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    # The api

    # Few jobs, so that much happens to each.
    @precondition(lambda self: sum(not job.is_over for job in self.model.jobs.values()) < 4)
    @rule(target=jobs, lane=st.sampled_from(LANES), reply_to=channels, fingerprint=st.sampled_from(["", "f"]))
    def enqueue(self, lane: Lane, reply_to: str, fingerprint: str) -> Any:
        job = a_job(job_id=JobId(f"job_{len(self.calls):032x}"), lane=lane, budget_ms=BUDGET_MS)
        try:
            accepted = self.run(self.producer.enqueue(job, reply_to=reply_to, fingerprint=fingerprint))
        except QueueFull:
            return multiple()
        assert not accepted.attached
        return job

    @rule(job=jobs, reply_to=channels, fingerprint=st.sampled_from(["", "f"]))
    def enqueue_again(self, job: Job, reply_to: str, fingerprint: str) -> None:
        other = self.model.jobs[job.id].fingerprint != fingerprint
        try:
            accepted = self.run(self.producer.enqueue(job, reply_to=reply_to, fingerprint=fingerprint))
        except IdempotencyMismatch:
            assert other
        else:
            assert accepted.attached
            assert not other

    @rule(job=jobs, account=st.sampled_from([ACME, ACME, STRANGER]), reply_to=channels)
    def attach(self, job: Job, account: AccountId, reply_to: str) -> None:
        found = self.run(self.producer.attach(job.id, account, reply_to=reply_to))
        assert (found is None) == (account is STRANGER)

    @rule(
        job=jobs,
        account=st.sampled_from([ACME, ACME, ACME, STRANGER]),
        count=st.sampled_from([None, "now", "before"]),
    )
    def cancel(self, job: Job, account: AccountId, count: str | None) -> None:
        attach = self.model.jobs[job.id].attach
        seen = None if count is None else attach if count == "now" else attach - 1
        self.run(self.producer.cancel(job.id, account, job=job, if_attached=seen))

    @rule(job=jobs)
    def look_up(self, job: Job) -> None:
        found = self.run(self.producer.result(job.id))
        known = self.model.jobs[job.id]
        if isinstance(found, Result):
            assert known.outcome == found.head.outcome
            assert known.last == found.last
        else:
            assert found == known.state

    # The workers

    @rule(target=deliveries, worker=workers, count=st.integers(1, 2))
    def read(self, worker: str, count: int) -> Any:
        return multiple(*((worker, delivery) for delivery in self._read(worker, count)))

    def _read(self, worker: str, count: int) -> list[Delivery]:
        expected = [(key, lane.undelivered[:count]) for key, lane in self.model.lanes.items()]
        consumer = self.consumers[worker]
        command = consumer.read_command(tuple(Lane), count=count, block_ms=None)
        found = consumer.deliveries(self.run(self.link.execute(*command)))
        assert sorted((d.lane_key, text(d.entry)) for d in found) == sorted(
            (key, entry) for key, entries in expected for entry in entries
        )
        for delivery in found:
            lane = self.model.lanes[delivery.lane_key]
            lane.delivered.add(text(delivery.entry))
            lane.pending[text(delivery.entry)] = worker
        return found

    @rule(target=leases, delivery=deliveries)
    def begin(self, delivery: tuple[str, Delivery]) -> Any:
        worker, entry = delivery
        lease = self.run(self.consumers[worker].begin(entry))
        return multiple() if lease is None else (worker, lease)

    @rule(target=leases, worker=workers)
    def read_and_begin(self, worker: str) -> Any:
        return self._begin_all(worker, self._read(worker, count=1))

    @rule(target=leases, worker=workers)
    def reclaim_and_begin(self, worker: str) -> Any:
        return self._begin_all(worker, self._reclaim(worker, free=3))

    def _begin_all(self, worker: str, deliveries: list[Delivery]) -> Any:
        begun = [self.run(self.consumers[worker].begin(delivery)) for delivery in deliveries]
        return multiple(*((worker, lease) for lease in begun if lease is not None))

    @rule(delivery=deliveries)
    def release(self, delivery: tuple[str, Delivery]) -> None:
        """What a stopping worker does with an entry that it read last and never began."""
        worker, entry = delivery
        lane = self.model.lanes[entry.lane_key]
        if lane.pending.get(text(entry.entry)) != worker or not self._is_unbegun(entry):
            return
        self.run(self.consumers[worker].release(entry))
        self.model.idle.add(text(entry.entry))

    def _is_unbegun(self, delivery: Delivery) -> bool:
        job = self.model.jobs[delivery.job_id]
        return job.state is JobState.QUEUED and job.entry == text(delivery.entry)

    @rule(worker=workers, held=st.lists(leases, max_size=4))
    def heartbeat(self, worker: str, held: list[tuple[str, Lease]]) -> None:
        mine = list({lease.job.id: lease for holder, lease in held if holder == worker}.values())
        if mine:
            stops = self.run(self.consumers[worker].heartbeat(mine))
            assert {id(lease) for lease, _ in stops} <= {id(lease) for lease in mine}

    @rule(held=leases, events=st.lists(st.sampled_from([b'{"a":1}', b'{"b":2}']), min_size=1, max_size=3))
    def append(self, held: tuple[str, Lease], events: list[bytes]) -> None:
        worker, lease = held
        try:
            wanted = self.run(
                self.consumers[worker].append(lease, self.model.jobs[lease.job.id].last + 1, events)
            )
        except LeaseLost:
            assert not self._holds(lease)
        else:
            assert self._holds(lease)
            assert wanted is not self.model.jobs[lease.job.id].cancel

    @rule(
        held=leases,
        state=st.sampled_from([JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED]),
        body=st.sampled_from([b"", b"{}", b"longer than what travels inline"]),
        tail=st.sampled_from([(), (b'{"t":1}',)]),
    )
    def finish(self, held: tuple[str, Lease], state: JobState, body: bytes, tail: tuple[bytes, ...]) -> None:
        worker, lease = held
        settlement = settled(lease, state)  # type: ignore[arg-type]  # the same words
        held_before = self._holds(lease)
        ended_before = self.model.jobs[lease.job.id].state
        try:
            self.run(
                self.consumers[worker].finish(
                    lease,
                    state,
                    head=ResultHead(settlement.outcome).to_wire(),
                    body=body,
                    settlement=settlement,
                    tail=tail,
                    tail_first=self.model.jobs[lease.job.id].last + 1,
                )
            )
        except LeaseLost:
            assert not held_before
        else:
            assert held_before or ended_before is state

    @rule(held=leases, delay=st.sampled_from([0, 600, BUDGET_MS]))
    def retry_later(self, held: tuple[str, Lease], delay: float) -> None:
        worker, lease = held
        try:
            self.run(self.consumers[worker].retry_later(lease, delay_seconds=delay))
        except LeaseLost:
            assert not self._holds(lease)

    @rule(held=leases)
    def hand_back(self, held: tuple[str, Lease]) -> None:
        worker, lease = held
        try:
            self.run(self.consumers[worker].hand_back(lease))
        except LeaseLost:
            assert not self._holds(lease)

    def _holds(self, lease: Lease) -> bool:
        job = self.model.jobs[lease.job.id]
        return job.state is JobState.RUNNING and job.fence == lease.fence

    @rule(target=deliveries, worker=workers, free=st.integers(1, 3))
    def reclaim(self, worker: str, free: int) -> Any:
        return multiple(*((worker, delivery) for delivery in self._reclaim(worker, free)))

    def _reclaim(self, worker: str, free: int) -> list[Delivery]:
        consumer = self.consumers[worker]
        from_the_start = set(consumer._cursors.values()) <= {b"0-0"}
        found: list[Delivery] = self.run(consumer.reclaim(free))
        assert len(found) <= free
        for delivery in found:
            entry = text(delivery.entry)
            assert entry in self.model.idle
            self.model.idle.remove(entry)
            self.model.lanes[delivery.lane_key].pending[entry] = worker
        if from_the_start and len(found) < free:
            assert not self.model.idle & self._all_pending()
        return found

    def _all_pending(self) -> set[str]:
        return {entry for lane in self.model.lanes.values() for entry in lane.pending}

    @rule(worker=workers)
    def forget_consumer(self, worker: str) -> None:
        self.run(self.consumers[worker].forget())

    @rule()
    def promote(self) -> None:
        self.run(self.delays.promote([PROVIDER]))

    # Time, death, the network

    @rule(entry=st.integers(0, 20))
    def a_worker_falls_silent(self, entry: int) -> None:
        pending = sorted(
            (e, key, c) for key, lane in self.model.lanes.items() for e, c in lane.pending.items()
        )
        if pending:
            entry_id, key, consumer = pending[entry % len(pending)]
            self.run(
                self.link.execute(
                    "XCLAIM", key, keyspace.GROUP, consumer, 0, entry_id, "IDLE", 3_600_000, "JUSTID"
                )
            )
            self.model.idle.add(entry_id)

    @rule(lost=consumes(leases))
    def a_worker_dies(self, lost: tuple[str, Lease]) -> None:
        """Nobody acts for this lease any more; a_worker_falls_silent is what others see of it."""

    @rule(job=jobs)
    def a_deadline_passes(self, job: Job) -> None:
        key = keyspace.job(0, job.id)
        self.run(
            self.link.execute("HSET", key, "deadline", self.run(self.link.execute("HGET", key, "created")))
        )
        self.model.jobs[job.id].overdue = True

    @precondition(lambda self: self.model.delayed)
    @rule()
    def delays_pass(self) -> None:
        for member in self.model.delayed:
            self.run(self.link.execute("ZADD", keyspace.delayed(0, PROVIDER), 1, member))
            self.model.delayed[member] = True

    @precondition(lambda self: self.calls)
    @rule(back=st.integers(0, 60), times=st.integers(1, 2))
    def an_earlier_call_is_sent_again(self, back: int, times: int) -> None:
        name, keys, args = self.calls[-1 - back % len(self.calls)]
        note(f"replayed: {name} {args}")
        for _ in range(times):
            self.run(self.scripts.call(name, keys, *args))

    # What must always hold

    @invariant()
    def everything_agrees(self) -> None:
        self.run(self._check())

    async def _check(self) -> None:
        jobs = list(self.model.jobs.values())
        keys = [keyspace.job(0, JobId(job.id)) for job in jobs]
        hashes = await self.link.execute_many([("HGETALL", key) for key in keys])
        for job, flat in zip(jobs, hashes, strict=True):
            fields = {text(k): text(v) for k, v in zip(flat[::2], flat[1::2], strict=True)}
            self._check_job(job, fields)
            self._check_history(job.id, fields)
        await self._check_lanes(jobs)
        await self._check_ends(jobs)
        await self._check_depth()
        await self._check_ttls(jobs)

    def _check_job(self, job: ModelJob, fields: dict[str, str]) -> None:
        if job.entry is None:  # the server has just chosen it
            job.entry = fields["entry"]
            assert job.entry
            assert job.entry not in self.appended
            self.appended[job.entry] = job.id
            self.model.lanes[job.lane].entries[job.entry] = job.id
        assert {
            "state": job.state.value,
            "fence": str(job.fence),
            "entry": job.entry,
            "attempts": str(job.attempts),
            "deliveries": str(job.deliveries),
            "attach": str(job.attach),
            "reply": ",".join(job.reply),
            "cancel": "1" if job.cancel else "",
        } == {name: fields.get(name, "") for name in (
            "state", "fence", "entry", "attempts", "deliveries", "attach", "reply", "cancel"
        )}  # fmt: skip

    def _check_history(self, job_id: str, now: dict[str, str]) -> None:
        before = self.seen.get(job_id)
        self.seen[job_id] = now
        if before is None:
            return
        old, new = JobState(before["state"]), JobState(now["state"])
        assert old is new or new in TRANSITIONS[old]
        assert int(now["fence"]) >= int(before["fence"])
        if old in TERMINAL:
            end = ("state", "result_head", "result_body", "last", "finished", "fence")
            assert [before[name] for name in end] == [now[name] for name in end]

    async def _check_lanes(self, jobs: list[ModelJob]) -> None:
        for key, lane in self.model.lanes.items():
            rows = await self.link.execute("XRANGE", key, "-", "+")
            assert {text(entry): text(fields[1]) for entry, fields in rows} == lane.entries
            pending = await self.link.execute("XPENDING", key, keyspace.GROUP, "-", "+", 1_000)
            assert {text(row[0]): text(row[1]) for row in pending} == lane.pending
            for entry, job_id in lane.entries.items():
                job = self.model.jobs[job_id]
                assert job.entry == entry or entry in self.model.tombstones
        members = await self.link.execute("ZRANGE", keyspace.delayed(0, PROVIDER), 0, -1)
        assert {text(member) for member in members} == set(self.model.delayed)
        for job in jobs:
            if job.is_over:
                continue
            live = [
                (key, e)
                for key, lane in self.model.lanes.items()
                for e, j in lane.entries.items()
                if j == job.id
            ]
            delayed = [member for member in self.model.delayed if member.startswith(job.id)]
            if job.entry:
                assert live == [(job.lane, job.entry)]
                assert not delayed
            else:
                assert job.state is JobState.QUEUED
                assert not live
                assert len(delayed) == 1
            if job.state is JobState.RUNNING:
                assert job.entry in self.model.lanes[job.lane].pending

    async def _check_ends(self, jobs: list[ModelJob]) -> None:
        rows = await self.link.execute("XRANGE", keyspace.usage(0), "-", "+")
        settlements = sorted((text(f[1]), Settlement.from_wire(f[5]).outcome.value) for _, f in rows)
        assert settlements == sorted((job.id, job.outcome.value) for job in jobs if job.outcome is not None)
        assert {job.id for job in jobs if job.is_over} == {job_id for job_id, _ in settlements}
        letters = await self.link.execute("XRANGE", keyspace.dead(0, PROVIDER), "-", "+")
        assert [text(fields[1]) for _, fields in letters] == self.model.dead

    async def _check_depth(self) -> None:
        for found in await depth.measure(self.link, [PROVIDER], shards=1):
            lane = self.model.lanes[LANE_KEYS[found.lane]]
            delayed = len(self.model.delayed) if found.lane is Lane.STANDARD else 0
            assert found.queued == len(lane.entries) - len(lane.pending) + delayed
            assert found.in_flight == len(lane.pending)
            assert (found.oldest_age_seconds > 0) <= bool(lane.undelivered)

    async def _check_ttls(self, jobs: list[ModelJob]) -> None:
        expected = {keyspace.job(0, JobId(job.id)) for job in jobs}
        expected |= {keyspace.events(0, JobId(job.id)) for job in jobs if job.last}
        found = {text(key) for key in await self.link.execute("KEYS", "*")}
        assert found - FIXED_KEYS == expected
        keep_ms = int(SETTINGS.retain_seconds * 1000)
        for ttl in await self.link.execute_many([("PTTL", key) for key in expected]):
            assert 0 < ttl <= BUDGET_MS + keep_ms


@pytest.mark.timeout(60 + EXAMPLES)
def test_the_scripts_do_what_the_model_does_whatever_the_order(redis_url: str) -> None:
    with asyncio.Runner() as runner:

        async def connect() -> RedisLink:
            return RedisLink(redis_url, timeout=10)

        link = runner.run(connect())
        run_state_machine_as_test(
            lambda: QueueMachine(runner, link),  # type: ignore[arg-type]  # any factory does
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
        runner.run(link.close())
