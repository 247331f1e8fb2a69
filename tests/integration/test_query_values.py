"""Odd values in query strings, at every route that takes any, on both databases: never an outage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import BigInteger, String, bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.types import TypeEngine

from api.database import within_reach
from api.deps import Broker
from api.main import create_app
from api.pages import cursor_of
from shared.auth.sessions import Client
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import users
from shared.domain.grants import Grant
from shared.domain.job import Lane
from shared.domain.roles import Permission, Role
from shared.errors import InvalidRequest, Overloaded
from shared.settings import load_settings

PASSWORD: Final = "correct horse battery staple"
EARLIEST, LATEST = "0001-01-01T00:00:00", "9999-12-31T23:59:59"
NO_TEXT: Final = ["%00", "x%00", "a:b%00", "%00:", "a%00:b", "%1b", "%7f", "%ff", "a:%c3", "%ed%a0%80"]
ODD: Final = [
    *("", " ", ":", "a:", 'a":b', "a'b:c", "a\\:b", "$.a[0]:b", "0:b", "x" * 600, "é:b", "\ufffd:x", "%_"),
    *("-1", "0", "1", "1e400", "NaN", "Infinity", str(2**63), str(2**64), "9" * 60),
    *(f"{EARLIEST}+23:59", f"{EARLIEST}Z", EARLIEST, f"{LATEST}-23:59", f"{LATEST}.999999Z", LATEST),
    *("0001-01-01", "9999-12-31", "-62135596801", "253402300800", "2026-02-30", "10000-01-01T00:00:00Z"),
]
MOMENTS: Final = {"/api/v1/jobs": ("created_after", "created_before"), "/api/v1/usage": ("from", "to")}
OWN_CURSORS: Final = frozenset(
    {"/api/v1/api-keys", "/api/v1/admin/accounts", "/api/v1/admin/users", "/api/v1/admin/dead-letters"}
)
"""Theirs are ids."""


@pytest.fixture
async def api(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """The client is an operator's, and may do everything."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HEADRACE_ENVIRONMENT", "test")
    monkeypatch.setenv("JWT_SECRET", "signs-access-tokens-" + "s" * 32)
    served, app = create_app(load_settings(), redis_url, b"p" * 48)
    async with AsyncExitStack() as running:
        await running.enter_async_context(app.router.lifespan_context(app))
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=served),
            base_url="http://localhost",
            headers={"authorization": f"Bearer {await a_key(app.state.broker)}"},
        )
        yield app, await running.enter_async_context(client)


async def a_key(via: Broker) -> str:
    assert via.sessions is not None
    owner = await via.sessions.register("owner@example.com", PASSWORD, "Owner", Client())
    async with writing(via.engine) as connection:
        await users.change(connection, owner.user.id, is_operator=True)
        key, _ = await via.issuer.issue(
            connection,
            owner.account,
            Grant(Role.ADMIN, frozenset(Permission), None, None, Lane.INTERACTIVE),
            name="all",
            now=SystemClock().now(),
            user_id=owner.user.id,
            created_by="test",
        )
    return key


def queries(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Path and name of every value that a GET takes from its query."""
    for template, methods in app.openapi()["paths"].items():
        for parameter in methods.get("get", {}).get("parameters", ()):
            if parameter["in"] == "query":
                yield template.replace("{", "").replace("}", ""), parameter["name"]


async def test_a_value_that_is_no_text_is_a_400_everywhere(api: tuple[FastAPI, httpx.AsyncClient]) -> None:
    app, client = api
    asked = list(queries(app))

    assert {("/api/v1/jobs", "metadata"), ("/v1/files", "purpose"), ("/v1/batches", "after")} <= set(asked)
    for path, name in asked:
        for value in NO_TEXT:
            answer = await client.get(f"{path}?{name}={value}")
            assert answer.status_code == 400, (path, name, value, answer.text)
            assert "query string" in answer.text


async def test_an_odd_value_is_never_an_outage(api: tuple[FastAPI, httpx.AsyncClient]) -> None:
    app, client = api

    for path, name in queries(app):
        for value in ODD:
            answer = await client.get(f"{path}?{name}={quote(value, safe='')}")
            assert answer.status_code < 500, (path, name, value, answer.text)
            assert answer.status_code not in {401, 403}, (path, answer.text)


@pytest.mark.parametrize("moment", [f"{EARLIEST}+23:59", f"{LATEST}-23:59"])
async def test_a_moment_out_of_the_calendar_is_a_422_that_names_it(
    api: tuple[FastAPI, httpx.AsyncClient], moment: str
) -> None:
    _, client = api

    for path, names in MOMENTS.items():
        for name in names:
            answer = await client.get(path, params={name: moment})
            assert answer.status_code == 422, answer.text
            assert answer.json()["error"]["details"]["param"] == name
            assert moment not in answer.text


@pytest.mark.parametrize(
    "moment", [f"{EARLIEST}Z", EARLIEST, f"{LATEST}.999999Z", "2026-11-27", "1764201600"]
)
async def test_a_moment_at_the_ends_of_the_calendar_is_one(
    api: tuple[FastAPI, httpx.AsyncClient], moment: str
) -> None:
    _, client = api

    for name in MOMENTS["/api/v1/jobs"]:
        assert (await client.get("/api/v1/jobs", params={name: moment})).status_code == 200


@pytest.mark.parametrize("moment", [f"{EARLIEST}+23:59", f"{LATEST}-23:59"])
async def test_a_cursor_out_of_the_calendar_is_none_that_was_given_out(
    api: tuple[FastAPI, httpx.AsyncClient], moment: str
) -> None:
    app, client = api
    cursor = cursor_of(datetime.fromisoformat(moment), f"job_{'0' * 32}")

    for path, name in queries(app):
        if name == "cursor":
            answer = await client.get(path, params={name: cursor})
            assert answer.status_code < 500, (path, answer.text)
            assert answer.status_code == 422 or path in OWN_CURSORS, (path, answer.text)


async def test_data_that_the_database_refuses_is_the_caller_s_to_change(database: AsyncEngine) -> None:
    await refused(database, 2**64, BigInteger())
    if database.dialect.name == "postgresql":  # SQLite takes a NUL.
        await refused(database, "a\x00b", String())


async def refused(database: AsyncEngine, value: str | int, kind: TypeEngine[Any]) -> None:
    with pytest.raises(InvalidRequest) as told:
        async with within_reach("Things"), database.connect() as connection:
            await connection.execute(select(bindparam("value", value, kind)))

    assert told.value.status == 422
    assert str(value) not in told.value.message


async def test_what_is_no_refusal_of_data_is_an_outage(database: AsyncEngine) -> None:
    with pytest.raises(Overloaded, match="Things cannot be reached"):
        async with within_reach("Things"), database.connect() as connection:
            await connection.execute(text("select * from nowhere"))
