"""`/api/v1/account/alerts`: which share of a budget an account wants to hear of, and where."""

from __future__ import annotations

from typing import Annotated, Final, Required

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, with_config
from typing_extensions import TypedDict

from api.audit import audited
from api.database import within_reach
from api.deps import authenticate, broker_of
from api.posted import posted
from api.unified_v1.schemas import ErrorAnswer
from api.webhook_urls import check_webhook_url
from shared.accounting.quota_alerts import LOWEST_PERCENT
from shared.db.engine import writing
from shared.db.repositories import alerts
from shared.db.repositories.alerts import AlertSettings
from shared.domain.roles import Permission
from shared.errors import NotFound
from shared.requests.checking import check

router: Final = APIRouter(prefix="/api/v1/account/alerts", tags=["Account"])


@with_config(ConfigDict(extra="forbid", strict=True))
class AlertsIn(TypedDict, total=False):
    url: Required[Annotated[str, StringConstraints(min_length=1, max_length=2000)]]
    thresholds: Annotated[
        list[Annotated[int, Field(ge=LOWEST_PERCENT, le=1000)]], Field(min_length=1, max_length=10)
    ]


class AlertsView(BaseModel):
    """`thresholds`: percent of each limit of requests or money of a day or month."""

    url: str
    thresholds: list[int]


_ALERTS: Final = TypeAdapter(AlertsIn)
_DEFAULT: Final = (80, 100)


@router.get(
    "", summary="Read the alerts", responses={s: {"model": ErrorAnswer} for s in (401, 403, 404, 503)}
)
async def get(request: Request) -> AlertsView:
    """404 where the account wants none."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.USAGE_READ)
    async with within_reach("Alerts"), via.engine.connect() as connection:
        found = await alerts.settings_of(connection, principal.account)
    if found is None:
        raise NotFound("This account has no alerts.")
    return AlertsView(url=found.url, thresholds=list(found.thresholds))


@router.put(
    "",
    summary="Ask for alerts",
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 403, 413, 415, 422, 503)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "object", "required": ["url"]},
                    "example": {"url": "https://hooks.example.com/budget", "thresholds": [80, 100]},
                }
            },
        }
    },
)
async def put(request: Request) -> AlertsView:
    """In the place of those before. The URL is posted to, with an id that stays the same when it is tried
    again, once for each threshold of each period.
    """
    asked = await posted(request, permission=Permission.MEMBERS_WRITE)
    via, document = asked.via, asked.document
    check(_ALERTS, document)
    check_webhook_url(document["url"], via.settings, field="url")
    wanted = AlertSettings(document["url"], tuple(sorted(set(document.get("thresholds", _DEFAULT)))))
    async with within_reach("Alerts"), writing(via.engine) as connection:
        await alerts.set_settings(connection, asked.principal.account, wanted)
        await audited(connection, request, asked.principal, "alerts.set", None)
    return AlertsView(url=wanted.url, thresholds=list(wanted.thresholds))


@router.delete(
    "",
    summary="Want no alerts",
    status_code=204,
    responses={s: {"model": ErrorAnswer} for s in (401, 403, 503)},
)
async def delete(request: Request) -> None:
    """Again is harmless."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.MEMBERS_WRITE)
    async with within_reach("Alerts"), writing(via.engine) as connection:
        await alerts.set_settings(connection, principal.account, None)
        await audited(connection, request, principal, "alerts.removed", None)
