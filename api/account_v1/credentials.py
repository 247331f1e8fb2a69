"""`/api/v1/keys`: an account's own keys at providers. They are sealed here, and opened by workers alone."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

from fastapi import APIRouter, Request
from loguru import logger
from pydantic import TypeAdapter
from redis.exceptions import RedisError

from api.account_v1.credential_schemas import CredentialIn, CredentialList, CredentialView
from api.client_address import client_address
from api.database import within_reach
from api.deps import Broker, authenticate, broker_of, request_id_of
from api.named_target import require_provider
from api.posted import posted
from api.unified_v1.schemas import ErrorAnswer
from shared import keyspace
from shared.auth.announcement import announce
from shared.clock import SystemClock
from shared.crypto import Sealer
from shared.db.engine import DATABASE_ERRORS, writing
from shared.db.repositories import audit, provider_credentials
from shared.db.repositories.provider_credentials import CredentialRecord, place_of
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.errors import Conflict, NotFound, Overloaded
from shared.ids import CredentialId, new_credential_id
from shared.requests.checking import check, fault

router: Final = APIRouter(prefix="/api/v1/keys", tags=["Provider keys"])

MAX_KEYS: Final = 100
"""Of one account, at all providers."""
_CREDENTIAL: Final = TypeAdapter(CredentialIn)
_ID: Final = re.compile(r"key_[0-9a-f]{24}\Z")
_PREFIX: Final = re.compile(r"sk-(?:ant-|proj-|or-)?|xai-|pplx-|nvapi-|hf_")
"""How providers begin their keys. Of any other key, its beginning may be all that is secret of it."""
_SHOWN_FROM_CHARS: Final = 24
"""What a shorter key ends with is too much of it."""
_REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["provider", "apiKey", "name"]},
                "example": {"provider": "anthropic", "apiKey": "sk-ant-...", "name": "Production"},
            }
        },
    }
}


class RevocationNotHeard(Overloaded):
    def __init__(self, *, within_seconds: float) -> None:
        super().__init__(
            "The key is revoked, but Redis could not be told: running processes may use it "
            f"for up to {within_seconds:.0f} s. Delete it again to tell them at once.",
            retry_after_seconds=1.0,
        )


@router.post(
    "",
    summary="Store a key of your own at a provider",
    status_code=201,
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 403, 404, 409, 413, 415, 422, 503)},
    openapi_extra=_REQUEST_BODY,
)
async def store(request: Request) -> CredentialView:
    """Requests of this account to this provider use it from now on, in the place of the broker's own and
    of a key stored before. It is encrypted, and never shown again.
    """
    asked = await posted(request, permission=Permission.CREDENTIALS_WRITE)
    document, via, principal = asked.document, asked.via, asked.principal
    check(_CREDENTIAL, document)
    sealer, now = sealer_of(via), SystemClock().now()
    record = _sealed(document, via, principal, sealer, now)
    async with within_reach("Provider keys"), writing(via.engine) as connection:
        await provider_credentials.create(connection, record)
        if await provider_credentials.count_of(connection, principal.account) > MAX_KEYS:
            raise Conflict(f"This account has {MAX_KEYS} keys already: delete one first.")
        await _audit(connection, request, principal, "credential.stored", record, now)
    try:
        await _announce(via, principal, record.id)
    except (RedisError, *DATABASE_ERRORS) as exc:
        # It is stored all the same: told that it failed, its owner would store it once more.
        logger.warning("stored credential not announced", error=type(exc).__name__)
    return _view(record)


@router.get(
    "",
    summary="List your own keys at providers",
    responses={s: {"model": ErrorAnswer} for s in (401, 403, 503)},
)
async def list_all(request: Request) -> CredentialList:
    """Newest first. Of several at one provider, the newest is used."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.CREDENTIALS_READ)
    async with within_reach("Provider keys"), via.engine.connect() as connection:
        records = await provider_credentials.list_of(connection, principal.account)
    return CredentialList(data=[_view(record) for record in records])


