"""The scripts on a real Redis, held after every step to a model and to what must never happen.

A failing run prints the steps that lead to it, and the line that reproduces them. More examples:
HEADRACE_STATE_MACHINE_EXAMPLES=5000.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, Final, TypeVar

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from shared import keyspace
from shared.domain.job import TERMINAL, TRANSITIONS, Job, JobState, Lane
from shared.domain.usage import Outcome, Settlement
from shared.errors import IdempotencyMismatch, InvalidRequest, QueueFull
from shared.ids import AccountId, JobId
from shared.queue import depth, links
from shared.queue.consumer import Consumer, Delivery, Lease, LeaseLost
from shared.queue.delays import Delays
from shared.queue.frames import Result, ResultHead
from shared.queue.producer import Producer
from shared.queue.redis_link import RedisArg, RedisLink
from shared.queue.script_calls import Scripts
from shared.settings import QueueSettings
from tests.integration.queue.model import Model, ModelJob, essence, text
from tests.integration.queue.support import ACME, PROVIDER, a_job, settled

EXAMPLES: Final = int(os.environ.get("HEADRACE_STATE_MACHINE_EXAMPLES", "180"))
STEPS: Final = 50

SETTINGS: Final = QueueSettings(
    lease_idle_seconds=600,
    max_deliveries=2,
    max_lane_entries=3,
    ready_window=2,
    inline_result_bytes=8,
    retry_reserve=1_000,
    dead_retain_seconds=3_600,
)
BUDGET_MS: Final = 3_600_000
LANES: Final = (Lane.INTERACTIVE, Lane.STANDARD)
LANE_KEYS: Final = {lane: keyspace.lane(0, PROVIDER, lane) for lane in Lane}
FIXED_KEYS: Final = {
    *LANE_KEYS.values(),
    keyspace.delayed(0, PROVIDER),
    keyspace.dead(0, PROVIDER),
    keyspace.usage(0),
    keyspace.retries(0, PROVIDER),
    f"{keyspace.retries(0, PROVIDER)}:reserve",
}
BACKLOG_KEYS: Final = {
    f"{keyspace.backlog(0, PROVIDER, lane)}{end}" for lane in Lane for end in ("", ":tenants", ":aside")
}
STRANGER: Final = AccountId("stranger")

Call = tuple[str, list[str], tuple[Any, ...]]

workers = st.integers(0, 2)
channels = st.sampled_from(["hr:reply:a", "hr:reply:b"])
fingerprints = st.sampled_from(["", "f"])
readers = st.sampled_from(["", "r1", "r2"])
ages = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5, 8])

mostly = st.sampled_from([True, True, True, False])

T = TypeVar("T")


def backlog_of(lane_key: str) -> str:
    return lane_key.replace(":lane:", ":backlog:")


def newest(things: list[T], age: int) -> T:
    """The newest at age 0."""
    return things[-1 - age % len(things)]


ARGUMENTS: Final[dict[str, dict[str, st.SearchStrategy[Any]]]] = {
    "enqueue": {
        "lane": st.sampled_from(LANES),
        "reply_to": channels,
        "fingerprint": fingerprints,
        "reader": readers,
        "keep": st.booleans(),
        "stream": mostly,
    },
    "ask": {
        "age": ages,
        "action": st.sampled_from(["enqueue", "attach", "look up", "cancel", "leave", "cancel if unread"]),
        "account": st.sampled_from([ACME, ACME, ACME, STRANGER]),
        "reply_to": channels,
        "fingerprint": fingerprints,
        "reader": readers,
    },
    "read": {"worker": workers, "begins": mostly, "count": st.integers(1, 2)},
    "reclaim": {"worker": workers, "begins": mostly, "free": st.integers(1, 3)},
    "use_a_delivery": {"age": ages, "action": st.sampled_from(["begin", "begin", "release"])},
    "use_a_lease": {
        "age": ages,
        "action": st.sampled_from(
            [
                *("heartbeat", "append", "succeed", "fail", "cancel"),
                *("retry now", "retry later", "retry too late", "defer", "hand back", "hand back"),
            ]
        ),
        "events": st.lists(st.sampled_from([b'{"a":1}', b'{"b":2}']), max_size=3),
        "body": st.sampled_from([b"{}", b"longer than what travels inline"]),
    },
    "something_happens": {
        "event": st.sampled_from(
            [*["a worker falls silent"] * 4, "a deadline passes", "delays pass", "forget consumers"]
        ),
        "age": ages,
    },
    "promote": {},
    "send_again": {"age": st.integers(0, 30), "times": st.integers(1, 2)},
}
ACTIONS: Final = (
    *("enqueue", "ask", "read", "read", "reclaim", "reclaim", "use_a_delivery"),
    *("use_a_lease",) * 4,
    *("something_happens", "something_happens", "promote", "send_again", "send_again"),
)
"""As often as they stand here."""


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
    """One rule that draws from ACTIONS: with a rule each, Hypothesis would leave most out of any one run.

    Jobs, deliveries and leases are drawn by their age, newest first, from all there ever were:
    what is over, lost or somebody else's keeps coming back.
    """

    def __init__(self, runner: asyncio.Runner, link: RedisLink) -> None:
        super().__init__()
        self._runner = runner
        self.link = link
        self.model = Model(list(LANE_KEYS.values()))
        self.calls: list[Call] = []
        self.seen: dict[str, dict[str, str]] = {}
        self.appended: set[tuple[str, str]] = set()
        self.offered: dict[str, Job] = {}
        self.jobs: list[Job] = []
        self.deliveries: list[tuple[Consumer, Delivery]] = []
        self.leases: list[tuple[Consumer, Lease]] = []
        self.scripts = ModelledScripts(link, self.model, self.calls)
        self.producer = Producer(link, SETTINGS)
        self.delays = Delays(link, SETTINGS)
        self.consumers = [Consumer(link, SETTINGS, name, [PROVIDER]) for name in ("one", "two", "three")]
        self.producer._scripts = self.delays._scripts = self.scripts
        for consumer in self.consumers:
            consumer._scripts = self.scripts
        self.run(link.execute_everywhere("FLUSHALL"))
        self.run(self.consumers[0].create_groups())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        possible = [name for name in ACTIONS if self._is_possible(name)]
        action = data.draw(st.sampled_from(possible), label="action")
        arguments = {name: data.draw(values, label=name) for name, values in ARGUMENTS[action].items()}
        getattr(self, action)(**arguments)

    def _is_possible(self, action: str) -> bool:
        if action == "enqueue":
            # Few jobs at a time, so that much happens to each.
            return sum(not job.is_over for job in self.model.jobs.values()) < 4
        needed = {
            "ask": self.jobs,
            "use_a_delivery": self.deliveries,
            "use_a_lease": self.leases,
            "send_again": self.calls,
        }
        return bool(needed.get(action, True))

    # The api

    def enqueue(
        self, lane: Lane, reply_to: str, fingerprint: str, reader: str, keep: bool, stream: bool
    ) -> None:
        job_id = JobId(f"job_{len(self.offered):032x}")
        job = a_job(job_id=job_id, lane=lane, budget_ms=BUDGET_MS, stream=stream)
        self.offered[job.id] = job
        waiting = sum(
            self.model.waits(other) for other in self.model.jobs.values() if other.lane == LANE_KEYS[lane]
        )
        aside = sum(member.endswith(f"|{lane}") for member in self.model.delayed)
        held = len(self.model.lanes[LANE_KEYS[lane]].entries) + waiting + aside
        is_full = held >= SETTINGS.max_lane_entries
        try:
            accepted = self.run(
                self.producer.enqueue(
                    job, reply_to=reply_to, fingerprint=fingerprint, reader=reader, keep=keep
                )
            )
        except QueueFull:
            assert is_full
        else:
            assert not is_full
            assert not accepted.attached
            self.jobs.append(job)

    def ask(
        self, age: int, action: str, account: AccountId, reply_to: str, fingerprint: str, reader: str
    ) -> None:
        job = newest(self.jobs, age)
        known = self.model.jobs[job.id]
        if action == "enqueue":
            other = known.fingerprint != fingerprint
            try:
                assert self.run(
                    self.producer.enqueue(job, reply_to=reply_to, fingerprint=fingerprint, reader=reader)
                ).attached
                assert not other
            except IdempotencyMismatch:
                assert other
        elif action == "attach":
            self._attach(job, account, reply_to, reader)
        elif action == "look up":
            self._look_up(job, known)
        elif action == "leave":
            self.run(self.producer.leave(job, reader))
        else:
            self.run(
                self.producer.cancel(replace(job, account=account), if_unread=action == "cancel if unread")
            )

    def _attach(self, job: Job, account: AccountId, reply_to: str, reader: str) -> None:
        attaching = self.producer.attach(job.id, account, reply_to=reply_to, reader=reader, surface=None)
        try:
            found = self.run(attaching)
        except InvalidRequest:
            assert not job.stream
        else:
            assert (found is None) == (account is STRANGER)

    def _look_up(self, job: Job, known: ModelJob) -> None:
        found = self.run(self.producer.result(job.id))
        if isinstance(found, Result):
            assert known.outcome == found.head.outcome
            assert known.last == found.last
        else:
            assert found == known.state

    # The workers

    def read(self, worker: int, begins: bool, count: int) -> None:
        consumer = self.consumers[worker]
        expected = {
            (key, entry) for key, lane in self.model.lanes.items() for entry in lane.undelivered[:count]
        }
        command = consumer.read_command(list(LANE_KEYS.values()), count=count, block_ms=None)
        found = consumer.deliveries(self.run(self.link.execute(*command)))
        assert {(delivery.lane_key, text(delivery.entry)) for delivery in found} == expected
        for delivery in found:
            self.model.lanes[delivery.lane_key].delivered.add(text(delivery.entry))
        self._got(consumer, found, begins=begins)

    def reclaim(self, worker: int, begins: bool, free: int) -> None:
        consumer = self.consumers[worker]
        from_the_start = set(consumer._cursors.values()) <= {b"0-0"}
        found: list[Delivery] = self.run(consumer.reclaim(free))
        assert len(found) <= free
        for delivery in found:
            self.model.lanes[delivery.lane_key].idle.remove(text(delivery.entry))
        if from_the_start and len(found) < free:
            assert not any(lane.idle for lane in self.model.lanes.values())
        self._got(consumer, found, begins=begins)

    def _got(self, consumer: Consumer, deliveries: list[Delivery], *, begins: bool) -> None:
        for delivery in deliveries:
            self.model.lanes[delivery.lane_key].pending[text(delivery.entry)] = consumer.name
            self.deliveries.append((consumer, delivery))
        for delivery in deliveries if begins else ():
            self._begin(consumer, delivery)

    def _begin(self, consumer: Consumer, delivery: Delivery) -> None:
        lease = self.run(consumer.begin(delivery))
        if lease is not None:
            self.leases.append((consumer, lease))

    def use_a_delivery(self, age: int, action: str) -> None:
        consumer, delivery = newest(self.deliveries, age)
        if action == "begin":
            self._begin(consumer, delivery)
            return
        job, entry = self.model.jobs[delivery.job_id], text(delivery.entry)
        holder = self.model.lanes[delivery.lane_key].pending.get(entry)
        if holder == consumer.name and job.state is JobState.QUEUED and job.entry == entry:
            self.run(consumer.release(delivery))
            self.model.lanes[delivery.lane_key].idle.add(entry)

    def use_a_lease(self, age: int, action: str, events: list[bytes], body: bytes) -> None:
        consumer, lease = newest(self.leases, age)
        job = self.model.jobs[lease.job.id]
        held = job.state is JobState.RUNNING and job.fence == lease.fence
        delays = {"retry now": 0, "retry later": 600, "retry too late": BUDGET_MS}
        ends = {"succeed": JobState.SUCCEEDED, "fail": JobState.FAILED, "cancel": JobState.CANCELLED}
        try:
            if action == "heartbeat":
                mine = {other.job.id: other for owner, other in self.leases if owner is consumer}
                mine[lease.job.id] = lease
                stops = self.run(consumer.heartbeat(list(mine.values())))
                assert (lease in [stop for stop, _ in stops]) == (not held or job.cancel)
                return
            if action == "append":
                wanted = self.run(consumer.append(lease, job.last + 1, events or [b"{}"]))
                assert wanted is not job.cancel
            elif action == "defer":
                self.run(consumer.defer(lease, delay_seconds=1))
            elif action in delays:
                self.run(consumer.retry_later(lease, delay_seconds=delays[action]))
            elif action == "hand back":
                self.run(consumer.hand_back(lease))
            else:
                self.run(self._finish(consumer, lease, ends[action], body=body, tail=events))
        except LeaseLost:
            assert not held
        else:
            # Also the repetition of a call that ended the lease; never one that came after another begin.
            assert job.fence == lease.fence

    async def _finish(
        self, consumer: Consumer, lease: Lease, state: JobState, *, body: bytes, tail: list[bytes]
    ) -> None:
        settlement = settled(lease, Outcome(state.value))
        await consumer.finish(
            lease,
            state,
            head=ResultHead(settlement.outcome).to_wire(),
            body=body,
            settlement=settlement,
            tail=tail,
            tail_first=self.model.jobs[lease.job.id].last + 1,
        )

    # Time, death, the network

    def something_happens(self, event: str, age: int) -> None:
        if event == "a worker falls silent":
            self._fall_silent(age)
        elif event == "a deadline passes" and self.jobs:
            job = newest(self.jobs, age)
            key = keyspace.job(0, job.id)
            self.run(
                self.link.execute(
                    "HSET", key, "deadline", self.run(self.link.execute("HGET", key, "created"))
                )
            )
            self.model.jobs[job.id].overdue = True
        elif event == "delays pass":
            for member in self.model.delayed:
                self.run(self.link.execute("ZADD", keyspace.delayed(0, PROVIDER), 1, member))
                self.model.delayed[member] = True
        elif event == "forget consumers":
            for consumer in self.consumers:
                self.run(consumer.forget())

    def _fall_silent(self, age: int) -> None:
        """One entry looks as if its worker had died. The worker's lease stays: it may come back."""
        pending = sorted(
            (entry, key, consumer)
            for key, lane in self.model.lanes.items()
            for entry, consumer in lane.pending.items()
        )
        if pending:
            entry, key, consumer = newest(pending, age)
            self.run(
                self.link.execute(
                    "XCLAIM", key, keyspace.GROUP, consumer, 0, entry, "IDLE", 3_600_000, "JUSTID"
                )
            )
            self.model.lanes[key].idle.add(entry)

    def promote(self) -> None:
        self.run(self.delays.promote([PROVIDER]))

    def send_again(self, age: int, times: int) -> None:
        name, keys, args = newest(self.calls, age)
        note(f"sent again: {name} {args}")
        for _ in range(times):
            self.run(self.scripts.call(name, keys, *args))
        # What a full lane had refused may be taken now.
        known = {job.id for job in self.jobs}
        self.jobs += [self.offered[job_id] for job_id in self.model.jobs if job_id not in known]

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
        if self.model.waits(job):
            job.entry = fields["entry"]
            if job.entry:  # the server has just let it in
                assert (job.lane, job.entry) not in self.appended
                self.appended.add((job.lane, job.entry))
                self.model.lanes[job.lane].entries[job.entry] = job.id
        assert {
            "state": job.state.value,
            "fence": str(job.fence),
            "entry": job.entry,
            "attempts": str(job.attempts),
            "deliveries": str(job.deliveries),
            "readers": ",".join(job.readers),
            "keep": "1" if job.keep else "",
            "reply": ",".join(job.reply),
            "cancel": "1" if job.cancel else "",
        } == {name: fields.get(name, "") for name in (
            "state", "fence", "entry", "attempts", "deliveries", "readers", "keep", "reply", "cancel"
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

    async def _read(self, *commands: tuple[RedisArg, ...]) -> list[Any]:
        """The answers, of one round trip: what holds is asked after every step."""
        return await asyncio.gather(*(self.link.execute(*command) for command in commands))

    async def _check_lanes(self, jobs: list[ModelJob]) -> None:
        delays, *found = await asyncio.gather(
            self._read(("ZRANGE", keyspace.delayed(0, PROVIDER), 0, -1)),
            *(
                self._read(
                    ("XRANGE", key, "-", "+"),
                    ("XPENDING", key, keyspace.GROUP, "-", "+", 1_000),
                    ("ZRANGE", backlog_of(key), 0, -1),
                    ("HGETALL", f"{backlog_of(key)}:tenants"),
                    ("HGET", f"{backlog_of(key)}:aside", ""),
                )
                for key in LANE_KEYS.values()
            ),
        )
        assert {text(member) for member in delays[0]} == set(self.model.delayed)
        for (lane_name, key), answers in zip(LANE_KEYS.items(), found, strict=True):
            rows, pending, members, tenants, counted = answers
            lane = self.model.lanes[key]
            assert {text(entry): text(fields[1]) for entry, fields in rows} == lane.entries
            assert {text(row[0]): text(row[1]) for row in pending} == lane.pending
            for entry, job_id in lane.entries.items():
                job = self.model.jobs[job_id]
                assert job.entry == entry or entry in lane.tombstones
            waiting = [job for job in jobs if job.lane == key and self.model.waits(job)]
            self._check_backlog(key, waiting, members, tenants)
            aside = sum(member.endswith(f"|{lane_name}") for member in self.model.delayed)
            assert int(counted or 0) == aside
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
                assert len(delayed) == 1 or self.model.waits(job)
            if job.state is JobState.RUNNING:
                assert job.entry in self.model.lanes[job.lane].pending

    def _check_backlog(
        self, lane: str, waiting: list[ModelJob], members: list[Any], tenants: list[Any]
    ) -> None:
        assert {text(key) for key in members} == {keyspace.job(0, JobId(job.id)) for job in waiting}
        counts = {text(k): text(v) for k, v in zip(tenants[::2], tenants[1::2], strict=True)}
        if waiting:
            assert counts[f"n:{ACME}"] == str(len(waiting))
            assert counts["active"] == "1"
            # Only a job that was read and not begun yet leaves room that nobody has filled.
            assert len(self.model.lanes[lane].entries) >= SETTINGS.ready_window
        else:
            assert not counts

    async def _check_ends(self, jobs: list[ModelJob]) -> None:
        rows, letters = await self._read(
            ("XRANGE", keyspace.usage(0), "-", "+"), ("XRANGE", keyspace.dead(0, PROVIDER), "-", "+")
        )
        settlements = sorted((text(f[1]), Settlement.from_wire(f[5]).outcome.value) for _, f in rows)
        assert settlements == sorted((job.id, job.outcome.value) for job in jobs if job.outcome is not None)
        assert {job.id for job in jobs if job.is_over} == {job_id for job_id, _ in settlements}
        assert [text(fields[1]) for _, fields in letters] == self.model.dead

    async def _check_depth(self) -> None:
        for found in await depth.measure(self.link, [PROVIDER], shards=1):
            lane = self.model.lanes[LANE_KEYS[found.lane]]
            delayed = len(self.model.delayed) if found.lane is Lane.STANDARD else 0
            key = LANE_KEYS[found.lane]
            waiting = sum(self.model.waits(job) for job in self.model.jobs.values() if job.lane == key)
            assert found.waiting == waiting
            assert found.queued == len(lane.entries) - len(lane.pending) + waiting + delayed
            assert found.in_flight == len(lane.pending)
            assert (found.oldest_age_seconds > 0) <= bool(lane.undelivered or waiting)

    async def _check_ttls(self, jobs: list[ModelJob]) -> None:
        expected = {keyspace.job(0, JobId(job.id)) for job in jobs}
        expected |= {keyspace.events(0, JobId(job.id)) for job in jobs if job.last}
        everywhere = await self.link.execute_everywhere("KEYS", "*")
        found = {text(key) for keys in everywhere for key in keys}
        assert found - FIXED_KEYS - BACKLOG_KEYS == expected
        keep_ms = int(SETTINGS.retain_seconds * 1000)
        for ttl in await self.link.execute_many([("PTTL", key) for key in expected]):
            assert 0 < ttl <= BUDGET_MS + keep_ms


@pytest.mark.timeout(60 + EXAMPLES)
def test_the_scripts_do_what_the_model_does_whatever_the_order(redis_url: str, place: str) -> None:
    """In one shard, for what a script touches is in one; fewer examples where each takes longer."""
    with asyncio.Runner() as runner:

        async def connect() -> RedisLink:
            return links.open_link(redis_url, timeout=10)

        link = runner.run(connect())
        run_state_machine_as_test(
            lambda: QueueMachine(runner, link),  # type: ignore[arg-type]  # any factory does
            settings=settings(
                max_examples=EXAMPLES if place == "redis_server" else EXAMPLES // 6,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
        runner.run(link.close())
