"""Conversations that callers asked to be kept, each for its owner alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories.insert import insert_new
from shared.db.tables import conversation, conversation_message
from shared.ids import AccountId, ConversationId, JobId

Message = dict[str, Any]
"""As a chat request has it."""


@dataclass(frozen=True, slots=True)
class Owner:
    """`name`: the user, or the key of a program."""

    account: AccountId
    name: str


@dataclass(frozen=True, slots=True)
class Conversation:
    id: ConversationId
    title: str
    created_at: datetime
    updated_at: datetime


async def begin(
    connection: AsyncConnection, conversation_id: ConversationId, owner: Owner, *, title: str, at: datetime
) -> None:
    """One that is there already stays what it is. The account must exist."""
    row = {
        "id": conversation_id,
        "account_id": owner.account,
        "owner": owner.name,
        "title": title,
        "created_at": at,
        "updated_at": at,
    }
    await insert_new(connection, conversation, [row])


async def find(
    connection: AsyncConnection, conversation_id: ConversationId, owner: Owner
) -> Conversation | None:
    """None where the owner has no such conversation."""
    row = (
        await connection.execute(
            select(conversation).where(conversation.c.id == conversation_id, _its(owner))
        )
    ).one_or_none()
    return None if row is None else Conversation(row.id, row.title, row.created_at, row.updated_at)


async def list_of(
    connection: AsyncConnection, owner: Owner, *, after: tuple[datetime, str] | None, limit: int
) -> list[Conversation]:
    """The one that was last written to first."""
    which = _its(owner)
    if after is not None:
        at, row_id = after
        which = and_(
            which,
            or_(
                conversation.c.updated_at < at,
                and_(conversation.c.updated_at == at, conversation.c.id < row_id),
            ),
        )
    rows = await connection.execute(
        select(conversation)
        .where(which)
        .order_by(conversation.c.updated_at.desc(), conversation.c.id.desc())
        .limit(limit)
    )
    return [Conversation(row.id, row.title, row.created_at, row.updated_at) for row in rows]


async def last_messages(
    connection: AsyncConnection, conversation_id: ConversationId, *, limit: int
) -> list[Message]:
    """The last of them, in order. Whose they are was asked before, by `find`."""
    rows = await connection.execute(
        select(conversation_message.c.message)
        .where(conversation_message.c.conversation_id == conversation_id)
        .order_by(conversation_message.c.ordinal.desc())
        .limit(limit)
    )
    return [row.message for row in rows][::-1]


async def append(
    connection: AsyncConnection,
    conversation_id: ConversationId,
    owner: Owner,
    job_id: JobId,
    messages: Sequence[Message],
    *,
    at: datetime,
) -> None:
    """What was said in a job, once: a job that was written already changes nothing.

    Nor does one whose conversation went meanwhile, or is somebody else's.
    """
    # Whoever writes to the conversation waits here for whoever does already.
    touched = (
        update(conversation).where(conversation.c.id == conversation_id, _its(owner)).values(updated_at=at)
    )
    if (await connection.execute(touched)).rowcount == 0:
        return
    mine = conversation_message.c.conversation_id == conversation_id
    known = await connection.scalar(select(func.count()).where(mine, conversation_message.c.job_id == job_id))
    if known:
        return
    last = await connection.scalar(select(func.max(conversation_message.c.ordinal)).where(mine))
    rows = [
        {
            "conversation_id": conversation_id,
            "ordinal": ordinal,
            "job_id": job_id,
            "message": message,
            "created_at": at,
        }
        for ordinal, message in enumerate(messages, (last or 0) + 1)
    ]
    await connection.execute(insert(conversation_message), rows)


async def remove(connection: AsyncConnection, conversation_id: ConversationId, owner: Owner) -> bool:
    """With all that was said. False where the owner has no such conversation."""
    which = select(conversation.c.id).where(conversation.c.id == conversation_id, _its(owner))
    return await _remove(connection, which) == 1


async def remove_before(connection: AsyncConnection, before: datetime, *, limit: int) -> int:
    """Those whose last message is older; how many went."""
    old = select(conversation.c.id).where(conversation.c.updated_at < before).limit(limit)
    return await _remove(connection, old)


async def _remove(connection: AsyncConnection, which: Select[tuple[str]]) -> int:
    # Locked first: a turn that is being written would leave messages that refer to nothing.
    ids = list(await connection.scalars(which.with_for_update()))
    if not ids:
        return 0
    its = conversation_message.c.conversation_id.in_(ids)
    await connection.execute(delete(conversation_message).where(its))
    await connection.execute(delete(conversation).where(conversation.c.id.in_(ids)))
    return len(ids)


def _its(owner: Owner) -> ColumnElement[bool]:
    return and_(conversation.c.account_id == owner.account, conversation.c.owner == owner.name)
