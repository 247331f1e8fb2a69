"""A job's events: its stream, or how it stands as often as that changes."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from loguru import logger
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.answers import event_stream, job_headers
from api.database import within_reach
from api.departure import Departure
from api.deps import Broker
from api.job_view import job_answer
from api.kept import find, gone
from api.replies import new_reader
from api.resume import form_of
from api.sse import NO_OPENING, Opening
from shared.db.repositories import jobs
from shared.db.repositories.jobs import KeptJob
from shared.domain.job import Job
from shared.errors import BrokerError, NotFound
from shared.ids import AccountId, JobId
from shared.queue.frames import EventBatch, Result, ResultHead

_LOOK_SECONDS: Final = 0.5


async def replay(
    kept: KeptJob,
    after: int,
    request: Request,
    via: Broker,
    *,
    opening: Opening = NO_OPENING,
    with_ids: bool = True,
) -> Response:
    """The stream of a job that ended, from its row. Raises NotFound where it is not kept any more."""
    async with within_reach("Jobs"), via.engine.connect() as connection:
        stored = await jobs.stored_result(connection, kept.account, kept.id)
    if stored is None:
        raise NotFound("There is no such job.")
    if kept.expires_at is None:
        raise gone()
    job = Job.from_wire(stored.header, b"")
    events = tuple(stored.events.split(b"\n")) if stored.events else ()
    reply = via.replies.expect(job, request.receive, reader=new_reader())
    reply.seen = max(min(after, len(events)), opening.count)
    if events:
        reply.offer(EventBatch(1, len(events), events))
    head = ResultHead.from_wire(kept.result_head or b"{}")
    reply.offer(Result(head, stored.result_body, len(events)))
    return event_stream(
        reply, request, via, job.surface, form_of(job.surface), with_ids=with_ids,
        headers=job_headers(job, reply.result), departure=Departure(via, reply), opening=opening,
    )  # fmt: skip


class StatusStream(Response):
    """`event: status` with the job, at once and whenever it changed; the last one is of its end."""

    def __init__(self, job_id: JobId, account: AccountId, via: Broker) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"x-accel-buffering", b"no"),
            (b"x-headrace-job-id", job_id.encode()),
        ]
        self._job_id = job_id
        self._account = account
        self._via = via

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        gone_away = asyncio.create_task(_disconnected(receive), name="watch-disconnect")
        try:
            await self._relay(send, gone_away)
        finally:
            gone_away.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _relay(self, send: Send, gone_away: asyncio.Task[None]) -> None:
        told, told_at = b"", 0.0
        while not gone_away.done():
            try:
                kept = await find(self._job_id, self._account, self._via)
                status = None
                if kept.is_open:
                    status = await self._via.job_statuses.of(self._job_id, self._account)
                told_now = job_answer(kept, status, self._via).model_dump_json().encode()
            except BrokerError as error:
                # The next look may find what is away now; a caller whom this lasts too long leaves.
                logger.debug("status of job not read", job_id=self._job_id, error=error.code)
            else:
                if told_now != told:
                    told, told_at = told_now, time.monotonic()
                    body = b"event: status\ndata: " + told + b"\n\n"
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                if not kept.is_open:
                    return
            if time.monotonic() - told_at > self._via.settings.api.heartbeat_seconds:
                told_at = time.monotonic()
                await send({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})
            await asyncio.wait({gone_away}, timeout=_LOOK_SECONDS)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
