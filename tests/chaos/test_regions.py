"""Two whole brokers behind one balancer, one of them killed with all it has: the example of deploy/regions.

Each region has its own Redis, PostgreSQL, api, worker and scheduler. Identity is written in the home
region and replicated to the other. Callers try again as the official clients do.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from shared.db import migrate
from shared.ids import AccountId
from tests.chaos import size
from tests.chaos.async_jobs import JOBS
from tests.chaos.callers import PATH, Manner, Script, ask, scripts, session_of
from tests.chaos.history import Ending
from tests.fakes.eventually import eventually
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.stack import Stack
from tests.shipping.real_balancers import HAProxy

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(600)]

_DEPLOY: Final = Path(__file__).parents[2] / "deploy" / "regions"
_AGAIN_SECONDS: Final = 0.5
"""After which the official clients try again."""
KEYS_OF_EACH: Final = 4
"""So many callers of each kind live in each region, each with a key of its own; fewer where few keys do."""
_DRAWN: Final = 24


class GlobalBalancer(HAProxy):
    shipped = _DEPLOY / "haproxy.cfg"
    local = "127.0.0.1:8100", "127.0.0.1:8200"


class Region(Stack):
    """A broker with a PostgreSQL of its own; `home`: the region whose identity it reads."""

    def __init__(self, name: str, postgres: PostgresServer, *, home: Region | None = None) -> None:
        # Every region digests keys with the same pepper.
        shared = {} if home is None else {"HEADRACE_KEY_PEPPER": dict(home.secrets)["pepper"]}
        super().__init__(database_url=postgres.url(), settings={**shared, "HEADRACE_REGION": name})
        self.name = name
        self.postgres = postgres
        self.home = home

    async def _make_database(self) -> None:
        if self.home is None:
            await super()._make_database()
            self.postgres.execute(_sql("publication.sql"))
            return
        await migrate.upgrade(self.database_url)
        self.api_key = self.home.api_key
        address = f"port={self.home.postgres.port} user=headrace dbname=postgres"
        statement = _sql("subscription.sql")
        assert "port=5432 user=headrace dbname=headrace" in statement
        self.postgres.execute(statement.replace("port=5432 user=headrace dbname=headrace", address))

    async def kill_all(self) -> None:
        for process in [*self.apis, *self.workers, *self.schedulers]:
            await self.kill9(process)
        await asyncio.to_thread(self.redis.kill9)
        await asyncio.to_thread(self.postgres.kill9)

    async def come_back(self, port: int) -> None:
        await asyncio.to_thread(self.postgres.start)
        await asyncio.to_thread(self.redis.start)
        self.spawn_scheduler()
        self.spawn_worker()
        self.spawn_api(port=port)
        await self.wait_ready()


@dataclass
class Accepted:
    script: Script
    key: str
    job: str
    region: str


@dataclass
class Seen:
    """`errors`: of each question, how many tries were not answered. `regions`: who answered."""

    errors: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    regions: Counter[str] = field(default_factory=Counter)

    @property
    def questions(self) -> int:
        return self.errors.total()


@asynccontextmanager
async def two_regions() -> AsyncIterator[tuple[Region, Region, GlobalBalancer]]:
    async with AsyncExitStack() as ends:
        servers = [PostgresServer(wal_level="logical") for _ in range(2)]
        for server in servers:
            ends.callback(server.stop, forget=True)
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
        home = await ends.enter_async_context(Region("eu", servers[0]))
        other = await ends.enter_async_context(Region("us", servers[1], home=home))
        balancer = GlobalBalancer([home.apis[0].port, other.apis[0].port])
        balancer.start()
        ends.callback(balancer.stop)
        yield home, other, balancer


@pytest.mark.parametrize("victim", ["us", "eu"] if size.is_full() else ["eu"])
async def test_a_killed_region_costs_each_caller_one_try_and_keeps_what_it_accepted(victim: str) -> None:
    rng = size.dice(f"region {victim} killed")
    began = time.monotonic()
    seen = Seen()
    async with two_regions() as (home, other, balancer):
        region = home if victim == "eu" else other
        port = region.apis[0].port
        drawn = [await home.new_api_key(AccountId(f"acc_region_{number}")) for number in range(_DRAWN)]
        await _known_everywhere(drawn, other)
        keys = await _some_of_each_region(balancer.url, drawn)
        total = size.jobs(ci=90)

        async with _load(balancer.url, keys, seen, rng):
            await eventually(lambda: seen.questions > total // 3, "load", within=120)
            assert set(seen.regions) == {"eu", "us"}
            promised = [one for one in seen.accepted if one.region == victim]
            await region.kill_all()
            killed_at, at_kill = time.monotonic(), seen.questions
            await eventually(lambda: seen.questions > at_kill + total // 3, "load on one region", within=120)
            assert await _while_away(balancer.url, promised[-1]) == (503, "region_away")
            await region.come_back(port)
            back_at = seen.questions
            away_seconds = time.monotonic() - killed_at
            await eventually(lambda: seen.questions > back_at + total // 3, "load on both", within=120)
        told = await _read_all(balancer.url, seen)

    size.report(
        f"region {victim} killed",
        questions=seen.questions,
        accepted=len(seen.accepted),
        accepted_by_the_killed_before=len(promised),
        ended=told["succeeded"],
        tries_lost={str(count): number for count, number in sorted(seen.errors.items())},
        how=dict(seen.kinds),
        answered_by=dict(seen.regions),
        away_seconds=round(away_seconds, 1),
        seconds=round(time.monotonic() - began, 1),
    )
    assert seen.wrong == []
    assert promised
    assert told == {"succeeded": len(seen.accepted)}
    assert set(seen.errors) == {0, 1}, "nobody noticed the kill, or somebody more than once"


@asynccontextmanager
async def _load(url: str, keys: list[str], seen: Seen, rng: Any) -> AsyncIterator[None]:
    """A caller of each kind for each key, who asks again once it was answered."""
    stopped = asyncio.Event()
    manner = {"sync": Manner(streams=0.0), "stream": Manner(streams=1.0), "async": Manner(streams=0.0)}
    async with AsyncExitStack() as sessions, asyncio.TaskGroup() as group:
        for number, key in enumerate(keys):
            session = await sessions.enter_async_context(session_of(key))
            for kind, how in manner.items():
                asks = scripts(f"region-{kind}-{number}", rng, how)
                one = _submit(session, url, seen, key) if kind == "async" else _ask(session, url, seen)
                group.create_task(_call(one, asks, seen, stopped, pause=0.1 if kind == "async" else 0.0))
        yield
        stopped.set()


async def _call(
    one: Callable[[Script], Awaitable[str]], asks: Any, seen: Seen, stopped: asyncio.Event, *, pause: float
) -> None:
    while not stopped.is_set():
        script, failures = next(asks), 0
        while fault := await one(script):
            failures += 1
            seen.kinds[fault] += 1
            await asyncio.sleep(_AGAIN_SECONDS)
        seen.errors[failures] += 1
        await asyncio.sleep(pause)


def _ask(session: aiohttp.ClientSession, url: str, seen: Seen) -> Callable[[Script], Awaitable[str]]:
    async def one(script: Script) -> str:
        exchange = await ask(session, url, script)
        if exchange.ending is not Ending.WHOLE:
            return f"{exchange.ending} {exchange.code}"
        if exchange.text != script.text:
            seen.wrong.append(script.name)
        return ""

    return one


def _submit(
    session: aiohttp.ClientSession, url: str, seen: Seen, key: str
) -> Callable[[Script], Awaitable[str]]:
    async def one(script: Script) -> str:
        try:
            body = {"endpoint": PATH, "body": script.body()}
            async with session.post(url + JOBS, json=body) as answer:
                document = await answer.json()
                if answer.status != 202:
                    return f"status {answer.status}"
                region = answer.headers["x-headrace-region"]
                seen.regions[region] += 1
                seen.accepted.append(Accepted(script, key, document["id"], region))
        except (aiohttp.ClientError, OSError) as exc:
            return type(exc).__name__
        return ""

    return one


async def _while_away(url: str, one: Accepted) -> tuple[int, str]:
    """What is said of a job of the region that is away."""
    async with session_of(one.key) as session, session.get(f"{url}{JOBS}/{one.job}") as answer:
        return answer.status, (await answer.json())["error"]["code"]


async def _read_all(url: str, seen: Seen) -> Counter[str]:
    """How each accepted job ended, asked through the balancer."""
    told: Counter[str] = Counter()
    gate = asyncio.Semaphore(32)

    async def read(one: Accepted, session: aiohttp.ClientSession) -> None:
        async def look() -> str:
            async with session.get(f"{url}{JOBS}/{one.job}") as answer:
                document = await answer.json()
                assert answer.status in (200, 503), document
                state: str = document.get("status", "")
                return "" if state in ("queued", "running") else state

        async with gate:
            state = await eventually(look, one.script.name, within=60, every=0.1)
            async with session.get(f"{url}{JOBS}/{one.job}/result") as answer:
                document = await answer.json()
        told[state] += 1
        if document["choices"][0]["message"]["content"] != one.script.text:
            seen.wrong.append(one.script.name)

    async with AsyncExitStack() as ends:
        sessions = {
            key: await ends.enter_async_context(session_of(key)) for key in {one.key for one in seen.accepted}
        }
        await asyncio.gather(*(read(one, sessions[one.key]) for one in seen.accepted))
    return told


async def _known_everywhere(keys: list[str], other: Region) -> None:
    """Replicated. A key that seemed unknown a moment ago is refused for a moment more."""
    for key in keys:
        async with session_of(key) as session:

            async def is_known(session: aiohttp.ClientSession = session) -> bool:
                async with session.get(f"{other.url}/v1/models") as answer:
                    return answer.status == 200

            await eventually(is_known, "a replicated key")


async def _some_of_each_region(url: str, drawn: list[str]) -> list[str]:
    """As the balancer spreads them."""
    living: dict[str, list[str]] = {"eu": [], "us": []}
    for key in drawn:
        async with session_of(key) as session, session.get(f"{url}/v1/models") as answer:
            living[answer.headers["x-headrace-region"]].append(key)
    assert all(living.values()), "every key lives in one region"
    return [key for keys in living.values() for key in keys[:KEYS_OF_EACH]]


def _sql(name: str) -> str:
    return (_DEPLOY / name).read_text(encoding="utf-8")
