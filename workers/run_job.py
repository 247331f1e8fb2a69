"""HOT PATH. One delivery from lease to end, whatever happens on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from loguru import logger
from redis.exceptions import RedisError

from shared import faultpoints
from shared.db.repositories.provider_credentials import CredentialRecord
from shared.domain.job import DEFAULT_CREDENTIAL, Job, JobKind, JobState, Target, UnknownEnvelope
from shared.domain.usage import Attempt, AttemptOutcome, Outcome, Settlement, Usage
from shared.errors import (
    AllProvidersFailed,
    BrokerError,
    DeadlineExceeded,
    ProviderAnswerInvalid,
    ProviderCredentialRefused,
    ProviderError,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from shared.observability import metrics, tracing
from shared.providers.catalogue import Catalogue
from shared.providers.credentials import Credentials
from shared.providers.profile import ProviderProfile
from shared.providers.registry import Registry
from shared.queue.consumer import Consumer, Delivery, Lease, LeaseLost, PutAside
from shared.queue.frames import ResultHead
from shared.settings import Settings
from shared.storage.objects import Storage
from workers.attempts import Move, Retry, Step, next_step
from workers.call_provider import NO_HEADERS, CallProgress, Completed, call_provider
from workers.check_credential import check_credential
from workers.gate import Gate, Wait, WaitReason
from workers.in_flight import Flight, InFlight, StopReason
from workers.job_spans import CallSpan, begin_call, delivery_span, told_to_provider
from workers.own_credentials import OwnCredentials
from workers.provider_batch import run_step
from workers.told_limits import ToldLimits
from workers.transport import Transport

_LONG_WAIT_SECONDS: Final = 1.0
"""Beyond it a job goes to its next target instead."""
_LAST_WORDS_SECONDS: Final = 2.0
"""How long a worker that stops tries to write what became of a job."""
_OUTCOME: Final = "headrace.job.outcome"
"""Of a delivery, in its span."""
_PUT_ASIDE: Final = {True: "attempt failed, retry later", False: "provider takes no calls, job put aside"}


class StopAsked(Exception):
    """The job's log says that its caller does not want it any more."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    settings: Settings
    consumer: Consumer
    registry: Registry
    credentials: Credentials
    catalogue: Catalogue
    transport: Transport
    in_flight: InFlight
    gate: Gate
    rng: Random
    own_credentials: OwnCredentials = field(default_factory=lambda: OwnCredentials(None, None))
    limits: ToldLimits = field(default_factory=ToldLimits)
    one_suspect: asyncio.Lock = field(default_factory=asyncio.Lock)
    storage: Storage | None = None
    """Of files; for batches that a provider runs."""


async def run_job(ctx: WorkerContext, delivery: Delivery) -> None:
    """Never raises: whatever goes wrong ends in the job's state, or leaves it to be reclaimed.

    A job that one more crash would set aside is a suspect. Suspects run one at a time: when a
    job kills its worker, all that ran beside it look as guilty, and would be set aside with it.
    """
    queue = ctx.settings.queue
    if delivery.crashes == 0 or delivery.crashes + 1 < queue.max_deliveries:
        await _run(ctx, delivery)
        return
    try:
        # No longer than the lease lasts, which nobody renews before the job began.
        async with asyncio.timeout(queue.lease_idle_seconds / 2):
            await ctx.one_suspect.acquire()
    except (TimeoutError, asyncio.CancelledError):
        await _quietly(ctx.consumer.release(delivery))
        return
    try:
        await _run(ctx, delivery)
    finally:
        ctx.one_suspect.release()


async def _run(ctx: WorkerContext, delivery: Delivery) -> None:
    faultpoints.hit("W1")
    try:
        lease = await ctx.consumer.begin(delivery)
    except UnknownEnvelope as exc:
        # A newer release wrote it; its own workers will take it once the lease lapses.
        logger.warning("job envelope not understood", job_id=delivery.job_id, reason=str(exc))
        return
    except asyncio.CancelledError:
        return  # given back already
    except RedisError as exc:
        logger.warning("job not begun", job_id=delivery.job_id, error=type(exc).__name__)
        return
    if lease is None:
        return
    if lease.fence == 1:
        metrics.observe_wait(lease.job.target.provider, delivery.lane, lease.waited_ms / 1000)
    if tracing.active is None:
        await _fly(ctx, lease)
        return
    with delivery_span(tracing.active, lease):
        await _fly(ctx, lease)


