"""A chat request as a turn of a conversation that is kept: what was said before goes in front of it.

    take_turn ──> history + request ──> the job ──> answer ──> both stored ──> told to the caller

The turn is stored before its end is told, so that the next one finds it. Dying in between,
neither the caller nor the conversation has the answer; the same request again, with its
Idempotency-Key, gets both. A database that fails only then costs the turn, not the answer; of a new
conversation it costs the conversation, which nobody finds then.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from loguru import logger
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from api.database import within_reach
from api.deps import Broker, headers_of
from api.idempotency import key_of
from api.responses import RawResponse
from api.sse import EventStream
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import conversations
from shared.db.repositories.conversations import Message, Owner
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.errors import NotAuthorized, NotFound, Overloaded
from shared.ids import ConversationId, JobId, new_conversation_id
from shared.requests.checking import fault

FIELD: Final = "conversation_id"
NEW: Final = "new"
TOLD: Final = b"x-headrace-conversation-id"
MAX_MESSAGES: Final = 200
MAX_BYTES: Final = 512 * 1024
"""Of what was said before, the newest; what is older is left out of the request."""
_ID: Final = re.compile(r"conv_[0-9a-f]{24}\Z")
_TITLE_CHARS: Final = 80


@dataclass(frozen=True, slots=True)
class Turn:
    """`said`: the messages of the request itself. `begins`: the conversation does, with this turn."""

    conversation: ConversationId
    said: tuple[Message, ...]
    via: Broker
    owner: Owner
    begins: bool = False

    async def answered(self, response: Response) -> Response:
        """The response, with the id of the conversation, once its turn is stored."""
        if isinstance(response, RawResponse):
            document = orjson.loads(response.body)
            choices = document.get("choices") or [{}]
            await self.keep(_job_of(response), choices[0].get("message") or {})
            body = orjson.dumps({**document, FIELD: self.conversation})
            headers = [pair for pair in response.raw_headers if pair[0] != b"content-length"]
            headers += [(b"content-length", b"%d" % len(body)), (TOLD, self.conversation.encode())]
            return RawResponse(body, headers)
        if isinstance(response, EventStream):
            response.raw_headers.append((TOLD, self.conversation.encode()))
            return _KeptStream(response, self)
        return response

    async def keep(self, job_id: JobId | None, answer: Message) -> None:
        """Again is harmless."""
        if job_id is None:
            return
        spoken = {"role": "assistant", **{k: v for k, v in answer.items() if v is not None and k != "role"}}
        try:
            async with within_reach("Conversations"), writing(self.via.engine) as connection:
                at = SystemClock().now()
                if self.begins:
                    await conversations.begin(
                        connection, self.conversation, self.owner, title=_title(self.said), at=at
                    )
                await conversations.append(
                    connection, self.conversation, self.owner, job_id, [*self.said, spoken], at=at
                )
        except Overloaded:
            logger.warning("turn not kept", job_id=job_id, conversation=self.conversation)


async def take_turn(
    document: dict[str, Any], request: Request, principal: Principal, via: Broker
) -> Turn | None:
    """Takes `conversation_id` out of a checked chat request, and puts what was said before into it.

    None where there is none. Raises NotAuthorized, NotFound, InvalidRequest, or Overloaded.
    """
    wanted = document.pop(FIELD, None)
    if wanted is None:
        return None
    if not principal.may(Permission.CONVERSATIONS):
        raise NotAuthorized(
            f"This takes the permission {Permission.CONVERSATIONS.value!r}, which this credential lacks."
        )
    if wanted != NEW and not _ID.match(wanted):
        raise fault(FIELD, "must be 'new', or the id of a conversation")
    owner, said = owner_of(principal), tuple(document["messages"])
    if wanted == NEW:
        # It begins with its first turn: a request that is refused writes nothing.
        return Turn(_new_id(request, owner), said, via, owner, begins=True)
    async with within_reach("Conversations"):
        conversation = ConversationId(wanted)
        async with via.engine.connect() as connection:
            if await conversations.find(connection, conversation, owner) is None:
                raise unknown()
            before = await conversations.last_messages(connection, conversation, limit=MAX_MESSAGES)
    document["messages"] = [*_newest(before), *said]
    return Turn(conversation, said, via, owner)


def owner_of(principal: Principal) -> Owner:
    return Owner(principal.account, principal.user or principal.api_key)


def read_id(text: str) -> ConversationId:
    """Raises NotFound."""
    if not _ID.match(text):
        raise unknown()
    return ConversationId(text)


def unknown() -> NotFound:
    return NotFound("There is no such conversation.", param=FIELD)


class _KeptStream(Response):
    """Keeps the turn before the end of its stream is told."""

    def __init__(self, stream: EventStream, turn: Turn) -> None:
        self._stream = stream
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_kept(message: AsgiMessage) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                await self._keep()
            await send(message)

        await self._stream(scope, receive, send_kept)

    async def _keep(self) -> None:
        if not self._stream.is_whole:
            return
        job_id, producer = self._stream.job_id, self._turn.via.producer
        events: list[bytes] = []
        last = 0
        while batches := await producer.events_after(job_id, last):
            events += [event for batch in batches for event in batch.events]
            last = batches[-1].last
        await self._turn.keep(job_id, _message_of(events))


def _message_of(events: Sequence[bytes]) -> Message:
    """What the chunks of a chat stream say, as one message."""
    text: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        choices = orjson.loads(event).get("choices") or [{}]
        delta = choices[0].get("delta") or {}
        text.append(delta.get("content") or "")
        for part in delta.get("tool_calls") or ():
            call = calls.setdefault(part.get("index", 0), {"type": "function", "function": {"arguments": ""}})
            function = part.get("function") or {}
            call["id"] = call.get("id") or part.get("id")
            call["function"]["name"] = call["function"].get("name") or function.get("name")
            call["function"]["arguments"] += function.get("arguments") or ""
    message: Message = {"content": "".join(text)}
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return message


def _job_of(response: RawResponse) -> JobId | None:
    for name, value in response.raw_headers:
        if name == b"x-headrace-job-id":
            return JobId(value.decode())
    return None


def _new_id(request: Request, owner: Owner) -> ConversationId:
    """The same for a request that is repeated under its Idempotency-Key."""
    key = key_of(headers_of(request.scope))
    if key is None:
        return new_conversation_id()
    digest = hashlib.sha256(f"{owner.account}\n{owner.name}\n{key}".encode()).hexdigest()
    return ConversationId(f"conv_{digest[:24]}")


def _title(said: Sequence[Message]) -> str:
    """The beginning of what the user said first."""
    for message in said:
        content = message.get("content")
        if message.get("role") == "user" and isinstance(content, str):
            return " ".join(content.split())[:_TITLE_CHARS]
    return ""


def _newest(messages: Sequence[Message]) -> list[Message]:
    kept: list[Message] = []
    size = 0
    for message in reversed(messages):
        size += len(orjson.dumps(message))
        if size > MAX_BYTES:
            break
        kept.append(message)
    # An answer to a call that is left out could not be understood.
    while kept and kept[-1].get("role") == "tool":
        kept.pop()
    return kept[::-1]
