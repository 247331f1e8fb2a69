"""Conversations that callers asked to be kept."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.tables import conversation, conversation_message


async def remove_before(connection: AsyncConnection, before: datetime, *, limit: int) -> int:
    """Those whose last message is older; how many went."""
    old = select(conversation.c.id).where(conversation.c.updated_at < before).limit(limit)
    ids = list(await connection.scalars(old))
    if ids:
        its = conversation_message.c.conversation_id.in_(ids)
        await connection.execute(delete(conversation_message).where(its))
        await connection.execute(delete(conversation).where(conversation.c.id.in_(ids)))
    return len(ids)
