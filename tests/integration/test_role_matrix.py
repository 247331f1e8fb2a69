"""Each role, and each scope alone, at every route: let in where the table of this test says so, else 403.

A new route is a new row: without one the test fails.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Final

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from api.deps import Broker
from api.main import create_app
from shared.auth.sessions import Client, Session
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import memberships, users
from shared.domain.grants import Grant
from shared.domain.job import Lane
from shared.domain.roles import PERMISSIONS, Permission, Role
from shared.settings import load_settings

PASSWORD: Final = "correct horse battery staple"
OPEN: Final = frozenset(
    {
        *("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc", "/metrics"),
        *("/health", "/health/live", "/health/ready"),
        *("/api/v1/auth/register", "/api/v1/auth/login", "/auth/login", "/api/v1/auth/refresh"),
        *("/dashboard", "/dashboard/", "/dashboard/{name}"),
    }
)
"""For whom no credential is looked at."""
TAKES: Final = {
    Permission.INFERENCE: """
        POST /v1/chat/completions  POST /v1/completions  POST /v1/embeddings  POST /v1/rerank  POST /v2/rerank
        POST /v1/responses  GET /v1/responses/{response_id}  DELETE /v1/responses/{response_id}
        GET /v1/responses/{response_id}/input_items  POST /v1/responses/{response_id}/cancel
        POST /v1/messages  POST /v1/messages/count_tokens
        POST /v1/messages/batches  GET /v1/messages/batches  GET /v1/messages/batches/{message_batch_id}
        POST /v1/messages/batches/{message_batch_id}/cancel  DELETE /v1/messages/batches/{message_batch_id}
        GET /v1/messages/batches/{message_batch_id}/results
        POST /api/v1/batches  GET /api/v1/batches  GET /api/v1/batches/{batch_id}
        POST /api/v1/batches/{batch_id}/cancel  DELETE /api/v1/batches/{batch_id}
        GET /api/v1/batches/{batch_id}/results
        POST /api/v1/chat  POST /api/v1/embeddings  POST /api/v1/rerank
        POST /api/v1/jobs  GET /api/v1/jobs  GET /api/v1/jobs/{job_id}  DELETE /api/v1/jobs/{job_id}
        GET /api/v1/jobs/{job_id}/result  GET /api/v1/jobs/{job_id}/events  POST /api/v1/jobs/{job_id}/cancel
        POST /v1/jobs  GET /v1/jobs  GET /v1/jobs/{job_id}  DELETE /v1/jobs/{job_id}
        GET /v1/jobs/{job_id}/result  GET /v1/jobs/{job_id}/events  POST /v1/jobs/{job_id}/cancel
        POST /v1/batches  GET /v1/batches  GET /v1/batches/{batch_id}  POST /v1/batches/{batch_id}/cancel
        POST /generate-text  POST /summarize  POST /api/v1/ai/generate
        POST /v1/inference/complete  POST /v1/inference/stream
    """,
    Permission.MODELS_READ: """
        GET /v1/models  GET /v1/models/{model:path}  GET /api/v1/models  POST /api/v1/estimate
        GET /api/v1/providers  GET /api/v1/providers/{provider}  GET /api/v1/health  GET /api/v1/ai/health
        GET /api/v1/preferences  GET /api/v1/auth/me  POST /api/v1/auth/logout  POST /api/v1/auth/password
    """,
    Permission.PREFERENCES_WRITE: "PUT /api/v1/preferences  DELETE /api/v1/preferences",
    Permission.CONVERSATIONS: """
        GET /api/v1/conversations  GET /api/v1/conversations/{conversation_id}
        DELETE /api/v1/conversations/{conversation_id}
    """,
    Permission.FILES: """
        POST /v1/files  GET /v1/files  GET /v1/files/{file_id}  GET /v1/files/{file_id}/content
        DELETE /v1/files/{file_id}
    """,
    Permission.USAGE_READ: """
        GET /api/v1/quota  GET /api/v1/usage  GET /api/v1/usage/jobs  GET /api/v1/account/alerts
    """,
    Permission.API_KEYS_OWN: """
        POST /api/v1/api-keys  GET /api/v1/api-keys  GET /api/v1/api-keys/{key_id}
        POST /api/v1/api-keys/{key_id}/rotate  DELETE /api/v1/api-keys/{key_id}
    """,
    Permission.WEBHOOKS: """
        GET /api/v1/webhooks  POST /api/v1/webhooks  GET /api/v1/webhooks/secret
        GET /api/v1/webhooks/{endpoint_id}  PATCH /api/v1/webhooks/{endpoint_id}
        DELETE /api/v1/webhooks/{endpoint_id}  GET /api/v1/webhooks/{endpoint_id}/secret
        POST /api/v1/webhooks/{endpoint_id}/rotate  POST /api/v1/webhooks/{endpoint_id}/test
        GET /api/v1/webhooks/deliveries  GET /api/v1/webhooks/deliveries/{delivery_id}
        POST /api/v1/webhooks/deliveries/{delivery_id}/redeliver
    """,
    Permission.MEMBERS_READ: "GET /api/v1/members  GET /api/v1/members/{user_id}",
    Permission.MEMBERS_WRITE: """
        POST /api/v1/members  PATCH /api/v1/members/{user_id}  DELETE /api/v1/members/{user_id}
        PUT /api/v1/account/alerts  DELETE /api/v1/account/alerts
    """,
    Permission.CREDENTIALS_READ: "GET /api/v1/keys  GET /api/v1/keys/{credential_id}",
    Permission.CREDENTIALS_WRITE: """
        POST /api/v1/keys  DELETE /api/v1/keys/{credential_id}  POST /api/v1/keys/validate
    """,
    Permission.AUDIT_READ: "GET /api/v1/audit",
    Permission.OPERATE: """
        GET /api/v1/admin/dead-letters  POST /api/v1/admin/dead-letters/redrive
        GET /api/v1/admin/dead-letters/{job_id}  DELETE /api/v1/admin/dead-letters/{job_id}
        POST /api/v1/admin/dead-letters/{job_id}/redrive
        GET /api/v1/admin/overview
        GET /api/v1/admin/usage  GET /api/v1/admin/usage/jobs  GET /api/v1/admin/audit
        GET /api/v1/admin/accounts  POST /api/v1/admin/accounts
        GET /api/v1/admin/accounts/{account_id}  PATCH /api/v1/admin/accounts/{account_id}
        GET /api/v1/admin/users  POST /api/v1/admin/users
        GET /api/v1/admin/users/{user_id}  PATCH /api/v1/admin/users/{user_id}
    """,
}
ROUTES: Final = {
    (method, path): permission
    for permission, rows in TAKES.items()
    for method, path in re.findall(r"([A-Z]+) (\S+)", rows)
}
NEEDS_A_SESSION: Final = frozenset({"/api/v1/auth/logout", "/api/v1/auth/password"})
"""A key is told 403 there, whatever it may do."""


@pytest.fixture
async def api(
    redis_url: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("HEADRACE_ENVIRONMENT", "test")
    monkeypatch.setenv("JWT_SECRET", "signs-access-tokens-" + "s" * 32)
    served, app = create_app(load_settings(), redis_url, b"p" * 48)
    async with AsyncExitStack() as running:
        await running.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app=served)
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        yield app, await running.enter_async_context(client)


def routes_of(app: FastAPI) -> Iterator[tuple[str, str]]:
    for route in iter_route_contexts(app.routes):
        assert route.path is not None
        for method in sorted((route.methods or set()) - {"HEAD"}):
            if route.path not in OPEN:
                yield method, route.path


async def let_in(client: httpx.AsyncClient, token: str) -> dict[tuple[str, str], bool]:
    """By route. What is sent can be parsed by none, so that whoever is let in changes nothing."""
    found = {}
    for method, template in ROUTES:
        has_body = method in {"POST", "PUT", "PATCH"}
        answer = await client.request(
            method,
            re.sub(r"\{[^}]*\}", "x", template),
            content=b"[1" if has_body else b"",
            headers={
                "authorization": f"Bearer {token}",
                **({"content-type": "application/json"} if has_body else {}),
            },
        )
        assert answer.status_code not in {401, 429}, (method, template, answer.text)
        assert answer.status_code < 500, (method, template, answer.text)
        found[method, template] = answer.status_code != 403
    return found


async def a_member(via: Broker, of: Session, role: Role, now: datetime) -> str:
    """An access token of somebody in the account of `of`."""
    assert via.sessions is not None
    email = f"{role}@example.com"
    own = await via.sessions.register(email, PASSWORD, role.value, Client())
    async with writing(via.engine) as connection:
        await memberships.add(connection, of.account, own.user.id, role, at=now)
    session = await via.sessions.login(email, PASSWORD, Client(), account=of.account)
    return session.access_token


def test_the_table_names_a_permission_for_every_route(api: tuple[FastAPI, httpx.AsyncClient]) -> None:
    app, _ = api

    assert set(routes_of(app)) == set(ROUTES)


async def test_a_role_is_let_in_where_it_has_the_permission(api: tuple[FastAPI, httpx.AsyncClient]) -> None:
    app, client = api
    via: Broker = app.state.broker
    assert via.sessions is not None
    owner = await via.sessions.register("owner@example.com", PASSWORD, "Owner", Client())

    for role in Role:
        token = await a_member(via, owner, role, SystemClock().now())
        expected = {route: permission in PERMISSIONS[role] for route, permission in ROUTES.items()}
        assert await let_in(client, token) == expected, role


async def test_a_scope_lets_in_where_it_is_the_permission_and_nowhere_else(
    api: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = api
    via: Broker = app.state.broker
    assert via.sessions is not None
    owner = await via.sessions.register("owner@example.com", PASSWORD, "Owner", Client())
    now = SystemClock().now()
    async with writing(via.engine) as connection:
        await users.change(connection, owner.user.id, is_operator=True)

    for scope in Permission:
        async with writing(via.engine) as connection:
            key, _ = await via.issuer.issue(
                connection,
                owner.account,
                Grant(Role.ADMIN, frozenset({scope}), None, None, Lane.INTERACTIVE),
                name=scope.value,
                now=now,
                user_id=owner.user.id,
                created_by="test",
            )
        expected = {
            (method, path): permission is scope and path not in NEEDS_A_SESSION
            for (method, path), permission in ROUTES.items()
        }
        assert await let_in(client, key) == expected, scope


async def test_an_operator_s_session_operates_and_else_does_what_its_role_may(
    api: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = api
    via: Broker = app.state.broker
    assert via.sessions is not None
    owner = await via.sessions.register("owner@example.com", PASSWORD, "Owner", Client())
    token = await a_member(via, owner, Role.VIEWER, SystemClock().now())
    async with writing(via.engine) as connection:
        found = await users.find_by_email(connection, "viewer@example.com")
        assert found is not None
        await users.change(connection, found.id, is_operator=True)

    may = PERMISSIONS[Role.VIEWER] | {Permission.OPERATE}
    expected = {route: permission in may for route, permission in ROUTES.items()}
    assert await let_in(client, token) == expected
