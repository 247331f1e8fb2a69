"""What the scripts promise, in plain Python: a second telling of shared/queue/scripts to hold them to.

Time does not pass here. `overdue` says that a job's deadline did, `is_due` that a delay did,
and `idle` holds the entries of a lane whose worker fell silent. Entry ids are unique in a lane only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.domain.job import TERMINAL, JobState
from shared.domain.usage import Outcome


@dataclass(slots=True)
class ModelJob:
    id: str
    lane: str
    account: str
    fingerprint: str
    reply: list[str]
    budget_ms: int
    state: JobState = JobState.QUEUED
    fence: int = 0
    entry: str | None = None
    """'' while delayed, waiting or over; None when the server has just chosen one and nobody looked."""
    attempts: int = 0
    deliveries: int = 0
    holder: str = ""
    consumer: str = ""
    cancel: bool = False
    readers: list[str] = field(default_factory=list)
    keep: bool = False
    stream: bool = False
    overdue: bool = False
    last: int = 0
    outcome: Outcome | None = None

    @property
    def is_over(self) -> bool:
        return self.state in TERMINAL

    def read_by(self, reader: str) -> None:
        if reader and reader not in self.readers:
            self.readers.append(reader)

    def listen(self, channel: str) -> None:
        if channel and channel not in self.reply:
            self.reply.append(channel)


@dataclass(slots=True)
class ModelLane:
    entries: dict[str, str] = field(default_factory=dict)
    """Entry to job id."""
    pending: dict[str, str] = field(default_factory=dict)
    """Delivered entry to the consumer that holds it."""

    def drop(self, entry: str | None) -> None:
        # XACK and XDEL both do nothing to what is not there.
        self.pending.pop(entry or "", None)
        self.entries.pop(entry or "", None)
        self.idle.discard(entry or "")
        self.tombstones.discard(entry or "")

    @property
    def undelivered(self) -> list[str]:
        """In the order of their ids, which the server chose."""
        waiting = (entry for entry in self.entries if entry not in self.delivered)
        return sorted(waiting, key=lambda entry: [int(part) for part in entry.split("-")])

    delivered: set[str] = field(default_factory=set)
    """All that a reader ever got."""
    idle: set[str] = field(default_factory=set)
    tombstones: set[str] = field(default_factory=set)
    """Entries of queued jobs that were cancelled."""


class Model:
    def __init__(self, lanes: Sequence[str]) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self.lanes = {key: ModelLane() for key in lanes}
        self.delayed: dict[str, bool] = {}
        """Member to whether it is due."""
        self.dead: list[str] = []

    def waits(self, job: ModelJob) -> bool:
        """In the backlog: which jobs are let into the lane, and when, is the server's choice."""
        is_delayed = any(member.startswith(job.id) for member in self.delayed)
        return job.state is JobState.QUEUED and not job.entry and not is_delayed

    def apply(self, script: str, keys: Sequence[str], args: Sequence[str]) -> Any:
        """The answer that the script must give, in the form of `essence`."""
        return getattr(self, f"_{script}")(keys, args)

    def _enqueue(self, keys: Sequence[str], args: Sequence[str]) -> list[Any]:
        job_id, header, _, account, budget, _, most, reply, fingerprint, reader, keep, *_ = args
        job, lane = self.jobs.get(job_id), self.lanes[keys[1]]
        if job is not None:
            if job.fingerprint != fingerprint:
                return ["conflict"]
            job.listen(reply)
            job.read_by(reader)
            return ["attached", job.state.value]
        held = len(lane.entries) + sum(
            self.waits(other) for other in self.jobs.values() if other.lane == keys[1]
        )
        lane_name = keys[1].rpartition(":")[2]
        held += sum(member.endswith(f"|{lane_name}") for member in self.delayed)
        if held >= int(most):
            return ["full", held]
        job = ModelJob(job_id, keys[1], account, fingerprint, [reply] if reply else [], int(budget))
        job.stream, job.keep = orjson.loads(header)["stream"], keep == "1"
        job.read_by(reader)
        self.jobs[job_id] = job
        return ["queued"]

    def _attach(self, keys: Sequence[str], args: Sequence[str]) -> list[Any]:
        account, reply, reader, _ = args
        job = self.jobs.get(keys[0].rsplit(":", 1)[1])
        if job is None or job.account != account:
            return []
        if not job.stream:
            return ["no_stream"]
        if not job.is_over:
            job.listen(reply)
            job.read_by(reader)
        return [job.state.value]

    def _leave(self, keys: Sequence[str], args: Sequence[str]) -> int:
        job = self.jobs.get(keys[0].rsplit(":", 1)[1])
        if job is None:
            return 0
        if args[0] in job.readers:
            job.readers.remove(args[0])
        return len(job.readers)

    def _begin(self, keys: Sequence[str], args: Sequence[str]) -> list[Any]:
        job_id, entry, token, consumer, max_deliveries, *_ = args
        job, lane = self.jobs[job_id], self.lanes[keys[1]]
        if job.is_over or job.entry != entry:
            lane.drop(entry)
            return ["done" if job.is_over else "stale"]
        if job.state is not JobState.RUNNING or job.holder != token:
            if lane.pending.get(entry, consumer) != consumer:
                return ["elsewhere"]
            if job.cancel:
                self._end(job, JobState.CANCELLED, Outcome.CANCELLED)
                return ["cancelled"]
            if job.overdue:
                self._end(job, JobState.EXPIRED, Outcome.EXPIRED)
                return ["expired"]
            if job.last:
                self._end(job, JobState.FAILED, Outcome.FAILED)
                return ["interrupted"]
            if job.deliveries >= int(max_deliveries):
                self.dead.append(job_id)
                self._end(job, JobState.FAILED, Outcome.DEAD)
                return ["dead"]
            job.state, job.fence, job.deliveries = JobState.RUNNING, job.fence + 1, job.deliveries + 1
            job.holder, job.consumer = token, consumer
            lane.idle.discard(entry)
        return ["run", job.fence, job.attempts, job.deliveries]

    def _heartbeat(self, keys: Sequence[str], args: Sequence[str]) -> list[int]:
        answers = []
        for i in range(0, len(keys), 2):
            job, entry = self.jobs[keys[i].rsplit(":", 1)[1]], args[i + 1]
            if job.state is not JobState.RUNNING or str(job.fence) != args[i + 2] or job.entry != entry:
                answers.append(0)
            else:
                self._claim(keys[i + 1], entry, args[0])
                answers.append(2 if job.cancel else 1)
        return answers

    def _append(self, _: Sequence[str], args: Sequence[str]) -> int:
        job_id, fence, _, last, *_ = args
        job = self.jobs[job_id]
        if job.state is not JobState.RUNNING or str(job.fence) != fence:
            return 0
        job.last = max(job.last, int(last))
        return 2 if job.cancel else 1

    def _finish(self, _: Sequence[str], args: Sequence[str]) -> int:
        job_id, fence, state, _, _, _, _, _, last, tail = args
        job = self.jobs[job_id]
        if str(job.fence) != fence:
            return 0
        if job.state is not JobState.RUNNING:
            return int(job.is_over and job.state.value == state)
        if tail:
            job.last = max(job.last, int(last))
        self._end(job, JobState(state), Outcome(state))
        return 1

    def _retry_later(self, keys: Sequence[str], args: Sequence[str]) -> int:
        job_id, fence, delay_ms, lane_name, call_failed, *_ = args
        job = self.jobs[job_id]
        if str(job.fence) != fence:
            return 0
        if job.state is JobState.QUEUED and job.entry == "":
            return 1
        if job.state is not JobState.RUNNING:
            return 0
        if job.overdue or int(delay_ms) >= job.budget_ms:
            return 2
        self.delayed[f"{job_id}|{lane_name}"] = int(delay_ms) == 0
        self.lanes[keys[1]].drop(job.entry)
        job.state, job.entry, job.holder = JobState.QUEUED, "", ""
        job.attempts, job.deliveries = job.attempts + int(call_failed == "1"), max(job.deliveries - 1, 0)
        return 1

    def _promote_due(self, keys: Sequence[str], args: Sequence[str]) -> int:
        moved = 0
        args = args[2:]
        for i in range(0, len(args), 2):
            if not self.delayed.get(args[i]):
                continue
            del self.delayed[args[i]]
            job = self.jobs[args[i + 1]]
            if job.state is JobState.QUEUED and job.entry == "":
                assert job.lane == keys[2 + i // 2 * 3]
                job.entry = None
                moved += 1
        return moved

    def _hand_back(self, keys: Sequence[str], args: Sequence[str]) -> int:
        job_id, fence, consumer, *_ = args
        job = self.jobs[job_id]
        if str(job.fence) != fence:
            return 0
        if job.state is JobState.QUEUED and job.entry != "":
            return 1
        if job.state is not JobState.RUNNING or job.entry is None:
            return 0
        job.state, job.deliveries, job.holder = JobState.QUEUED, max(job.deliveries - 1, 0), ""
        self._claim(keys[1], job.entry, consumer)
        self.lanes[keys[1]].idle.add(job.entry)
        return 1

    def _cancel(self, _: Sequence[str], args: Sequence[str]) -> list[str]:
        job_id, account, if_unread, _, _ = args
        job = self.jobs.get(job_id)
        if job is None or job.account != account:
            return ["missing"]
        if job.is_over:
            return ["done", job.state.value]
        if if_unread == "1" and (job.readers or job.keep):
            return ["kept"]
        if job.state is JobState.RUNNING:
            job.cancel = True
            return ["stopping", job.consumer]
        if job.entry:
            self.lanes[job.lane].tombstones.add(job.entry)
        job.entry = ""
        self._end(job, JobState.CANCELLED, Outcome.CANCELLED)
        return ["cancelled"]

    def _forget_consumer(self, keys: Sequence[str], args: Sequence[str]) -> None:
        """What a consumer holds stays. (Whether it was known at all is not modelled.)"""
        assert keys[0] in self.lanes
        assert args[0]

    def _end(self, job: ModelJob, state: JobState, outcome: Outcome) -> None:
        self.lanes[job.lane].drop(job.entry)
        job.state, job.outcome, job.entry = state, outcome, ""

    def _claim(self, lane: str, entry: str, consumer: str) -> None:
        self.lanes[lane].pending[entry] = consumer
        self.lanes[lane].idle.discard(entry)


def text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def essence(script: str, answer: Any) -> Any:
    """An answer without what only the server can know: times, and the envelope that goes through it."""
    if script == "forget_consumer":
        return None
    if script == "begin" and answer[0] == b"run":
        return ["run", answer[1], answer[4], answer[5]]
    if script == "attach" or (script == "enqueue" and answer[0] == b"queued"):
        answer = answer[:1]
    if isinstance(answer, list):
        return [part.decode() if isinstance(part, bytes) else part for part in answer]
    return answer
