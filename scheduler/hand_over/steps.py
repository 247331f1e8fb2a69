"""The steps that workers do, as jobs: what is asked of them, and what follows from what they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import orjson

from shared.batches.handed_over import Execution, HandedOver, Part, PartStep
from shared.db.repositories.batches import Batch
from shared.domain.batch import step_job_id_of
from shared.domain.job import Job, JobKind, JobState, Lane, Surface, Target
from shared.errors import BrokerError, ProviderCredentialRefused
from shared.ids import JobId, RequestId
from shared.providers.batch_apis import BatchState, Told
from shared.queue.ended import EndedJobs
from shared.queue.failures import failure_of
from shared.queue.frames import Result, ResultHead
from shared.queue.producer import Producer
from shared.settings import BatchSettings

_KEPT_SECONDS: Final = 86_400.0
_IN_QUEUE_SECONDS: Final = 600.0
"""How long a step may wait for a worker, before it is asked for anew."""
_LONGEST_PAUSE_SECONDS: Final = 600.0
_STOPPING_POLL_SECONDS: Final = 5.0
_SUBMISSIONS: Final = 6
"""Tries, after which requests that may as well be jobs become jobs."""
_NO_USE: Final = frozenset({"provider_error", ProviderCredentialRefused.code, "unsupported_by_provider"})
"""Codes of what trying again does not cure."""
_NEW_SECONDS: Final = 600.0
"""How long another of the same mark may turn up."""
_PASSING: Final = frozenset({408, 409, 429})
_GONE: Final = 404


class Steps:
    def __init__(self, producer: Producer, ended: EndedJobs, settings: BatchSettings) -> None:
        self._producer = producer
        self._ended = ended
        self._settings = settings

    async def ask(self, batch: Batch, handed: HandedOver, index: int, *, now: float, is_again: bool) -> None:
        """Once it returns the step is a job; it may have been before. Raises what Redis raises, and
        Overloaded. `is_again`: it may have run before, and be forgotten.
        """
        part = handed.parts[index]
        transfers = part.step in {PartStep.SUBMIT, PartStep.FETCH}
        seconds = _IN_QUEUE_SECONDS + (self._settings.provider_transfer_seconds if transfers else 0.0)
        job = Job(
            id=step_job_id_of(batch.id, index, part.asked),
            kind=JobKind.PROVIDER_BATCH,
            lane=Lane.BATCH,
            surface=Surface.OPENAI,
            account=batch.account_id,
            api_key=batch.api_key_id,
            request_id=RequestId(mark_of(batch, index)),
            plan=(Target(handed.provider, "", handed.credential),),
            stream=False,
            include_usage=False,
            budget_ms=int(seconds * 1000),
            body=orjson.dumps(_body_of(part, mark_of(batch, index), now=now, is_again=is_again)),
            user=batch.user_id,
            trace=batch.trace,
        )
        await self._producer.enqueue(job, reply_to="", keep=True, retain_seconds=_KEPT_SECONDS)

    async def call_off(self, batch: Batch, index: int, part: Part) -> None:
        """One that no worker has begun never is; one that runs is broken off. Raises what Redis raises."""
        job_id = step_job_id_of(batch.id, index, part.asked)
        found = (await self._ended.look([job_id])).get(job_id)
        if found is not None and not found.has_ended:
            envelope = await self._ended.envelope_of(found)
            if envelope is not None:
                await self._producer.cancel(envelope)

    async def look(self, batch: Batch, index: int, part: Part) -> bytes | BrokerError | JobState | None:
        """What the step answered, or how it failed; how it stands where it has not ended; None where Redis
        does not know it. Raises what Redis raises.
        """
        job_id: JobId = step_job_id_of(batch.id, index, part.asked)
        found = (await self._ended.look([job_id])).get(job_id)
        if found is None or not found.has_ended:
            return None if found is None else found.state
        answer, envelope = await self._ended.answer_of(found), await self._ended.envelope_of(found)
        if answer is None or envelope is None:
            return None
        if found.state is JobState.SUCCEEDED:
            return answer.body or b""
        return failure_of(Result(ResultHead.from_wire(found.head), answer.body), envelope)


def mark_of(batch: Batch, index: int) -> str:
    """What a part is called at its provider, where that keeps it."""
    return f"{batch.id}.{index}"


def _body_of(part: Part, mark: str, *, now: float, is_again: bool) -> dict[str, Any]:
    match part.step:
        case PartStep.POLL:
            is_new = now < part.since + _NEW_SECONDS
            return {
                "step": part.step, "id": part.batch, "mark": mark, "since": part.since, "is_new": is_new
            }  # fmt: skip
        case PartStep.CANCEL:
            return {"step": part.step, "id": part.batch}
        case PartStep.FETCH:
            return {"step": part.step, "results": part.results}
    known = {"mark": mark, "requests": part.requests, "since": part.since, "others": part.others}
    if part.step is PartStep.FIND:
        return {"step": part.step, **known}
    return {
        "step": part.step,
        "key": part.requests_key,
        "endpoint": part.endpoint,
        "headers": part.headers,
        "again": is_again or part.tries > 0 or bool(part.others),
        **known,
    }


def after_answer(
    part: Part, answer: bytes, mark: str, settings: BatchSettings, *, now: float, is_stopping: bool
) -> Part:
    """What follows. Raises ValueError, KeyError or TypeError for what is no answer."""
    if part.step is PartStep.FETCH:
        return part.to(PartStep.MAP, results_key=orjson.loads(answer)["key"])
    if answer == b"null":
        # It never was created.
        return part.to(PartStep.CLOSE)
    told = Told.from_wire(answer)
    if part.batch is None:
        certain = told.mark == mark
        part = replace(part, batch=told.id, is_certain=certain, code=None, problem=None)
    if told.state is BatchState.ENDED:
        return part.to(PartStep.FETCH if told.results else PartStep.CLOSE, results=told.results)
    if told.state is BatchState.FAILED:
        return part.to(PartStep.CLOSE, code="provider_batch_failed", problem=told.problem)
    pause = settings.provider_poll_seconds
    if is_stopping:
        pause = min(pause, _STOPPING_POLL_SECONDS)
    is_cancelled = part.is_cancelled or part.step is PartStep.CANCEL
    return part.to(PartStep.POLL, due_at=now + pause, is_cancelled=is_cancelled)


def after_failure(
    part: Part, error: BrokerError, execution: str, settings: BatchSettings, *, now: float, is_stopping: bool
) -> Part:
    """The same step again, later; unless nothing comes of it."""
    tries = part.tries + 1
    if part.step is PartStep.SUBMIT:
        if _is_final(error):
            return part.to(PartStep.CLOSE, code=error.code, problem=error.message)
        if is_stopping or (execution == Execution.AUTO and tries >= _SUBMISSIONS):
            # The last try may have come through unheard: lines are no jobs before that is known.
            return part.to(PartStep.FIND, code=error.code, problem=error.message)
    if part.step is PartStep.FETCH and error.status == _GONE:
        return part.to(PartStep.CLOSE, code=error.code, problem=error.message)
    pause = min(_LONGEST_PAUSE_SECONDS, settings.provider_poll_seconds * 2 ** min(tries - 1, 10))
    if is_stopping:
        pause = min(pause, _STOPPING_POLL_SECONDS)
    return replace(part, is_asked=False, tries=tries, due_at=now + pause)


def stopped(part: Part, settings: BatchSettings, *, now: float, stopped_at: float) -> Part:
    """Of one that is to end early and of which no step is under way."""
    if is_given_up(stopped_at, settings, now=now):
        return part.to(PartStep.CLOSE)
    if part.step is PartStep.SUBMIT:
        return part.to(PartStep.FIND if part.asked else PartStep.CLOSE)
    # One that only looks like ours may be somebody else's: it is waited for, and left alone.
    if part.step is PartStep.POLL and part.is_certain and not part.is_cancelled:
        return part.to(PartStep.CANCEL)
    return part


def is_given_up(stopped_at: float, settings: BatchSettings, *, now: float) -> bool:
    """Whether its provider was waited for long enough."""
    return now > stopped_at + settings.provider_cancel_seconds


def _is_final(error: BrokerError) -> bool:
    return error.code in _NO_USE or (400 <= error.status < 500 and error.status not in _PASSING)
