"""`/api/v1/auth/...`: register, log in, stay logged in, log out."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import TypeAdapter

from api.account_v1.auth_schemas import (
    Login,
    Logout,
    Me,
    PasswordChange,
    Refresh,
    RegisteredView,
    Registration,
    SessionView,
    UserView,
)
from api.client_address import client_address
from api.database import within_reach
from api.deps import Broker, authenticate, broker_of, headers_of, request_id_of, token_of
from api.request_body import read_body
from api.unified_v1.schemas import ErrorAnswer
from shared.auth import session_end
from shared.auth.access_tokens import Claims
from shared.auth.sessions import Client, RefreshTokenReused, Session, Sessions
from shared.clock import SystemClock
from shared.db.repositories import users
from shared.domain.rate import text_of
from shared.domain.roles import Permission
from shared.errors import NotAuthorized, NotFound
from shared.ids import UserId
from shared.requests.checking import check
from shared.requests.json_body import parse_object

router: Final = APIRouter(tags=["Auth"])
of_sessions: Final = APIRouter(tags=["Auth"])
"""What a session begins, goes on and ends by: on the admin port too, for the dashboard there."""

_REGISTRATION: Final = TypeAdapter(Registration)
_LOGIN: Final = TypeAdapter(Login)
_REFRESH: Final = TypeAdapter(Refresh)
_LOGOUT: Final = TypeAdapter(Logout)
_PASSWORD: Final = TypeAdapter(PasswordChange)


def _documented(
    *statuses: int, example: dict[str, Any] | None = None, optional: bool = False
) -> dict[str, Any]:
    extra = {}
    if example is not None:
        content = {"application/json": {"schema": {"type": "object"}, "example": example}}
        extra["openapi_extra"] = {"requestBody": {"required": not optional, "content": content}}
    return {"responses": {s: {"model": ErrorAnswer} for s in statuses}, **extra}


_ADA: Final = {"email": "ada@example.com", "password": "correct horse battery staple"}


@router.post(
    "/api/v1/auth/register",
    summary="Register",
    status_code=201,
    **_documented(400, 403, 404, 409, 413, 415, 422, 429, 503, example={**_ADA, "name": "Ada"}),
)
async def register(request: Request) -> RegisteredView:
    """A user, with an account of its own that it is the admin of. Can be closed by a setting."""
    via, sessions = _sessions_of(request)
    if not via.settings.accounts.registration:
        raise NotAuthorized("Registration is closed: ask an operator for an account.")
    client = _client(request, via)
    await via.login_limits.require(client.address or "", apart=_is_apart(request))
    document = await _document(request, via)
    check(_REGISTRATION, document)
    async with within_reach("Accounts"):
        session = await sessions.register(document["email"], document["password"], document["name"], client)
    return RegisteredView(**_view(session, sessions).model_dump(), user=_user(session.user))


@of_sessions.post(
    "/api/v1/auth/login",
    summary="Log in",
    **_documented(400, 401, 404, 413, 415, 422, 429, 503, example=_ADA),
)
@router.post("/auth/login", include_in_schema=False)
async def login(request: Request) -> SessionView:
    """A wrong password and an unknown user are answered alike."""
    via, sessions = _sessions_of(request)
    client = _client(request, via)
    await via.login_limits.require(client.address or "", apart=_is_apart(request))
    document = await _document(request, via)
    check(_LOGIN, document)
    await via.login_limits.require_user(document["email"], apart=_is_apart(request))
    async with within_reach("Accounts"):
        session = await sessions.login(
            document["email"], document["password"], client, account=document.get("account")
        )
    return _view(session, sessions)


@of_sessions.post(
    "/api/v1/auth/refresh",
    summary="Get the next access token",
    **_documented(400, 401, 404, 413, 415, 422, 429, 503, example={"refreshToken": "rt_..."}, optional=True),
)
async def refresh(request: Request) -> SessionView:
    """Takes the refresh token as `Authorization: Bearer`, or as `refreshToken`. It is good once: a second
    use by somebody else ends the session. An access token cannot be renewed by itself.
    """
    via, sessions = _sessions_of(request)
    client = _client(request, via)
    await via.login_limits.require(client.address or "", apart=_is_apart(request))
    document = await _document(request, via, optional=True)
    check(_REFRESH, document)
    token = document.get("refreshToken") or token_of(request.scope)
    async with within_reach("Accounts"):
        try:
            session = await sessions.refresh(token, client)
        except RefreshTokenReused as reused:
            await _end_session(reused.session, reused.user, via, sessions)
            raise
    return _view(session, sessions)


@of_sessions.post(
    "/api/v1/auth/logout",
    summary="Log out",
    status_code=204,
    **_documented(400, 401, 404, 413, 415, 422, 503, example={"everywhere": False}, optional=True),
)
async def logout(request: Request) -> None:
    """The session of this access token is over within seconds, everywhere; with `everywhere`, all of the
    user's sessions are.
    """
    via, sessions = _sessions_of(request)
    claims = await _session_claims(request, via)
    document = await _document(request, via, optional=True)
    check(_LOGOUT, document)
    everywhere = document.get("everywhere", False)
    async with within_reach("Accounts"):
        await sessions.logout(claims, _client(request, via), everywhere=everywhere)
        await _end(claims, via, sessions, everywhere=everywhere)


@router.post(
    "/api/v1/auth/password",
    summary="Change the password",
    **_documented(
        400, 401, 404, 413, 415, 422, 429, 503,
        example={"password": "correct horse battery staple", "newPassword": "another long password"},
    ),
)  # fmt: skip
async def change_password(request: Request) -> SessionView:
    """Ends all sessions of the user, and begins a new one."""
    via, sessions = _sessions_of(request)
    claims = await _session_claims(request, via)
    client = _client(request, via)
    await via.login_limits.require(client.address or "", apart=_is_apart(request))
    document = await _document(request, via)
    check(_PASSWORD, document)
    await via.login_limits.require_user(claims.user, apart=_is_apart(request))
    async with within_reach("Accounts"):
        session = await sessions.change_password(
            claims, document["password"], document["newPassword"], client
        )
        await _end(claims, via, sessions, everywhere=True)
    return _view(session, sessions)


@of_sessions.get("/api/v1/auth/me", summary="Who is asking", **_documented(401, 503))
async def me(request: Request) -> Me:
    """Of a key as well as of a session."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.MODELS_READ)
    user = None
    if principal.user is not None:
        async with within_reach("Accounts"), via.engine.connect() as connection:
            user = await users.find(connection, principal.user)
    return Me(
        account=principal.account,
        user=None if user is None else _user(user),
        credential=principal.api_key,
        role=principal.role,
        operator=principal.is_operator,
        permissions=[permission for permission in Permission if principal.may(permission)],
        models=None if principal.models is None else list(principal.models),
        providers=None if principal.providers is None else list(principal.providers),
    )


