"""`/api/v1/webhooks`: where an account wants to hear of events, and what signs them."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.account_v1.webhook_schemas import (
    DeliveryView,
    EndpointChange,
    EndpointIn,
    EndpointList,
    EndpointView,
    EndpointWithSecret,
    RotationIn,
    SecretView,
)
from api.audit import audited
from api.database import within_reach
from api.deps import Broker, authenticate, broker_of
from api.posted import posted
from api.request_body import read_body
from api.unified_v1.schemas import ErrorAnswer
from api.webhook_urls import check_webhook_url
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import accounts, webhook_endpoints, webhooks
from shared.db.repositories.webhook_endpoints import Endpoint
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.errors import Conflict, NotFound
from shared.ids import new_webhook_endpoint_id
from shared.requests.checking import check
from shared.requests.json_body import parse_object
from shared.webhooks.disabling import Because, disable
from shared.webhooks.events import Event, EventType, note_for

router: Final = APIRouter(prefix="/api/v1/webhooks", tags=["Webhooks"])

MAX_ENDPOINTS: Final = 20
_ENDPOINT: Final = TypeAdapter(EndpointIn)
_CHANGE: Final = TypeAdapter(EndpointChange)
_ROTATION: Final = TypeAdapter(RotationIn)
_ID: Final = re.compile(r"wh_[0-9a-f]{24}\Z")


class TooManyEndpoints(Conflict):
    code = "too_many_webhooks"

    def __init__(self) -> None:
        super().__init__(f"An account has at most {MAX_ENDPOINTS} endpoints: delete one first.")


class EndpointDisabled(Conflict):
    code = "webhook_disabled"

    def __init__(self) -> None:
        super().__init__("This endpoint is disabled, or deleted: nothing is sent to it.")


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": ErrorAnswer} for s in (401, 403, *statuses, 503)}


def _body(example: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {"requestBody": {"required": required, "content": content}}


@router.post(
    "",
    summary="Name an endpoint",
    status_code=201,
    responses=errors(400, 409, 413, 415, 422),
    openapi_extra=_body(
        {
            "url": "https://hooks.example.com/headrace",
            "description": "What ended",
            "events": ["job.succeeded", "job.failed"],
        }
    ),
)
async def create(request: Request) -> EndpointWithSecret:
    """Events are posted there from now on, signed with the secret of this answer."""
    asked = await posted(request, permission=Permission.WEBHOOKS)
    via, document, principal = asked.via, asked.document, asked.principal
    check(_ENDPOINT, document)
    check_webhook_url(document["url"], via.settings, field="url")
    now = SystemClock().now()
    endpoint = Endpoint(
        id=new_webhook_endpoint_id(),
        account_id=principal.account,
        url=document["url"],
        description=document.get("description", ""),
        events=tuple(dict.fromkeys(document.get("events", ()))),
        secret_version=1,
        created_at=now,
        created_by=principal.user or principal.api_key,
    )
    if not document.get("enabled", True):
        endpoint = endpoint.disabled(Because.ASKED, at=now)
    async with within_reach("Webhooks"), writing(via.engine) as connection:
        await accounts.hold(connection, principal.account)
        if await webhook_endpoints.count_of(connection, principal.account) >= MAX_ENDPOINTS:
            raise TooManyEndpoints
        await webhook_endpoints.create(connection, endpoint)
        await audited(connection, request, principal, "webhook.created", endpoint.id)
    return EndpointWithSecret.of(endpoint, secret=_secret(via, endpoint))


@router.get("", summary="List endpoints", responses=errors())
async def list_all(request: Request) -> EndpointList:
    """Newest first."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.WEBHOOKS)
    async with within_reach("Webhooks"), via.engine.connect() as connection:
        found = await webhook_endpoints.list_of(connection, principal.account)
    return EndpointList(data=[EndpointView.of(endpoint) for endpoint in found])


