"""Lines of batches. What ended stays as it is: whoever ends it second changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, and_, bindparam, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import batch as batches
from shared.db.tables import batch_line as lines
from shared.domain.batch import ENDED, OPEN_LINES, EndedLine, LineState
from shared.ids import BatchId

_OPEN: Final = [state.value for state in OPEN_LINES]


@dataclass(frozen=True, slots=True)
class NewLine:
    """`result`: the fault of one that is none to run."""

    ordinal: int
    custom_id: str | None
    offset: int
    length: int
    result: bytes | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a line is in the input."""

    ordinal: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class LineEnd:
    """How a line ended. See EndedLine."""

    batch: BatchId
    ordinal: int
    state: LineState
    status_code: int | None
    result: bytes | None
    at: datetime
    prompt_tokens: int = 0
    completion_tokens: int = 0


async def add(connection: AsyncConnection, batch: BatchId, new: Sequence[NewLine], *, at: datetime) -> None:
    if new:
        await connection.execute(insert(lines), [_values(batch, one, at) for one in new])


async def taken(connection: AsyncConnection, batch: BatchId, custom_ids: Collection[str]) -> set[str]:
    """Those that an earlier line of the batch has."""
    found = await connection.scalars(
        select(lines.c.custom_id).where(lines.c.batch_id == batch, lines.c.custom_id.in_(custom_ids))
    )
    return {custom_id for custom_id in found if custom_id is not None}


async def pending(connection: AsyncConnection, batch: BatchId, *, after: int, limit: int) -> list[Place]:
    """In the order of the file."""
    rows = await connection.execute(
        select(lines.c.ordinal, lines.c.offset, lines.c.length)
        .where(lines.c.batch_id == batch, lines.c.ordinal > after, lines.c.state == LineState.PENDING.value)
        .order_by(lines.c.ordinal)
        .limit(limit)
    )
    return [Place(*row) for row in rows]


async def claim(
    connection: AsyncConnection, batch: BatchId, ordinals: Sequence[int], *, at: datetime
) -> set[int]:
    """Those that were pending and are queued now. Of several who ask, one gets each."""
    rows = await connection.scalars(
        update(lines)
        .where(
            lines.c.batch_id == batch,
            lines.c.ordinal.in_(ordinals),
            lines.c.state == LineState.PENDING.value,
        )
        .values(state=LineState.QUEUED.value, queued_at=at)
        .returning(lines.c.ordinal)
    )
    return set(rows)


async def put_back(connection: AsyncConnection, batch: BatchId, ordinals: Sequence[int]) -> None:
    """They were not queued after all."""
    await connection.execute(
        update(lines)
        .where(
            lines.c.batch_id == batch, lines.c.ordinal.in_(ordinals), lines.c.state == LineState.QUEUED.value
        )
        .values(state=LineState.PENDING.value, queued_at=None)
    )


async def queued_again(
    connection: AsyncConnection, batch: BatchId, ordinals: Sequence[int], *, at: datetime
) -> None:
    """They may be lost once more, and are to be looked for only after a while."""
    await connection.execute(
        update(lines)
        .where(
            lines.c.batch_id == batch, lines.c.ordinal.in_(ordinals), lines.c.state == LineState.QUEUED.value
        )
        .values(queued_at=at)
    )


async def queued(
    connection: AsyncConnection, batch: BatchId, *, before: datetime | None = None, after: int, limit: int
) -> list[Place]:
    """Those that are queued, since before that moment where one is named."""
    wanted = [
        lines.c.batch_id == batch, lines.c.state == LineState.QUEUED.value, lines.c.ordinal > after
    ]  # fmt: skip
    if before is not None:
        wanted.append(lines.c.queued_at < before)
    rows = await connection.execute(
        select(lines.c.ordinal, lines.c.offset, lines.c.length)
        .where(*wanted)
        .order_by(lines.c.ordinal)
        .limit(limit)
    )
    return [Place(*row) for row in rows]


async def open_ones(connection: AsyncConnection, batch: BatchId, *, after: int, limit: int) -> list[int]:
    """Those that have not ended, in order."""
    rows = await connection.scalars(
        select(lines.c.ordinal)
        .where(lines.c.batch_id == batch, lines.c.ordinal > after, lines.c.state.in_(_OPEN))
        .order_by(lines.c.ordinal)
        .limit(limit)
    )
    return list(rows)


async def end(connection: AsyncConnection, ended: Sequence[LineEnd]) -> None:
    """Those that have ended already stay as they are."""
    if not ended:
        return
    # In one order whoever writes: two schedulers must not wait for each other.
    in_order = sorted(ended, key=lambda one: (one.batch, one.ordinal))
    await connection.execute(
        _END,
        [
            {
                "of": one.batch,
                "nth": one.ordinal,
                "new_state": one.state.value,
                "status": one.status_code,
                "answer": one.result,
                "prompt": one.prompt_tokens,
                "completion": one.completion_tokens,
                "at": one.at,
            }
            for one in in_order
        ],
    )


async def end_some(
    connection: AsyncConnection,
    batch: BatchId,
    of: LineState,
    to: LineState,
    *,
    at: datetime,
    result: bytes | None = None,
    limit: int,
) -> int:
    """How many of one state ended so, or were told so."""
    some = (
        select(lines.c.ordinal)
        .where(lines.c.batch_id == batch, lines.c.state == of.value)
        .order_by(lines.c.ordinal)
        .limit(limit)
    )
    done = await connection.execute(
        update(lines)
        .where(lines.c.batch_id == batch, lines.c.ordinal.in_(some), lines.c.state == of.value)
        .values(state=to.value, finished_at=at, result=result)
    )
    return done.rowcount


