"""HOT PATH. From a validated request to the reply of its job.

plan ──> Job ──> expect ──> enqueue ──> outcome | EventStream
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api import twins
from api.admission import FREE
from api.answers import event_stream, job_headers, note_result, queue_headers, result_headers
from api.departure import Departure
from api.deps import Broker, headers_of, request_id_of
from api.dropped_params import ASKED, TOLD, drop_params
from api.idempotency import RETAIN_SECONDS, claim_job_id, fingerprint_of, key_of
from api.replies import Reply, new_reader
from api.responses import RawHeaders, json_response
from api.resume import resume
from api.sse import StreamForm
from api.urgency import budget_ms, cost_of, lane_of
from api.usable import require_usable
from shared.domain.conditions import UNKNOWN
from shared.domain.job import DEFAULT_CREDENTIAL, FallbackOn, Job, JobKind, Surface, Target
from shared.domain.principal import Principal
from shared.errors import (
    BrokerError,
    DeadlineExceeded,
    JobCancelled,
    ModelNotFound,
    ProviderTimeout,
    QueueUnavailable,
)
from shared.ids import new_job_id
from shared.limits.reservations import Mode
from shared.limits.rules import RuleSet
from shared.providers.profile import not_served
from shared.queue.frames import Result

RenderBody = Callable[[Result], bytes]
"""A finished job's canonical body in the caller's dialect."""


@dataclass(frozen=True, slots=True)
class Submission:
    """
    document: the request in the form of `kind`, gateway-only fields already taken out
    body: the bytes it was parsed from when they still say the same, else None
    plan: where the job may run, best first
    asked: what of the plan the caller asked for, which does not change with how providers do
    fallback_on: failures of the request itself that move the job on
    include_usage: whether the caller asked for the usage chunk of a chat stream
    sent: the document as it came, where `document` holds more than that
    retain_seconds: how long the result can be read again, if not as long as any other
    """

    kind: JobKind

    document: dict[str, Any]
    body: bytes | None
    plan: tuple[Target, ...]
    asked: tuple[str, ...]
    surface: Surface
    stream: bool
    include_usage: bool
    render_body: RenderBody
    form: StreamForm
    retain_seconds: float | None = None
    fallback_on: frozenset[FallbackOn] = frozenset()
    sent: dict[str, Any] | None = None

    @property
    def target(self) -> Target:
        return self.plan[0]


async def submit(call: Submission, request: Request, principal: Principal, via: Broker) -> Response:
    """Queue the call as a job and answer with what comes back.

    Raises NoWorker, QueueFull, TooManyWaiting, WaitTooLong, QueueUnavailable, IdempotencyMismatch,
    DeadlineExceeded, JobLost, or what the provider answered.
    """
    started = time.monotonic()
    headers = headers_of(request.scope)
    call = for_principal(call, principal)
    profile = via.registry.get(call.target.provider)
    if not profile.serves(call.kind):
        raise not_served(profile, call.kind)
    request.scope["state"]["provider"] = call.target.provider
    resume_at = headers.get("last-event-id")
    if resume_at is not None and call.stream:
        return await resume(resume_at, request, principal, via, surface=call.surface)

    via.presence.require(call.target.provider, own=call.target.credential != DEFAULT_CREDENTIAL)
    key = key_of(headers)
    if "timeout_seconds" in call.document:
        call = replace(call, body=None)  # which the provider must not see
    budget = budget_ms(
        headers,
        call.document,
        most_seconds=via.settings.api.request_timeout_seconds,
        stream=call.stream,
    )
    via.memory.require_room()
    require_usable(call.plan, via.conditions, budget_ms=budget)
    lane = lane_of(headers, call.document, principal)
    # Of what the caller asked, so before anything of it is rewritten for the provider.
    fingerprint = "" if key is None else fingerprint_of(call.sent or call.document, call.asked)
    dropped: list[str] = []
    if headers.get(ASKED, "").lower() == "true":
        dropped = drop_params(
            call.document, kind=call.kind, target=call.target, profile=profile, stream=call.stream
        )
        call = replace(call, body=None) if dropped else call
    body = _canonical_body(call)
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
        job_id, is_job = await claim_job_id(key, principal, call.surface, call.kind, via.producer)
        mode = Mode.REPLAY if is_job else mode
    else:
        job_id = new_job_id() if twins_digest is None else via.producer.new_id_beside(twins_digest)
    rules = via.admission.rules_of(principal, older_route=call.surface is Surface.INFERENCE)
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
        body=body,
        held=rules.holds,
        user=principal.user,
    )
    told = _told(dropped)
    if twins_digest is not None:
        try:
            return await _run(
                call, job, request, headers, via, told=told, rules=rules, twins_digest=twins_digest
            )
        except _TwinEnded:
            # Its caller's patience was shorter, or its caller stopped it. This one is on its own now.
            left = budget - int((time.monotonic() - started) * 1000)
            job = replace(job, id=new_job_id(), budget_ms=max(1, left))
    return await _run(
        call, job, request, headers, via, told=told, rules=rules, mode=mode, key=key, fingerprint=fingerprint
    )


def for_principal(call: Submission, principal: Principal) -> Submission:
    """Only what the caller may use of the plan, with its account's own credentials. Raises ModelNotFound."""
    plan = call.plan
    if principal.models is not None or principal.providers is not None:
        plan = tuple(target for target in plan if principal.may_use(target.provider, target.model))
        if not plan:
            raise ModelNotFound("This credential may not use this model.", param="model")
    if principal.credentials:
        own = dict(principal.credentials)
        plan = tuple(
            replace(target, credential=own[target.provider]) if target.provider in own else target
            for target in plan
        )
    return call if plan is call.plan else replace(call, plan=plan)


