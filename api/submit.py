"""HOT PATH. From a validated request to the reply of its job.

plan ──> Job ──> expect ──> enqueue ──> outcome | EventStream
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from api.deps import Broker, request_id_of
from api.replies import Reply, job_id_of
from api.responses import RawHeaders, json_response
from api.sse import EventStream, RenderEvent
from shared.domain.job import Job, JobKind, JobState, Lane, Surface, Target
from shared.domain.principal import Principal
from shared.errors import BadRequest, DeadlineExceeded, InvalidRequest, NotFound
from shared.ids import JOB_ID, JobId, new_job_id
from shared.queue.frames import Result
from shared.queue.producer import AttachedJob

IDEMPOTENT_RETAIN_SECONDS: Final = 86_400.0
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")

RenderBody = Callable[[Result], bytes]
"""A finished job's canonical body in the caller's dialect."""


@dataclass(frozen=True, slots=True)
class ChatCall:
    """`document`: canonical chat-completions request, gateway-only fields already taken out.

    `body`: the bytes it was parsed from when they still say the same, else None.
    """

    document: dict[str, Any]
    body: bytes | None
    target: Target
    surface: Surface
    stream: bool
    include_usage: bool
    render_body: RenderBody
    render_event: RenderEvent


async def submit(call: ChatCall, request: Request, principal: Principal, via: Broker) -> Response:
    """Queue the call as a job and answer with what comes back.

    Raises QueueFull, QueueUnavailable, IdempotencyMismatch, DeadlineExceeded, JobLost, or
    what the provider answered.
    """
    headers = request.headers
    request.scope["state"]["provider"] = call.target.provider
    resume_at = headers.get("last-event-id")
    if resume_at is not None and call.stream:
        return await resume(
            resume_at, request, principal, via, surface=call.surface, render=call.render_event
        )

    key = _idempotency_key(headers)
    job = Job(
        id=new_job_id() if key is None else _id_for_key(key, principal, call.surface),
        kind=JobKind.CHAT,
        lane=Lane.INTERACTIVE,
        surface=call.surface,
        account=principal.account,
        api_key=principal.api_key,
        request_id=request_id_of(request.scope),
        plan=(call.target,),
        stream=call.stream,
        include_usage=call.include_usage,
        budget_ms=int(via.settings.api.request_timeout_seconds * 1000),
        body=_canonical_body(call),
    )
    reply = via.replies.expect(job, request.receive)
    leave = _Leave(via, reply, keep_job=key is not None or headers.get("x-on-disconnect") == "detach")
    try:
        accepted = await via.producer.enqueue(
            job,
            reply_to=via.replies.channel,
            fingerprint="" if key is None else _fingerprint(call.document),
            retain_seconds=None if key is None else IDEMPOTENT_RETAIN_SECONDS,
        )
        leave.accepted = True
        reply.attach = accepted.attach
        replayed = False
        if accepted.attached:
            # Somebody's job already: what it said so far is in its log, its result may be there.
            reply.start_after(0)
            stored = await via.producer.result(job.id)
            if isinstance(stored, Result):
                replayed = True
                reply.offer(stored)
        if call.stream:
            await _hold_for_first_event(reply, via.settings.api.stream_hold_seconds)
            return _event_stream(
                reply, request, via, call.surface, call.render_event, with_ids=_wants_ids(headers),
                headers=_job_headers(job), leave=leave,
            )  # fmt: skip
        result = await reply.outcome()
        body = call.render_body(result)
    except BaseException:
        leave()
        raise
    leave()
    _note(request, result)
    return json_response(body, _result_headers(job, result, replayed=replayed))


async def resume(
    event_id: str,
    request: Request,
    principal: Principal,
    via: Broker,
    *,
    surface: Surface | None,
    render: RenderEvent | None,
) -> Response:
    """Go on with a stream behind `event_id`, on whatever process. Raises InvalidRequest, NotFound."""
    position = job_id_of(event_id)
    if position is None or not JOB_ID.match(position[0]):
        raise InvalidRequest("Last-Event-ID is not one that this API sent.", param="Last-Event-ID")
    job_id, ordinal = position
    found = await via.producer.attach(job_id, principal.account, reply_to=via.replies.channel)
    if found is None or (surface is not None and found.job.surface is not surface):
        raise NotFound("There is no such stream.")
    return await _read_attached(found, job_id, ordinal, request, via, render)


async def _read_attached(
    found: AttachedJob,
    job_id: JobId,
    ordinal: int,
    request: Request,
    via: Broker,
    render: RenderEvent | None,
) -> Response:
    job = found.job
    if not job.stream:
        raise InvalidRequest("This job does not stream.", param="Last-Event-ID")
    reply = via.replies.expect(job, request.receive)
    leave = _Leave(via, reply, keep_job=False)
    leave.accepted = found.state in {JobState.QUEUED, JobState.RUNNING}
    try:
        reply.attach = found.attach
        reply.start_after(ordinal)
        # Ended between attaching and registering: the hint is gone, the result is not.
        stored = found.result or await via.producer.result(job_id)
        if isinstance(stored, Result):
            _check_ordinal(ordinal, stored)
            reply.offer(stored)
        return _event_stream(
            reply, request, via, job.surface, render or render_event_of(job.surface), with_ids=True,
            headers=_job_headers(job), leave=leave,
        )  # fmt: skip
    except BaseException:
        leave()
        raise


def _check_ordinal(ordinal: int, stored: Result) -> None:
    if ordinal > stored.last:
        raise InvalidRequest("Last-Event-ID lies behind the end of its stream.", param="Last-Event-ID")


_RENDERERS: dict[Surface, RenderEvent] = {}


def register_renderer(surface: Surface, render: RenderEvent) -> None:
    """Each surface says once how its stream events look, so that any process can replay them."""
    _RENDERERS[surface] = render


def render_event_of(surface: Surface) -> RenderEvent:
    return _RENDERERS[surface]


class _Leave:
    """Once, when the request is over: forget the reply, and the job if its caller left it."""

    def __init__(self, via: Broker, reply: Reply, *, keep_job: bool) -> None:
        self._via = via
        self._reply = reply
        self._keep_job = keep_job
        self._left = False
        self.accepted = False

    def __call__(self) -> None:
        if self._left:
            return
        self._left = True
        reply = self._reply
        self._via.replies.forget(reply)
        if not self.accepted or self._keep_job or reply.result is not None:
            return
        # Past its deadline nobody can come back for it; otherwise a reconnect may resume it.
        past = isinstance(reply.error, DeadlineExceeded)
        grace = 0.0 if past else self._via.settings.api.disconnect_grace_seconds
        self._via.replies.cancel_abandoned(reply, after_seconds=grace)


async def _hold_for_first_event(reply: Reply, seconds: float) -> None:
    """Status 200 is a promise: an error that comes first is still told with its own status."""
    give_up_at = reply.registered_at + seconds
    while not reply.pending_events() and time.monotonic() < give_up_at:
        await reply.wait()
    if reply.error is not None:
        raise reply.error
    result = reply.result
    if result is not None and result.last == 0:
        await reply.outcome()


def _event_stream(
    reply: Reply,
    request: Request,
    via: Broker,
    surface: Surface,
    render: RenderEvent,
    *,
    with_ids: bool,
    headers: RawHeaders,
    leave: _Leave,
) -> EventStream:
    def on_end() -> None:
        if reply.result is not None:
            _note(request, reply.result)
        leave()

    api = via.settings.api
    return EventStream(
        reply,
        surface=surface,
        request_id=request_id_of(request.scope),
        render=render,
        with_ids=with_ids,
        headers=headers,
        heartbeat_seconds=api.heartbeat_seconds,
        slow_reader_seconds=api.slow_reader_seconds,
        on_end=on_end,
    )


def _canonical_body(call: ChatCall) -> bytes:
    document, changed = call.document, call.body is None
    if document.get("model") != call.target.model:
        document["model"] = call.target.model
        changed = True
    if call.stream:
        # Asked of every provider, whether or not the caller wants to see it: the ledger needs it.
        options = document.get("stream_options")
        if not isinstance(options, dict) or options.get("include_usage") is not True:
            document["stream_options"] = {**(options or {}), "include_usage": True}
            changed = True
    return orjson.dumps(document) if changed or call.body is None else call.body


def _wants_ids(headers: Headers) -> bool:
    return headers.get("x-stream-ids", "").lower() == "true"


def _idempotency_key(headers: Headers) -> str | None:
    key = headers.get("idempotency-key")
    if key is None:
        return None
    if not _IDEMPOTENCY_KEY.match(key):
        raise BadRequest(
            "Idempotency-Key must be 1 to 255 printable ASCII characters.", param="Idempotency-Key"
        )
    return key


def _id_for_key(key: str, principal: Principal, surface: Surface) -> JobId:
    """The same key of the same account on the same surface is the same job."""
    scope = f"{principal.account}\n{surface.value}\n{key}".encode()
    return JobId("job_" + hashlib.sha256(scope).hexdigest()[:32])


def _fingerprint(document: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _job_headers(job: Job) -> RawHeaders:
    return [
        (b"x-headrace-job-id", job.id.encode()),
        (b"x-headrace-provider", job.target.provider.encode()),
    ]


def _result_headers(job: Job, result: Result, *, replayed: bool) -> RawHeaders:
    headers = [
        *_job_headers(job),
        (b"x-headrace-attempts", b"%d" % result.head.attempts),
        (b"x-headrace-queue-ms", b"%d" % result.head.queue_ms),
    ]
    if replayed:
        headers.append((b"idempotent-replayed", b"true"))
    return headers


def _note(request: Request, result: Result) -> None:
    """What the metrics of this exchange need, left where the edge finds it."""
    request.scope["state"]["result"] = result.head
