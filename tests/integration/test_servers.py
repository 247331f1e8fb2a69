"""The servers the other tests stand on."""

from __future__ import annotations

import signal
import subprocess
import sys

import asyncpg  # type: ignore[import-untyped]  # ships no type information
import psutil
import redis.asyncio

from tests.fakes.postgres_server import PostgresServer
from tests.fakes.redis_server import RedisServer


async def test_a_killed_redis_comes_back_with_its_data_on_the_same_address(
    private_redis: RedisServer,
) -> None:
    url = private_redis.url
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.set("kept", "yes")
    private_redis.kill9()

    private_redis.restart()

    assert private_redis.url == url
    async with redis.asyncio.Redis.from_url(url) as client:
        assert await client.get("kept") == b"yes"


async def test_each_test_gets_an_empty_redis(redis_server: RedisServer, redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        assert await client.dbsize() == 0
    redis_server.kill9()  # the next test must not notice


async def test_a_redis_left_dead_by_a_test_is_up_for_the_next(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        assert await client.ping()


async def test_a_killed_postgresql_comes_back_with_what_it_committed(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("CREATE TABLE kept (id int)")
    connection.terminate()
    postgres_server.kill9()

    postgres_server.restart()

    connection = await asyncpg.connect(postgres_url)
    assert await connection.fetchval("SELECT count(*) FROM kept") == 0
    await connection.close()


def test_a_server_does_not_outlive_tests_that_were_killed() -> None:
    program = """
from tests.fakes.redis_server import RedisServer
server = RedisServer(); server.start(); print(server.pid, flush=True); input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout is not None
        server = psutil.Process(int(tests.stdout.readline()))
        tests.send_signal(signal.SIGKILL)

        server.wait(timeout=10)
