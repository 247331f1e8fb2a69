"""`/api/v1/api-keys`: the keys we issue. (`/api/v1/keys` are those of providers.)

A member has keys of its own; who may see all keys of the account may also issue keys that belong to
the account itself. A key acts as its owner, so that nobody issues or rotates one of somebody else.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from loguru import logger
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.account_v1.api_key_schemas import (
    ApiKeyCreated,
    ApiKeyIn,
    ApiKeyPage,
    ApiKeyView,
    RotationIn,
    future,
    scopes_of,
    view_fields,
)
from api.account_v1.limits_schemas import limits_from
from api.audit import audited
from api.database import within_reach
from api.deps import authenticate, broker_of
from api.posted import posted
from api.request_body import read_body
from api.unified_v1.schemas import ErrorAnswer
from shared.auth.announcement import tell
from shared.auth.revocation import announce_revoked
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import accounts, api_keys
from shared.db.repositories.api_keys import ApiKeyRecord
from shared.db.repositories.principals import known_permissions
from shared.domain.grants import grant_to_key
from shared.domain.job import Lane
from shared.domain.principal import Principal
from shared.domain.roles import Permission, Role
from shared.errors import AuthenticationFailed, Conflict, NotAuthorized, NotFound, Overloaded
from shared.ids import ApiKeyId, UserId
from shared.requests.checking import check
from shared.requests.json_body import parse_object

router: Final = APIRouter(prefix="/api/v1/api-keys", tags=["API keys"])

MAX_USABLE: Final = 100
"""Keys of one owner: a tier's rate is per key, so that any number would be no rate."""
DEFAULT_GRACE_SECONDS: Final = 3600
_KEY: Final = TypeAdapter(ApiKeyIn)
_ROTATION: Final = TypeAdapter(RotationIn)
_ID: Final = re.compile(r"key_[0-9A-Za-z]{8}\Z")
Cursor = Annotated[str | None, Query(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]


class TooManyKeys(Conflict):
    code = "too_many_keys"

    def __init__(self) -> None:
        super().__init__(f"There are {MAX_USABLE} keys already. Revoke some that are not needed.")


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": ErrorAnswer} for s in (401, 403, *statuses, 503)}


def _body(example: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {"requestBody": {"required": required, "content": content}}


@router.post(
    "",
    summary="Issue a key",
    status_code=201,
    responses=_errors(400, 409, 413, 415, 422),
    openapi_extra=_body(
        {
            "name": "nightly batch",
            "scopes": ["inference", "models:read"],
            "models": ["openai/gpt-4o-mini"],
            "limits": {"daily_requests": 1000, "monthly_spend_usd": 20},
            "priority": "batch",
            "expires_at": "2030-01-31T12:00:00Z",
        }
    ),
)
async def create(request: Request) -> ApiKeyCreated:
    """Nobody can give a key more than he has himself: role, scopes, models, providers, priority, time."""
    asked = await posted(request, permission=Permission.API_KEYS_OWN)
    via, document, giver = asked.via, asked.document, asked.principal
    check(_KEY, document)
    now = SystemClock().now()
    expires_at, limits = future(document, now), limits_from(document.get("limits"))
    lane, role = document.get("priority"), document.get("role")
    grant = grant_to_key(
        giver,
        role=None if role is None else Role(role),
        scopes=scopes_of(document),
        models=document.get("models"),
        providers=document.get("providers"),
        lane=None if lane is None else Lane(lane),
    )
    user = giver.user if document.get("owner", "me") == "me" else None
    if user is None and not giver.may(Permission.API_KEYS_ALL):
        raise NotAuthorized(
            f"A key of the account itself takes the permission {Permission.API_KEYS_ALL.value!r}.",
            param="owner",
        )
    async with within_reach("API keys"), writing(via.engine) as connection:
        await accounts.hold(connection, giver.account)
        if await api_keys.count_usable(connection, giver.account, user, now) >= MAX_USABLE:
            raise TooManyKeys
        token, record = await via.issuer.issue(
            connection,
            giver.account,
            grant,
            name=document["name"],
            now=now,
            user_id=user,
            created_by=giver.user or giver.api_key,
            expires_at=await _no_longer_than(giver, expires_at, connection),
            limits=limits,
        )
        await audited(connection, request, giver, "api-key.created", record.id, name=record.name)
    return ApiKeyCreated(key=token, **view_fields(record, now))


@router.get("", summary="List keys", responses=_errors(422))
async def list_keys(
    request: Request,
    revoked: bool = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Cursor = None,
) -> ApiKeyPage:
    """One's own; those of everybody in the account with the permission `api-keys:all`."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.API_KEYS_OWN)
    user = None if principal.may(Permission.API_KEYS_ALL) else _its_user(principal)
    async with within_reach("API keys"), via.engine.connect() as connection:
        found = await api_keys.page_of(
            connection,
            principal.account,
            user_id=user,
            revoked=revoked,
            after=cursor or "",
            limit=limit + 1,
        )
    now = SystemClock().now()
    return ApiKeyPage(
        data=[ApiKeyView(**view_fields(record, now)) for record in found[:limit]],
        next_cursor=found[limit - 1].id if len(found) > limit else None,
    )


@router.get("/{key_id}", summary="Show a key", responses=_errors(404))
async def show(request: Request, key_id: str) -> ApiKeyView:
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.API_KEYS_OWN)
    async with within_reach("API keys"), via.engine.connect() as connection:
        record = await _seen_by(principal, key_id, connection)
    return ApiKeyView(**view_fields(record, SystemClock().now()))


@router.post(
    "/{key_id}/rotate",
    summary="Put a new key in the place of one",
    status_code=201,
    responses=_errors(400, 404, 409, 413, 415, 422),
    openapi_extra=_body({"grace_seconds": 3600}, required=False),
)
async def rotate(request: Request, key_id: str) -> ApiKeyCreated:
    """The new one may do the same. The old one is good for `grace_seconds` more, an hour by default."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.API_KEYS_OWN)
    body = await read_body(request.receive, limit=via.settings.api.max_body_bytes)
    document = parse_object(body) if body else {}
    check(_ROTATION, document)
    now = SystemClock().now()
    expires_at = future(document, now)
    grace = timedelta(seconds=document.get("grace_seconds", DEFAULT_GRACE_SECONDS))
    async with within_reach("API keys"), writing(via.engine) as connection:
        await accounts.hold(connection, principal.account)
        old = await _seen_by(principal, key_id, connection)
        if old.user_id is not None and old.user_id != principal.user:
            raise NotAuthorized("A key acts as its owner, who alone can rotate it. You can revoke it.")
        _require_may_have_issued(principal, old)
        # Both are good for the grace; rotated over and over, they would be any number.
        if (
            grace
            and await api_keys.count_usable(connection, principal.account, old.user_id, now) >= MAX_USABLE
        ):
            raise TooManyKeys
        if expires_at is None and old.expires_at is not None:
            expires_at = now + (old.expires_at - old.created_at)
        token, record = await via.issuer.rotate(
            connection,
            old,
            now=now,
            grace=grace,
            created_by=principal.user or principal.api_key,
            expires_at=await _no_longer_than(principal, expires_at, connection),
        )
        await audited(connection, request, principal, "api-key.rotated", old.id, successor=record.id)
    try:
        async with within_reach("API keys"):
            await tell(
                via.engine, via.link, [principal.account], clock=SystemClock(), settings=via.settings.auth
            )
    except Overloaded:
        # The new key is shown in any case: nothing gives it back. Processes find out about the old one's
        # end when they look it up next.
        logger.warning("rotation not announced", api_key=record.id)
    return ApiKeyCreated(key=token, **view_fields(record, now))


@router.delete("/{key_id}", summary="Revoke a key", status_code=204, responses=_errors(404))
async def revoke(request: Request, key_id: str) -> None:
    """Dead everywhere within seconds, for good. Again is harmless."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.API_KEYS_OWN)
    now = SystemClock().now()
    async with within_reach("API keys"):
        async with writing(via.engine) as connection:
            await accounts.hold(connection, principal.account)
            record = await _seen_by(principal, key_id, connection)
            await api_keys.revoke(connection, record.id, account=principal.account, at=now)
            if record.revoked_at is None:
                await audited(connection, request, principal, "api-key.revoked", record.id)
        await announce_revoked(via.link, record.id, record.digest, settings=via.settings.auth)


async def _seen_by(principal: Principal, key_id: str, connection: AsyncConnection) -> ApiKeyRecord:
    """Raises NotFound, also for what is somebody else's."""
    found = None
    if _ID.match(key_id):
        found = await api_keys.find(connection, ApiKeyId(key_id), account=principal.account)
    is_its_own = found is not None and found.user_id is not None and found.user_id == principal.user
    if found is None or not (is_its_own or principal.may(Permission.API_KEYS_ALL)):
        raise NotFound("There is no such API key.")
    return found


def _its_user(principal: Principal) -> UserId:
    """Whose keys it may see: its own user's. Raises NotAuthorized for a key of the account itself."""
    if principal.user is None:
        raise NotAuthorized(
            f"A key of the account itself takes the permission {Permission.API_KEYS_ALL.value!r}."
        )
    return principal.user


def _require_may_have_issued(principal: Principal, old: ApiKeyRecord) -> None:
    """Rotating is issuing: of what is narrower than the key, it would be a way to its powers."""
    scopes = None if old.scopes is None else known_permissions(old.scopes)
    grant = grant_to_key(
        principal,
        role=old.role,
        scopes=scopes,
        models=old.models,
        providers=old.providers,
        lane=old.lane,
    )
    if (grant.scopes, grant.models, grant.providers) != (scopes, old.models, old.providers):
        raise NotAuthorized("This key may do more than the credential that you use.")


async def _no_longer_than(
    giver: Principal, expires_at: datetime | None, connection: AsyncConnection
) -> datetime | None:
    """What a key issues ends with it. Raises AuthenticationFailed when it has ended already."""
    own = await api_keys.find(connection, giver.api_key, account=giver.account)
    if own is not None and own.revoked_at is not None:
        # This process has not heard of it yet, and what is issued now would outlive it.
        raise AuthenticationFailed("The API key is revoked.")
    if own is None or own.expires_at is None:
        return expires_at
    return own.expires_at if expires_at is None else min(expires_at, own.expires_at)
