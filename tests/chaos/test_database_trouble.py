"""PostgreSQL away, frozen, locked, full or failing: no call of a known key is missed, no charge is lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg  # type: ignore[import-untyped]  # ships no type information
import pytest

from shared import keyspace
from shared.db.engine import LOCK_SECONDS, POOL_OVERFLOW, POOL_SIZE, POOL_WAIT_SECONDS
from shared.ids import AccountId
from tests.chaos import checker, size
from tests.chaos.callers import Manner, Script, ask, closed_loop, scripts, session_of
from tests.chaos.evidence import gather, judge
from tests.chaos.history import Exchange, History
from tests.chaos.leases import SHORT
from tests.chaos.nemesis import redis_of
from tests.fakes.eventually import eventually
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.stack import Process, Stack, start_apart

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(300)]

CALLERS: Final = 12
MANNER: Final = Manner(streams=0.3, delay_ms=(20, 100), chunks=5)
READY_SECONDS: Final = 5.0
SETTLED_SECONDS: Final = 12.0
"""From the end of a trouble until every charge is written: a pause of the writer, and a try."""
CONNECTIONS: Final = 30
FREQUENT: Final = {**SHORT, "HEADRACE_AUTH__KEY_CACHE_SECONDS": "1"}
"""Keys are looked up again every second, so that a trouble of some seconds meets look-ups."""
PREFERENCES: Final = "/api/v1/preferences"

Trouble = Callable[[PostgresServer, str], AbstractAsyncContextManager[None]]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer(max_connections=str(CONNECTIONS))
    server.start()
    yield server
    server.stop(forget=True)


@pytest.fixture(scope="module")
def broker(postgres: PostgresServer) -> Iterator[Stack]:
    url = postgres.url(postgres.create_database())
    stack = Stack(workers=2, database_url=url, settings=FREQUENT)
    start_apart(stack)
    yield stack
    stack.end_now()


async def test_processes_that_boot_without_the_database_serve_who_redis_knows(
    broker: Stack, postgres: PostgresServer, tmp_path: Path
) -> None:
    asks = scripts("boot", size.dice("boot"), MANNER)
    history = History()
    cold_key = await broker.new_api_key(AccountId("acc_cold"))
    async with session_of(broker.api_key) as session, session_of(cold_key) as cold:
        history.exchanges.append(await ask(session, broker.url, next(asks)))
        for process in [*broker.apis, *broker.workers, *broker.schedulers]:
            await broker.kill9(process)
        await asyncio.to_thread(postgres.kill9)

        await broker.start_scheduler()
        await broker.start_worker()
        await broker.start_worker()
        api = await broker.start_api()

        assert await _readiness(session, api) == (200, "degraded")
        history.exchanges += [await ask(session, api.url, next(asks)) for _ in range(10)]
        assert (await ask(cold, api.url, next(asks))).status == 503
        await asyncio.to_thread(postgres.start)
        back_at = time.time()
        await eventually(lambda: _is_whole(session, api), "readiness", within=READY_SECONDS)
        ready_after = time.time() - back_at
        # A database that was away a moment ago is not asked for a second.
        await eventually(lambda: _is_known(cold, api), "a key looked up", within=READY_SECONDS)
    await gather(broker, history, "boot", within=SETTLED_SECONDS)

    size.report(
        "database down at boot", ready_after_seconds=round(ready_after, 2), jobs=len(history.exchanges)
    )
    _judge(history, tmp_path)


@asynccontextmanager
async def down(postgres: PostgresServer, _: str) -> AsyncIterator[None]:
    await asyncio.to_thread(postgres.kill9)
    try:
        yield
    finally:
        await asyncio.to_thread(postgres.start)


@asynccontextmanager
async def frozen(postgres: PostgresServer, _: str) -> AsyncIterator[None]:
    postgres.sigstop()
    try:
        yield
    finally:
        postgres.sigcont()


@asynccontextmanager
async def locked(_: PostgresServer, url: str) -> AsyncIterator[None]:
    async with _connection(url) as connection, connection.transaction():
        await connection.execute("LOCK TABLE usage, api_key IN ACCESS EXCLUSIVE MODE")
        yield


@pytest.mark.parametrize("trouble", [down, frozen, locked])
async def test_callers_do_not_notice_that_the_database_is(
    trouble: Trouble, broker: Stack, postgres: PostgresServer, tmp_path: Path
) -> None:
    name = trouble.__name__
    asks = scripts(name, size.dice(name), MANNER)
    history = History()
    (scheduler,) = broker.schedulers
    waiting = 0

    async with session_of(broker.api_key) as session, asyncio.TaskGroup() as group:

        async def send(script: Script) -> Exchange:
            return await ask(session, broker.url, script)

        async def disturb() -> None:
            nonlocal waiting
            await eventually(lambda: len(history.exchanges) >= CALLERS, "answers")
            complaints = len(scheduler.events("usage not settled"))
            async with trouble(postgres, broker.database_url):
                history.outages.append((began_at := time.time(), began_at))
                await eventually(
                    lambda: len(scheduler.events("usage not settled")) > complaints, "a charge not written"
                )
                await eventually(lambda: _asked_since(history, began_at) >= 2 * CALLERS, "answers")
                waiting = await _unsettled(broker)
            history.outages[-1] = (began_at, time.time())

        disturbing = group.create_task(disturb(), name=name)
        await closed_loop(
            send, asks, history.exchanges, callers=CALLERS, jobs=size.jobs(), until=disturbing.done
        )
    ((began_at, ended_at),) = history.outages
    await gather(broker, history, name, within=SETTLED_SECONDS)
    settled_after = time.time() - ended_at

    during = [e for e in history.exchanges if began_at < e.ended_at and e.began_at < ended_at]
    slowest = max(e.ended_at - e.began_at for e in during)
    size.report(
        f"database {name}",
        jobs=len(history.exchanges),
        during=len(during),
        trouble_seconds=round(ended_at - began_at, 2),
        waiting_in_redis=waiting,
        slowest_seconds=round(slowest, 2),
        settled_after_seconds=round(settled_after, 2),
    )
    assert waiting > 0
    assert slowest < 1.5
    _judge(history, tmp_path)


async def test_whoever_needs_a_connection_while_all_are_taken_is_told(
    broker: Stack, postgres: PostgresServer, tmp_path: Path
) -> None:
    asks = scripts("taken", size.dice("taken"), MANNER)
    history = History()
    cold_key = await broker.new_api_key(AccountId("acc_colder"))
    (api,) = broker.apis
    async with session_of(broker.api_key) as session, session_of(cold_key) as cold:
        history.exchanges.append(await ask(session, api.url, next(asks)))
        async with _all_connections(broker.database_url):
            assert await _readiness(session, api) == (200, "degraded")
            began_at = time.monotonic()
            told = await asyncio.gather(*(_preferences(session, api) for _ in range(20)))
            told += [await _models(cold, api)]
            took = time.monotonic() - began_at
            await _leave_early(session, api, 20)
            history.exchanges += [await ask(session, api.url, next(asks)) for _ in range(10)]
        await eventually(lambda: _is_whole(session, api), "readiness", within=READY_SECONDS)
        await _leave_early(session, api, 100)
        after = await asyncio.gather(*(_preferences(session, api) for _ in range(20)))
        await eventually(lambda: _is_at_rest(broker.database_url), "idle connections")
        held = await _held(broker.database_url)
    await gather(broker, history, "taken", within=SETTLED_SECONDS)

    size.report("connections taken", told=sorted(set(told)), slowest_seconds=round(took, 2), held_after=held)
    assert set(told) == {503}
    assert took < 2 * POOL_WAIT_SECONDS + 2
    assert set(after) == {404}, "there is none"
    assert held <= 2 * (POOL_SIZE + POOL_OVERFLOW)
    _judge(history, tmp_path)


async def test_whoever_needs_a_locked_table_is_told_in_time(broker: Stack) -> None:
    """More of them than the pool has connections."""
    (api,) = broker.apis
    callers = POOL_SIZE + POOL_OVERFLOW + 5
    async with session_of(broker.api_key) as session:
        assert await _models(session, api) == 200  # the key is known
        async with _connection(broker.database_url) as connection, connection.transaction():
            await connection.execute("LOCK TABLE account_preferences IN ACCESS EXCLUSIVE MODE")
            began_at = time.monotonic()
            told = await asyncio.gather(*(_preferences(session, api) for _ in range(callers)))
            took = time.monotonic() - began_at
        after = await asyncio.gather(*(_preferences(session, api) for _ in range(callers)))

    size.report("table locked", callers=callers, slowest_seconds=round(took, 2))
    assert set(told) == {503}
    assert took < LOCK_SECONDS + POOL_WAIT_SECONDS + 1.5
    assert set(after) == {404}, "there is none"


@pytest.mark.parametrize(
    "state", ["40001", "40P01", "53100"], ids=["serialization failure", "deadlock", "disk full"]
)
async def test_charges_that_cannot_be_written_wait_and_are_tried_again(
    state: str, broker: Stack, tmp_path: Path
) -> None:
    history = History()
    asks = scripts(f"writer-{state}", size.dice(state), MANNER)
    (scheduler,) = broker.schedulers
    complaints = len(scheduler.events("usage not settled"))
    async with session_of(broker.api_key) as session, _failing_writes(broker.database_url, state) as failures:

        async def send(script: Script) -> Exchange:
            return await ask(session, broker.url, script)

        await closed_loop(send, asks, history.exchanges, callers=CALLERS, jobs=2 * CALLERS)
        await eventually(failures, "three failed writes")
        waiting = await _unsettled(broker)
    ended_at = time.time()
    await gather(broker, history, f"writer-{state}", within=SETTLED_SECONDS)

    size.report(
        f"writes that fail with {state}",
        jobs=len(history.exchanges),
        waiting_in_redis=waiting,
        settled_after_seconds=round(time.time() - ended_at, 2),
    )
    assert waiting == len(history.exchanges), "nothing of a failed batch may be acknowledged"
    assert len(scheduler.events("usage not settled")) == complaints + 1, "said once, not at every try"
    _judge(history, tmp_path)


def _judge(history: History, folder: Path) -> None:
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
        folder,
    )


def _asked_since(history: History, at: float) -> int:
    """Answers to who asked after that."""
    return sum(exchange.began_at > at for exchange in history.exchanges)


async def _unsettled(broker: Stack) -> int:
    """Charges that wait in Redis."""
    async with redis_of(broker) as redis:
        return int(await redis.xlen(keyspace.usage(0)))


async def _readiness(session: aiohttp.ClientSession, api: Process) -> tuple[int, str]:
    async with session.get(f"{api.url}/health/ready") as answer:
        return answer.status, (await answer.json()).get("status", "")


async def _is_whole(session: aiohttp.ClientSession, api: Process) -> bool:
    return await _readiness(session, api) == (200, "ok")


async def _preferences(session: aiohttp.ClientSession, api: Process) -> int:
    """The status of a request that needs the database."""
    async with session.get(api.url + PREFERENCES) as answer:
        await answer.read()
        return answer.status


async def _models(session: aiohttp.ClientSession, api: Process) -> int:
    """The status of a request that needs its key looked up and no more."""
    async with session.get(f"{api.url}/v1/models") as answer:
        await answer.read()
        return answer.status


async def _is_known(session: aiohttp.ClientSession, api: Process) -> bool:
    return await _models(session, api) == 200


async def _leave_early(session: aiohttp.ClientSession, api: Process, count: int) -> None:
    """Callers who ask for what needs a connection and are gone a moment later."""

    async def one(number: int) -> None:
        with contextlib.suppress(TimeoutError):  # given up on purpose, at every point of the request
            async with asyncio.timeout(0.001 * (number % 20)):
                await _preferences(session, api)

    await asyncio.gather(*(one(number) for number in range(count)))


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _all_connections(url: str) -> AsyncIterator[None]:
    """Takes every connection of the server, those of the broker too."""
    async with contextlib.AsyncExitStack() as taken:
        mine = await taken.enter_async_context(_connection(url))

        async def take() -> bool:
            await mine.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'headrace'"
            )
            with contextlib.suppress(asyncpg.TooManyConnectionsError):  # until there is none left
                while True:
                    await taken.enter_async_context(_connection(url))
            return await _count(mine, "application_name = 'headrace'") == 0

        await eventually(take, "every connection taken")
        yield


async def _held(url: str) -> int:
    """How many connections the broker has."""
    async with _connection(url) as connection:
        return await _count(connection, "application_name = 'headrace'")


async def _is_at_rest(url: str) -> bool:
    async with _connection(url) as connection:
        return not await _count(connection, "application_name = 'headrace' AND state <> 'idle'")


async def _count(connection: Any, where: str) -> int:
    found: int = await connection.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {where}")  # noqa: S608 - the test's own words
    return found


@asynccontextmanager
async def _failing_writes(url: str, state: str) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """Every write to the ledger fails so. Yields what asks whether three of them have."""
    async with _connection(url) as connection:
        # A sequence counts on when the transaction that asked it is rolled back.
        await connection.execute(
            f"""
            CREATE SEQUENCE failures;
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM nextval('failures');
                RAISE EXCEPTION 'as told' USING ERRCODE = '{state}';
            END $$;
            CREATE TRIGGER fail BEFORE INSERT ON usage EXECUTE FUNCTION fail();
            """
        )

        async def have_failed() -> bool:
            return bool(await connection.fetchval("SELECT last_value >= 3 FROM failures"))

        try:
            yield have_failed
        finally:
            await connection.execute("DROP FUNCTION fail CASCADE; DROP SEQUENCE failures")
