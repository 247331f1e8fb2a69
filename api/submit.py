"""HOT PATH. From a validated request to the reply of its job.

plan ──> Job ──> expect ──> enqueue ──> outcome | EventStream
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api import twins
from api.answers import event_stream, job_headers, note_result, queue_headers, result_headers
from api.departure import Departure
from api.deps import Broker, headers_of, request_id_of
from api.idempotency import claim_job_id, digest_of
from api.kept import accept
from api.prefer import preference_of
from api.replies import Reply, new_reader
from api.responses import RawHeaders, json_response
from api.resume import resume
from api.sse import wants_ids
from api.submission import Submission, for_principal, prepare, priced
from api.usable import require_usable
from shared.domain.conditions import UNKNOWN
from shared.domain.job import DEFAULT_CREDENTIAL, Job, Surface
from shared.domain.principal import Principal
from shared.errors import (
    BrokerError,
    DeadlineExceeded,
    IdempotencyMismatch,
    JobCancelled,
    ProviderTimeout,
    QueueUnavailable,
)
from shared.ids import JobId, new_job_id
from shared.limits.admission import FREE
from shared.limits.reservations import Mode
from shared.limits.rules import RuleSet
from shared.observability import metrics, tracing
from shared.queue.frames import Result
from shared.queue.producer import KEY_SECONDS, Accepted, Try
from shared.requests.turn import cost_of


async def submit(call: Submission, request: Request, principal: Principal, via: Broker) -> Response:
    """Queue the call as a job and answer with what comes back.

    Raises ModelUnpriced, NoWorker, QueueFull, TooManyWaiting, WaitTooLong, QueueUnavailable,
    IdempotencyMismatch, DeadlineExceeded, JobLost, or what the provider answered.
    """
    started = time.monotonic()
    headers = headers_of(request.scope)
    call = for_principal(call, principal)
    request.scope["state"]["provider"] = call.target.provider
    resume_at = headers.get("last-event-id")
    if resume_at is not None and call.stream:
        return await resume(resume_at, request, principal, via, surface=call.surface)
    if call.detachable and not call.stream and (wish := preference_of(headers)) is not None:
        return await accept(call, request, principal, via, headers=headers, wish=wish)

    rules = via.admission.rules_of(principal, older_route=call.surface is Surface.INFERENCE)
    call = priced(call, rules, via)
    request.scope["state"]["provider"] = call.target.provider
    via.presence.require(call.target.provider, own=call.target.credential != DEFAULT_CREDENTIAL)
    ready = prepare(call, headers, principal, via, most_seconds=via.settings.api.request_timeout_seconds)
    call, key, budget, lane = ready.call, ready.key, ready.budget_ms, ready.lane
    require_usable(call.plan, via.conditions, budget_ms=budget)
    twins_digest = None
    if key is None and twins.are_possible(call.kind, call.document, headers):
        twins_digest = twins.digest_of(
            call.kind,
            call.document,
            principal=principal,
            surface=call.surface,
            plan=call.plan,
            fallback_on=call.fallback_on,
            lane=lane,
            include_usage=call.include_usage,
        )
    mode = Mode.CHECK
    if key is not None:
        job_id, is_job = await claim_job_id(digest_of(key, principal, call.surface, call.kind), via.producer)
        mode = Mode.REPLAY if is_job else mode
    else:
        job_id = _new_id(twins_digest, ready.tried, via)
    job = Job(
        id=job_id,
        kind=call.kind,
        lane=lane,
        surface=call.surface,
        account=principal.account,
        api_key=principal.api_key,
        request_id=request_id_of(request.scope),
        plan=call.plan,
        fallback_on=call.fallback_on,
        stream=call.stream,
        include_usage=call.include_usage,
        budget_ms=budget,
        body=ready.body,
        held=rules.holds,
        user=principal.user,
        trace=tracing.origin(),
    )
    told = ready.told
    tried = ready.tried
    if twins_digest is not None or (tried is not None and tried.again):
        try:
            return await _run(
                call,
                job,
                request,
                headers,
                principal,
                via,
                told=told,
                rules=rules,
                twins_digest=twins_digest,
                tried=tried,
            )
        except _TwinEnded:
            # Its caller's patience was shorter, or its caller stopped it. This one is on its own now.
            left = budget - int((time.monotonic() - started) * 1000)
            tried = None if tried is None else replace(tried, again=False)
            job = replace(job, id=_new_id(twins_digest, tried, via), budget_ms=max(1, left))
    return await _run(
        call,
        job,
        request,
        headers,
        principal,
        via,
        told=told,
        rules=rules,
        mode=mode,
        key=key,
        fingerprint=ready.fingerprint,
        tried=tried,
    )


def _new_id(twins_digest: str | None, tried: Try | None, via: Broker) -> JobId:
    """In one shard with what may point to the job, of either of the two."""
    beside = tried.digest if twins_digest is None and tried is not None else twins_digest
    return new_job_id() if beside is None else via.producer.new_id_beside(beside)


_REASONS_OF_OTHERS: Final = frozenset({DeadlineExceeded.code, JobCancelled.code, ProviderTimeout.code})
"""A job that several callers read ends by them where one's time is over, or one stopped it."""


