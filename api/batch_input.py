"""A batch whose requests are in the body that creates it: they become its input file as they arrive.

    body ── split ── each request parsed, named, judged ──> lines of an object of the storage
                                                            its row: with that of the batch, or never

Whatever is wrong with the body leaves nothing behind. What a request asks of its route is not looked at: a
batch lets that fail by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import orjson
from starlette.requests import Request

from api import batches
from api.batches import WantedBatch
from api.database import within_reach
from api.deps import Broker, headers_of, request_id_of
from api.incoming import Counted
from api.inline_requests import Splitter
from api.request_body import body_chunks, too_large
from shared.batches.lines import LineRequest
from shared.clock import SystemClock
from shared.db.repositories import files
from shared.db.repositories.batches import Batch
from shared.db.repositories.files import File
from shared.domain.principal import Principal
from shared.errors import BadRequest, BrokerError, InvalidRequest, NotFound, Overloaded
from shared.files import delete_object
from shared.ids import BatchId, new_file_id
from shared.requests.checking import fault
from shared.requests.json_body import parse_object
from shared.requests.vectors import MAX_INPUT_NODES
from shared.storage.objects import Writer, new_key

INPUT_PURPOSE: Final = "batch"
_AT_ONCE: Final = 25
"""Requests that are judged before others of this process have their turn."""
_BYTES_OF_NODE: Final = 8
"""A body of the largest size whose objects and lists are smaller than this is made to keep us busy."""
_FRAME_NODES: Final = 8
"""Values of a line around what was asked: the scheduler must not find more in it than may be there."""


@dataclass(frozen=True, slots=True)
class InlineForm:
    """What such a body looks like in one API; both raise InvalidRequest.

    `check`: of all but the requests, the list of which is empty, and how many there were.
    `request_of`: one of them.
    """

    check: Callable[[dict[str, Any], int], None]
    request_of: Callable[[dict[str, Any]], LineRequest]


@dataclass(frozen=True, slots=True)
class Received:
    """`document`: the body without its requests, `digest`: what they were.

    `key`, `size_bytes`: the object they became; None where there are none.
    """

    document: dict[str, Any]
    requests: int
    digest: str
    key: str | None
    size_bytes: int


async def receive(request: Request, form: InlineForm, principal: Principal, via: Broker) -> Received:
    """Raises InvalidRequest, PayloadTooLarge, Overloaded, ClientDisconnect; nothing is left behind then."""
    settings = via.settings
    async with AsyncExitStack() as resources:
        writer = _LineWriter(form, int(request.headers.get("content-length", 0)), principal, via, resources)
        splitter = Splitter(
            max_bytes=settings.api.max_body_bytes,
            max_nodes=MAX_INPUT_NODES - _FRAME_NODES,
            max_all_nodes=settings.batches.max_inline_bytes // _BYTES_OF_NODE,
        )
        chunks = body_chunks(request.receive, limit=settings.batches.max_inline_bytes)
        async with aclosing(chunks) as body:
            try:
                async for chunk in body:
                    for item in splitter.feed(chunk):
                        await writer.take(item)
            except InvalidRequest:
                # Who is still sending may take the answer for a broken connection, and try again.
                async for _ in body:
                    pass
                raise
        document = parse_object(splitter.rest())
        received = writer.received(document)
        form.check(document, received.requests)
        return received


async def create(
    wanted: WantedBatch, received: Received, request: Request, principal: Principal, via: Broker
) -> Batch:
    """Of what was received, or the one that its Idempotency-Key stands for. See batches.create."""
    key = received.key
    assert key is not None  # noqa: S101 - the callers' forms refuse a body without requests
    file_id = new_file_id()

    async def input_file(batch_id: BatchId) -> File:
        now = SystemClock().now()
        return File(
            id=file_id,
            account_id=principal.account,
            created_by=principal.user or principal.api_key,
            filename=f"{batch_id}_input.jsonl",
            purpose=INPUT_PURPOSE,
            size_bytes=received.size_bytes,
            storage_key=key,
            created_at=now,
            expires_at=now + timedelta(seconds=via.settings.storage.batch_retain_seconds),
        )

    try:
        batch = await batches.create(
            wanted,
            received.document | {"requests": received.digest},
            headers_of(request.scope),
            request_id_of(request.scope),
            principal,
            via,
            input_file=input_file,
        )
    except BrokerError as exc:
        # Of one that was too much for the database it is not known whether there is a batch.
        if not isinstance(exc, Overloaded):
            await delete_object(via.storage, key)
        raise
    if batch.input_file_id != file_id:
        await delete_object(via.storage, key)
    return batch


async def check_input(file_id: str, principal: Principal, via: Broker) -> str:
    """Of a batch that names its input: the same id. Raises NotFound, BadRequest, Overloaded."""
    async with within_reach("Batches"), via.engine.connect() as connection:
        found = await files.find(connection, principal.account, file_id, now=SystemClock().now())
    if found is None:
        raise NotFound("There is no such file.", param="input_file_id")
    if found.purpose != INPUT_PURPOSE:
        raise BadRequest("The input of a batch is a file of the purpose `batch`.", param="input_file_id")
    return found.id


class _LineWriter:
    """Takes its place in the storage with the first request, of a body that is told to be of such a size."""

    def __init__(
        self, form: InlineForm, told_bytes: int, principal: Principal, via: Broker, resources: AsyncExitStack
    ) -> None:
        self._form = form
        self._told_bytes = told_bytes
        self._principal = principal
        self._via = via
        self._resources = resources
        self._writing: tuple[Writer, Counted] | None = None
        self._key: str | None = None
        self._taken = 0
        self._names: set[str] = set()
        self._digest = hashlib.sha256()

    async def take(self, item: bytes) -> None:
        line = self._line_of(item)
        if self._writing is None:
            self._writing = await self._begin()
        writer, counted = self._writing
        counted.add(len(line))
        if counted.size > self._via.settings.storage.max_batch_input_bytes:
            raise too_large(self._via.settings.storage.max_batch_input_bytes)
        self._digest.update(line)
        await writer.write(line)
        if self._taken % _AT_ONCE == 0:
            await asyncio.sleep(0)

    async def _begin(self) -> tuple[Writer, Counted]:
        via, account = self._via, self._principal.account
        async with within_reach("Batches"), via.engine.connect() as connection:
            held = await files.held(connection, account)
        counted = self._resources.enter_context(
            via.incoming.one(account, held, via.settings.storage, at_least=self._told_bytes)
        )
        self._key = new_key()
        writer = await self._resources.enter_async_context(via.storage.open_writer(self._key))
        return writer, counted

    def received(self, document: dict[str, Any]) -> Received:
        size = 0 if self._writing is None else self._writing[1].size
        return Received(document, self._taken, self._digest.hexdigest(), self._key, size)

    def _line_of(self, item: bytes) -> bytes:
        place = f"requests[{self._taken}]"
        most = self._via.settings.batches.max_lines
        if self._taken == most:
            raise fault("requests", f"must be at most {most}")
        self._taken += 1
        try:
            said = self._form.request_of(parse_object(item, max_nodes=MAX_INPUT_NODES - _FRAME_NODES))
        except InvalidRequest as exc:
            raise _within(place, exc) from None
        if said.custom_id in self._names:
            raise fault(f"{place}.custom_id", "is that of an earlier request")
        self._names.add(said.custom_id)
        line = _line(said)
        if len(line) > self._via.settings.api.max_body_bytes:
            raise too_large(self._via.settings.api.max_body_bytes)
        return line


def _line(said: LineRequest) -> bytes:
    """As the scheduler reads it: see shared/batches/lines.py."""
    frame = {"custom_id": said.custom_id, "method": "POST", "url": said.url, "body": said.body}
    return orjson.dumps(frame) + b"\n"


def _within(place: str, error: InvalidRequest) -> InvalidRequest:
    """The same error, told of the body that the request is in."""
    if error.param is None:
        error.message = f"{place}: {error.message}"
        error.param = place
    else:
        error.message = f"{place}.{error.message}" if error.message.startswith(error.param) else error.message
        error.param = f"{place}.{error.param}"
    if "errors" in error.details:
        error.details["errors"] = [
            {**one, "path": f"{place}.{one['path']}" if one["path"] else place}
            for one in error.details["errors"]
        ]
    return error
