"""Canaries: secrets and prompts put in at every door, and looked for in all that is kept or told."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from redis.asyncio import Redis
from sqlalchemy import inspect, text

from shared.db.engine import create_engine
from tests.acceptance.people import SETTINGS
from tests.fakes.eventually import eventually
from tests.fakes.stack import Stack, start_apart

pytestmark = pytest.mark.xdist_group("canaries")

PASSWORD: Final = "canary-password-7d0c5e"
PROVIDER_KEY: Final = "sk-ant-canary-provider-key-5f1e9a"
TRIED_KEY: Final = "sk-canary-tried-key-3b8d21"
PROMPT: Final = "canary prompt zebra quilt"
KEPT_PROMPT: Final = "canary prompt that is to be kept"


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    settings = {**SETTINGS, "HEADRACE_LOG__LEVEL": "TRACE"}
    broker = Stack(database_template=sqlite_template, settings=settings)
    start_apart(broker)
    yield broker
    broker.end_now()


def chat(text_: str, cue: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    script = f"!script {json.dumps(cue)}\n" if cue else ""
    messages = [{"role": "user", "content": f"{script}{text_}"}]
    return {"model": "gpt-4o-mini", "messages": messages, **more}


class Told:
    """Every answer that was given, and what was sent along."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.errors: list[str] = []
        self.statuses: list[str] = []

    async def ask(self, method: str, path: str, **what: Any) -> httpx.Response:
        answer = await self.client.request(method, path, **what)
        self.statuses.append(f"{path} {answer.status_code}")
        if answer.status_code >= 400:
            self.errors.append(answer.text + str(answer.headers))
        return answer


async def everything_in(redis: Redis) -> dict[str, bytes]:
    """All of Redis but its streams of jobs under way, by key."""
    commands: dict[str, tuple[str, tuple[str, ...]]] = {
        "string": ("GET", ()),
        "hash": ("HGETALL", ()),
        "list": ("LRANGE", ("0", "-1")),
        "set": ("SMEMBERS", ()),
        "zset": ("ZRANGE", ("0", "-1")),
        "stream": ("XRANGE", ("-", "+")),
    }
    found: dict[str, bytes] = {}
    async for key in redis.scan_iter(count=1000):
        kind = (await redis.type(key)).decode()
        if kind == "none":
            continue  # it expired since
        command, more = commands[kind]
        value = await redis.execute_command(command, key, *more)  # type: ignore[no-untyped-call]  # redis-py has no types for it
        found[key.decode()] = key + repr(value).encode()
    return found


async def everything_stored(url: str) -> dict[str, str]:
    """All rows, by table."""
    engine = create_engine(url)
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        found = {
            name: repr((await connection.execute(text(f'SELECT * FROM "{name}"'))).all())  # noqa: S608 - our tables
            for name in names
        }
    await engine.dispose()
    return found


def spelt(secret: str) -> list[bytes]:
    """As it is, and as encodings would show it."""
    raw = secret.encode()
    inner = [base64.b64encode(raw[shift:])[4:-4] for shift in range(3)]
    return [raw, raw.hex().encode(), *inner]


