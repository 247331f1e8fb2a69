"""The HPA's loop over real workers: a whole broker, a load step, scale out, drain, scale in.

redis-server, api, scheduler and the scripted provider are real processes, and so is every worker. The metric
is read from the api's /metrics, as Prometheus would, and passed on with Prometheus' periods; the
algorithm of hpa.py decides; a worker more is `headrace worker`, one less is a SIGTERM.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import numpy as np
import psutil

from bench.autoscale.hpa import Autoscaler
from bench.autoscale.scenario import Scenario, Trace
from tests.fakes.eventually import eventually
from tests.fakes.stack import Process, Stack

SAMPLE_SECONDS: Final = 0.25
_PROVIDER: Final = "openai"
_SAMPLE: Final = re.compile(
    r"^gateway_(queue_depth|jobs_in_flight|queue_oldest_age_seconds)\{([^}]*)\} (\S+)$", re.MULTILINE
)
_BODY: Final = {
    "endpoint": "/v1/chat/completions",
    "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]},
}
_DRAINED_SECONDS: Final = 60.0


@dataclass(slots=True)
class LiveRun:
    """`accepted`: answered 202. `ended`: by their last state; `lost`: accepted and without one.

    `doubles`: jobs that the provider was called for more than once. `start_seconds`: of each worker, from
    the HPA's word to its first look at the queue; `stop_seconds`: from SIGTERM to its exit.
    """

    trace: Trace = field(default_factory=Trace)
    accepted: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    ended: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    calls: int = 0
    doubles: int = 0
    start_seconds: list[float] = field(default_factory=list)
    stop_seconds: list[float] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    slot_seconds: float = 0.0
    """How long a job held its slot, by Little's law over the run."""
    late_samples: int = 0
    machine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Depth:
    queued: int
    in_flight: int
    oldest_seconds: float


