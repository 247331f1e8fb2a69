"""Responses in the background: a job with a row, so that no connection is needed for its answer.

accept ──> row ──> queued ──> the response as it waits, or its events as they come
read_on     behind any event, on any process: from the log in Redis, and once it ended from its row
cancel      wherever it is
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api.answers import event_stream, job_headers
from api.departure import Departure
from api.deps import Broker, headers_of
from api.job_events import replay
from api.kept import Kept, ended, keep
from api.kept import find as find_row
from api.openai_v1.responses_stored import StoredResponse, answer_of, find
from api.replies import new_reader
from api.responses import json_response
from api.resume import form_of, resume
from api.sse import Opening, wants_ids
from api.stopping import stop
from api.submission import Submission
from shared.domain.job import Job, Surface
from shared.domain.principal import Principal
from shared.errors import BadRequest, JobLost, NotFound, QueueUnavailable
from shared.ids import JobId
from shared.providers.translation.responses_events import opening_events
from shared.providers.translation.responses_object import response_id_of, response_object

_CANCEL_SECONDS: Final = 5.0


def check_background(document: Mapping[str, Any]) -> None:
    """Raises BadRequest: what is not stored could never be read."""
    if document.get("background") is True and document.get("store") is False:
        raise BadRequest("A response in the background has to be stored.", param="store")


async def accept(call: Submission, request: Request, principal: Principal, via: Broker) -> Response:
    """The response as it waits, at once; as it stands by now where its Idempotency-Key is known."""
    headers = headers_of(request.scope)
    request.scope["state"]["provider"] = call.target.provider
    there = await keep(call, request, principal, via, headers=headers)
    if call.stream:
        return await _stream(there, call.document, request, principal, via, with_ids=wants_ids(headers))
    if there.new is None:
        found = await find(response_id_of(there.row.id), principal, via)
        return json_response(await answer_of(found, via), _headers(there.row.id))
    model = there.new.target.model
    waits = response_object(call.document, job_id=there.row.id, model=model, status="queued")
    return json_response(orjson.dumps(waits), _headers(there.row.id))


async def read_on(
    found: StoredResponse,
    after: int,
    request: Request,
    principal: Principal,
    via: Broker,
    *,
    with_ids: bool = True,
) -> Response:
    """Of a response that streams, what comes behind its first `after` events. Raises BadRequest, JobLost."""
    opening = _opening(found.request, found.job_id, after)
    if found.result is not None and after > max(found.result.last, opening.count):
        raise BadRequest("This response has no such event.", param="starting_after")
    if found.kept is not None and found.result is not None:
        return await replay(found.kept, after, request, via, opening=opening, with_ids=with_ids)
    try:
        return await resume(
            f"{found.job_id}:{after}",
            request,
            principal,
            via,
            surface=Surface.RESPONSES,
            opening=opening,
            with_ids=with_ids,
        )
    except NotFound as missing:
        if found.kept is None:
            raise
        raise JobLost("This response is about to be queued again.", retry_after_seconds=2) from missing


async def cancel(found: StoredResponse, request: Request, principal: Principal, via: Broker) -> bytes:
    """The response once it has ended, by this or before. Raises BadRequest, Overloaded, QueueUnavailable."""
    if not found.is_in_background:
        raise BadRequest("Only a response in the background can be cancelled.")
    account = principal.account
    await stop(await find_row(found.job_id, account, via), via)
    await ended(found.job_id, account, via, within_seconds=_CANCEL_SECONDS, request=request)
    return await answer_of(await find(response_id_of(found.job_id), principal, via), via)


async def _stream(
    there: Kept,
    document: Mapping[str, Any],
    request: Request,
    principal: Principal,
    via: Broker,
    *,
    with_ids: bool,
) -> Response:
    if there.new is None:
        found = await find(response_id_of(there.row.id), principal, via)
        return await read_on(found, 0, request, principal, via, with_ids=with_ids)
    opening = _opening(document, there.row.id, 0)
    try:
        return await resume(
            f"{there.row.id}:0",
            request,
            principal,
            via,
            surface=Surface.RESPONSES,
            opening=opening,
            with_ids=with_ids,
        )
    except (QueueUnavailable, NotFound):
        return _not_queued_yet(there.new, opening, request, via, with_ids=with_ids)


def _not_queued_yet(job: Job, opening: Opening, request: Request, via: Broker, *, with_ids: bool) -> Response:
    """It is accepted: an error of this request would have it asked for twice. So it is told by its id."""
    reply = via.replies.expect(job, request.receive, reader=new_reader())
    reply.start_after(opening.count)
    reply.behind = False
    reply.fail(JobLost("The queue is not reachable: this response will be queued. Retrieve it to read on."))
    return event_stream(
        reply, request, via, job.surface, form_of(job.surface), with_ids=with_ids,
        headers=job_headers(job, None), departure=Departure(via, reply), opening=opening,
    )  # fmt: skip


def _opening(document: Mapping[str, Any], job_id: JobId, after: int) -> Opening:
    events = opening_events(document, job_id=job_id)
    return Opening(len(events), tuple(events[after:]))


def _headers(job_id: JobId) -> list[tuple[bytes, bytes]]:
    return [(b"x-headrace-job-id", job_id.encode())]
