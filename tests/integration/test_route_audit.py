"""Every route asks for a credential, but for those that are listed here."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Final

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import update
from starlette.types import ASGIApp

from api.main import create_admin_app, create_app
from shared.db.engine import create_engine
from shared.db.tables import user
from shared.settings import load_settings

TOKEN: Final = "operators-only-" + "t" * 32
"""Files that are the same for everybody; what they show is asked of other routes."""
ALWAYS_OPEN: Final = {
    *("/health/live", "/health/ready"),
    # Those that give credentials out, for a password or a refresh token.
    *("/api/v1/auth/register", "/api/v1/auth/login", "/auth/login", "/api/v1/auth/refresh"),
    *("/dashboard", "/dashboard/", "/dashboard/{name}"),
}
OPEN_IN_DEVELOPMENT: Final = {
    *("/health", "/metrics"),
    *("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"),
}
BODIES: Final = (b"", b"{}", b"[1", b'{"model": "auto", "messages": []}')

Start = Callable[..., Awaitable[tuple[FastAPI, httpx.AsyncClient]]]


@pytest.fixture
async def start(redis_url: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """An api as it is in that environment, and a client without a credential; `admin`: its admin port."""
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("HEADRACE_ADMIN_TOKEN", TOKEN)
    monkeypatch.setenv("JWT_SECRET", "signs-access-tokens-" + "s" * 32)
    async with AsyncExitStack() as running:

        async def running_api(
            environment: str, *, admin_port: int | None = None, admin: bool = False
        ) -> tuple[FastAPI, httpx.AsyncClient]:
            monkeypatch.setenv("HEADRACE_ENVIRONMENT", environment)
            if admin_port is not None:
                monkeypatch.setenv("HEADRACE_ADMIN_PORT", str(admin_port))
            settings = load_settings()
            served, app = create_app(settings, redis_url, b"p" * 48)
            await running.enter_async_context(app.router.lifespan_context(app))
            asked: ASGIApp = create_admin_app(settings, app) if admin else served
            transport = httpx.ASGITransport(app=asked)
            client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
            return app, await running.enter_async_context(client)

        yield running_api


def routes_of(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and template of each."""
    for route in iter_route_contexts(app.routes):
        assert route.path is not None
        for method in sorted((route.methods or set()) - {"HEAD"}):
            yield method, route.path


def filled(template: str) -> str:
    return re.sub(r"\{[^}]*\}", "x", template)


async def open_paths(app: FastAPI, client: httpx.AsyncClient, **headers: str) -> set[str]:
    """Templates that answer anything but 401, whatever is sent to them."""
    found = set()
    for method, template in routes_of(app):
        for body in BODIES if method in {"POST", "PUT", "PATCH"} else (b"",):
            answer = await client.request(
                method,
                filled(template),
                content=body,
                headers={**headers, **({"content-type": "application/json"} if body else {})},
            )
            if answer.status_code != 401:
                found.add(template)
    return found


async def test_in_production_every_route_but_a_few_asks_for_a_credential(start: Start) -> None:
    app, client = await start("production")

    assert len(list(routes_of(app))) > 30
    assert await open_paths(app, client) == ALWAYS_OPEN


async def test_in_development_some_more_are_open(start: Start) -> None:
    app, client = await start("development")

    assert await open_paths(app, client) == ALWAYS_OPEN | OPEN_IN_DEVELOPMENT


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer gw_live_0000000000000000000000000000000000000000"},
        {"authorization": "Bearer "},
        {"authorization": "Basic dXNlcjpwYXNz"},
        {"authorization": "Bearer null"},
        {"x-api-key": "undefined"},
    ],
)
async def test_a_credential_that_is_none_opens_nothing(start: Start, headers: dict[str, str]) -> None:
    app, client = await start("production")

    assert await open_paths(app, client, **headers) == ALWAYS_OPEN


async def test_metrics_and_detailed_health_take_the_admin_token_in_production(start: Start) -> None:
    _, client = await start("production")

    for path in ("/metrics", "/health"):
        answer = await client.get(path, headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200, path
        assert (await client.get(path)).headers["www-authenticate"] == "Bearer"


async def test_a_session_opens_them_where_it_is_an_operators(start: Start, sqlite_url: str) -> None:
    _, client = await start("production")
    ada, bob = ({"email": f"{name}@example.com", "password": "correct horse battery"} for name in "ab")
    for who in (ada, bob):
        answer = await client.post("/api/v1/auth/register", json={**who, "name": "Ada or Bob"})
        assert answer.status_code == 201
    engine = create_engine(sqlite_url)
    async with engine.begin() as connection:
        await connection.execute(update(user).where(user.c.email == bob["email"]).values(is_operator=True))
    await engine.dispose()

    async def statuses(who: dict[str, str]) -> set[int]:
        login = await client.post("/api/v1/auth/login", json=who)
        headers = {"authorization": f"Bearer {login.json()['token']}"}
        return {(await client.get(path, headers=headers)).status_code for path in ("/metrics", "/health")}

    assert await statuses(ada) == {403}
    assert await statuses(bob) == {200}


async def test_with_an_admin_port_the_other_one_has_no_operators_routes(start: Start) -> None:
    app, client = await start("production", admin_port=9_999)

    paths = {path for _, path in routes_of(app)}
    assert not {path for path in paths if path.startswith(("/metrics", "/api/v1/admin"))}
    for path in ("/metrics", "/health", "/api/v1/admin/dead-letters"):
        assert (await client.get(path, headers={"authorization": f"Bearer {TOKEN}"})).status_code == 404
    assert await open_paths(app, client) == ALWAYS_OPEN


async def test_the_admin_port_has_them_and_its_admin_routes_take_the_token(start: Start) -> None:
    _, client = await start("production", admin_port=9_999, admin=True)

    statuses = {
        path: (await client.get(path)).status_code
        for path in (
            *("/health/live", "/health/ready", "/health", "/metrics"),
            *("/api/v1/admin/dead-letters", "/v1/models", "/docs", "/openapi.json"),
        )
    }
    allowed = await client.get("/api/v1/admin/dead-letters", headers={"authorization": f"Bearer {TOKEN}"})

    assert statuses == {
        **dict.fromkeys(("/health/live", "/health/ready", "/health", "/metrics"), 200),
        "/api/v1/admin/dead-letters": 401,
        **dict.fromkeys(("/v1/models", "/docs", "/openapi.json"), 404),
    }
    assert allowed.status_code == 200
