"""A request whose answer outlives its connection: a row first, then a job, then 202.

    prepare ──> row committed ──> queued ──> 202 and where the answer will be
                     │                └──> the answer itself, where it comes while its caller waits
                     └── queued by the scheduler, should this process die or Redis be away

What was accepted is done: the row is what says so, and only it says how the job ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from api.answers import note_result, result_headers
from api.database import within_reach
from api.deps import Broker, request_id_of
from api.idempotency import claim_job_id, digest_of, fingerprint_of, is_worth_another_run
from api.job_view import job_answer, place_of_result
from api.prefer import APPLIED, Preference
from api.renderers import needs_request, render_later
from api.replies import new_reader
from api.responses import RawHeaders, json_response
from api.submission import Prepared, Submission, for_principal, prepare, priced
from shared import faultpoints
from shared.clock import SystemClock
from shared.db.engine import writing
from shared.db.repositories import jobs
from shared.db.repositories.jobs import KeptJob, NewJob
from shared.domain.conditions import UNKNOWN
from shared.domain.job import OWN_ROW, Job, JobState
from shared.domain.principal import Principal
from shared.errors import (
    BrokerError,
    DeadlineExceeded,
    IdempotencyMismatch,
    JobLost,
    NotFound,
    Overloaded,
    QueueUnavailable,
)
from shared.ids import AccountId, JobId, new_job_id
from shared.limits.admission import FREE
from shared.limits.rules import RuleSet
from shared.observability import metrics, tracing
from shared.queue.failures import failure_of
from shared.queue.frames import Result, ResultHead
from shared.queue.producer import KEY_SECONDS, Try
from shared.requests.turn import cost_of

AT_ONCE: Final = Preference(0.0, b"")
_LOOK_SECONDS: Final = 0.02
_LONGEST_LOOK_SECONDS: Final = 0.5
_SOON_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller says of its job besides what is asked. `route`: where Idempotency-Keys are its own;
    `said`: all of that, which a second request under one has to say again.
    """

    notes: Mapping[str, str] | None = None
    webhook_url: str | None = None
    route: str | None = None
    said: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """`new`: None where its Idempotency-Key, or an earlier try of its client, stood for it already."""

    row: KeptJob
    new: Job | None = None


async def accept(
    call: Submission,
    request: Request,
    principal: Principal,
    via: Broker,
    *,
    headers: Mapping[str, str],
    wish: Preference = AT_ONCE,
    wanted: Wanted = Wanted(),
) -> Response:
    """202, or the answer where it came within `wish.wait_seconds`.

    Raises Overloaded where no row could be written, IdempotencyMismatch, what the limits and the queue
    refuse, or how the job failed.
    """
    kept = (await keep(call, request, principal, via, headers=headers, wanted=wanted)).row
    if wish.wait_seconds:
        kept = await ended(kept.id, principal.account, via, within_seconds=wish.wait_seconds, request=request)
    applied = [(APPLIED, wish.text)] if wish.text else []
    if kept.is_open or not wish.wait_seconds:
        return told_later(kept, via, applied)
    return await answer_of(kept, request, via, applied)


async def keep(
    call: Submission,
    request: Request,
    principal: Principal,
    via: Broker,
    *,
    headers: Mapping[str, str],
    wanted: Wanted = Wanted(),
) -> Kept:
    """The job of the request, a new one or the one its Idempotency-Key stands for."""
    rules = via.admission.rules_of(principal, older_route=False)
    call = priced(for_principal(call, principal), rules, via)
    most = via.settings.jobs.deadline_seconds
    ready = prepare(call, headers, principal, via, most_seconds=most)
    digest = None
    if ready.key is not None:
        digest = digest_of(ready.key, principal, call.surface, call.kind, wanted.route)
        if wanted.said is not None:
            said = {"asked": ready.fingerprint, **wanted.said}
            ready = replace(ready, fingerprint=fingerprint_of(said, ()))
        if (there := await _job_of_key(digest, ready, via)) is not None:
            metrics.count_replay("idempotency_key")
            return Kept(there)
    elif ready.tried is not None and (there := await _job_of_try(ready.tried, principal, via)) is not None:
        metrics.count_replay("client_retry")
        return Kept(there)
    return await _accept_new(ready, digest, request, principal, via, wanted, rules)


