"""`/api/v1/jobs`, also as `/v1/jobs`: work that is done whether or not anybody waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.anthropic_v1.messages import message_call
from api.database import within_reach
from api.deps import Broker, authenticate, broker_of, headers_of
from api.job_events import StatusStream, replay
from api.job_view import JobAnswer, job_answer, queued_answer
from api.kept import AT_ONCE, Wanted, accept, answer_of, ended, ended_soon, find, told_later
from api.moments import Moment
from api.openai_v1.chat_completions import chat_call
from api.openai_v1.completions import completion_call
from api.openai_v1.embeddings import embedding_call
from api.openai_v1.rerank import rerank_request_call
from api.openai_v1.responses import job_call
from api.pages import cursor_of, place_of
from api.posted import posted
from api.prefer import Preference, preference_of
from api.replies import job_id_of
from api.responses import json_response
from api.resume import resume
from api.stopping import drop_result, stop
from api.submission import Submission
from api.unified_v1.chat import job_chat_call
from api.unified_v1.embeddings import unified_embedding_call
from api.unified_v1.job_schemas import REQUEST_BODY, DeletedJob, JobList, check_job_request
from api.unified_v1.rerank import unified_rerank_call
from api.unified_v1.schemas import ErrorAnswer
from api.webhook_urls import check_webhook_url
from shared.db.repositories import jobs as rows
from shared.db.repositories.jobs import Which
from shared.domain.job import JobKind, JobState
from shared.domain.principal import Principal
from shared.domain.roles import Permission
from shared.errors import BadRequest, JobLost, NotFound
from shared.ids import JOB_ID, AccountId, JobId
from shared.queue.job_status import JobStatus
from shared.requests.checking import fault
from shared.requests.vectors import MAX_INPUT_NODES

router: Final = APIRouter()

_Call = Callable[[dict[str, Any], bytes | None, Request, Principal, Broker], Submission]
_CALLS: Final[Mapping[str, _Call]] = {
    "/v1/chat/completions": chat_call,
    "/v1/messages": message_call,
    "/v1/responses": job_call,
    "/v1/completions": completion_call,
    "/v1/embeddings": embedding_call,
    "/v1/rerank": rerank_request_call,
    "/api/v1/chat": job_chat_call,
    "/api/v1/embeddings": unified_embedding_call,
    "/api/v1/rerank": unified_rerank_call,
}
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {s: {"model": ErrorAnswer} for s in (401, 403, 404, 503)}
_TAGS: Final[list[str | Any]] = ["Jobs"]


@router.post(
    "/api/v1/jobs",
    summary="Submit a job",
    status_code=202,
    response_model=JobAnswer,
    responses={s: {"model": ErrorAnswer} for s in (400, 401, 403, 404, 413, 415, 422, 429, 503)},
    openapi_extra=REQUEST_BODY,
    tags=_TAGS,
)
@router.post("/v1/jobs", include_in_schema=False)
async def submit_job(request: Request) -> Response:
    """Any request that another route takes, as a job: accepted once this answers 202, and then done,
    whatever restarts meanwhile. Its result is kept for a day; `Location` says where it will be.

    `Prefer: wait=10` waits that long for it and answers as that route would. Repeat a submission whose
    answer was lost under the same `Idempotency-Key`: it is one job.
    """
    asked = await posted(request, max_nodes=MAX_INPUT_NODES)
    document, principal, via = asked.document, asked.principal, asked.via
    check_job_request(document)
    body: dict[str, Any] = document["body"]
    if document.get("timeout_seconds") is not None:
        body["timeout_seconds"] = document["timeout_seconds"]
    webhook_url = document.get("webhook_url")
    if webhook_url is not None:
        check_webhook_url(webhook_url, via.settings)
    call = _CALLS[document["endpoint"]](body, None, request, principal, via)
    headers = headers_of(request.scope)
    wish = preference_of(headers) or AT_ONCE
    return await accept(
        call,
        request,
        principal,
        via,
        headers=headers,
        # A stream is read from its events.
        wish=Preference(0.0, b"") if call.stream else wish,
        wanted=Wanted(
            notes=document.get("metadata"),
            webhook_url=webhook_url,
            route="jobs",
            said={name: value for name, value in document.items() if name != "body"},
        ),
    )


@router.get(
    "/api/v1/jobs",
    summary="List jobs",
    response_model=JobList,
    responses={**_ERRORS, 422: {"model": ErrorAnswer}},
    tags=_TAGS,
)
@router.get("/v1/jobs", include_in_schema=False)
async def list_jobs(
    request: Request,
    status: Annotated[list[JobState] | None, Query()] = None,
    kind: JobKind | None = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
    metadata: Annotated[str | None, Query(max_length=600)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> JobList:
    """Those of the account that were submitted as jobs, newest first. `metadata`: `name:value`, which
    they must have. `queued` and `running` are those that have not ended.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    name, colon, value = (metadata or "").partition(":")
    if metadata is not None and not (colon and name):
        raise fault("metadata", "must be `name:value`")
    states = {JobState.QUEUED if state is JobState.RUNNING else state for state in status or ()}
    which = Which(
        states=states,
        kind=kind,
        since=created_after,
        until=created_before,
        note=(name, value) if metadata is not None else None,
    )
    async with within_reach("Jobs"), via.engine.connect() as connection:
        found = await rows.page(connection, principal.account, which, after=place_of(cursor), limit=limit + 1)
    shown = found[:limit]
    last = shown[-1] if len(found) > limit else None
    return JobList(
        data=[job_answer(kept, None, via) for kept in shown],
        next_cursor=None if last is None else cursor_of(last.created_at, last.id),
    )


