"""An administrative act, written in the transaction that it is part of."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request

from api.client_address import client_address
from api.deps import broker_of, request_id_of
from shared.clock import SystemClock
from shared.db.repositories import audit
from shared.domain.principal import Principal
from shared.ids import AccountId


async def audited(
    connection: AsyncConnection,
    request: Request,
    by: Principal | str,
    act: str,
    object_id: str | None,
    *,
    account: AccountId | None = None,
    **details: object,
) -> None:
    """`by`: who did it; an operator's id where it is of no account. `details`: no secrets."""
    settings = broker_of(request).settings.api
    actor = by if isinstance(by, str) else by.user or by.api_key
    await audit.record(
        connection,
        at=SystemClock().now(),
        account=account or (None if isinstance(by, str) else by.account),
        actor=actor,
        act=act,
        object_id=object_id,
        request_id=request_id_of(request.scope),
        address=client_address(request.scope, settings.trusted_proxies),
        details=details,
    )