async def _accept_new(
    ready: Prepared,
    digest: str | None,
    request: Request,
    principal: Principal,
    via: Broker,
    wanted: Wanted,
    rules: RuleSet,
) -> Kept:
    call = ready.call
    job = Job(
        id=await _id_for(ready, digest, via),
        kind=call.kind,
        lane=ready.lane,
        surface=call.surface,
        account=principal.account,
        api_key=principal.api_key,
        request_id=request_id_of(request.scope),
        plan=call.plan,
        fallback_on=call.fallback_on,
        stream=call.stream,
        include_usage=call.include_usage,
        budget_ms=ready.budget_ms,
        body=ready.body,
        held=rules.holds,
        user=principal.user,
        row=OWN_ROW,
        trace=tracing.origin(),
    )
    tracing.tell("headrace.job.id", job.id)
    admitted = FREE
    if rules:
        estimate = via.admission.estimate(job.plan, call.kind, call.document, len(job.body))
        admitted = await via.admission.admit(rules, job, estimate, fingerprint=ready.fingerprint)
    new = _row_of(job, ready, digest, via, wanted)
    try:
        async with within_reach("Jobs"):
            is_new = await via.job_rows.write(new)
    except BaseException:
        admitted.take_back()
        raise
    if not is_new:
        # The same key, at the same moment: whoever was first has the job, unless its queue refused it.
        there = None if digest is None else await _job_of_key(digest, ready, via)
        if there is None:
            raise JobLost("This request met its own repetition: it is safe to send it again.")
        if there.id != job.id:
            admitted.take_back()
        return Kept(there)
    faultpoints.hit("A2")
    try:
        await _queue(job, new, ready.tried, via)
    except QueueUnavailable:
        pass  # the scheduler will
    except BrokerError as error:
        async with within_reach("Jobs"), writing(via.engine) as connection:
            dropped = await jobs.drop(connection, job.id)
        if isinstance(error, IdempotencyMismatch):
            raise  # the id is another request's job, and what is reserved under it is that one's
        if dropped:
            admitted.take_back()
            raise
        # Somebody with the same key was told of it meanwhile, so it is a job: the scheduler will queue it.
    faultpoints.hit("A3")
    return Kept(jobs.as_kept(new), job)


async def _queue(job: Job, new: NewJob, tried: Try | None, via: Broker) -> None:
    condition = via.conditions.get(job.target.provider, UNKNOWN)
    await via.producer.enqueue(
        job,
        reply_to=via.replies.channel,
        keep=True,
        fingerprint=new.fingerprint,
        # As long as the key stands for it: a key never outlives what it names.
        retain_seconds=None if new.idempotency is None else KEY_SECONDS,
        claim=new.idempotency,
        claim_seconds=KEY_SECONDS,
        store=new.stores_body,
        cost=new.cost,
        tried=None if tried is None else replace(tried, again=False),
        drained_per_second=condition.drained_per_second,
        ahead=condition.ahead_of(job.lane),
        call_seconds=condition.latency_seconds.get(job.target.model, 0.0),
    )


def _row_of(job: Job, ready: Prepared, digest: str | None, via: Broker, wanted: Wanted) -> NewJob:
    call = ready.call
    now = SystemClock().now()
    retain = call.retain_seconds
    return NewJob(
        job=job,
        cost=cost_of(call.kind, call.document, len(job.body)),
        fingerprint=ready.fingerprint,
        idempotency=digest,
        retain_seconds=int(via.settings.jobs.retain_seconds if retain is None else retain),
        stores_body=retain is not None or needs_request(call.surface, call.kind),
        notes=wanted.notes,
        webhook_url=wanted.webhook_url,
        created_at=now,
        deadline_at=now + timedelta(milliseconds=job.budget_ms),
    )


async def _id_for(ready: Prepared, digest: str | None, via: Broker) -> JobId:
    """The id under which a request with the same key, and without a row, is a job already."""
    if digest is None:
        tried = ready.tried
        return new_job_id() if tried is None else via.producer.new_id_beside(tried.digest)
    try:
        job_id, _ = await claim_job_id(digest, via.producer)
    except QueueUnavailable:
        return new_job_id()
    faultpoints.hit("A6")
    return job_id


async def _job_of_key(digest: str, ready: Prepared, via: Broker) -> KeptJob | None:
    """The job that the key stands for; None where there is none, or it is worth another run by now."""
    async with within_reach("Jobs"), via.engine.connect() as connection:
        there = await jobs.find_by_key(connection, digest)
    if there is None:
        return None
    age = SystemClock().now() - there.created_at
    again = there.result_head is not None and is_worth_another_run(ResultHead.from_wire(there.result_head))
    if age.total_seconds() > KEY_SECONDS or again:
        async with within_reach("Jobs"), writing(via.engine) as connection:
            await jobs.give_up_key(connection, there.id)
        return None
    if there.fingerprint != ready.fingerprint:
        raise IdempotencyMismatch("This Idempotency-Key was used with a different request body.")
    if there.is_open:
        async with within_reach("Jobs"), writing(via.engine) as connection:
            if not await jobs.tell(connection, there.id):
                return None  # its queue refused it just now
    return there