def _sessions_of(request: Request) -> tuple[Broker, Sessions]:
    via = broker_of(request)
    if via.sessions is None:
        raise NotFound("Nobody can log in here: JWT_SECRET is not set.")
    return via, via.sessions


async def _document(request: Request, via: Broker, *, optional: bool = False) -> dict[str, Any]:
    body = await read_body(request.receive, limit=via.settings.api.max_body_bytes)
    return {} if optional and not body else parse_object(body)


async def _session_claims(request: Request, via: Broker) -> Claims:
    """Of the access token that was sent, which must be good. Raises AuthenticationFailed, NotAuthorized."""
    await authenticate(request, via, Permission.MODELS_READ)
    claims = via.keys.claims(token_of(request.scope))
    if claims is None:
        raise NotAuthorized("This takes the access token of a session, not an API key.")
    return claims


async def _end(claims: Claims, via: Broker, sessions: Sessions, *, everywhere: bool) -> None:
    settings, clock = via.settings.auth, SystemClock()
    if everywhere:
        await session_end.end_all(via.engine, via.link, claims.user, clock=clock, settings=settings)
    else:
        await _end_session(claims.session, claims.user, via, sessions)


async def _end_session(session: str, user: UserId, via: Broker, sessions: Sessions) -> None:
    await session_end.end(via.link, session, user, life=sessions.life, settings=via.settings.auth)


def count_apart(request: Request) -> None:
    """Attempts on another port than the public one: who is tried there locks nobody out here."""
    request.scope["state"]["logins_counted_apart"] = True


def _is_apart(request: Request) -> bool:
    return "logins_counted_apart" in request.scope["state"]


def _client(request: Request, via: Broker) -> Client:
    address = client_address(request.scope, via.settings.api.trusted_proxies)
    agent = headers_of(request.scope).get("user-agent", "")
    fingerprint = hashlib.sha256(f"{address}\n{agent}".encode()).hexdigest()
    return Client(fingerprint, address, request_id_of(request.scope))


def _view(session: Session, sessions: Sessions) -> SessionView:
    return SessionView(
        token=session.access_token,
        expiresIn=text_of(sessions.life.total_seconds()),
        refreshToken=session.refresh_token,
        account=session.account,
    )


def _user(user: users.UserRecord) -> UserView:
    return UserView(id=user.id, email=user.email, name=user.name)
