"""What is said about a job beside its answer, and its answer as a stream."""

from __future__ import annotations

from starlette.requests import Request

from api.departure import Departure
from api.deps import Broker, request_id_of
from api.replies import Reply
from api.responses import RawHeaders
from api.sse import NO_OPENING, EventStream, Opening, StreamForm
from shared.domain.job import Job, Surface
from shared.queue.frames import Result
from shared.queue.producer import Accepted


def event_stream(
    reply: Reply,
    request: Request,
    via: Broker,
    surface: Surface,
    form: StreamForm,
    *,
    with_ids: bool,
    headers: RawHeaders,
    departure: Departure,
    opening: Opening = NO_OPENING,
) -> EventStream:
    def on_end() -> None:
        if reply.result is not None:
            note_result(request, reply.result)
        departure()

    api = via.settings.api
    return EventStream(
        reply,
        surface=surface,
        request_id=request_id_of(request.scope),
        form=form,
        with_ids=with_ids,
        headers=headers,
        heartbeat_seconds=api.heartbeat_seconds,
        on_end=on_end,
        opening=opening,
    )


def job_headers(job: Job, result: Result | None) -> RawHeaders:
    """With the target that answered; before anybody knows the result, with the planned one."""
    provider, model = job.target.provider, job.target.model
    if result is not None and result.head.provider:
        provider, model = result.head.provider, result.head.model
    return [
        (b"x-headrace-job-id", job.id.encode()),
        (b"x-headrace-provider", provider.encode()),
        (b"x-headrace-model", model.encode("ascii", "replace")),
    ]


def result_headers(job: Job, result: Result) -> RawHeaders:
    return [
        *job_headers(job, result),
        (b"x-headrace-attempts", b"%d" % result.head.attempts),
        (b"x-headrace-queue-ms", b"%d" % result.head.queue_ms),
    ]


def queue_headers(accepted: Accepted, *, replayed: bool) -> RawHeaders:
    """How the job stood in the queue when it was accepted; nothing where it had not to wait."""
    if replayed:
        return [(b"idempotent-replayed", b"true")]
    if accepted.joined is not None:
        return [(b"x-headrace-joined", b"true")]
    if not accepted.position:
        return []
    headers = [(b"x-headrace-queue-position", b"%d" % accepted.position)]
    if accepted.wait_ms:
        headers.append((b"x-headrace-estimated-wait-ms", b"%d" % accepted.wait_ms))
    return headers


def note_result(request: Request, result: Result) -> None:
    """What the metrics of this exchange need, left where the edge finds it."""
    state = request.scope["state"]
    state["result"] = result.head
    # It may have been answered by another one than was planned.
    state["provider"] = result.head.provider or state.get("provider")
