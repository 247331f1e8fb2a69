"""Webhooks on their way, and what came of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, and_, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories.insert import insert_new
from shared.db.tables import webhook_attempt, webhook_delivery, webhook_endpoint
from shared.ids import AccountId, WebhookEndpointId, WebhookId

_DELIVERY = webhook_delivery.c
_ATTEMPT = webhook_attempt.c
_A_LOOK: Final = 200
"""Rows that one claim looks at to find some whose receivers have room."""


class Status(StrEnum):
    """`pending` until the other two: on its way, or waiting for its next try."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Delivery:
    """`endpoint_id`: None where a job or a batch named the URL. `tries`: since it was last sent anew."""

    id: WebhookId
    account_id: AccountId
    endpoint_id: WebhookEndpointId | None
    url: str
    type: str
    payload: bytes
    created_at: datetime
    next_try_at: datetime | None
    tries: int = 0
    delivered_at: datetime | None = None
    given_up_at: datetime | None = None

    @property
    def status(self) -> Status:
        if self.delivered_at is not None:
            return Status.DELIVERED
        return Status.PENDING if self.given_up_at is None else Status.GIVEN_UP

    @property
    def receiver(self) -> str:
        return self.endpoint_id or self.url


@dataclass(frozen=True, slots=True)
class Attempt:
    """`status`: None where there was no answer that counts, and `error` says why."""

    at: datetime
    status: int | None
    error: str | None
    took_ms: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """One to be sent before `until`, when somebody else may take it for abandoned.

    `secret_version`, `previous_until`: of its endpoint; None where a job or a batch named the URL.
    """

    delivery: Delivery
    until: datetime
    secret_version: int | None
    previous_until: datetime | None


@dataclass(frozen=True, slots=True)
class Room:
    """How many more may be claimed: at all, of one account, and for one receiver. The mappings: how many
    of an account, or for a receiver, are being sent already.
    """

    free: int
    of_account: int
    of_receiver: int
    accounts: Mapping[str, int]
    receivers: Mapping[str, int]


async def add(connection: AsyncConnection, deliveries: Sequence[Delivery]) -> None:
    """Those that are there already stay as they are."""
    await insert_new(connection, webhook_delivery, [_values(delivery) for delivery in deliveries])


async def claim(connection: AsyncConnection, room: Room, *, now: datetime, until: datetime) -> list[Claimed]:
    """Those due that there is room for, the longest due first. Until `until` nobody else claims them.

    Those of endpoints that are gone or disabled are given up instead. In a transaction of `writing`.
    """
    due = _due(room, now).order_by(_DELIVERY.next_try_at).limit(_A_LOOK)
    rows = (await connection.execute(due.with_for_update(skip_locked=True, of=webhook_delivery))).all()
    void = [row.id for row in rows if row.endpoint_id is not None and not row.reachable]
    if void:
        await _close(connection, _DELIVERY.id.in_(void), at=now)
    gone = set(void)
    taken = _fitting([row for row in rows if row.id not in gone], room)
    if taken:
        ids = [row.id for row in taken]
        await connection.execute(
            update(webhook_delivery).where(_DELIVERY.id.in_(ids)).values(next_try_at=until)
        )
    return [Claimed(_delivery(row), until, row.secret_version, row.previous_until) for row in taken]


async def is_any_due(connection: AsyncConnection, room: Room, *, now: datetime) -> bool:
    """Whether to `claim`, asked without keeping writers out."""
    return (await connection.execute(_due(room, now).limit(1))).first() is not None


async def holds(connection: AsyncConnection, claimed: Claimed) -> bool | None:
    """Whether the claim still stands; None where the delivery is gone. Nobody else changes it before the
    transaction ends.
    """
    row = (
        await connection.execute(
            select(_DELIVERY.next_try_at).where(_DELIVERY.id == claimed.delivery.id).with_for_update()
        )
    ).one_or_none()
    return None if row is None else row.next_try_at == claimed.until


async def log_attempt(connection: AsyncConnection, delivery_id: WebhookId, attempt: Attempt) -> None:
    """As its last. Nobody else may log one of this delivery meanwhile: see `holds`."""
    mine = select(func.max(_ATTEMPT.ordinal)).where(_ATTEMPT.delivery_id == delivery_id)
    last = await connection.scalar(mine) or 0
    await connection.execute(
        insert(webhook_attempt).values(delivery_id=delivery_id, ordinal=last + 1, **asdict(attempt))
    )


async def mark_delivered(connection: AsyncConnection, delivery: Delivery, *, at: datetime) -> None:
    await connection.execute(
        update(webhook_delivery)
        .where(_DELIVERY.id == delivery.id)
        .values(tries=delivery.tries + 1, next_try_at=None, delivered_at=at)
    )


async def mark_failed(
    connection: AsyncConnection, delivery: Delivery, *, at: datetime, next_try_at: datetime | None
) -> None:
    """`next_try_at`: None where it is given up."""
    await connection.execute(
        update(webhook_delivery)
        .where(_DELIVERY.id == delivery.id)
        .values(
            tries=delivery.tries + 1,
            next_try_at=next_try_at,
            given_up_at=at if next_try_at is None else None,
        )
    )


async def give_up_all_of(
    connection: AsyncConnection, endpoint_id: WebhookEndpointId, *, at: datetime
) -> None:
    """What is on its way to an endpoint that is not to be called any more."""
    await _close(connection, _DELIVERY.endpoint_id == endpoint_id, at=at)


