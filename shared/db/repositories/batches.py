"""Batches: what was handed in, how far it is, and where its results are.

A status changes by a table (shared/domain/batch.py) and once: `change` names the one it comes from,
so of several that want to change it one does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import batch as batches
from shared.db.tables import batch_line as lines
from shared.domain.batch import ENDED, OPEN, TRANSITIONS, BatchForm, BatchStatus
from shared.domain.trace import TraceOrigin
from shared.ids import AccountId, ApiKeyId, BatchId, UserId

TRACE: Final = "trace"
"""Among the options: where in a trace it comes from, for `Batch.trace`."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A row. `notes`: its metadata. `options`: see Options. `handed_over`: see HandedOver."""

    id: BatchId
    account_id: AccountId
    api_key_id: ApiKeyId
    user_id: UserId | None
    request_id: str
    form: BatchForm
    endpoint: str
    model: str | None
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    status: BatchStatus
    errors: list[dict[str, Any]] | None
    notes: dict[str, str] | None
    options: dict[str, Any]
    webhook_url: str | None
    handed_over: dict[str, Any] | None
    fingerprint: str
    checked_lines: int
    checked_bytes: int
    fed_lines: int
    total: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    created_at: datetime
    expires_at: datetime
    in_progress_at: datetime | None
    finalizing_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    expired_at: datetime | None
    cancelling_at: datetime | None
    cancelled_at: datetime | None
    results_expire_at: datetime | None

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def ended_at(self) -> datetime | None:
        return self.completed_at or self.failed_at or self.expired_at or self.cancelled_at

    @property
    def trace(self) -> TraceOrigin | None:
        """Of the request that handed it in."""
        origin = TraceOrigin.from_fields(self.options.get(TRACE))
        return None if origin is None else origin.as_past()

    @property
    def is_strict(self) -> bool:
        """Whether one bad line fails all of it."""
        return self.options.get("validation") == "strict"

    @property
    def execution(self) -> str:
        """Who is to run its requests: see shared.batches.handed_over."""
        return str(self.options.get("execution", "lines"))

    @property
    def window(self) -> int | None:
        """Lines to be queued at once, where it was said."""
        return self.options.get("window")

    @property
    def output_seconds(self) -> int | None:
        """How long its results are kept, where it was said."""
        return self.options.get("output_seconds")

    @property
    def requests(self) -> int | None:
        """How many came together with it, so that its input is its own; None where it was given a file."""
        return self.options.get("requests")

    @property
    def usage(self) -> dict[str, Any] | None:
        return self.options.get("usage")


@dataclass(frozen=True, slots=True)
class NewBatch:
    id: BatchId
    account_id: AccountId
    api_key_id: ApiKeyId
    user_id: UserId | None
    request_id: str
    form: BatchForm
    endpoint: str
    input_file_id: str
    notes: dict[str, str] | None
    options: dict[str, Any]
    webhook_url: str | None
    fingerprint: str
    idempotency: str | None
    created_at: datetime
    expires_at: datetime


_TIME_OF: Final = {
    BatchStatus.IN_PROGRESS: "in_progress_at",
    BatchStatus.FINALIZING: "finalizing_at",
    BatchStatus.CANCELLING: "cancelling_at",
    BatchStatus.COMPLETED: "completed_at",
    BatchStatus.FAILED: "failed_at",
    BatchStatus.EXPIRED: "expired_at",
    BatchStatus.CANCELLED: "cancelled_at",
}


TOTAL: Final = batches.c.total
"""For values that are as many as there are requests."""


async def create(connection: AsyncConnection, new: NewBatch) -> None:
    """Raises IntegrityError where its Idempotency-Key is taken."""
    fields = {name: getattr(new, name) for name in NewBatch.__slots__}
    await connection.execute(
        insert(batches).values(**fields | {"form": new.form.value, "status": BatchStatus.VALIDATING.value})
    )


async def find(connection: AsyncConnection, account: AccountId, batch_id: BatchId) -> Batch | None:
    """None where the account has no such batch."""
    return await _one(connection, and_(batches.c.id == batch_id, batches.c.account_id == account))