async def _job_of_try(tried: Try, principal: Principal, via: Broker) -> KeptJob | None:
    """The job of an earlier try whose answer was lost; None where there is none, or it failed."""
    try:
        earlier = await via.producer.earlier_try(tried)
    except QueueUnavailable:
        return None
    if earlier is None:
        return None
    async with within_reach("Jobs"), via.engine.connect() as connection:
        there = await jobs.find(connection, principal.account, earlier)
    return there if there is not None and there.state in {JobState.QUEUED, JobState.SUCCEEDED} else None


async def find(job_id: JobId, account: AccountId, via: Broker) -> KeptJob:
    """Raises NotFound, Overloaded."""
    async with within_reach("Jobs"), via.engine.connect() as connection:
        found = await jobs.find(connection, account, job_id)
    if found is None:
        raise NotFound("There is no such job.")
    return found


async def ended(
    job_id: JobId, account: AccountId, via: Broker, *, within_seconds: float, request: Request
) -> KeptJob:
    """The job once it ended, or as it stands when the time is over. Raises NotFound, ClientDisconnect."""
    kept = await find(job_id, account, via)
    if not kept.is_open or within_seconds <= 0:
        return kept
    give_up_at = time.monotonic() + within_seconds
    if not await _seems_to_end(kept, via, give_up_at=give_up_at, request=request):
        return kept
    # The row follows within moments; where the database has to be waited for, so has the caller.
    return await _row_of_ended(job_id, account, via, give_up_at=give_up_at)


async def ended_soon(job_id: JobId, account: AccountId, via: Broker) -> KeptJob:
    """Of a job that ended in the queue: who saw its last event must not hear now that it runs.

    Its row, which says so within moments; as it stands where database or scheduler are away for longer.
    Raises NotFound, Overloaded.
    """
    return await _row_of_ended(job_id, account, via, give_up_at=time.monotonic() + _SOON_SECONDS)


async def _row_of_ended(job_id: JobId, account: AccountId, via: Broker, *, give_up_at: float) -> KeptJob:
    pause = _LOOK_SECONDS
    while True:
        kept = await find(job_id, account, via)
        if not kept.is_open or time.monotonic() >= give_up_at:
            return kept
        await asyncio.sleep(min(pause, max(0.0, give_up_at - time.monotonic())))
        pause = min(2 * pause, _LONGEST_LOOK_SECONDS)


async def _seems_to_end(kept: KeptJob, via: Broker, *, give_up_at: float, request: Request) -> bool:
    """Waits until Redis says so, or cannot say. A hint is enough: it only saves asking the database.

    False when nobody should wait on: the time is over, or this process stops.
    """
    job = Job.from_wire(kept.header, b"")
    reply = via.replies.expect(job, request.receive, reader=new_reader(), deadline=give_up_at)
    try:
        await via.producer.listen(kept.id, kept.account, reply_to=via.replies.channel)
        found = await via.producer.result(kept.id)
        while isinstance(found, JobState) and reply.result is None and reply.error is None:
            await reply.wait()
        if isinstance(reply.error, ClientDisconnect):
            raise reply.error
        return not isinstance(reply.error, DeadlineExceeded | Overloaded) or isinstance(reply.error, JobLost)
    except QueueUnavailable:
        return True
    finally:
        via.replies.forget(reply)


def told_later(kept: KeptJob, via: Broker, extra: RawHeaders) -> Response:
    """202: where the answer will be."""
    body = job_answer(kept, None, via)
    return json_response(
        body.model_dump_json().encode(),
        [
            (b"location", place_of_result(kept.id).encode()),
            (b"retry-after", b"1"),
            (b"x-headrace-job-id", kept.id.encode()),
            *extra,
        ],
        status=202,
    )


async def answer_of(kept: KeptJob, request: Request, via: Broker, extra: RawHeaders) -> Response:
    """The answer of a job that ended, as the route it was asked on gives it; or raises why there is none."""
    async with within_reach("Jobs"), via.engine.connect() as connection:
        stored = await jobs.stored_result(connection, kept.account, kept.id)
    if stored is None:
        raise NotFound("There is no such job.")
    job = replace(Job.from_wire(stored.header, b""), id=kept.id)
    head = ResultHead.from_wire(kept.result_head or b"{}")
    if kept.state is not JobState.SUCCEEDED:
        raise failure_of(Result(head, b""), job)
    if kept.expires_at is None:
        raise gone()
    result = Result(head, stored.result_body)
    asked: dict[str, Any] = orjson.loads(stored.body) if stored.body else {}
    request.scope["state"]["provider"] = head.provider
    note_result(request, result)
    return json_response(
        render_later(job.surface, job.kind, result, asked),
        [*result_headers(job, result), *extra],
    )


def gone() -> NotFound:
    error = NotFound("The result of this job is not kept any more.")
    error.code, error.status = "result_expired", 410
    return error
