"""`/api/v1/audit`: who did what to an account. What its jobs did is told by `/api/v1/usage/jobs`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel

from api.admin_v1.guard import require_admin
from api.database import within_reach
from api.deps import Broker, authenticate, broker_of
from api.pages import cursor_of, place_of
from api.unified_v1.schemas import ErrorAnswer
from shared.db.repositories import audit
from shared.db.repositories.audit import AuditEvent
from shared.domain.roles import Permission
from shared.ids import AccountId

router: Final = APIRouter(tags=["Account"])
operators: Final = APIRouter(tags=["Admin"], dependencies=[Depends(require_admin)])

MAX_PAGE: Final = 1_000
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {s: {"model": ErrorAnswer} for s in (401, 403, 422, 503)}
Word = Annotated[str | None, Query(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]
PageSize = Annotated[int, Query(ge=1, le=MAX_PAGE)]
Cursor = Annotated[str | None, Query(max_length=200)]


class AuditEventView(BaseModel):
    """`actor`: the id of the user or key that did it. `object`: what it was done to."""

    id: str
    at: datetime
    account: str | None
    actor: str
    act: str
    object: str | None
    outcome: str
    request_id: str | None
    address: str | None
    details: dict[str, Any]


class AuditPage(BaseModel):
    data: list[AuditEventView]
    next_cursor: str | None


@router.get("/api/v1/audit", summary="Who did what", responses=_ERRORS)
async def events(
    request: Request, act: Word = None, actor: Word = None, limit: PageSize = 100, cursor: Cursor = None
) -> AuditPage:
    """Logins, keys, members, limits: every change of the account, newest first."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.AUDIT_READ)
    return await _page(via, principal.account, act, actor, limit, cursor)


@operators.get("/api/v1/admin/audit", summary="Who did what, everywhere", responses=_ERRORS)
async def events_for_operators(
    request: Request,
    account: Word = None,
    act: Word = None,
    actor: Word = None,
    limit: PageSize = 100,
    cursor: Cursor = None,
) -> AuditPage:
    """What operators did as well, which is of no account."""
    owner = None if account is None else AccountId(account)
    return await _page(broker_of(request), owner, act, actor, limit, cursor)


async def _page(
    via: Broker, account: AccountId | None, act: str | None, actor: str | None, limit: int, cursor: str | None
) -> AuditPage:
    after = place_of(cursor)
    async with within_reach("Audit events"), via.engine.connect() as connection:
        found = await audit.page(connection, account, act=act, actor=actor, after=after, limit=limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    return AuditPage(
        data=[_view(event) for event in found[:limit]],
        next_cursor=None if last is None else cursor_of(last.at, last.id),
    )


def _view(event: AuditEvent) -> AuditEventView:
    return AuditEventView(
        id=event.id,
        at=event.at,
        account=event.account_id,
        actor=event.actor,
        act=event.act,
        object=event.object_id,
        outcome=event.outcome,
        request_id=event.request_id,
        address=event.address,
        details=event.details,
    )