@router.get("/secret", summary="Read the account's secret", responses=errors())
async def account_secret(request: Request) -> SecretView:
    """It signs what is sent to URLs that a job or a batch names, and to that of the alerts."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.WEBHOOKS)
    async with within_reach("Webhooks"), writing(via.engine) as connection:
        await audited(connection, request, principal, "webhook.secret-read", None)
    return SecretView(secret=via.webhook_secrets.of_account(principal.account))


@router.get("/{endpoint_id}", summary="Read an endpoint", responses=errors(404))
async def get(request: Request, endpoint_id: str) -> EndpointView:
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.WEBHOOKS)
    async with within_reach("Webhooks"), via.engine.connect() as connection:
        return EndpointView.of(await _owned(connection, principal, endpoint_id))


@router.patch(
    "/{endpoint_id}",
    summary="Change an endpoint",
    responses=errors(400, 404, 413, 415, 422),
    openapi_extra=_body({"events": ["job.failed"], "enabled": True}),
)
async def change(request: Request, endpoint_id: str) -> EndpointView:
    """What is on its way goes to its new URL; where it is disabled, what is on its way is given up."""
    asked = await posted(request, permission=Permission.WEBHOOKS)
    via, document, principal = asked.via, asked.document, asked.principal
    check(_CHANGE, document)
    if "url" in document:
        check_webhook_url(document["url"], via.settings, field="url")
    async with within_reach("Webhooks"), writing(via.engine) as connection:
        before = await _owned(connection, principal, endpoint_id, for_update=True)
        changed = await _changed(connection, before, document, now=SystemClock().now())
        await audited(connection, request, principal, "webhook.changed", before.id, fields=sorted(document))
    return EndpointView.of(changed)


@router.delete("/{endpoint_id}", summary="Delete an endpoint", status_code=204, responses=errors(404))
async def delete(request: Request, endpoint_id: str) -> None:
    """What is on its way to it is given up; what was sent there can still be read."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.WEBHOOKS)
    async with within_reach("Webhooks"), writing(via.engine) as connection:
        found = await _owned(connection, principal, endpoint_id, for_update=True)
        await webhook_endpoints.remove(connection, found.id)
        await webhooks.give_up_all_of(connection, found.id, at=SystemClock().now())
        await audited(connection, request, principal, "webhook.deleted", found.id)


@router.get("/{endpoint_id}/secret", summary="Read an endpoint's secret", responses=errors(404))
async def secret(request: Request, endpoint_id: str) -> SecretView:
    """The newest."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.WEBHOOKS)
    async with within_reach("Webhooks"), writing(via.engine) as connection:
        found = await _owned(connection, principal, endpoint_id)
        await audited(connection, request, principal, "webhook.secret-read", found.id)
    return SecretView(secret=_secret(via, found))


@router.post(
    "/{endpoint_id}/rotate",
    summary="Put a new secret in the place of one",
    responses=errors(400, 404, 413, 415, 422),
    openapi_extra=_body({"grace_seconds": 3600}, required=False),
)
async def rotate(request: Request, endpoint_id: str) -> EndpointWithSecret:
    """The old one signs besides the new one for `grace_seconds` more, a day by default, so that no delivery
    is refused meanwhile. The one before that is dead at once.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.WEBHOOKS)
    body = await read_body(request.receive, limit=via.settings.api.max_body_bytes)
    document = parse_object(body) if body else {}
    check(_ROTATION, document)
    seconds = document.get("grace_seconds", via.settings.webhooks.rotation_grace_seconds)
    async with within_reach("Webhooks"), writing(via.engine) as connection:
        before = await _owned(connection, principal, endpoint_id, for_update=True)
        rotated = replace(
            before,
            secret_version=before.secret_version + 1,
            previous_until=SystemClock().now() + timedelta(seconds=seconds),
        )
        await webhook_endpoints.save(connection, rotated)
        await audited(connection, request, principal, "webhook.rotated", before.id)
    return EndpointWithSecret.of(rotated, secret=_secret(via, rotated))


@router.post("/{endpoint_id}/test", summary="Send a test", status_code=202, responses=errors(404, 409))
async def send_test(request: Request, endpoint_id: str) -> DeliveryView:
    """A `webhook.test`, whatever events the endpoint wants. What came of it is in the delivery."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.WEBHOOKS)
    async with within_reach("Webhooks"), writing(via.engine) as connection:
        found = await _owned(connection, principal, endpoint_id)
        if not found.is_enabled:
            raise EndpointDisabled
        number = "test_" + os.urandom(12).hex()
        event = Event(
            EventType.WEBHOOK_TEST, number, SystemClock().now(), {"id": number, "endpoint": found.id}
        )
        delivery = await note_for(connection, found, event)
        await audited(connection, request, principal, "webhook.tested", found.id, delivery=delivery.id)
    return DeliveryView.of(delivery)


async def _owned(
    connection: AsyncConnection, principal: Principal, endpoint_id: str, *, for_update: bool = False
) -> Endpoint:
    """Raises NotFound, also for what is somebody else's."""
    found = None
    if _ID.match(endpoint_id):
        found = await webhook_endpoints.find(
            connection, endpoint_id, account_id=principal.account, for_update=for_update
        )
    if found is None:
        raise NotFound("There is no such endpoint.")
    return found


async def _changed(
    connection: AsyncConnection, before: Endpoint, document: dict[str, Any], *, now: datetime
) -> Endpoint:
    changed = replace(
        before,
        url=document.get("url", before.url),
        description=document.get("description", before.description),
        events=tuple(dict.fromkeys(document.get("events", before.events))),
    )
    enabled = document.get("enabled", before.is_enabled)
    if enabled and not before.is_enabled:
        changed = changed.enabled()
    await webhook_endpoints.save(connection, changed)
    if changed.url != before.url:
        await webhooks.point_to(connection, before.id, changed.url)
    if before.is_enabled and not enabled:
        return await disable(connection, changed, Because.ASKED, at=now)
    return changed


def _secret(via: Broker, endpoint: Endpoint) -> str:
    return via.webhook_secrets.of_endpoint(endpoint.id, endpoint.secret_version)