async def find_by_key(connection: AsyncConnection, idempotency: str) -> Batch | None:
    return await _one(connection, batches.c.idempotency == idempotency)


async def find_like(
    connection: AsyncConnection,
    account: AccountId,
    api_key: ApiKeyId,
    form: BatchForm,
    fingerprint: str,
    *,
    since: datetime,
) -> Batch | None:
    """The newest that was asked for in the same words."""
    row = await connection.execute(
        select(batches)
        .where(
            batches.c.account_id == account,
            batches.c.created_at >= since,
            batches.c.api_key_id == api_key,
            batches.c.form == form.value,
            batches.c.fingerprint == fingerprint,
        )
        .order_by(batches.c.created_at.desc(), batches.c.id.desc())
        .limit(1)
    )
    found = row.one_or_none()
    return None if found is None else _batch(found)


async def give_up_key(connection: AsyncConnection, batch_id: BatchId) -> None:
    """Its Idempotency-Key is free for another batch."""
    await connection.execute(update(batches).where(batches.c.id == batch_id).values(idempotency=None))


async def page(
    connection: AsyncConnection,
    account: AccountId,
    forms: Collection[BatchForm],
    *,
    after: tuple[datetime, str] | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int,
) -> list[Batch]:
    """Newest first, from behind a place: when a batch was created, and its id. `before`: those that are
    newer than that, the oldest of them.
    """
    wanted: list[ColumnElement[bool]] = [
        batches.c.account_id == account,
        batches.c.form.in_([form.value for form in forms]),
    ]
    if after is not None:
        at, row_id = after
        wanted.append(or_(batches.c.created_at < at, and_(batches.c.created_at == at, batches.c.id < row_id)))
    if before is not None:
        at, row_id = before
        wanted.append(or_(batches.c.created_at > at, and_(batches.c.created_at == at, batches.c.id > row_id)))
        rows = await connection.execute(
            select(batches).where(*wanted).order_by(batches.c.created_at, batches.c.id).limit(limit)
        )
        return [_batch(row) for row in rows][::-1]
    rows = await connection.execute(
        select(batches).where(*wanted).order_by(batches.c.created_at.desc(), batches.c.id.desc()).limit(limit)
    )
    return [_batch(row) for row in rows]


async def open_accounts(connection: AsyncConnection, *, after: str, limit: int) -> list[AccountId]:
    """Those with batches that have not ended, by name, from behind one."""
    found = await connection.scalars(
        select(batches.c.account_id)
        .where(_is_open(), batches.c.account_id > after)
        .distinct()
        .order_by(batches.c.account_id)
        .limit(limit)
    )
    return [AccountId(name) for name in found]


async def open_of_each(
    connection: AsyncConnection, accounts: Collection[AccountId], *, each: int, first: int
) -> list[tuple[BatchId, AccountId]]:
    """Of each account as many as `each` of those that have not ended: from the `first` (0-based) on, oldest
    first, and from the oldest again behind the newest.
    """
    of_account = func.row_number().over(partition_by=batches.c.account_id, order_by=batches.c.id) - 1
    many = func.count().over(partition_by=batches.c.account_id)
    places = (
        select(batches.c.id, batches.c.account_id, of_account.label("place"), many.label("many"))
        .where(_is_open(), batches.c.account_id.in_(accounts))
        .subquery()
    )
    from_first = (places.c.place + places.c.many - first % places.c.many) % places.c.many
    rows = await connection.execute(
        select(places.c.id, places.c.account_id).where(from_first < each).order_by(places.c.id)
    )
    return [(BatchId(row.id), AccountId(row.account_id)) for row in rows]


async def some_open(connection: AsyncConnection, ids: Collection[BatchId]) -> list[Batch]:
    """Those of them that have not ended: whoever runs them asks over all accounts."""
    rows = await connection.execute(select(batches).where(_is_open(), batches.c.id.in_(ids)))
    return [_batch(row) for row in rows]