async def _fly(ctx: WorkerContext, lease: Lease) -> None:
    progress = CallProgress()
    with ctx.in_flight.track(lease) as flight:
        try:
            await _execute(ctx, lease, progress)
        except asyncio.CancelledError:
            await _stopped(ctx, lease, flight, progress)
        except StopAsked:
            await _quietly(_cancelled(ctx, lease, progress))
        except LeaseLost:
            logger.info("late result refused", job_id=lease.job.id, fence=lease.fence)
        except RedisError as exc:
            logger.warning("job left to be reclaimed", job_id=lease.job.id, error=type(exc).__name__)
        except Exception as exc:
            logger.opt(exception=exc).error("job failed unexpectedly", job_id=lease.job.id)
            await _quietly(_failed(ctx, lease, progress, BrokerError("An internal error occurred.")))


async def _execute(ctx: WorkerContext, lease: Lease, progress: CallProgress) -> None:
    job, target = lease.job, lease.job.target
    next_ordinal = 1
    call: CallSpan | None = None

    async def emit(events: list[bytes]) -> None:
        nonlocal next_ordinal
        if call is not None and next_ordinal == 1:
            call.opening = events[0]
        wanted = await ctx.consumer.append(lease, next_ordinal, events)
        next_ordinal += len(events)
        faultpoints.hit("W5")
        if not wanted:
            raise StopAsked

    profile = ctx.registry.get(target.provider)
    if job.kind is JobKind.CREDENTIAL_CHECK:
        await _check_credential(ctx, lease, progress, profile)
        return
    sealed = None
    if target.credential != DEFAULT_CREDENTIAL:
        try:
            # Before anything is taken at the provider: the database may have to be waited for.
            sealed = await ctx.own_credentials.sealed(job.account, target, profile)
        except ProviderError as error:
            await _provider_failed(ctx, lease, progress, error)
            return
    go = await ctx.gate.enter(
        profile,
        target,
        job,
        holder=f"{job.id}.{lease.fence}",
        remaining_seconds=lease.remaining_ms / 1000,
    )
    if isinstance(go, Wait):
        await _not_now(ctx, lease, progress, go)
        return
    call = None if tracing.active is None else begin_call(tracing.active, lease, profile)
    try:
        # As arguments of the call: an open key lives no longer than that.
        if job.kind is JobKind.PROVIDER_BATCH:
            completed = await _batch_step(ctx, lease, progress, profile, sealed)
        else:
            completed = await call_provider(
                job,
                target,
                profile,
                ctx.credentials.headers(target, profile) if sealed is None else {},
                attempt=lease.attempts + 1,
                remaining_seconds=lease.remaining_ms / 1000,
                transport=ctx.transport,
                settings=ctx.settings.provider,
                progress=progress,
                emit=emit,
                sign=ctx.credentials.signing(target, profile) if sealed is None else None,
                own=None if sealed is None else ctx.own_credentials.open(sealed, profile),
                more_headers=NO_HEADERS if tracing.active is None else told_to_provider(tracing.active, call),
            )
    except BaseException as error:
        ctx.gate.leave(go, error=error, headers=progress.headers, usage=progress.counted())
        if call is not None:
            call.end(progress, error=error)
        _measure(job, progress, error)
        if not isinstance(error, BrokerError):
            raise
        _note_limits(ctx, target, progress)
        error.details.setdefault("model", target.model)
        await _provider_failed(ctx, lease, progress, error)
        return
    ctx.gate.leave(go, headers=progress.headers, usage=progress.counted())
    if call is not None:
        call.end(progress, completed=completed)
    _measure(job, progress)
    _note_limits(ctx, target, progress)
    faultpoints.hit("W6")
    settlement = _settlement(ctx, lease, progress, Outcome.SUCCEEDED)
    await ctx.consumer.finish(
        lease,
        JobState.SUCCEEDED,
        head=_head(lease, settlement, status=200).to_wire(),
        body=completed.body,
        settlement=settlement,
        tail=completed.tail,
        tail_first=next_ordinal,
    )
    tracing.tell(_OUTCOME, "succeeded")
    faultpoints.hit("W8")


async def _batch_step(
    ctx: WorkerContext,
    lease: Lease,
    progress: CallProgress,
    profile: ProviderProfile,
    sealed: CredentialRecord | None,
) -> Completed:
    progress.begin()
    job, target = lease.job, lease.job.target
    return Completed(
        await run_step(
            job,
            profile,
            ctx.credentials.headers(target, profile) if sealed is None else {},
            own=None if sealed is None else ctx.own_credentials.open(sealed, profile),
            # Also one that was given back: it may have been broken off after it was heard.
            is_again=lease.fence > 1,
            remaining_seconds=lease.remaining_ms / 1000,
            transport=ctx.transport,
            storage=ctx.storage,
            settings=ctx.settings,
        )
    )


