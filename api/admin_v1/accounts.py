"""`/api/v1/admin/accounts`: the tenants, for operators."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from pydantic import TypeAdapter

from api.account_v1.limits_schemas import limits_from
from api.admin_v1.account_schemas import AccountChange, AccountIn, AccountPage, AccountView
from api.admin_v1.guard import require_admin
from api.audit import audited
from api.database import within_reach
from api.deps import broker_of
from api.request_body import read_body
from api.unified_v1.schemas import ErrorAnswer
from shared.auth.announcement import tell
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import accounts
from shared.domain.allowance import Tier
from shared.errors import NotFound
from shared.ids import AccountId, new_account_id
from shared.requests.checking import check, fault
from shared.requests.json_body import parse_object

router: Final = APIRouter(prefix="/api/v1/admin/accounts", tags=["Admin"])

_ACCOUNT: Final = TypeAdapter(AccountIn)
_CHANGE: Final = TypeAdapter(AccountChange)
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
Operator = Annotated[str, Depends(require_admin)]
"""Who it is."""
Cursor = Annotated[str | None, Query(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
Limit = Annotated[int, Query(ge=1, le=1000)]


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": ErrorAnswer} for s in (401, 403, *statuses, 503)}


def body(example: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


async def document_of(request: Request, adapter: TypeAdapter[Any]) -> dict[str, Any]:
    """Raises InvalidRequest and whatever else is wrong with a body."""
    via = broker_of(request)
    document = parse_object(await read_body(request.receive, limit=via.settings.api.max_body_bytes))
    check(adapter, document)
    return document


@router.get("", summary="List accounts", responses=errors(422))
async def list_accounts(
    request: Request, _: Operator, limit: Limit = 100, cursor: Cursor = None
) -> AccountPage:
    """By id."""
    async with within_reach("Accounts"), broker_of(request).engine.connect() as connection:
        found = await accounts.list_for_operator(connection, after=cursor or "", limit=limit + 1)
    return AccountPage(
        data=[AccountView.of(record) for record in found[:limit]],
        next_cursor=found[limit - 1].id if len(found) > limit else None,
    )


@router.get("/{account_id}", summary="Show an account", responses=errors(404))
async def show(request: Request, account_id: str, _: Operator) -> AccountView:
    wanted = account_id_of(account_id)
    async with within_reach("Accounts"), broker_of(request).engine.connect() as connection:
        found = await accounts.find(connection, wanted)
    if found is None:
        raise unknown()
    return AccountView.of(found)


@router.post(
    "",
    summary="Make an account",
    status_code=201,
    responses=errors(400, 409, 413, 415, 422),
    openapi_extra=body({"name": "Acme", "tier": "paid", "limits": {"monthly_spend_usd": 500}}),
)
async def create(request: Request, operator: Operator) -> AccountView:
    document = await document_of(request, _ACCOUNT)
    account = AccountId(document["id"]) if "id" in document else new_account_id()
    tier, limits = Tier(document.get("tier", Tier.STANDARD)), limits_from(document.get("limits"))
    async with within_reach("Accounts"), writing(broker_of(request).engine) as connection:
        await accounts.create(
            connection, account, name=document["name"], tier=tier, limits=limits, at=SystemClock().now()
        )
        await audited(
            connection,
            request,
            operator,
            "account.created",
            account,
            account=account,
            tier=tier,
            limits=limits.to_fields(),
        )
        record = await accounts.find(connection, account)
    if record is None:
        raise unknown()
    return AccountView.of(record)


@router.patch(
    "/{account_id}",
    summary="Change an account's name, tier or limits",
    responses=errors(400, 404, 413, 415, 422),
    openapi_extra=body({"tier": "paid", "limits": {"monthly_spend_usd": 1000}}),
)
async def change(request: Request, account_id: str, operator: Operator) -> AccountView:
    """Holds within seconds, in every process."""
    wanted = account_id_of(account_id)
    document = await document_of(request, _CHANGE)
    if not document:
        raise fault("name", "or tier or limits must be there")
    tier = Tier(document["tier"]) if "tier" in document else None
    limits = limits_from(document["limits"]) if "limits" in document else None
    via = broker_of(request)
    async with within_reach("Accounts"):
        async with writing(via.engine) as connection:
            if not await accounts.change(
                connection, wanted, name=document.get("name"), tier=tier, limits=limits
            ):
                raise unknown()
            await audited(
                connection,
                request,
                operator,
                "account.changed",
                wanted,
                account=wanted,
                tier=tier,
                limits=None if limits is None else limits.to_fields(),
            )
            record = await accounts.find(connection, wanted)
        await tell(via.engine, via.link, [wanted], clock=SystemClock(), settings=via.settings.auth)
    if record is None:
        raise unknown()
    return AccountView.of(record)


def account_id_of(text: str) -> AccountId:
    """Raises NotFound for what is none."""
    if not _ID.match(text):
        raise unknown()
    return AccountId(text)


def unknown() -> NotFound:
    return NotFound("There is no such account.")
