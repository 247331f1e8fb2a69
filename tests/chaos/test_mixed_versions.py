"""The release before and this one on one Redis: rolling forward, and back."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from shared import keyspace
from shared.domain.job import Job, JobKind, Lane, Surface, Target
from shared.ids import AccountId, ApiKeyId, RequestId, new_job_id
from shared.queue.links import open_link
from shared.queue.producer import Producer
from shared.settings import QueueSettings
from tests.chaos import checker, size
from tests.chaos.callers import PATH, Manner, Notes, Script, ask, closed_loop, scripts, session_of
from tests.chaos.checker import met_by
from tests.chaos.evidence import gather, judge
from tests.chaos.history import Exchange, History, Kill
from tests.chaos.leases import RECOVERY_SECONDS, SHORT
from tests.chaos.nemesis import consumer_of, held_by, redis_of, watch
from tests.fakes import previous_release
from tests.fakes.eventually import eventually
from tests.fakes.stack import Process, Stack, start_apart

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(300)]

SLOTS = 8
"""Fewer than callers, so that jobs wait wherever this release keeps waiting jobs."""
QUICK = (20, 80)


@dataclass(slots=True)
class Releases:
    """One broker: an api and a scheduler of each release, and the workers that a test starts.

    `paths`: where the processes of a release take their code from; "" is here.
    """

    broker: Stack
    paths: dict[str, str]
    apis: dict[str, Process] = field(default_factory=dict)

    async def start(self) -> None:
        await self.broker.start()
        for release in self.paths:
            self.apis[release] = self.broker.spawn_api(port=0, faultpoints="", **self._code(release))
            self.broker.spawn_scheduler(**self._code(release))
        await self.broker.wait_ready()

    async def worker(self, release: str) -> Process:
        return await self.broker.start_worker(HEADRACE_WORKER__SLOTS=str(SLOTS), **self._code(release))

    def _code(self, release: str) -> dict[str, str]:
        path = self.paths[release]
        if not path:
            return {}
        unknown = self.broker.environment().keys() - previous_release.variables(Path(path))
        return {**{name: "" for name in unknown if name.startswith("HEADRACE_")}, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def stack(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releases]:
    old = previous_release.unpack(tmp_path_factory.mktemp("release"))
    broker = Stack(
        apis=0,
        workers=0,
        schedulers=0,
        database_template=sqlite_template,
        # Every other job is refused once here: more than a fleet should retry.
        settings={**SHORT, "HEADRACE_QUEUE__RETRY_BUDGET_PERCENT": "1000"},
    )
    releases = Releases(broker, {"old": str(old), "new": ""})
    start_apart(releases)
    yield releases
    broker.end_now()


@pytest.fixture
async def releases(stack: Releases) -> AsyncIterator[Releases]:
    """With no worker of the test before."""
    yield stack
    for worker in list(stack.broker.workers):
        await stack.broker.kill9(worker)


def test_a_clone_without_history_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(previous_release.HistoryMissing, match="git fetch --unshallow"):
        previous_release.unpack(tmp_path, commit="0" * 40)


@pytest.mark.parametrize(("api", "worker"), [("old", "new"), ("new", "old")])
async def test_one_release_asks_and_the_other_answers(
    api: str, worker: str, releases: Releases, tmp_path: Path
) -> None:
    rng = size.dice(f"{api} api, {worker} worker")
    prefix = f"pair-{api}"
    history = History()
    broker, url = releases.broker, releases.apis[api].url
    await releases.worker(worker)

    async with session_of(broker.api_key) as session:

        async def send(script: Script) -> Exchange:
            return await ask(session, url, script)

        await closed_loop(send, _asks(prefix, rng), history.exchanges, callers=48, jobs=size.jobs(ci=100))
        await _leave_a_call(broker, session, url, f"{prefix}-left")
    await gather(broker, history, prefix)

    size.report(
        f"{api} api, {worker} worker",
        jobs=len(history.exchanges),
        missing=len(checker.unanswered(history.exchanges)),
        extra_calls=checker.count_calls(history.calls, []).extra,
    )
    left = [row.outcome for row in history.ledger if row.request == f"{prefix}-left"]
    assert left == ["cancelled"]
    history.ledger = [row for row in history.ledger if row.request != f"{prefix}-left"]
    judge(
        [
            *checker.unanswered(history.exchanges),
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.surplus_calls(history.calls, []),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )


@pytest.mark.parametrize("way", [("old", "new"), ("new", "old")], ids=["forward", "back"])
async def test_releases_replace_each_other_under_load(
    way: tuple[str, str], releases: Releases, tmp_path: Path
) -> None:
    """Both run side by side; then one worker of the first is killed, the other drained and stopped."""
    first, second = way
    rng = size.dice(f"{first} to {second}")
    prefix = f"roll-{first}"
    history = History()
    broker = releases.broker
    apis = [releases.apis[first]]
    workers = await asyncio.gather(releases.worker(first), releases.worker(first))
    turn = itertools.count()

    async def send(script: Script) -> Exchange:
        return await ask(session, apis[next(turn) % len(apis)].url, script)

    async def roll() -> None:
        successor = await releases.worker(second)
        apis.append(releases.apis[second])
        await _holds_jobs(broker, successor)
        await _holds_jobs(broker, workers[0])
        kill = await _kill(broker, workers[0])
        history.kills.append(kill)
        await watch(broker, kill, {consumer_of(workers[0])})
        await _hand_back(broker, workers[1])
        apis.remove(releases.apis[first])
        settled = len(history.exchanges)
        await eventually(lambda: len(history.exchanges) > settled + 20, "answers of one release alone")

    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:
        rolling = group.create_task(roll(), name="roll")
        await closed_loop(
            send,
            _asks(prefix, rng),
            history.exchanges,
            callers=32,
            jobs=size.jobs(ci=100),
            until=rolling.done,
        )
    await gather(broker, history, prefix)

    jobs = {row.request: row.job for row in history.ledger}

    def is_excused(exchange: Exchange) -> bool:
        """Streams whose worker was killed, or asked twice to stop, had been read in part."""
        handed_back = exchange.code == "stream_interrupted" and len(exchange.events) > 1
        return handed_back or checker.explained_by_kills(
            exchange, met_by(history.kills, jobs.get(exchange.name))
        )

    missed = checker.unanswered(history.exchanges, excused=is_excused)
    size.report(
        f"rolled from {first} to {second}",
        jobs=len(history.exchanges),
        met=sum(len(kill.in_flight) for kill in history.kills),
        missing=len(missed),
        interrupted_streams=sum(e.code == "stream_interrupted" for e in history.exchanges),
        slowest_recovery_seconds=round(max(checker.recovery_seconds(history.kills), default=0.0), 2),
    )
    judge(
        [
            *missed,
            *checker.misread(history.exchanges),
            *checker.changed_answers(history.exchanges, history.stored),
            *checker.late_recoveries(history.kills, within=RECOVERY_SECONDS),
            *checker.ledger_faults(history.ledger, history.exchanges),
            *checker.leftovers(history),
        ],
        history,
        tmp_path,
    )


@pytest.mark.parametrize("way", [("old", "new"), ("new", "old")], ids=["forward", "back"])
async def test_a_stream_begun_on_one_release_is_read_on_from_the_other(
    way: tuple[str, str], releases: Releases
) -> None:
    first, second = way
    broker = releases.broker
    one, other = releases.apis[first], releases.apis[second]
    await releases.worker(first)
    text = "One two three four five six seven eight."
    cue = {"name": f"on-{first}", "text": text, "chunks": 20, "between_chunks_ms": 40}
    script = Script(f"on-{first}", True, text, cue)
    headers = {"x-request-id": script.name, "x-stream-ids": "true"}

    async with session_of(broker.api_key) as session:
        notes = Notes(script)
        reading = asyncio.create_task(_read(session, one.url, notes, headers))
        await eventually(lambda: notes.last_ordinal >= 3, "the start of a stream")
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        notes.drop_partial_event()
        go_on = {**headers, "last-event-id": f"{notes.job}:{notes.last_ordinal}"}
        await _read(session, other.url, notes, go_on)
        async with session.get(f"{one.url}/api/v1/jobs/{notes.job}/events") as answer:
            undisturbed = await answer.read()

    assert notes.raw == undisturbed
    assert notes.end().text == script.text


async def test_a_job_that_the_old_release_cannot_read_waits_for_a_new_worker(releases: Releases) -> None:
    broker = releases.broker
    old = await releases.worker("old")
    link = open_link(broker.redis.url, timeout=5)
    try:
        job = a_job_with_a_fallback()
        await Producer(link, QueueSettings()).enqueue(job, reply_to="nobody", keep=True)
        await eventually(lambda: old.events("job envelope not understood"), "a refusal of the old worker")
        untouched = await _fields(broker, job, "state", "attempts", "deliveries")
        new = await releases.worker("new")
        began = time.monotonic()
        await _has_state(broker, job, "succeeded")
    finally:
        await link.close()

    assert untouched == ["queued", "0", "0"]
    assert [call.job for call in broker.calls() if call.job == job.id] == [job.id]
    assert await _fields(broker, job, "deliveries") == ["1"]
    assert await _fields(broker, job, "consumer") == [consumer_of(new)]
    size.report("a job for new workers only", waited_seconds=round(time.monotonic() - began, 2))


def _asks(prefix: str, rng: random.Random) -> Iterator[Script]:
    """Every other job is refused once, and waits where delayed jobs do."""
    sure, shaky = (scripts(f"{prefix}-{n}", rng, Manner(refusals=n, delay_ms=QUICK)) for n in (0, 1))
    return (script for pair in zip(sure, shaky, strict=True) for script in pair)


def a_job_with_a_fallback() -> Job:
    model = "gpt-4o-mini"
    job = Job(
        id=new_job_id(),
        kind=JobKind.CHAT,
        lane=Lane.INTERACTIVE,
        surface=Surface.OPENAI,
        account=AccountId("acc_stack"),
        api_key=ApiKeyId("key_stack"),
        request_id=RequestId("mixed-fallback"),
        plan=(Target("openai", model), Target("anthropic", "claude-sonnet-4-5")),
        stream=False,
        include_usage=False,
        budget_ms=60_000,
        body=b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hello"}]}',
    )
    assert job.version == 2, "the old release reads version 1 alone"
    return job


async def _leave_a_call(broker: Stack, session: aiohttp.ClientSession, url: str, name: str) -> None:
    """A caller that leaves while its call runs, and whose call is then closed."""
    script = Script(name, False, "Nobody waits.", {"name": name, "hang": "before_headers"})
    caller = asyncio.create_task(ask(session, url, script))
    await eventually(lambda: [c for c in broker.calls() if c.cue == name], "an open call")
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await eventually(
        lambda: all(not call.is_open for call in broker.calls() if call.cue == name), "a closed call"
    )


async def _read(session: aiohttp.ClientSession, url: str, notes: Notes, headers: dict[str, str]) -> None:
    async with session.post(url + PATH, json=notes.script.body(), headers=headers) as answer:
        await notes.read_all(answer)


async def _holds_jobs(broker: Stack, worker: Process) -> None:
    async with redis_of(broker) as redis:
        await eventually(lambda: held_by(redis, consumer_of(worker)), f"jobs in {worker.name}", within=30)


async def _kill(broker: Stack, worker: Process) -> Kill:
    at = time.time()
    await broker.kill9(worker)
    async with redis_of(broker) as redis:
        held = frozenset(await held_by(redis, consumer_of(worker)))
    return Kill(at, worker.name, "SIGKILL", held)


async def _hand_back(broker: Stack, worker: Process) -> None:
    """Two signals: it gives back what it runs."""
    await _holds_jobs(broker, worker)
    worker.popen.terminate()
    await eventually(lambda: worker.events("worker draining"), "a draining worker")
    assert await broker.sigterm(worker) == 0


async def _fields(broker: Stack, job: Job, *names: str) -> list[str | None]:
    async with redis_of(broker) as redis:
        found: list[str | None] = await redis.hmget(keyspace.job(0, job.id), list(names))  # type: ignore[misc]  # redis-py types it as sync or async
    return found


async def _has_state(broker: Stack, job: Job, state: str) -> None:
    async def look() -> bool:
        return await _fields(broker, job, "state") == [state]

    await eventually(look, f"{job.id} {state}", within=30)