@router.get(
    "/{credential_id}",
    summary="Read what is known of a key",
    responses={s: {"model": ErrorAnswer} for s in (401, 403, 404, 503)},
)
async def get(credential_id: str, request: Request) -> CredentialView:
    """Not the key itself."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.CREDENTIALS_READ)
    wanted = _id_of(credential_id)
    async with within_reach("Provider keys"), via.engine.connect() as connection:
        record = await provider_credentials.find(connection, wanted, account=principal.account)
    if record is None or record.revoked_at is not None:
        raise _missing()
    return _view(record)


@router.delete(
    "/{credential_id}",
    summary="Revoke a key",
    status_code=204,
    responses={s: {"model": ErrorAnswer} for s in (401, 403, 404, 503)},
)
async def revoke(credential_id: str, request: Request) -> None:
    """No call that begins from now on uses it. Again is harmless."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.CREDENTIALS_WRITE)
    wanted, now = _id_of(credential_id), SystemClock().now()
    async with within_reach("Provider keys"), writing(via.engine) as connection:
        account = principal.account
        had_it = await provider_credentials.revoke(connection, wanted, account=account, at=now)
        record = await provider_credentials.find(connection, wanted, account=account)
        if record is None:
            raise _missing()
        if had_it:
            await _audit(connection, request, principal, "credential.revoked", record, now)
    try:
        await _announce(via, principal, wanted)
    except (RedisError, *DATABASE_ERRORS) as exc:
        raise RevocationNotHeard(within_seconds=via.settings.auth.key_cache_seconds) from exc


def sealer_of(via: Broker) -> Sealer:
    """Raises NotFound."""
    if via.sealer is None:
        raise NotFound("Keys cannot be stored here: HEADRACE_MASTER_PUBLIC_KEY is not set.")
    return via.sealer


def require_address(provider: str, via: Broker) -> None:
    """Raises NotFound for a provider that is not there, InvalidRequest for one without an address."""
    require_provider(provider, via)
    if not via.registry.has_address(provider):
        raise fault("provider", "has no address here")


def masked(key: str) -> str:
    """`sk-ant-...xyz`: how its provider begins all keys, and how this one ends."""
    prefix = _PREFIX.match(key)
    if len(key) < _SHOWN_FROM_CHARS:
        return "..."
    return f"{prefix[0] if prefix else ''}...{key[-3:]}"


def _sealed(
    document: dict[str, Any], via: Broker, principal: Principal, sealer: Sealer, now: datetime
) -> CredentialRecord:
    provider, key = document["provider"], document["apiKey"]
    require_address(provider, via)
    credential, origins = new_credential_id(), tuple(sorted(via.registry.get(provider).origins))
    return CredentialRecord(
        id=credential,
        account_id=principal.account,
        provider=provider,
        name=document["name"],
        masked=masked(key),
        origins=origins,
        sealed=sealer.seal(key, place_of(principal.account, credential, provider, origins)),
        master_key_id=sealer.key_id,
        created_at=now,
        created_by=principal.user or principal.api_key,
    )


async def _audit(
    connection: Any, request: Request, principal: Principal, act: str, record: CredentialRecord, now: datetime
) -> None:
    via = broker_of(request)
    await audit.record(
        connection,
        at=now,
        account=principal.account,
        actor=principal.user or principal.api_key,
        act=act,
        object_id=record.id,
        request_id=request_id_of(request.scope),
        address=client_address(request.scope, via.settings.api.trusted_proxies),
        details={"provider": record.provider, "name": record.name},
    )


async def _announce(via: Broker, principal: Principal, credential: CredentialId) -> None:
    """The api processes hear of the principals that have or had it, the workers of the credential itself."""
    await announce(via.engine, via.link, principal.account, clock=SystemClock(), settings=via.settings.auth)
    await via.link.execute("PUBLISH", keyspace.REVOKED_CHANNEL, credential)


def _id_of(text: str) -> CredentialId:
    if not _ID.match(text):
        raise _missing()
    return CredentialId(text)


def _missing() -> NotFound:
    return NotFound("There is no such key.")


def _view(record: CredentialRecord) -> CredentialView:
    return CredentialView(
        id=record.id,
        provider=record.provider,
        name=record.name,
        maskedKey=record.masked,
        createdAt=record.created_at,
    )