class _TwinEnded(Exception):
    """The job that this request had joined ended without an answer, for reasons of another caller."""


async def _run(
    call: Submission,
    job: Job,
    request: Request,
    headers: Mapping[str, str],
    principal: Principal,
    via: Broker,
    *,
    told: RawHeaders,
    rules: RuleSet,
    mode: Mode = Mode.CHECK,
    key: str | None = None,
    fingerprint: str = "",
    twins_digest: str | None = None,
    tried: Try | None = None,
) -> Response:
    """Raises _TwinEnded too, where there is a `twins_digest` or an earlier try."""
    condition = via.conditions.get(call.target.provider, UNKNOWN)
    admitted = FREE
    if rules:
        estimate = via.admission.estimate(job.plan, call.kind, call.document, len(job.body))
        admitted = await via.admission.admit(rules, job, estimate, mode, fingerprint=fingerprint)
        told = [*admitted.headers, *told]
    reply = via.replies.expect(job, request.receive, reader=new_reader())
    departure = Departure(via, reply, admitted)
    joined = False
    try:
        accepted = await via.producer.enqueue(
            job,
            reply_to=via.replies.channel,
            reader=reply.reader,
            keep=key is not None or headers.get("x-on-disconnect") == "detach",
            fingerprint=fingerprint,
            retain_seconds=(
                call.retain_seconds if key is None else max(KEY_SECONDS, call.retain_seconds or 0)
            ),
            store=call.retain_seconds is not None,
            cost=cost_of(call.kind, call.document, len(job.body)),
            twins=twins_digest,
            claim=None if key is None else digest_of(key, principal, call.surface, call.kind),
            claim_seconds=KEY_SECONDS,
            tried=tried,
            drained_per_second=condition.drained_per_second,
            ahead=condition.ahead_of(job.lane),
            call_seconds=condition.latency_seconds.get(job.target.model, 0.0),
        )
        departure.accepted = True
        _count_replay(accepted, tried)
        if accepted.joined is not None:
            joined = True
            admitted.take_back()
            via.replies.follow(reply, accepted.joined)
            job = reply.job
        elif not accepted.attached and mode is Mode.REPLAY and rules.holds:
            # The job was forgotten since its key was looked up, so this is one after all.
            await via.admission.admit(rules, job, estimate, Mode.NOTE, fingerprint=fingerprint)
        tracing.tell("headrace.job.id", job.id)
        replayed = accepted.attached and await _read_so_far(reply, accepted, job, via)
        told = [*queue_headers(accepted, replayed=replayed), *told]
        if call.stream:
            await _hold_for_first_event(reply, via.settings.api.stream_hold_seconds)
            return event_stream(
                reply, request, via, call.surface, call.form, with_ids=wants_ids(headers),
                headers=[*job_headers(job, reply.result), *told], departure=departure,
            )  # fmt: skip
        result = await reply.outcome()
        body = call.render_body(result)
    except QueueUnavailable as error:
        # Its answer may be what was lost: then there is a job that nobody will read.
        departure.accepted = True
        departure(error)
        raise
    except BrokerError as error:
        # Where the id is another request's job, what is reserved under it is that one's.
        if not departure.accepted and not isinstance(error, IdempotencyMismatch):
            admitted.take_back()
        departure(error)
        if joined and error.code in _REASONS_OF_OTHERS and time.monotonic() < reply.deadline:
            raise _TwinEnded from error
        raise
    except BaseException:
        departure()
        raise
    departure()
    note_result(request, result)
    return json_response(body, [*result_headers(job, result), *told])


def _count_replay(accepted: Accepted, tried: Try | None) -> None:
    if not accepted.attached:
        return
    if accepted.joined is None:
        metrics.count_replay("idempotency_key")
    else:
        metrics.count_replay("client_retry" if tried is not None and tried.again else "single_flight")


async def _read_so_far(reply: Reply, accepted: Accepted, job: Job, via: Broker) -> bool:
    """Somebody's job already: what it said so far is in its log. Whether this is its answer once more."""
    reply.start_after(0)
    stored = await via.producer.result(job.id)
    if not isinstance(stored, Result):
        return False
    reply.offer(stored)
    return accepted.state is not None


async def _hold_for_first_event(reply: Reply, seconds: float) -> None:
    """Status 200 is a promise: an error that comes first is still told with its own status."""
    await reply.begun(within_seconds=seconds)
    if reply.error is not None:
        raise reply.error
    result = reply.result
    if result is not None and result.last == 0:
        await reply.outcome()