async def point_to(connection: AsyncConnection, endpoint_id: WebhookEndpointId, url: str) -> None:
    """What is on its way to an endpoint goes to its new URL."""
    await connection.execute(
        update(webhook_delivery)
        .where(_DELIVERY.endpoint_id == endpoint_id, _DELIVERY.next_try_at.is_not(None))
        .values(url=url)
    )


async def send_anew(connection: AsyncConnection, delivery_id: WebhookId, *, url: str, at: datetime) -> None:
    """Now, and then by the whole schedule again."""
    await connection.execute(
        update(webhook_delivery)
        .where(_DELIVERY.id == delivery_id)
        .values(url=url, tries=0, next_try_at=at, delivered_at=None, given_up_at=None)
    )


async def find(connection: AsyncConnection, delivery_id: str, *, account_id: AccountId) -> Delivery | None:
    row = (
        await connection.execute(
            select(webhook_delivery).where(_DELIVERY.id == delivery_id, _DELIVERY.account_id == account_id)
        )
    ).one_or_none()
    return None if row is None else _delivery(row)


async def attempts_of(connection: AsyncConnection, delivery_id: WebhookId) -> list[Attempt]:
    """In order. Whose they are was asked before, by `find`."""
    rows = await connection.execute(
        select(webhook_attempt).where(_ATTEMPT.delivery_id == delivery_id).order_by(_ATTEMPT.ordinal)
    )
    return [Attempt(row.at, row.status, row.error, row.took_ms) for row in rows]


async def page(
    connection: AsyncConnection,
    account_id: AccountId,
    *,
    endpoint_id: str | None = None,
    status: Status | None = None,
    event_type: str | None = None,
    after: tuple[datetime, str] | None = None,
    limit: int,
) -> list[Delivery]:
    """Newest first, from behind `after`."""
    which = [_DELIVERY.account_id == account_id]
    if endpoint_id is not None:
        which.append(_DELIVERY.endpoint_id == endpoint_id)
    if status is not None:
        which.append(_has(status))
    if event_type is not None:
        which.append(_DELIVERY.type == event_type)
    if after is not None:
        at, row_id = after
        which.append(or_(_DELIVERY.created_at < at, and_(_DELIVERY.created_at == at, _DELIVERY.id < row_id)))
    rows = await connection.execute(
        select(webhook_delivery)
        .where(*which)
        .order_by(_DELIVERY.created_at.desc(), _DELIVERY.id.desc())
        .limit(limit)
    )
    return [_delivery(row) for row in rows]


async def remove_before(connection: AsyncConnection, before: datetime, *, limit: int) -> int:
    """Those delivered or given up before, with their attempts; how many went."""
    ended = func.coalesce(_DELIVERY.delivered_at, _DELIVERY.given_up_at)
    old = select(_DELIVERY.id).where(_DELIVERY.next_try_at.is_(None), ended < before).limit(limit)
    ids = list(await connection.scalars(old))
    if ids:
        await connection.execute(delete(webhook_attempt).where(_ATTEMPT.delivery_id.in_(ids)))
        await connection.execute(delete(webhook_delivery).where(_DELIVERY.id.in_(ids)))
    return len(ids)


def _due(room: Room, now: datetime) -> Select[Any]:
    """Rows of deliveries, with whether what they are for is `reachable`, and which secrets it has."""
    reachable = and_(webhook_endpoint.c.id.is_not(None), webhook_endpoint.c.disabled_at.is_(None))
    found = (
        select(
            webhook_delivery,
            reachable.label("reachable"),
            webhook_endpoint.c.secret_version,
            webhook_endpoint.c.previous_until,
        )
        .outerjoin(webhook_endpoint, webhook_endpoint.c.id == _DELIVERY.endpoint_id)
        .where(_DELIVERY.next_try_at <= now)
    )
    # A receiver that is slow, or an account with many of them, holds up none but itself.
    if accounts := [name for name, sending in room.accounts.items() if sending >= room.of_account]:
        found = found.where(_DELIVERY.account_id.not_in(accounts))
    if receivers := [name for name, sending in room.receivers.items() if sending >= room.of_receiver]:
        found = found.where(func.coalesce(_DELIVERY.endpoint_id, _DELIVERY.url).not_in(receivers))
    return found


def _fitting(due: Sequence[Row[Any]], room: Room) -> list[Row[Any]]:
    taken: list[Row[Any]] = []
    accounts, receivers = Counter(room.accounts), Counter(room.receivers)
    for row in due:
        if len(taken) == room.free:
            break
        account, receiver = row.account_id, row.endpoint_id or row.url
        if accounts[account] < room.of_account and receivers[receiver] < room.of_receiver:
            accounts[account] += 1
            receivers[receiver] += 1
            taken.append(row)
    return taken


async def _close(connection: AsyncConnection, which: ColumnElement[bool], *, at: datetime) -> None:
    await connection.execute(
        update(webhook_delivery)
        .where(which, _DELIVERY.next_try_at.is_not(None))
        .values(next_try_at=None, given_up_at=at)
    )


def _has(status: Status) -> ColumnElement[bool]:
    if status is Status.PENDING:
        return _DELIVERY.next_try_at.is_not(None)
    return (_DELIVERY.delivered_at if status is Status.DELIVERED else _DELIVERY.given_up_at).is_not(None)


def _values(delivery: Delivery) -> dict[str, Any]:
    return {name: getattr(delivery, name) for name in Delivery.__dataclass_fields__}


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(**{name: getattr(row, name) for name in Delivery.__dataclass_fields__})