async def _check_credential(
    ctx: WorkerContext, lease: Lease, progress: CallProgress, profile: ProviderProfile
) -> None:
    """Past the gate: it is no call on any account that is kept here. Its caller tries again, if anybody."""
    progress.begin()
    try:
        async with asyncio.timeout(lease.remaining_ms / 1000):
            body = await check_credential(
                lease.job,
                profile,
                own_credentials=ctx.own_credentials,
                transport=ctx.transport,
                settings=ctx.settings.provider,
            )
    except TimeoutError:
        late = DeadlineExceeded("The deadline passed before the provider answered.")
        await _failed(ctx, lease, progress, late)
        return
    except BrokerError as error:
        await _failed(ctx, lease, progress, error)
        return
    settlement = _settlement(ctx, lease, progress, Outcome.SUCCEEDED)
    await ctx.consumer.finish(
        lease,
        JobState.SUCCEEDED,
        head=_head(lease, settlement, status=200).to_wire(),
        body=body,
        settlement=settlement,
    )


def _measure(job: Job, progress: CallProgress, error: BaseException | None = None) -> None:
    if job.kind is JobKind.PROVIDER_BATCH:
        return  # several requests, and none of them inference
    target = job.target
    # Where no connection came about nothing was sent, and it is a call that failed all the same.
    if not progress.sent and not isinstance(error, ProviderError):
        return
    usage = progress.usage
    metrics.observe_call(
        target.provider,
        "success" if error is None else _outcome_of(error, own=target.credential != DEFAULT_CREDENTIAL),
        progress.elapsed_seconds(),
        first_token_seconds=progress.ttft_seconds(),
        completion_tokens=0 if usage is None or error is not None else usage.completion_tokens,
    )


def _outcome_of(error: BaseException, *, own: bool) -> str:
    """One of metrics.CALL_OUTCOMES. `own`: with a key of the account's own."""
    if own and isinstance(error, ProviderCredentialRefused):
        return "own_credential_refused"
    if isinstance(error, asyncio.CancelledError | StopAsked | LeaseLost):
        return "interrupted"
    return next((word for kind, word in _CALL_OUTCOMES if isinstance(error, kind)), metrics.OTHER)


_CALL_OUTCOMES: Final = (
    (ProviderRateLimited, "rate_limit"),
    (ProviderTimeout, "timeout"),
    (ProviderUnavailable, "unavailable"),
    (ProviderRejected, "rejected"),
    (ProviderCredentialRefused, "credential_refused"),
    (ProviderAnswerInvalid, "invalid_answer"),
)


def _note_limits(ctx: WorkerContext, target: Target, progress: CallProgress) -> None:
    """Of the broker's own account there: what an account's own key may do is nobody else's business."""
    if target.credential == DEFAULT_CREDENTIAL:
        ctx.limits.note(target.provider, progress.headers)


async def _provider_failed(
    ctx: WorkerContext, lease: Lease, progress: CallProgress, error: BrokerError
) -> None:
    step = next_step(error, lease, emitted=progress.emitted, settings=ctx.settings.queue, rng=ctx.rng)
    if isinstance(step, Retry) and not step.counts:
        # Its own refusal has paused the account by now: for all of it the next call would wait anyway.
        target = lease.job.target
        _, _, paused = ctx.gate.condition(target.provider, target.credential)
        step = replace(step, delay_seconds=max(step.delay_seconds, paused))
    if isinstance(step, Retry):
        faultpoints.hit("W9")
    await _go_on(ctx, lease, progress, error, step)


async def _not_now(ctx: WorkerContext, lease: Lease, progress: CallProgress, wait: Wait) -> None:
    """Its provider takes no call at the moment; another target is better than a long wait for it."""
    metrics.count_held_back(lease.job.target.provider, wait.reason)
    elsewhere = lease.job.next_target is not None and (
        wait.reason is WaitReason.OPEN or wait.seconds > _LONG_WAIT_SECONDS
    )
    step = Move() if elsewhere else Retry(wait.seconds, False, patient=wait.reason is WaitReason.PACED)
    await _go_on(ctx, lease, progress, _refusal_of(wait, ctx.registry.get(lease.job.target.provider)), step)