_REASONS_OF_OTHERS: Final = frozenset({DeadlineExceeded.code, JobCancelled.code, ProviderTimeout.code})
"""A job that several callers read ends by them where one's time is over, or one stopped it."""


class _TwinEnded(Exception):
    """The job that this request had joined ended without an answer, for reasons of another caller."""


async def _run(
    call: Submission,
    job: Job,
    request: Request,
    headers: Mapping[str, str],
    via: Broker,
    *,
    told: RawHeaders,
    rules: RuleSet,
    mode: Mode = Mode.CHECK,
    key: str | None = None,
    fingerprint: str = "",
    twins_digest: str | None = None,
) -> Response:
    """Raises _TwinEnded too, where there is a `twins_digest`."""
    condition = via.conditions.get(call.target.provider, UNKNOWN)
    admitted = FREE
    if rules:
        estimate = via.admission.estimate(job.plan, call.kind, call.document, len(job.body))
        admitted = await via.admission.admit(rules, job, estimate, mode)
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
                call.retain_seconds if key is None else max(RETAIN_SECONDS, call.retain_seconds or 0)
            ),
            store=call.retain_seconds is not None,
            cost=cost_of(call.kind, call.document, len(job.body)),
            twins=twins_digest,
            drained_per_second=condition.drained_per_second,
            ahead=condition.ahead_of(job.lane),
            call_seconds=condition.latency_seconds.get(job.target.model, 0.0),
        )
        departure.accepted = True
        if accepted.joined is not None:
            admitted.take_back()
        elif not accepted.attached and mode is Mode.REPLAY and rules.holds:
            # The job was forgotten since its key was looked up, so this is one after all.
            await via.admission.admit(rules, job, estimate, Mode.NOTE)
        replayed = False
        if accepted.joined is not None:
            joined = True
            via.replies.follow(reply, accepted.joined)
            job = reply.job
        if accepted.attached:
            # Somebody's job already: what it said so far is in its log, its result may be there.
            reply.start_after(0)
            stored = await via.producer.result(job.id)
            if isinstance(stored, Result):
                replayed = not joined
                reply.offer(stored)
        told = [*queue_headers(accepted), *told]
        if call.stream:
            await _hold_for_first_event(reply, via.settings.api.stream_hold_seconds)
            return event_stream(
                reply, request, via, call.surface, call.form, with_ids=_wants_ids(headers),
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
        if not departure.accepted:
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
    return json_response(body, [*result_headers(job, result, replayed=replayed), *told])


async def _hold_for_first_event(reply: Reply, seconds: float) -> None:
    """Status 200 is a promise: an error that comes first is still told with its own status."""
    await reply.begun(within_seconds=seconds)
    if reply.error is not None:
        raise reply.error
    result = reply.result
    if result is not None and result.last == 0:
        await reply.outcome()


def _canonical_body(call: Submission) -> bytes:
    document, changed = call.document, call.body is None
    if document.get("model") != call.target.model:
        document["model"] = call.target.model
        changed = True
    if call.stream and call.kind is JobKind.CHAT:
        # Asked of every provider, whether or not the caller wants to see it: the ledger needs it.
        options = document.get("stream_options")
        if not isinstance(options, dict) or options.get("include_usage") is not True:
            document["stream_options"] = {**(options or {}), "include_usage": True}
            changed = True
    return orjson.dumps(document) if changed or call.body is None else call.body


def _told(dropped: list[str]) -> RawHeaders:
    return [(TOLD, ", ".join(dropped).encode("ascii", "replace"))] if dropped else []


def as_stored(result: Result) -> bytes:
    return result.body or b""


def _wants_ids(headers: Mapping[str, str]) -> bool:
    return headers.get("x-stream-ids", "").lower() == "true"
