"""`/api/v1/conversations`: what was kept of chats on `/api/v1/chat`, to its owner alone."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from api.conversation import MAX_MESSAGES, owner_of, read_id, unknown
from api.database import within_reach
from api.deps import authenticate, broker_of
from api.pages import cursor_of, place_of
from api.unified_v1.schemas import ErrorAnswer
from shared.db.engine import writing
from shared.db.repositories import conversations
from shared.db.repositories.conversations import Conversation
from shared.domain.roles import Permission

router: Final = APIRouter(prefix="/api/v1/conversations", tags=["Unified"])


class ConversationView(BaseModel):
    id: str
    title: str
    created_at: datetime
    updated_at: datetime


class ConversationPage(BaseModel):
    data: list[ConversationView]
    next_cursor: str | None


class WholeConversation(ConversationView):
    """`messages`: the newest, in order."""

    messages: list[dict[str, Any]]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": ErrorAnswer} for s in statuses}


@router.get("", summary="List conversations", responses=_errors(401, 403, 422, 503))
async def list_all(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> ConversationPage:
    """The one that was last written to first."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.CONVERSATIONS)
    after = place_of(cursor)
    async with within_reach("Conversations"), via.engine.connect() as connection:
        found = await conversations.list_of(connection, owner_of(principal), after=after, limit=limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    return ConversationPage(
        data=[_view(one) for one in found[:limit]],
        next_cursor=None if last is None else cursor_of(last.updated_at, last.id),
    )


@router.get("/{conversation_id}", summary="Read a conversation", responses=_errors(401, 403, 404, 503))
async def show(request: Request, conversation_id: str) -> WholeConversation:
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.CONVERSATIONS)
    wanted = read_id(conversation_id)
    async with within_reach("Conversations"), via.engine.connect() as connection:
        found = await conversations.find(connection, wanted, owner_of(principal))
        if found is None:
            raise unknown()
        messages = await conversations.last_messages(connection, wanted, limit=MAX_MESSAGES)
    return WholeConversation(**_view(found).model_dump(), messages=messages)


@router.delete(
    "/{conversation_id}",
    summary="Delete a conversation",
    status_code=204,
    responses=_errors(401, 403, 404, 503),
)
async def delete(request: Request, conversation_id: str) -> None:
    """For good, with all that was said."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.CONVERSATIONS)
    wanted = read_id(conversation_id)
    async with within_reach("Conversations"), writing(via.engine) as connection:
        if not await conversations.remove(connection, wanted, owner_of(principal)):
            raise unknown()


def _view(one: Conversation) -> ConversationView:
    return ConversationView(id=one.id, title=one.title, created_at=one.created_at, updated_at=one.updated_at)