@router.get("/api/v1/jobs/{job_id}", summary="How a job stands", responses=_ERRORS, tags=_TAGS)
@router.get("/v1/jobs/{job_id}", include_in_schema=False)
async def job(request: Request, job_id: str) -> JobAnswer:
    """One that was submitted as a job, or any other as long as its result is kept: its id is in the header
    `x-headrace-job-id` of its answer.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    wanted = _read_id(job_id)
    status = await via.job_statuses.of(wanted, principal.account)
    if status is not None and status.job.row is None:
        return queued_answer(status, via)
    look = find if status is None or status.result is None else ended_soon
    return job_answer(await look(wanted, principal.account, via), status, via)


@router.get(
    "/api/v1/jobs/{job_id}/result",
    summary="The result of a job",
    responses={**_ERRORS, 202: {"model": JobAnswer}, 410: {"model": ErrorAnswer}},
    tags=_TAGS,
)
@router.get("/v1/jobs/{job_id}/result", include_in_schema=False)
async def result(
    request: Request, job_id: str, wait: Annotated[float | None, Query(ge=0, le=600)] = None
) -> Response:
    """What the route of its request would have answered: the body, or the error with its status. Until
    there is one, 202 with the job, at once or after `wait` seconds (also as `Prefer: wait=10`).
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    wish = preference_of(headers_of(request.scope)) or AT_ONCE
    seconds = wish.wait_seconds if wait is None else wait
    kept = await ended(_read_id(job_id), principal.account, via, within_seconds=seconds, request=request)
    if kept.is_open:
        return told_later(kept, via, [])
    if kept.stream and kept.state is JobState.SUCCEEDED:
        raise BadRequest("This job was streamed: its answer is in its events.", param="job_id")
    return await answer_of(kept, request, via, [])


@router.get(
    "/api/v1/jobs/{job_id}/events",
    summary="The events of a job",
    responses={**_ERRORS, 410: {"model": ErrorAnswer}, 422: {"model": ErrorAnswer}},
    tags=_TAGS,
)
@router.get("/v1/jobs/{job_id}/events", include_in_schema=False)
async def events(
    request: Request, job_id: str, after: Annotated[int, Query(ge=0, le=999_999_999)] = 0
) -> Response:
    """Of one that streams: its stream in the form it was asked for, behind `Last-Event-ID` or `?after=`.
    Of any other submitted as a job: `status` events, at once and whenever something changed.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    wanted = _read_id(job_id)
    event_id = request.headers.get("last-event-id") or f"{job_id}:{after}"
    if event_id.partition(":")[0] != job_id:
        raise NotFound("There is no such job.")
    status = await via.job_statuses.of(wanted, principal.account)
    if status is not None and (status.job.stream or status.job.row is None):
        return await resume(event_id, request, principal, via, surface=None)
    kept = await find(wanted, principal.account, via)
    if not kept.stream:
        return StatusStream(wanted, principal.account, via)
    if kept.is_open:
        raise JobLost("This job is about to be queued again.", retry_after_seconds=2)
    place = job_id_of(event_id)
    return await replay(kept, after if place is None else place[1], request, via)


@router.post(
    "/api/v1/jobs/{job_id}/cancel",
    summary="Cancel a job",
    responses=_ERRORS,
    tags=_TAGS,
)
@router.post("/v1/jobs/{job_id}/cancel", include_in_schema=False)
async def cancel(request: Request, job_id: str) -> JobAnswer:
    """One that waits never calls a provider; of one that runs, the call is cut off, and what it took is
    charged. One that has ended stays as it is.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    return await _cancelled(_read_id(job_id), principal.account, via)


@router.delete(
    "/api/v1/jobs/{job_id}",
    summary="Delete a job's result, or cancel it",
    response_model=DeletedJob,
    responses={**_ERRORS, 409: {"model": ErrorAnswer}},
    tags=_TAGS,
)
@router.delete("/v1/jobs/{job_id}", include_in_schema=False)
async def delete(request: Request, job_id: str) -> Response:
    """Its request and its answer are gone then; that there was such a job stays known for a while."""
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.INFERENCE)
    await drop_result(await find(_read_id(job_id), principal.account, via), request, via)
    return json_response(orjson.dumps({"id": job_id, "object": "job", "deleted": True}), [])


async def _cancelled(job_id: JobId, account: AccountId, via: Broker) -> JobAnswer:
    status = await via.job_statuses.of(job_id, account)
    if status is not None and status.job.row is None:
        await via.producer.cancel(status.job)
        return queued_answer(await _status(job_id, account, via), via)
    await stop(await find(job_id, account, via), via)
    return job_answer(await find(job_id, account, via), await via.job_statuses.of(job_id, account), via)


async def _status(job_id: JobId, account: AccountId, via: Broker) -> JobStatus:
    status = await via.job_statuses.of(job_id, account)
    if status is None:
        raise NotFound("There is no such job.")
    return status


def _read_id(text: str) -> JobId:
    """Raises NotFound."""
    if not JOB_ID.match(text):
        raise NotFound("There is no such job.")
    return JobId(text)
