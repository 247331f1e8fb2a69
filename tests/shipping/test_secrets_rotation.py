"""docs/operations/secrets.md, done on a broker that serves meanwhile."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.acceptance.people import a_person
from tests.fakes.redis_server import RedisServer
from tests.fakes.stack import Process, Stack
from tests.fixtures.stack import FreshStack
from tests.shipping.documented import headings_with_shell, run_shell, shell_of

PAGE = "secrets.md"
REDIS_STEPS = ["Add a password to Redis", "Take the old password away"]
OLD, NEW = (secrets.token_urlsafe(32) for _ in range(2))


class LockedRedis(RedisServer):
    @property
    def url(self) -> str:
        return self.url_with(OLD)

    def url_with(self, password: str) -> str:
        return f"redis://:{password}@127.0.0.1:{self.port}/0"


@pytest.fixture
def locked_redis() -> Iterator[LockedRedis]:
    server = LockedRedis(options=("--requirepass", OLD))
    yield server
    server.stop(forget=True)


async def answers(broker: Stack, api: Process) -> bool:
    async with broker.client(api) as client:
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
        return (await client.post("/v1/chat/completions", json=body)).status_code == 200


async def test_the_password_of_redis_is_changed_while_calls_are_answered(
    fresh_stack: FreshStack, locked_redis: LockedRedis
) -> None:
    broker = await fresh_stack(redis=locked_redis)
    environment = {
        **broker.environment(),
        "OLD_PASSWORD": OLD,
        "NEW_PASSWORD": NEW,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(locked_redis.port),
    }
    old = [*broker.workers, *broker.schedulers, *broker.apis]
    assert await answers(broker, broker.apis[0])

    await run_shell(shell_of(PAGE, REDIS_STEPS[0]), environment, broker.folder)
    url = locked_redis.url_with(NEW)
    await broker.start_worker(REDIS_URL=url)
    await broker.start_scheduler(REDIS_URL=url)
    api = await broker.start_api(REDIS_URL=url)
    assert await answers(broker, broker.apis[0])
    assert await answers(broker, api)
    for process in old:
        assert await broker.sigterm(process) == 0
    await run_shell(shell_of(PAGE, REDIS_STEPS[1]), environment, broker.folder)

    assert await answers(broker, api)
    with_old = await run_shell(
        "! headrace doctor --only redis.password",
        {**environment, "REDIS_URL": locked_redis.url},
        broker.folder,
    )
    assert "it does not know the user or the password" in with_old
    await run_shell("headrace doctor --only redis.password", {**environment, "REDIS_URL": url}, broker.folder)


async def test_the_secret_of_access_tokens_is_changed_and_no_session_ends(fresh_stack: FreshStack) -> None:
    broker = await fresh_stack(
        workers=0, schedulers=0, settings={"JWT_SECRET": OLD, "HEADRACE_LIMITS__AUTH": "1000/1m"}
    )
    person = await a_person(broker)
    first = await broker.start_api(JWT_SECRET=OLD, HEADRACE_JWT_SECRET_BEFORE=NEW)
    second = await broker.start_api(JWT_SECRET=NEW, HEADRACE_JWT_SECRET_BEFORE=OLD)
    last = await broker.start_api(JWT_SECRET=NEW)
    async with broker.client(second) as client:
        login = {"email": person.email, "password": "correct horse battery staple"}
        renewed = (await client.post("/api/v1/auth/login", json=login)).json()["token"]

    async def status(api: Process, token: str) -> int:
        async with broker.client(api) as client:
            me = await client.get("/api/v1/auth/me", headers={"authorization": f"Bearer {token}"})
            return me.status_code

    assert [await status(api, person.token) for api in (first, second, last)] == [200, 200, 401]
    # A token of step 2 at an api that is still at step 1, and at one that never was.
    assert [await status(api, renewed) for api in (first, second, last)] == [200, 200, 200]
    assert await status(broker.apis[0], renewed) == 401


def test_every_command_of_the_page_is_run_here() -> None:
    assert headings_with_shell(PAGE) == REDIS_STEPS