def _refusal_of(wait: Wait, profile: ProviderProfile) -> ProviderError:
    if wait.reason is WaitReason.OPEN:
        return ProviderUnavailable(
            f"{profile.name} has failed too often lately and is left alone for a while.",
            provider=profile.id,
            status=503,
            retry_after_seconds=wait.seconds,
        )
    if wait.reason is WaitReason.NO_PERMIT:
        return ProviderUnavailable(
            f"The limits of this gateway's account at {profile.name} are used up.",
            provider=profile.id,
            status=503,
            retry_after_seconds=wait.seconds,
        )
    return ProviderRateLimited(
        f"{profile.name} limits the rate of requests.", provider=profile.id, retry_after_seconds=wait.seconds
    )


async def _go_on(
    ctx: WorkerContext, lease: Lease, progress: CallProgress, error: BrokerError, step: Step
) -> None:
    attempt = _attempt(ctx, lease, progress, AttemptOutcome.FAILED, error.code)
    if isinstance(step, Retry):
        if await _put_aside(ctx, lease, error, step, attempt):
            return
        # Too late for this target, or too many retries in all: the next one may still answer in time.
        step = Move() if lease.job.next_target is not None else None
    if isinstance(step, Move) and await _moved(ctx, lease, error, attempt):
        return
    await _failed(ctx, lease, progress, _in_all(lease, error))


async def _put_aside(
    ctx: WorkerContext, lease: Lease, error: BrokerError, step: Retry, attempt: Attempt | None
) -> bool:
    delay = step.delay_seconds
    if step.counts:
        became = await ctx.consumer.retry_later(lease, delay_seconds=delay, attempt=attempt)
    else:
        became = await ctx.consumer.defer(lease, delay_seconds=delay, patient=step.patient, attempt=attempt)
    logger.info(
        _PUT_ASIDE[step.counts] if became is PutAside.DONE else "job not put aside",
        job_id=lease.job.id,
        request_id=lease.job.request_id,
        provider=lease.job.target.provider,
        attempt=lease.attempts + 1,
        error=error.code,
        delay_seconds=round(step.delay_seconds, 3),
        became=became.name.lower(),
    )
    if became is PutAside.DONE:
        metrics.count_requeue(lease.job.target.provider, "retried" if step.counts else "deferred")
        tracing.tell(_OUTCOME, "put_aside")
        tracing.fail(error.code or error.type)
    return became is PutAside.DONE


async def _moved(ctx: WorkerContext, lease: Lease, error: BrokerError, attempt: Attempt | None) -> bool:
    target, onward = lease.job.target, lease.job.next_target
    if onward is None or not await ctx.consumer.move(
        lease, why=_why(lease, error), call_failed=attempt is not None, attempt=attempt
    ):
        return False
    metrics.count_requeue(target.provider, "moved")
    logger.info(
        "job moved to another provider",
        job_id=lease.job.id,
        request_id=lease.job.request_id,
        provider=target.provider,
        onward=onward.provider,
        error=error.code,
    )
    tracing.tell(_OUTCOME, "moved")
    tracing.fail(error.code or error.type)
    return True


def _why(lease: Lease, error: BrokerError) -> str:
    target = lease.job.target
    return f"{target.provider}/{target.model}: {error.message}"


def _in_all(lease: Lease, error: BrokerError) -> BrokerError:
    """The last target's error, where there was no other; of a judgement on the request there is one."""
    if not lease.failures or not isinstance(error, ProviderError) or isinstance(error, ProviderRejected):
        return error
    failed = AllProvidersFailed(
        f"All {len(lease.failures) + 1} targets of this request failed.",
        provider=lease.job.target.provider,
        retry_after_seconds=error.retry_after_seconds,
    )
    failed.details |= {"model": lease.job.target.model, "failures": [*lease.failures, _why(lease, error)]}
    return failed


async def _failed(ctx: WorkerContext, lease: Lease, progress: CallProgress, error: BrokerError) -> None:
    if _is_past_deadline(lease) and error.code == "provider_timeout":
        error = DeadlineExceeded("The deadline passed before the provider answered.")
    logger.info(
        "job failed",
        job_id=lease.job.id,
        request_id=lease.job.request_id,
        provider=lease.job.target.provider,
        attempts=lease.attempts + 1,
        error=error.code,
        status=error.status,
    )
    tracing.tell(_OUTCOME, "failed")
    tracing.fail(error.code or error.type)
    settlement = _settlement(ctx, lease, progress, Outcome.FAILED, error)
    await ctx.consumer.finish(
        lease,
        JobState.FAILED,
        head=_head(lease, settlement, status=error.status, error=error).to_wire(),
        body=b"",
        settlement=settlement,
    )


