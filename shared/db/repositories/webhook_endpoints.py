"""Where accounts want to hear of events."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import webhook_endpoint
from shared.ids import AccountId, WebhookEndpointId

_ENDPOINT = webhook_endpoint.c


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`events`: empty for all. `disabled_because`: a word of the API, None while it is enabled."""

    id: WebhookEndpointId
    account_id: AccountId
    url: str
    description: str
    events: tuple[str, ...]
    secret_version: int
    created_at: datetime
    previous_until: datetime | None = None
    failing_since: datetime | None = None
    created_by: str | None = None
    disabled_at: datetime | None = None
    disabled_because: str | None = None

    @property
    def is_enabled(self) -> bool:
        return self.disabled_at is None

    def wants(self, event_type: str) -> bool:
        return self.is_enabled and (not self.events or event_type in self.events)

    def enabled(self) -> Endpoint:
        return replace(self, disabled_at=None, disabled_because=None, failing_since=None)

    def disabled(self, because: str, *, at: datetime) -> Endpoint:
        return replace(self, disabled_at=at, disabled_because=because)


async def create(connection: AsyncConnection, endpoint: Endpoint) -> None:
    await connection.execute(insert(webhook_endpoint).values(_values(endpoint)))


async def count_of(connection: AsyncConnection, account_id: AccountId) -> int:
    """Disabled ones too."""
    mine = select(func.count()).select_from(webhook_endpoint).where(_ENDPOINT.account_id == account_id)
    return await connection.scalar(mine) or 0


async def find(
    connection: AsyncConnection,
    endpoint_id: str,
    *,
    account_id: AccountId | None = None,
    for_update: bool = False,
) -> Endpoint | None:
    """`account_id`: None only for who was told the id by a row of ours. `for_update`: nobody else
    changes it before the transaction ends.
    """
    wanted = select(webhook_endpoint).where(_ENDPOINT.id == endpoint_id)
    if account_id is not None:
        wanted = wanted.where(_ENDPOINT.account_id == account_id)
    if for_update:
        wanted = wanted.with_for_update()
    row = (await connection.execute(wanted)).one_or_none()
    return None if row is None else _endpoint(row)


async def list_of(connection: AsyncConnection, account_id: AccountId) -> list[Endpoint]:
    """Newest first."""
    rows = await connection.execute(
        select(webhook_endpoint)
        .where(_ENDPOINT.account_id == account_id)
        .order_by(_ENDPOINT.created_at.desc(), _ENDPOINT.id.desc())
    )
    return [_endpoint(row) for row in rows]


async def save(connection: AsyncConnection, endpoint: Endpoint) -> None:
    """In the place of what was found under its id, for update."""
    await connection.execute(
        update(webhook_endpoint).where(_ENDPOINT.id == endpoint.id).values(_values(endpoint))
    )


async def remove(connection: AsyncConnection, endpoint_id: WebhookEndpointId) -> None:
    await connection.execute(delete(webhook_endpoint).where(_ENDPOINT.id == endpoint_id))


def _values(endpoint: Endpoint) -> dict[str, Any]:
    return {**asdict(endpoint), "events": list(endpoint.events)}


def _endpoint(row: Row[Any]) -> Endpoint:
    fields = dict(row._mapping)
    return Endpoint(**{**fields, "events": tuple(fields["events"])})
