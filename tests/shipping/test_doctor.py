"""`headrace doctor` on real servers: each planted fault is found by its one check, with what mends it."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import text

from cli.doctor.examine import examine
from cli.doctor.findings import Level, Told
from cli.problems import ProcessKind
from shared import keyspace
from shared.clock import ManualClock
from shared.db.engine import create_engine
from shared.domain.job import Job, JobKind, Lane, Surface, Target
from shared.ids import AccountId, ApiKeyId, RequestId, new_job_id
from shared.queue.links import open_link
from shared.queue.producer import Producer
from shared.settings import QueueSettings
from tests.fakes import fork_server
from tests.fakes.eventually import eventually
from tests.fakes.redis_cluster import RedisCluster
from tests.fakes.redis_sentinel import RedisSentinel
from tests.fakes.redis_server import RedisServer
from tests.fakes.s3_server import S3Server
from tests.fakes.server_process import free_port
from tests.fakes.stack import Stack, start_apart
from tests.fakes.tls import Authority
from tests.integration.workers.raw_provider import error, sends, serving

ROOT: Final = Path(__file__).parents[2]
PASSWORD, PEPPER, JWT = (secrets.token_urlsafe(32) for _ in range(3))
ACME = AccountId("acme")

SetEnv = Callable[..., None]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, redis_url: str, sqlite_url: str) -> SetEnv:
    """A broker that nothing is wrong with, save that no process of it runs; and a way to change it."""
    for name in list(os.environ):
        if name.upper().startswith("HEADRACE_") or name.endswith(("_API_KEY", "_BASE_URL", "_TOKEN", "_URL")):
            monkeypatch.delenv(name)
    (tmp_path / "data").mkdir(mode=0o700)
    monkeypatch.chdir(tmp_path)

    def set_environment(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    set_environment(
        REDIS_URL=redis_url,
        DATABASE_URL=sqlite_url,
        HEADRACE_DATA_DIR=str(tmp_path / "data"),
        HEADRACE_KEY_PEPPER=PEPPER,
        JWT_SECRET=JWT,
    )
    return set_environment


@pytest.fixture
def locked_redis() -> Iterator[RedisServer]:
    """With a password, and all else as production wants it."""
    server = RedisServer(options=("--requirepass", PASSWORD, "--maxmemory", "200mb"))
    server.start()
    yield server
    server.stop(forget=True)


async def trouble(**options: Any) -> list[Told]:
    found = await examine(**options)
    return [one for one in found if one.finding.level in {Level.WARN, Level.FAIL}]


async def only_trouble(check: str, level: Level, fix: str, **options: Any) -> Told:
    """That there is exactly this, by this check, with a fix that says so much."""
    found = await trouble(**options)
    assert [(one.check, one.finding.level) for one in found] == [(check, level)], found
    assert fix in found[0].finding.fix
    return found[0]


async def test_nothing_is_found_where_nothing_is_wrong() -> None:
    found = await examine()

    assert await trouble() == []
    assert {one.check for one in found if one.finding.level is Level.OK} > {
        "redis.policy",
        "database.migrations",
    }


# Redis


async def test_a_redis_that_evicts(private_redis: RedisServer, environment: SetEnv) -> None:
    private_redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    environment(REDIS_URL=private_redis.url)

    told = await only_trouble("redis.policy", Level.FAIL, "redis-cli CONFIG SET maxmemory-policy noeviction")

    assert "allkeys-lru" in told.finding.told


async def test_a_redis_without_a_password_in_production(
    private_redis: RedisServer, environment: SetEnv
) -> None:
    private_redis.call("CONFIG", "SET", "maxmemory", "200mb")
    environment(REDIS_URL=private_redis.url, HEADRACE_ENVIRONMENT="production", OPENAI_API_KEY="")

    found = await trouble(only=["config", "redis"])

    assert [(one.check, one.finding.level) for one in found] == [("redis.password", Level.FAIL)]
    assert "requirepass" in found[0].finding.fix


async def test_a_redis_without_an_append_only_file(environment: SetEnv) -> None:
    server = RedisServer(appendonly=False)
    server.start()
    try:
        environment(REDIS_URL=server.url)

        await only_trouble("redis.durability", Level.WARN, "redis-cli CONFIG SET appendonly yes")
    finally:
        server.stop(forget=True)


@pytest.mark.parametrize("password", ["", "a-wrong-password"])
async def test_a_wrong_password_for_redis(
    locked_redis: RedisServer, environment: SetEnv, password: str
) -> None:
    environment(REDIS_URL=f"redis://:{password}@127.0.0.1:{locked_redis.port}/0")

    told = await only_trouble("redis.password", Level.FAIL, "Set REDIS_URL to redis://USER:PASSWORD@")

    assert ("wants a password" in told.finding.told) == (not password)


async def test_a_password_for_a_redis_that_has_none(redis_server: RedisServer, environment: SetEnv) -> None:
    environment(REDIS_URL=f"redis://:some-password@127.0.0.1:{redis_server.port}/0")

    told = await only_trouble("redis.password", Level.FAIL, "Set REDIS_URL")

    assert "has no password" in told.finding.told


async def test_a_redis_that_is_down(private_redis: RedisServer, environment: SetEnv) -> None:
    environment(REDIS_URL=private_redis.url)
    private_redis.stop()

    told = await only_trouble("redis.reach", Level.FAIL, "Start the server")

    assert "nothing listens there" in told.finding.told


async def test_a_redis_that_is_nearly_full(private_redis: RedisServer, environment: SetEnv) -> None:
    private_redis.fill_to(80)
    environment(REDIS_URL=private_redis.url)

    await only_trouble("redis.memory", Level.FAIL, "redis-cli CONFIG SET maxmemory")


async def test_a_cluster_whose_masters_have_no_replica(
    redis_cluster: RedisCluster, environment: SetEnv
) -> None:
    environment(REDIS_URL=redis_cluster.url, HEADRACE_QUEUE__SHARDS="16")

    told = await only_trouble("redis.replicas", Level.WARN, "redis-cli --cluster add-node")

    assert "3 of 3 masters" in told.finding.told


async def test_a_master_that_sentinels_watch(private_sentinel: RedisSentinel, environment: SetEnv) -> None:
    environment(REDIS_URL=private_sentinel.url)

    assert await trouble() == []


async def test_clocks_that_are_apart() -> None:
    clock = ManualClock(datetime.now(UTC) + timedelta(minutes=2))

    await only_trouble("redis.clock", Level.FAIL, "chrony", clock=clock)


# the database


async def test_a_database_that_is_behind(sqlite_url: str) -> None:
    await change(sqlite_url, "UPDATE alembic_version SET version_num = '0001'")

    await only_trouble("database.migrations", Level.FAIL, "headrace db upgrade")


async def test_a_database_that_is_ahead(sqlite_url: str) -> None:
    await change(sqlite_url, "UPDATE alembic_version SET version_num = '9999'")

    told = await only_trouble("database.migrations", Level.FAIL, "Install the release that migrated it")

    assert "newer than this release" in told.finding.told


async def test_a_database_that_is_down(environment: SetEnv) -> None:
    environment(DATABASE_URL=f"postgresql://headrace:{PASSWORD}@127.0.0.1:{free_port()}/headrace")

    told = await only_trouble("database.reach", Level.FAIL, "Start the server, or set DATABASE_URL")

    assert PASSWORD not in told.finding.told


async def test_a_postgresql_that_is_well_and_one_without_the_database(
    environment: SetEnv, postgres_url: str
) -> None:
    environment(DATABASE_URL=postgres_url)
    assert await trouble() == []

    environment(DATABASE_URL=postgres_url.rpartition("/")[0] + "/nothing_here")
    told = await only_trouble("database.reach", Level.FAIL, "DATABASE_URL")
    assert "no database of that name" in told.finding.told


# providers


async def test_a_provider_that_refuses_the_key(environment: SetEnv) -> None:
    key = "sk-" + secrets.token_urlsafe(24)
    async with serving(sends(error(401))) as provider:
        environment(OPENAI_API_KEY=key, OPENAI_BASE_URL=f"{provider.base_url}/v1")

        told = await only_trouble("provider.openai", Level.FAIL, "Set OPENAI_API_KEY to a key")

    assert "refuses the key (HTTP 401)" in told.finding.told
    assert key not in str(told)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://127.0.0.1:{port}/v1", "nothing listens there"),
        ("http://no-such-host.invalid/v1", "its name cannot be resolved"),
    ],
)
async def test_a_provider_that_cannot_be_reached(environment: SetEnv, address: str, why: str) -> None:
    environment(OPENAI_API_KEY="sk-some-key", OPENAI_BASE_URL=address.format(port=free_port()))

    told = await only_trouble("provider.openai", Level.FAIL, "or correct OPENAI_BASE_URL")

    assert why in told.finding.told


async def test_a_provider_whose_certificate_nobody_vouches_for(environment: SetEnv, tmp_path: Path) -> None:
    context = Authority(tmp_path).server("localhost")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "localhost", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        environment(OPENAI_API_KEY="sk-some-key", OPENAI_BASE_URL=f"https://localhost:{port}/v1")

        told = await only_trouble("provider.openai", Level.FAIL, "TLS")

    assert "its certificate does not verify" in told.finding.told


# settings and files


async def test_a_weak_secret(environment: SetEnv) -> None:
    weak = "change-me-to-a-long-random-string-please"
    environment(JWT_SECRET=weak)

    told = await only_trouble("config.secrets", Level.WARN, "openssl rand -base64 32")

    assert weak not in str(told)
    environment(HEADRACE_ENVIRONMENT="production")
    found = await trouble(only=["config"])
    assert [(one.check, one.finding.level) for one in found if one.check == "config.secrets"] == [
        ("config.secrets", Level.FAIL)
    ]


async def test_the_environment_of_one_kind_of_process(
    environment: SetEnv, locked_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(
        HEADRACE_ENVIRONMENT="production",
        REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:{locked_redis.port}/0",
        OPENAI_API_KEY="sk-" + secrets.token_urlsafe(24),
        OPENAI_BASE_URL=f"https://127.0.0.1:{free_port()}/v1",
    )
    monkeypatch.delenv("HEADRACE_KEY_PEPPER")
    every, worker, api = [
        {(one.check, one.finding.level) for one in await examine(only=["config", "provider"], process=kind)}
        for kind in (None, ProcessKind.WORKER, ProcessKind.API)
    ]

    assert ("config.secrets", Level.FAIL) in every & api
    assert ("config.secrets", Level.OK) in worker
    assert ("provider.openai", Level.FAIL) in every & worker
    assert not any(check == "provider.openai" for check, _ in api)
    assert run("config", "check").returncode == os.EX_CONFIG
    assert run("config", "check", "--process", "worker").returncode == 0


async def test_a_variable_with_a_typing_error(environment: SetEnv) -> None:
    environment(HEADRACE_ADMIN_TOKN=secrets.token_urlsafe(32))

    await only_trouble("config.unknown", Level.WARN, "Rename it: HEADRACE_ADMIN_TOKEN=")


async def test_a_setting_that_is_none_in_its_group(environment: SetEnv) -> None:
    environment(HEADRACE_QUEUE__LEASE_SECONDS="20")

    await only_trouble("config.boot", Level.FAIL, "HEADRACE_QUEUE__LEASE_SECONDS")


async def test_a_providers_file_that_is_no_good(environment: SetEnv, tmp_path: Path) -> None:
    file = tmp_path / "providers.toml"
    file.write_text('[[endpoint]]\nid = "lab"\nbase_url = "ftp://lab"\n')
    environment(HEADRACE_PROVIDERS_FILE=str(file))

    told = await only_trouble("config.files", Level.FAIL, "headrace config check")

    assert f"{file}, line 3: endpoint 'lab', base_url" in told.finding.told


async def test_a_store_that_refuses_our_key(environment: SetEnv, s3_server: S3Server) -> None:
    environment(**s3_server.settings())
    assert await trouble() == []

    environment(HEADRACE_STORAGE__S3_SECRET_ACCESS_KEY="another-secret-than-the-right-one")
    await only_trouble("files.store", Level.FAIL, "HEADRACE_STORAGE__S3_ENDPOINT")


def without_override() -> None:
    """Before a program is run: root may then write no more than others may (PR_CAPBSET_DROP of
    CAP_DAC_OVERRIDE).
    """
    if os.getuid() == 0:
        assert ctypes.CDLL(None).prctl(24, 1) == 0


def test_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").chmod(0o500)

    done = doctor(preexec_fn=without_override)

    found = [one for one in done["findings"] if one["level"] in {"warn", "fail"}]
    assert [one["check"] for one in found] == ["data.folder"]
    assert f"chmod 700 {tmp_path / 'data'}" in found[0]["fix"]
    assert done["exit_code"] == 1


# what runs, and what lies about


async def test_jobs_that_no_worker_will_take(redis_url: str) -> None:
    await enqueue_one(redis_url, "deepseek")

    told = await only_trouble("processes.workers", Level.FAIL, "headrace worker --provider deepseek")

    assert "1 jobs wait for deepseek" in told.finding.told


async def test_dead_letters(redis_server: RedisServer) -> None:
    redis_server.call("XADD", keyspace.dead(0, "openai"), "*", "job", new_job_id(), "reason", "crashed")

    told = await only_trouble("state.dead_letters", Level.WARN, "headrace dlq redrive")

    assert "openai 1" in told.finding.told


async def test_usage_that_nobody_writes(redis_server: RedisServer) -> None:
    redis_server.call("XADD", keyspace.usage(0), "*", "job", new_job_id())

    await only_trouble("state.usage", Level.FAIL, "headrace scheduler")


async def test_a_check_takes_no_longer_than_it_may(private_redis: RedisServer, environment: SetEnv) -> None:
    environment(REDIS_URL=private_redis.url)
    private_redis.sigstop()
    try:
        found = await trouble(only=["redis.policy"], seconds=0.3)
    finally:
        private_redis.sigcont()

    assert [(one.check, one.finding.level) for one in found] == [("redis.policy", Level.FAIL)]
    assert "within 0.3 s" in found[0].finding.told


# a broker that runs


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    broker = Stack(database_template=sqlite_template)
    start_apart(broker)
    (broker.folder / "data").mkdir(exist_ok=True)
    yield broker
    broker.end_now()


async def test_a_broker_that_is_well(stack: Stack) -> None:
    async def all_is_ok() -> bool:
        # Workers say what they serve once they are ready; a busy machine may be late once.
        return all(one["level"] in {"ok", "skip"} for one in (await on(stack))["findings"])

    await eventually(all_is_ok, "nothing but ok", within=30)
    done = await on(stack)

    skipped = [one["check"] for one in done["findings"] if one["level"] == "skip"]
    told = {one["check"]: one["message"] for one in done["findings"]}
    assert (done["exit_code"], done["ok"]) == (0, True), done
    assert skipped == ["database.connections"]  # SQLite has no such limit
    assert "takes the key" in told["provider.openai"]
    assert "A scheduler is alive." in told["processes.scheduler"]


async def test_a_broker_whose_scheduler_died(fresh_stack: Any) -> None:
    broker = await fresh_stack(schedulers=0)
    (broker.folder / "data").mkdir(exist_ok=True)

    done = await on(broker, "--only", "processes")

    found = [one for one in done["findings"] if one["level"] != "ok"]
    assert [(one["check"], one["level"]) for one in found] == [("processes.scheduler", "fail")]
    assert found[0]["fix"] == "headrace scheduler"


def test_it_is_a_table_with_exit_codes_and_no_secret(environment: SetEnv, locked_redis: RedisServer) -> None:
    key = "sk-" + secrets.token_urlsafe(24)
    environment(
        REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:{locked_redis.port}/0",
        OPENAI_API_KEY=key,
        OPENAI_BASE_URL=f"http://127.0.0.1:{free_port()}/v1",
    )
    failing = run("doctor")
    warned = run("doctor", "--only", "config", **{"JWT_SECRET": "change-me-" * 5})
    strict = run("doctor", "--only", "config", "--strict", **{"JWT_SECRET": "change-me-" * 5})
    unknown = run("doctor", "--only", "redisss")

    assert [one.returncode for one in (failing, warned, strict, unknown)] == [1, 0, 2, os.EX_USAGE]
    assert "fail   provider.openai" in failing.stdout
    assert "fix: Let this machine connect there" in failing.stdout
    assert "redis.policy" in failing.stdout
    assert "redis.policy" not in warned.stdout
    for secret in (PASSWORD, PEPPER, JWT, key, "change-me-"):
        assert not any(secret in one.stdout + one.stderr for one in (failing, warned, strict))


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return fork_server.run(*words, environment={**os.environ, **variables}, folder=Path.cwd())


def doctor(*, preexec_fn: Callable[[], None] | None = None) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=preexec_fn,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return {**json.loads(done.stdout), "exit_code": done.returncode}


async def on(stack: Stack, *words: str) -> dict[str, Any]:
    done = await asyncio.to_thread(
        fork_server.run, "doctor", "--json", *words, environment=stack.environment(), folder=stack.folder
    )
    return {**json.loads(done.stdout), "exit_code": done.returncode}


async def change(url: str, statement: str) -> None:
    engine = create_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


async def enqueue_one(url: str, provider: str) -> None:
    link = open_link(url, timeout=5)
    job = Job(
        id=new_job_id(),
        kind=JobKind.CHAT,
        surface=Surface.OPENAI,
        lane=Lane.INTERACTIVE,
        account=ACME,
        api_key=ApiKeyId("key_1"),
        request_id=RequestId("req_1"),
        plan=(Target(provider, "some-model"),),
        stream=False,
        include_usage=False,
        body=b"{}",
        budget_ms=60_000,
    )
    await Producer(link, QueueSettings()).enqueue(job, reply_to="nobody")
    await link.close()
