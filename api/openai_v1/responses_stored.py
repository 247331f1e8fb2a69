"""Responses that were stored: found again, continued, and what they were asked.

A stored response is its job in Redis, for as long as the settings say, or a row where it is in the
background: then Redis tells how it stands, and the row alone how it ended. One of another account, one
that was deleted and one that was not to be stored are all the same: not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from api.database import within_reach
from api.deps import Broker
from api.kept import ended_soon
from shared.db.repositories import jobs
from shared.db.repositories.jobs import KeptJob
from shared.domain.job import OWN_ROW, Job, JobKind, JobState
from shared.domain.principal import Principal
from shared.errors import BadRequest, BrokerError, JobLost, NotFound, PayloadTooLarge, QueueUnavailable
from shared.ids import AccountId, JobId
from shared.providers.translation.responses_input import to_messages
from shared.providers.translation.responses_object import item_id, job_id_of, response_object
from shared.queue.failures import failure_of
from shared.queue.frames import Result, ResultHead
from shared.queue.producer import StoredJob

Fields = dict[str, Any]

_STATUSES: Final[Mapping[JobState, str]] = {
    JobState.QUEUED: "queued",
    JobState.RUNNING: "in_progress",
    JobState.SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
    JobState.EXPIRED: "failed",
}


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """`request`: as it was asked, with all the input that earlier responses added to it.

    `result`: None until it ended. `kept`: its row, where that was asked, and `events` what it streamed.
    """

    job: Job
    state: JobState
    result: Result | None
    request: Fields
    kept: KeptJob | None = None
    events: bytes | None = None

    @property
    def job_id(self) -> JobId:
        return self.job.id

    @property
    def is_in_background(self) -> bool:
        return self.request.get("background") is True


async def find(response_id: str, principal: Principal, via: Broker) -> StoredResponse:
    """Raises NotFound, QueueUnavailable, Overloaded."""
    job_id = job_id_of(response_id)
    found = None if job_id is None else await _look_up(job_id, principal.account, via)
    # Of a response that is not to be stored the body goes when it ends.
    if found is not None and found.job.kind is JobKind.RESPONSES and found.request.get("store") is not False:
        return found
    raise NotFound("There is no such response.")


async def _look_up(job_id: JobId, account: AccountId, via: Broker) -> StoredResponse | None:
    try:
        stored = await via.producer.stored(job_id, account)
    except QueueUnavailable:
        if (found := await _kept(job_id, account, None, via)) is not None:
            return found
        raise
    if stored is None:
        return await _kept(job_id, account, None, via)
    if stored.job.row == OWN_ROW and stored.result is not None and stored.state is not JobState.CANCELLED:
        with suppress(NotFound):
            await ended_soon(job_id, account, via)
        return await _kept(job_id, account, stored, via)
    if not stored.job.body:
        return None
    return StoredResponse(stored.job, stored.state, stored.result, orjson.loads(stored.job.body))


async def _kept(
    job_id: JobId, account: AccountId, in_queue: StoredJob | None, via: Broker
) -> StoredResponse | None:
    """By its row; `in_queue`: as it ended there."""
    async with within_reach("Responses"), via.engine.connect() as connection:
        kept = await jobs.find(connection, account, job_id)
        large = None if kept is None else await jobs.stored_result(connection, account, job_id)
    if kept is None or large is None or not large.body:
        return None
    job = replace(Job.from_wire(large.header, large.body), id=job_id)
    request: Fields = orjson.loads(large.body)
    if kept.is_open:
        # What ended in the queue has ended once its row says so.
        state = JobState.QUEUED if in_queue is None else JobState.RUNNING
        return StoredResponse(job, state, None, request, kept)
    last = large.events.count(b"\n") + 1 if large.events else 0
    result = Result(ResultHead.from_wire(kept.result_head or b"{}"), large.result_body, last)
    return StoredResponse(job, kept.state, result, request, kept, large.events)


async def answer_of(found: StoredResponse, via: Broker) -> bytes:
    """The response as JSON: what was answered, or how far it is."""
    result = found.result
    if found.state is JobState.SUCCEEDED and result is not None:
        if result.body:
            return result.body
        # Streamed: its last event holds the whole of it.
        last = await _last_event(found, via)
        if last is None:
            raise JobLost("The event log of this response is gone.")
        return orjson.dumps(orjson.loads(last)["response"])
    failed = found.state in {JobState.FAILED, JobState.EXPIRED}
    error = failure_of(result, found.job) if failed and result is not None else None
    return orjson.dumps(
        response_object(
            found.request,
            job_id=found.job_id,
            model=found.job.target.model,
            status=_STATUSES[found.state],
            error=None if error is None else {"code": _error_code(error), "message": error.message},
        )
    )


async def _last_event(found: StoredResponse, via: Broker) -> bytes | None:
    if found.kept is None:
        return await via.producer.last_event(found.job_id)
    return found.events.rpartition(b"\n")[2] if found.events else None


def _error_code(error: BrokerError) -> str:
    """One of the few codes that the error of a response can have."""
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status < 500 else "server_error"


async def go_on_from(document: Fields, principal: Principal, via: Broker, *, limit: int) -> bytes:
    """Puts before the input of `document` all that its previous response was asked and said.

    Instructions are not carried over, as OpenAI has it. The job's body then holds the whole
    conversation, so it does not depend on the earlier responses any more.
    Returns the document as JSON. Raises BadRequest, PayloadTooLarge.
    """
    # Alone first, so that what is wrong with it is told by the caller's own indexes.
    to_messages(None, document["input"])
    try:
        found = await find(document["previous_response_id"], principal, via)
    except NotFound as missing:
        raise _not_continued("There is no such response", "previous_response_not_found") from missing
    answer = orjson.loads(await answer_of(found, via))
    if answer["status"] not in {"completed", "incomplete"}:
        raise _not_continued(f"This response is {answer['status']}", "previous_response_not_completed")
    document["input"] = [*_items(found.request["input"]), *answer["output"], *_items(document["input"])]
    body = orjson.dumps(document)
    if len(body) > limit:
        raise PayloadTooLarge(
            f"The conversation that previous_response_id goes on with is larger than {limit} bytes.",
            param="previous_response_id",
            details={"limit_bytes": limit},
        )
    return body


def _not_continued(reason: str, code: str) -> BadRequest:
    error = BadRequest(f"previous_response_id: {reason}.", param="previous_response_id")
    error.code = code
    return error


def _items(asked: str | list[Fields]) -> list[Fields]:
    return [{"role": "user", "content": asked}] if isinstance(asked, str) else asked


def input_items(found: StoredResponse) -> list[Fields]:
    """Everything the response was generated from, oldest first, earlier turns included."""
    items = _items(found.request["input"])
    return [_listed(item, found.job_id, index) for index, item in enumerate(items)]


_PREFIXES: Final = {"function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def _listed(item: Fields, job_id: JobId, index: int) -> Fields:
    """As it was asked, which need not have been right: one that was refused is listed too."""
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    own = item_id(_PREFIXES.get(str(kind), "msg"), job_id, f"in{index}")
    listed = {**item, "id": item.get("id") or own, "type": kind}
    if kind == "message":
        listed["content"] = _parts(item.get("content") or [], said=item.get("role") == "assistant")
    if kind not in {"reasoning", "item_reference"}:
        listed.setdefault("status", "completed")
    return listed


def _parts(content: str | list[Fields], *, said: bool) -> list[Fields]:
    if not isinstance(content, str):
        return content
    if said:
        return [{"type": "output_text", "text": content, "annotations": [], "logprobs": []}]
    return [{"type": "input_text", "text": content}]
