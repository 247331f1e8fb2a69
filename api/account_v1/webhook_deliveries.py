"""`/api/v1/webhooks/deliveries`: what was sent, what came of it, and once more."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from sqlalchemy.ext.asyncio import AsyncConnection

from api.account_v1.webhook_schemas import DeliveryPage, DeliveryView, WholeDelivery
from api.account_v1.webhooks import EndpointDisabled, errors
from api.audit import audited
from api.database import within_reach
from api.deps import authenticate, broker_of
from api.pages import cursor_of, place_of
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import webhook_endpoints, webhooks
from shared.db.repositories.webhooks import Delivery, Status
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.errors import NotFound
from shared.webhooks.events import EventType

router: Final = APIRouter(prefix="/api/v1/webhooks/deliveries", tags=["Webhooks"])

_ID: Final = re.compile(r"msg_[0-9a-f]{32}\Z")


@router.get("", summary="List deliveries", responses=errors(422))
async def list_all(
    request: Request,
    endpoint: Annotated[str | None, Query(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")] = None,
    status: Status | None = None,
    type: EventType | None = None,  # noqa: A002 - the name that callers know
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> DeliveryPage:
    """Newest first."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.WEBHOOKS)
    after = place_of(cursor)
    async with within_reach("Webhooks"), via.engine.connect() as connection:
        found = await webhooks.page(
            connection,
            principal.account,
            endpoint_id=endpoint,
            status=status,
            event_type=type,
            after=after,
            limit=limit + 1,
        )
    last = found[limit - 1] if len(found) > limit else None
    return DeliveryPage(
        data=[DeliveryView.of(delivery) for delivery in found[:limit]],
        next_cursor=None if last is None else cursor_of(last.created_at, last.id),
    )


@router.get("/{delivery_id}", summary="Read a delivery", responses=errors(404))
async def get(request: Request, delivery_id: str) -> WholeDelivery:
    """With what is sent, and how each try of it went."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.WEBHOOKS)
    async with within_reach("Webhooks"), via.engine.connect() as connection:
        found = await _owned(connection, principal, delivery_id)
        return WholeDelivery.whole(found, await webhooks.attempts_of(connection, found.id))


@router.post(
    "/{delivery_id}/redeliver", summary="Send it once more", status_code=202, responses=errors(404, 409)
)
async def redeliver(request: Request, delivery_id: str) -> DeliveryView:
    """At once, under the same `webhook-id`, and then by the whole schedule again."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.WEBHOOKS)
    async with within_reach("Webhooks"), writing(via.engine) as connection:
        found = await _owned(connection, principal, delivery_id)
        url = found.url
        if found.endpoint_id is not None:
            endpoint = await webhook_endpoints.find(
                connection, found.endpoint_id, account_id=principal.account, for_update=True
            )
            if endpoint is None or not endpoint.is_enabled:
                raise EndpointDisabled
            url = endpoint.url
        await webhooks.send_anew(connection, found.id, url=url, at=SystemClock().now())
        await audited(connection, request, principal, "webhook.redelivered", found.id)
        again = await _owned(connection, principal, delivery_id)
    return DeliveryView.of(again)


async def _owned(connection: AsyncConnection, principal: Principal, delivery_id: str) -> Delivery:
    """Raises NotFound, also for what is somebody else's."""
    found = None
    if _ID.match(delivery_id):
        found = await webhooks.find(connection, delivery_id, account_id=principal.account)
    if found is None:
        raise NotFound("There is no such delivery.")
    return found