async def test_no_secret_and_no_prompt_is_anywhere_it_should_not_be(stack: Stack) -> None:
    async with stack.client() as client:
        told = Told(client)
        login = {"email": "canary@example.com", "password": PASSWORD}
        view = (await told.ask("POST", "/api/v1/auth/register", json={**login, "name": "Canary"})).json()
        session = (await told.ask("POST", "/api/v1/auth/login", json=login)).json()
        renewed = (
            await told.ask("POST", "/api/v1/auth/refresh", json={"refreshToken": session["refreshToken"]})
        ).json()
        await told.ask("POST", "/api/v1/auth/login", json={**login, "password": PASSWORD + "-wrong"})
        await told.ask("POST", "/api/v1/auth/login", json={**login, "password": PASSWORD, "role": PASSWORD})
        client.headers["authorization"] = f"Bearer {view['token']}"
        issued = (await told.ask("POST", "/api/v1/api-keys", json={"name": "canary"})).json()
        own = {"apiKey": PROVIDER_KEY, "name": "own"}
        await told.ask("POST", "/api/v1/keys", json={"provider": "anthropic", **own})
        await told.ask("POST", "/api/v1/keys", json={"provider": "nobody", **own})
        await told.ask("POST", "/api/v1/keys", json={"provider": "openai", **own, "more": PROVIDER_KEY})
        await told.ask("POST", "/api/v1/keys/validate", json={"provider": "openai", "apiKey": TRIED_KEY})

        token = max((str(v) for v in issued.values() if str(v).startswith("gw_live_")), key=len)
        client.headers["authorization"] = f"Bearer {token}"
        whole = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 20}
        await told.ask("POST", "/v1/chat/completions", json=chat(PROMPT))
        await told.ask("POST", "/v1/chat/completions", json=chat(PROMPT, stream=True))
        await told.ask("POST", "/v1/messages", json={"model": "claude-haiku-4-5", **whole})
        await told.ask("POST", "/v1/embeddings", json={"model": "text-embedding-3-small", "input": PROMPT})
        for cue in ({"status": 500}, {"status": 400}, {"status": 401}, {"garbage": "html"}, {"cut": "rst"}):
            await told.ask("POST", "/v1/chat/completions", json=chat(PROMPT, cue))
        await told.ask("POST", "/v1/chat/completions", json=chat(PROMPT, temperature=PROMPT))
        await told.ask("POST", "/v1/chat/completions", content=f'{{"model": "{PROMPT}'.encode())
        await told.ask("POST", f"/v1/chat/completions?key={token}", json={"prompt": PROMPT})
        await told.ask("GET", "/v1/models", headers={"authorization": f"Bearer {token}x"})
        await told.ask("GET", "/v1/models", headers={"authorization": f"Basic {token}"})
        await told.ask("GET", "/v1/models", headers={"authorization": f"Bearer {view['token']}x"})
        kept = {"provider": "openai", "conversation_id": "new"}
        await told.ask("POST", "/api/v1/chat", json={**chat(KEPT_PROMPT), **kept})
        metrics = (await client.get("/metrics")).text

        async def all_settled() -> bool:
            rows = await stack.ledger()
            return len([row for row in rows if row["account_id"] == view["account"]]) >= 8

        await eventually(all_settled, f"jobs settled: {told.statuses}", within=10)

    secrets = {
        "password": PASSWORD,
        "api key": token,
        "access token": view["token"].rpartition(".")[2],
        "refresh token": session["refreshToken"],
        "next refresh token": renewed["refreshToken"],
        "provider key": PROVIDER_KEY,
        "tried key": TRIED_KEY,
        "jwt secret": SETTINGS["JWT_SECRET"],
        "master key": stack.master_key,
        "admin token": SETTINGS["HEADRACE_ADMIN_TOKEN"],
    }
    logs = {process.name: process.output() for process in (*stack.apis, *stack.workers, *stack.schedulers)}
    stored = await everything_stored(stack.database_url)
    async with Redis.from_url(stack.redis.url) as redis:
        in_redis = await everything_in(redis)
    assert len(told.errors) >= 12
    assert all("{" in log for log in logs.values())
    assert "usage" in stored
    assert any("hr:" in key for key in in_redis)

    places = {
        **{f"log of {name}": log.encode() for name, log in logs.items()},
        "metrics": metrics.encode(),
        **{f"error {n}": error.encode() for n, error in enumerate(told.errors)},
        **{f"table {name}": rows.encode() for name, rows in stored.items()},
        **{f"redis {key}": value for key, value in in_redis.items()},
    }
    leaks = [
        f"{kind} in {place}"
        for kind, secret in secrets.items()
        for place, content in places.items()
        if any(spelling in content for spelling in spelt(secret))
    ]
    # Redis holds what is queued and answered, for a while; nothing else may.
    leaks += [
        f"prompt in {place}"
        for place, content in places.items()
        if PROMPT.encode() in content and not place.startswith("redis hr:{")
    ]
    leaks += [
        f"kept prompt in {place}"
        for place, content in places.items()
        if KEPT_PROMPT.encode() in content
        and not place.startswith("redis hr:{")
        and place not in {"table conversation", "table conversation_message"}
    ]
    assert leaks == []


async def test_the_sweep_finds_what_is_there(stack: Stack) -> None:
    async with Redis.from_url(stack.redis.url) as redis:
        await redis.hset("hr:{0}:planted", "field", base64.b64encode(b"xx" + PASSWORD.encode() + b"y"))
        planted = (await everything_in(redis))["hr:{0}:planted"]
        await redis.delete("hr:{0}:planted")

    assert any(spelling in planted for spelling in spelt(PASSWORD))