class _Fleet:
    """The workers that there shall be. Those that are told to go drain beside the others."""

    def __init__(self, stack: Stack, run: LiveRun) -> None:
        self._stack, self._run = stack, run
        self._staying: list[Process] = []
        self._ready: set[str] = set()
        self._changes: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._staying)

    @property
    def ready(self) -> int:
        return sum(process.name in self._ready for process in self._staying)

    def scale(self, desired: int) -> None:
        while len(self._staying) < desired:
            process = self._stack.spawn_worker()
            self._staying.append(process)
            self._begin(self._start(process, time.monotonic()))
        while len(self._staying) > desired:
            # As Kubernetes does: one that is not ready, else the youngest.
            unready = [one for one in self._staying if one.name not in self._ready]
            process = (unready or self._staying)[-1]
            self._staying.remove(process)
            self._begin(self._stop(process, time.monotonic()))

    async def settled(self) -> None:
        await asyncio.gather(*self._changes)

    def _begin(self, change: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(change)
        self._changes.add(task)

    async def _start(self, process: Process, began: float) -> None:
        await self._stack.ready(process)
        self._ready.add(process.name)
        self._run.start_seconds.append(round(time.monotonic() - began, 3))

    async def _stop(self, process: Process, began: float) -> None:
        self._run.exit_codes.append(await self._stack.sigterm(process))
        self._run.stop_seconds.append(round(time.monotonic() - began, 3))


async def run(scenario: Scenario, *, seed: int, forks: bool, wait_seconds: float = 0.0) -> LiveRun:
    """`forks`: workers start with their imports done, see Stack. Raises where the broker does not start.

    `wait_seconds`: how much longer than the scenario to go on while there are more workers than at first.
    """
    found = LiveRun()
    before = os.getloadavg()
    psutil.cpu_percent()
    settings = {"HEADRACE_WORKER__SLOTS": str(scenario.slots)}
    async with Stack(workers=0, settings=settings, forks=forks) as stack:
        await stack.provider.script({"before_headers_ms": scenario.service.mean_seconds * 1000}, repeat=True)
        fleet = _Fleet(stack, found)
        fleet.scale(scenario.pods)
        await fleet.settled()
        found.start_seconds.clear()  # nobody asked for these
        connector = aiohttp.TCPConnector(limit=100)
        async with aiohttp.ClientSession(stack.url, headers=stack.headers, connector=connector) as client:
            rng = np.random.default_rng(seed)
            began = time.monotonic()
            arrivals = asyncio.create_task(_submit(client, scenario, rng, began, found))
            await _control(client, scenario, rng, began, fleet, found, wait_seconds)
            await arrivals
            await eventually(
                lambda: _nothing_left(client), "end of every job", within=_DRAINED_SECONDS, every=0.2
            )
            await fleet.settled()
            await _count(client, found)
        calls = Counter(call.job for call in stack.calls())
        found.calls = sum(calls.values())
        found.doubles = sum(count > 1 for count in calls.values())
    found.trace.arrived, found.trace.ended = len(found.accepted), found.ended.get("succeeded", 0)
    held = sum(
        (later - earlier) * jobs
        for (earlier, later), jobs in zip(
            itertools.pairwise(found.trace.at), found.trace.in_flight, strict=False
        )
    )
    found.slot_seconds = round(held / max(1, found.trace.ended), 3)
    found.machine = {
        "cores": psutil.cpu_count(),
        "load_before": round(before[0], 2),
        "load_after": round(os.getloadavg()[0], 2),
        "cpu_percent": psutil.cpu_percent(),
    }
    return found


async def _submit(
    client: aiohttp.ClientSession,
    scenario: Scenario,
    rng: np.random.Generator,
    began: float,
    found: LiveRun,
) -> None:
    async with asyncio.TaskGroup() as posts:
        for at in _arrivals(scenario, rng):
            await asyncio.sleep(began + at - time.monotonic())
            posts.create_task(_post(client, found))


def _arrivals(scenario: Scenario, rng: np.random.Generator) -> Iterator[float]:
    for start, end, rate in scenario.pieces(rng):
        yield from sorted(rng.uniform(start, end, rng.poisson(rate * (end - start))).tolist())


async def _post(client: aiohttp.ClientSession, found: LiveRun) -> None:
    try:
        async with client.post("/api/v1/jobs", json=_BODY) as answer:
            if answer.status == 202:
                found.accepted.append((await answer.json())["id"])
            else:
                found.refused[str(answer.status)] += 1
    except aiohttp.ClientError as exc:
        found.refused[type(exc).__name__] += 1


async def _control(
    client: aiohttp.ClientSession,
    scenario: Scenario,
    rng: np.random.Generator,
    began: float,
    fleet: _Fleet,
    found: LiveRun,
    wait_seconds: float,
) -> None:
    """Prometheus' scrapes and rules and the controller's syncs, each in its own time; and the record."""
    scaler = Autoscaler(scenario.spec)
    spec = scenario.spec
    due = {
        name: rng.uniform(0, every)
        for name, every in (
            ("scrape", scenario.scrape_seconds),
            ("rule", scenario.rule_seconds),
            ("sync", spec.sync_seconds),
        )
    }
    due["sample"] = 0.0
    scraped: float | None = None
    metric: float | None = None
    while (now := time.monotonic() - began) < scenario.seconds or (
        len(fleet) > scenario.pods and now < scenario.seconds + wait_seconds
    ):
        if now >= due["scrape"]:
            due["scrape"] += scenario.scrape_seconds
            depth = await _depth(client)
            scraped = depth.queued + depth.in_flight
        if now >= due["rule"]:
            due["rule"] += scenario.rule_seconds
            metric = scraped
        if now >= due["sync"]:
            due["sync"] += spec.sync_seconds
            fleet.scale(scaler.sync(now, replicas=len(fleet), total=metric))
        if now >= due["sample"]:
            found.late_samples += now - due["sample"] > SAMPLE_SECONDS
            due["sample"] = max(due["sample"] + SAMPLE_SECONDS, now)
            await _record(client, began, fleet, scaler, found)
        await asyncio.sleep(max(0.0, began + min(due.values()) - time.monotonic()))
    await _record(client, began, fleet, scaler, found)


async def _record(
    client: aiohttp.ClientSession, began: float, fleet: _Fleet, scaler: Autoscaler, found: LiveRun
) -> None:
    depth = await _depth(client)
    found.trace.add(
        time.monotonic() - began,
        queued=depth.queued,
        in_flight=depth.in_flight,
        replicas=len(fleet),
        ready=fleet.ready,
        wanted=scaler.wanted,
        oldest=depth.oldest_seconds,
    )


async def _depth(client: aiohttp.ClientSession) -> _Depth:
    async with client.get("/metrics") as answer:
        answer.raise_for_status()
        text = await answer.text()
    values: dict[str, list[float]] = {}
    for name, labels, value in _SAMPLE.findall(text):
        if f'provider="{_PROVIDER}"' in labels:
            values.setdefault(name, []).append(float(value))
    return _Depth(
        queued=int(sum(values["queue_depth"])),
        in_flight=int(sum(values["jobs_in_flight"])),
        oldest_seconds=max(values["queue_oldest_age_seconds"]),
    )


async def _nothing_left(client: aiohttp.ClientSession) -> bool:
    depth = await _depth(client)
    if depth.queued or depth.in_flight:
        return False
    for status in ("queued", "running"):
        async with client.get("/api/v1/jobs", params={"status": status, "limit": "1"}) as answer:
            if (await answer.json())["data"]:
                return False
    return True


async def _count(client: aiohttp.ClientSession, found: LiveRun) -> None:
    states: dict[str, str] = {}
    query = {"limit": "100"}
    while True:
        async with client.get("/api/v1/jobs", params=query) as answer:
            page = await answer.json()
        states |= {job["id"]: job["status"] for job in page["data"]}
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    over = {"succeeded", "failed", "cancelled", "expired"}
    found.ended = dict(Counter(states[job] for job in found.accepted if states.get(job) in over))
    found.lost = len(found.accepted) - sum(found.ended.values())