async def counts(connection: AsyncConnection, batch: BatchId) -> dict[LineState, int]:
    rows = await connection.execute(
        select(lines.c.state, func.count()).where(lines.c.batch_id == batch).group_by(lines.c.state)
    )
    found = {LineState(state): number for state, number in rows}
    return {state: found.get(state, 0) for state in LineState}


async def count_in(connection: AsyncConnection, batch: BatchId, state: LineState) -> int:
    return (
        await connection.scalar(
            select(func.count()).where(lines.c.batch_id == batch, lines.c.state == state.value)
        )
        or 0
    )


async def tokens(connection: AsyncConnection, batch: BatchId) -> tuple[int, int]:
    """Of prompts, of completions."""
    row = (
        await connection.execute(
            select(func.sum(lines.c.prompt_tokens), func.sum(lines.c.completion_tokens)).where(
                lines.c.batch_id == batch
            )
        )
    ).one()
    return int(row[0] or 0), int(row[1] or 0)


async def faults(connection: AsyncConnection, batch: BatchId, *, limit: int) -> list[bytes]:
    """What was wrong with lines that are none to run, the first of them."""
    rows = await connection.scalars(
        select(lines.c.result)
        .where(
            lines.c.batch_id == batch,
            lines.c.state == LineState.FAILED.value,
            lines.c.status_code.is_(None),
            lines.c.result.is_not(None),
        )
        .order_by(lines.c.ordinal)
        .limit(limit)
    )
    return [wire for wire in rows if wire is not None]


async def sizes(
    connection: AsyncConnection, batch: BatchId, states: Collection[LineState], *, after: int, limit: int
) -> list[tuple[int, int]]:
    """Ordinals and sizes of results of those that ended in such states."""
    rows = await connection.execute(
        select(lines.c.ordinal, func.coalesce(func.length(lines.c.result), 0))
        .where(
            lines.c.batch_id == batch,
            lines.c.ordinal > after,
            lines.c.state.in_([state.value for state in states]),
        )
        .order_by(lines.c.ordinal)
        .limit(limit)
    )
    return [(ordinal, size) for ordinal, size in rows]


async def ended(connection: AsyncConnection, batch: BatchId, ordinals: Sequence[int]) -> list[EndedLine]:
    rows = await connection.execute(
        select(lines.c.ordinal, lines.c.custom_id, lines.c.state, lines.c.status_code, lines.c.result)
        .where(lines.c.batch_id == batch, lines.c.ordinal.in_(ordinals))
        .order_by(lines.c.ordinal)
    )
    return [_ended(row) for row in rows]


async def drop_results(connection: AsyncConnection, batch: BatchId, *, limit: int) -> int:
    """They are in a file by now."""
    some = (
        select(lines.c.ordinal)
        .where(lines.c.batch_id == batch, lines.c.result.is_not(None))
        .order_by(lines.c.ordinal)
        .limit(limit)
    )
    done = await connection.execute(
        update(lines).where(lines.c.batch_id == batch, lines.c.ordinal.in_(some)).values(result=None)
    )
    return done.rowcount


async def remove_of(connection: AsyncConnection, batch: BatchId, *, limit: int) -> int:
    some = select(lines.c.ordinal).where(lines.c.batch_id == batch).limit(limit)
    done = await connection.execute(delete(lines).where(lines.c.batch_id == batch, lines.c.ordinal.in_(some)))
    return done.rowcount


async def remove_before(connection: AsyncConnection, before: datetime, /, *, limit: int) -> int:
    """Of batches that were handed in before and have ended."""
    some = (
        select(lines.c.batch_id, lines.c.ordinal)
        .join(batches, batches.c.id == lines.c.batch_id)
        .where(batches.c.status.in_([status.value for status in ENDED]), batches.c.created_at < before)
        .limit(limit)
    )
    done = await connection.execute(delete(lines).where(tuple_(lines.c.batch_id, lines.c.ordinal).in_(some)))
    return done.rowcount


_END: Final = (
    update(lines)
    .where(
        and_(lines.c.batch_id == bindparam("of"), lines.c.ordinal == bindparam("nth")),
        or_(*(lines.c.state == state for state in _OPEN)),
    )
    .values(
        state=bindparam("new_state"),
        status_code=bindparam("status"),
        result=bindparam("answer"),
        prompt_tokens=bindparam("prompt"),
        completion_tokens=bindparam("completion"),
        finished_at=bindparam("at"),
    )
)


def _values(batch: BatchId, line: NewLine, at: datetime) -> dict[str, Any]:
    failed = line.result is not None
    return {
        "batch_id": batch,
        "ordinal": line.ordinal,
        "custom_id": line.custom_id,
        "state": (LineState.FAILED if failed else LineState.PENDING).value,
        "offset": line.offset,
        "length": line.length,
        "finished_at": at if failed else None,
        "result": line.result,
        "prompt_tokens": 0,
        "completion_tokens": 0,
    }


def _ended(row: Row[Any, Any, Any, Any, Any]) -> EndedLine:
    return EndedLine(row.ordinal, row.custom_id, LineState(row.state), row.status_code, row.result)
