"""`/api/v1/keys`: an account's own keys at providers. Its jobs go out on them in place of the broker's."""

from __future__ import annotations

import re
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import TypeAdapter

from api.account_v1.credential_schemas import CredentialIn, CredentialList, CredentialView
from api.audit import audited
from api.checking import check
from api.database import within_reach
from api.deps import Broker, authenticate, broker_of
from api.named_target import require_provider
from api.posted import posted
from api.unified_v1.schemas import ErrorAnswer
from shared.auth.announcement import announce
from shared.clock import SystemClock
from shared.crypto import Binding, Sealer
from shared.db.repositories import provider_credentials
from shared.db.repositories.provider_credentials import FIELD, CredentialRecord
from shared.domain.roles import Permission
from shared.errors import NotFound
from shared.ids import AccountId, CredentialId, new_credential_id

router: Final = APIRouter(prefix="/api/v1/keys", tags=["Provider keys"])

_CREDENTIAL: Final = TypeAdapter(CredentialIn)
_ID: Final = re.compile(r"key_[0-9a-f]{24}\Z")
_MASKED_PREFIX: Final = re.compile(r"[A-Za-z]{1,8}(?:[-_][a-z]{1,6}){0,2}[-_]")
_MOST: Final = 100
"""Keys of one account."""


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": ErrorAnswer} for s in statuses}


@router.post(
    "",
    summary="Store a key of your own",
    status_code=201,
    responses=_errors(400, 401, 403, 404, 409, 413, 415, 422, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "object", "required": ["provider", "apiKey", "name"]},
                    "example": {"provider": "anthropic", "apiKey": "sk-ant-...", "name": "Production"},
                }
            },
        }
    },
)
async def store(request: Request) -> CredentialView:
    """Sealed before it is stored: only workers can open it, and they send it to that provider alone. The
    newest key of a provider is the one that is used, from the next request on.
    """
    asked = await posted(request, permission=Permission.CREDENTIALS_WRITE)
    via, document = asked.via, asked.document
    check(_CREDENTIAL, document)
    require_provider(document["provider"], via)
    sealer = _sealer_of(via)
    secret: str = document["apiKey"]
    profile = via.registry.get(document["provider"])
    record_id, account = new_credential_id(), asked.principal.account
    record = CredentialRecord(
        id=record_id,
        account_id=account,
        provider=profile.id,
        name=document["name"],
        masked=masked(secret),
        origins=tuple(sorted(profile.origins)),
        sealed=sealer.seal(secret.encode(), Binding(account, record_id, FIELD)),
        master_key_id=sealer.master_key_id,
        created_at=SystemClock().now(),
        created_by=asked.principal.user or asked.principal.api_key,
    )
    async with within_reach("Provider keys"):
        async with via.engine.begin() as connection:
            await provider_credentials.create(connection, record)
            await audited(
                connection, request, asked.principal, "provider-key.stored", record.id, provider=profile.id
            )
        await _tell(account, via)
    return _view(record)


@router.get("", summary="List your own keys", responses=_errors(401, 403, 503))
async def list_all(request: Request) -> CredentialList:
    """Newest first."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.CREDENTIALS_READ)
    async with within_reach("Provider keys"), via.engine.connect() as connection:
        found = await provider_credentials.list_of(connection, principal.account)
    return CredentialList(keys=[_view(record) for record in found])


@router.get("/{key_id}", summary="Show one of your own keys", responses=_errors(401, 403, 404, 503))
async def show(request: Request, key_id: str) -> CredentialView:
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.CREDENTIALS_READ)
    wanted = _id(key_id)
    async with within_reach("Provider keys"), via.engine.connect() as connection:
        found = await provider_credentials.find(connection, wanted, account=principal.account)
    if found is None:
        raise _unknown()
    return _view(found)


@router.delete(
    "/{key_id}", summary="Remove one of your own keys", status_code=204, responses=_errors(401, 403, 404, 503)
)
async def remove(request: Request, key_id: str) -> None:
    """For good. Jobs that are queued with it fail; the next ones take the key before it, or the broker's."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.CREDENTIALS_WRITE)
    wanted = _id(key_id)
    async with within_reach("Provider keys"):
        async with via.engine.begin() as connection:
            removed = await provider_credentials.revoke(
                connection, wanted, account=principal.account, at=SystemClock().now()
            )
            if not removed:
                raise _unknown()
            await audited(connection, request, principal, "provider-key.removed", wanted)
        await _tell(principal.account, via)


def masked(secret: str) -> str:
    """`sk-ant-...xyz`: enough to recognise a key by, and nothing to use it with."""
    if len(secret) < 16:
        return "..."
    prefix = _MASKED_PREFIX.match(secret)
    return f"{prefix[0] if prefix else ''}...{secret[-3:]}"


async def _tell(account: AccountId, via: Broker) -> None:
    await announce(via.engine, via.link, account, clock=SystemClock(), settings=via.settings.auth)


def _sealer_of(via: Broker) -> Sealer:
    if via.sealer is None:
        raise NotFound("Keys of your own cannot be stored here: HEADRACE_MASTER_PUBLIC_KEY is not set.")
    return via.sealer


def _id(text: str) -> CredentialId:
    if not _ID.match(text):
        raise _unknown()
    return CredentialId(text)


def _unknown() -> NotFound:
    return NotFound("There is no such key.")


def _view(record: CredentialRecord) -> CredentialView:
    return CredentialView(
        id=record.id,
        provider=record.provider,
        name=record.name,
        maskedKey=record.masked,
        origins=list(record.origins),
        createdAt=record.created_at,
        createdBy=record.created_by,
    )