def _is_past_deadline(lease: Lease) -> bool:
    return (time.monotonic() - lease.begun_at) * 1000 >= lease.remaining_ms


async def _stopped(ctx: WorkerContext, lease: Lease, flight: Flight, progress: CallProgress) -> None:
    """The task was cancelled: by its caller, by a lost lease, or because this worker stops."""
    if flight.stop_reason is StopReason.LOST:
        tracing.tell(_OUTCOME, "lost")
        logger.info("lease lost, job dropped", job_id=lease.job.id, fence=lease.fence)
        return
    if flight.stop_reason is StopReason.CANCELLED:
        await _quietly(_cancelled(ctx, lease, progress))
        return
    faultpoints.hit("W10")
    if progress.emitted:
        # Its reader has seen the start of an answer that nobody can continue.
        error = ProviderUnavailable(
            "The stream was interrupted: this worker is shutting down.",
            provider=lease.job.target.provider,
            code="stream_interrupted",
        )
        await _quietly(_failed(ctx, lease, progress, error), within_seconds=_LAST_WORDS_SECONDS)
    else:
        tracing.tell(_OUTCOME, "handed_back")
        attempt = _attempt(ctx, lease, progress, AttemptOutcome.INTERRUPTED)
        await _quietly(ctx.consumer.hand_back(lease, attempt=attempt), within_seconds=_LAST_WORDS_SECONDS)


async def _cancelled(ctx: WorkerContext, lease: Lease, progress: CallProgress) -> None:
    tracing.tell(_OUTCOME, "cancelled")
    settlement = _settlement(ctx, lease, progress, Outcome.CANCELLED)
    await ctx.consumer.finish(
        lease,
        JobState.CANCELLED,
        head=_head(lease, settlement, status=409).to_wire(),
        body=b"",
        settlement=settlement,
    )


async def _quietly(write: Awaitable[None], *, within_seconds: float | None = None) -> None:
    """The last write of a job that is over for this worker; if it fails, the lease lapses instead."""
    try:
        async with asyncio.timeout(within_seconds):
            await write
    except LeaseLost:
        logger.info("late result refused")
    except (RedisError, TimeoutError) as exc:
        logger.warning("last write of a job failed", error=type(exc).__name__)


def _attempt(
    ctx: WorkerContext,
    lease: Lease,
    progress: CallProgress,
    outcome: AttemptOutcome,
    error: str | None = None,
) -> Attempt | None:
    """A call that is over and does not end the job; None where none was made."""
    if not progress.sent:
        return None
    target = lease.job.target
    # Broken off, it is charged for what the provider had done; failed before it answered, for nothing.
    counted = outcome is AttemptOutcome.INTERRUPTED or progress.emitted or progress.usage is not None
    usage = progress.usage_or_estimate(lease.job) if counted else Usage()
    return Attempt(
        provider=target.provider,
        model=target.model,
        credential=target.credential,
        outcome=outcome,
        error=error,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cost_micro_usd=ctx.catalogue.cost_micro_usd(target.provider, target.model, usage),
        provider_ms=progress.elapsed_ms(),
    )


def _settlement(
    ctx: WorkerContext,
    lease: Lease,
    progress: CallProgress,
    outcome: Outcome,
    error: BrokerError | None = None,
) -> Settlement:
    target = lease.job.target
    # A call that failed before it answered anything is not charged, unless the provider said so.
    charged = outcome is not Outcome.FAILED or progress.emitted or progress.usage is not None
    usage = progress.usage_or_estimate(lease.job) if charged else Usage()
    return Settlement(
        outcome=outcome,
        provider=target.provider,
        model=target.model,
        usage=usage,
        cost_micro_usd=ctx.catalogue.cost_micro_usd(target.provider, target.model, usage),
        queue_ms=lease.waited_ms,
        provider_ms=progress.elapsed_ms(),
        ttft_ms=progress.ttft_ms(),
        attempts=lease.attempts + 1,
        deliveries=lease.deliveries,
        error=None if error is None else error.code,
        called=progress.sent,
    )


def _head(
    lease: Lease, settlement: Settlement, *, status: int, error: BrokerError | None = None
) -> ResultHead:
    return ResultHead(
        outcome=settlement.outcome,
        status=status,
        provider=settlement.provider,
        model=settlement.model,
        prompt_tokens=settlement.usage.prompt_tokens,
        completion_tokens=settlement.usage.completion_tokens,
        attempts=settlement.attempts,
        queue_ms=settlement.queue_ms,
        error=None if error is None else error.to_fields(),
    )