async def change(
    connection: AsyncConnection, batch: Batch, to: BatchStatus, *, at: datetime, **values: Any
) -> bool:
    """False where somebody else changed its status meanwhile: then nothing is written."""
    if to not in TRANSITIONS[batch.status]:
        raise ValueError(f"a batch that is {batch.status} cannot become {to}")
    done = await connection.execute(
        update(batches)
        .where(batches.c.id == batch.id, batches.c.status == batch.status.value)
        .values(status=to.value, **{_TIME_OF[to]: at}, **values)
    )
    return done.rowcount == 1


async def checked(
    connection: AsyncConnection,
    batch: Batch,
    *,
    lines_read: int,
    bytes_read: int,
    more: int,
    model: str | None,
) -> bool:
    """Its input was read so far, `more` requests found. False where somebody else was there first, or its
    status is another by now.
    """
    done = await connection.execute(
        update(batches)
        .where(
            batches.c.id == batch.id,
            batches.c.status == batch.status.value,
            batches.c.checked_bytes == batch.checked_bytes,
        )
        .values(checked_lines=lines_read, checked_bytes=bytes_read, total=batches.c.total + more, model=model)
    )
    return done.rowcount == 1


async def fed(connection: AsyncConnection, batch: Batch, *, upto: int) -> None:
    """No line up to there is pending, unless somebody else has put one back meanwhile."""
    await connection.execute(
        update(batches)
        .where(batches.c.id == batch.id, batches.c.fed_lines == batch.fed_lines)
        .values(fed_lines=upto)
    )


async def feed_again(connection: AsyncConnection, batch_id: BatchId, *, behind: int) -> None:
    """A line behind this one is pending again."""
    await connection.execute(
        update(batches).where(batches.c.id == batch_id, batches.c.fed_lines > behind).values(fed_lines=behind)
    )


async def hand_over(
    connection: AsyncConnection, batch_id: BatchId, handed_over: dict[str, Any], *, version: int
) -> bool:
    """How its hand-over stands from now on, `version` being what it comes from. False where somebody else
    changed it meanwhile: then nothing is written.
    """
    done = await connection.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.handed_over["version"].as_integer() == version)
        .values(handed_over=handed_over)
    )
    return done.rowcount == 1


async def all_handed_over(connection: AsyncConnection) -> list[dict[str, Any]]:
    """How those stand that have not ended, of all accounts."""
    found = await connection.scalars(
        select(batches.c.handed_over).where(
            batches.c.status.in_([status.value for status in OPEN]), batches.c.handed_over.is_not(None)
        )
    )
    return [said for said in found if said is not None]


async def count(connection: AsyncConnection, batch_id: BatchId, **numbers: int) -> None:
    """`numbers`: columns by name."""
    await connection.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.status.in_([status.value for status in OPEN]))
        .values(**numbers)
    )


async def remove(connection: AsyncConnection, batch_id: BatchId) -> None:
    """Its files are somebody else's to delete."""
    await connection.execute(delete(lines).where(lines.c.batch_id == batch_id))
    await connection.execute(delete(batches).where(batches.c.id == batch_id))


async def remove_before(connection: AsyncConnection, before: datetime, /, *, limit: int) -> int:
    """Batches that were handed in before and have ended; their lines go first (batch_lines)."""
    has_lines = select(lines.c.batch_id).where(lines.c.batch_id == batches.c.id).exists()
    old = (
        select(batches.c.id)
        .where(
            batches.c.status.in_([status.value for status in ENDED]),
            batches.c.created_at < before,
            ~has_lines,
        )
        .limit(limit)
    )
    done = await connection.execute(delete(batches).where(batches.c.id.in_(old)))
    return done.rowcount


_COLUMNS: Final[Sequence[str]] = Batch.__slots__


def _is_open() -> ColumnElement[bool]:
    return batches.c.status.in_([status.value for status in OPEN])


async def _one(connection: AsyncConnection, which: ColumnElement[bool]) -> Batch | None:
    row = (await connection.execute(select(batches).where(which))).one_or_none()
    return None if row is None else _batch(row)


def _batch(row: Row[Any]) -> Batch:
    fields = {name: getattr(row, name) for name in _COLUMNS}
    return Batch(**fields | {"form": BatchForm(row.form), "status": BatchStatus(row.status)})
