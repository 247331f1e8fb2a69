"""Conversations at rest, on both databases."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db.engine import writing
from shared.db.repositories import accounts, conversations
from shared.db.repositories.conversations import Owner
from shared.ids import AccountId, ConversationId, new_conversation_id, new_job_id

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ADA = Owner(AccountId("acme"), "usr_ada")
EVE = Owner(AccountId("other"), "usr_eve")
SAID = [{"role": "user", "content": "Hello"}]


async def begun(database: AsyncEngine, owner: Owner) -> ConversationId:
    conversation = new_conversation_id()
    async with writing(database) as connection:
        await accounts.ensure(connection, owner.account, name="A", at=NOON)
        await conversations.begin(connection, conversation, owner, title="", at=NOON)
    return conversation


async def test_a_turn_is_written_to_a_conversation_of_its_owner_alone(database: AsyncEngine) -> None:
    conversation = await begun(database, EVE)

    async with writing(database) as connection:
        await conversations.append(connection, conversation, ADA, new_job_id(), SAID, at=NOON)
        kept = await conversations.last_messages(connection, conversation, limit=10)

    assert kept == []


async def test_a_conversation_that_is_deleted_while_a_turn_is_written_goes_with_it(
    database: AsyncEngine,
) -> None:
    conversation = await begun(database, ADA)

    async def delete() -> bool:
        async with writing(database) as connection:
            return await conversations.remove(connection, conversation, ADA)

    async with asyncio.timeout(10):
        async with writing(database) as connection:
            await conversations.append(connection, conversation, ADA, new_job_id(), SAID, at=NOON)
            deleting = asyncio.create_task(delete(), name="delete")
            # It comes as far as it can: to the lock, or past the messages that it cannot see yet.
            await asyncio.wait({deleting}, timeout=0.5)
        deleted = await deleting
        async with database.connect() as connection:
            left = await conversations.find(connection, conversation, ADA)
            messages = await conversations.last_messages(connection, conversation, limit=10)

    assert deleted
    assert (left, messages) == (None, [])
