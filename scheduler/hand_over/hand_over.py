"""A batch that a provider's own batch API runs goes on, a step at a time, until what is left are jobs.

Whatever changes is written to its row by one transaction that names the version it comes from: of several
schedulers that do the same step, the others stop there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from scheduler.hand_over.build import Builder
from scheduler.hand_over.reserve import Reserver
from scheduler.hand_over.settle import Left, Settler
from scheduler.hand_over.steps import Steps, after_answer, after_failure, is_given_up, mark_of, stopped
from shared import faultpoints
from shared.batches.faults import Fault
from shared.batches.handed_over import Execution, HandedOver, Part, PartStep, Phase
from shared.clock import Clock
from shared.db.engine import writing
from shared.db.repositories import batch_lines, batches
from shared.db.repositories.batch_lines import LineEnd
from shared.db.repositories.batches import Batch
from shared.domain.batch import LineState
from shared.domain.job import JobState
from shared.domain.principal import Principal
from shared.errors import BrokerError
from shared.files import delete_object
from shared.settings import Settings
from shared.storage.objects import NoSuchObject, Storage

_CHUNK: Final = 500


class SomebodyElse(Exception):
    """Another scheduler was there first."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """One a process."""

    database: AsyncEngine
    storage: Storage
    reserver: Reserver
    builder: Builder
    steps: Steps
    settler: Settler
    settings: Settings
    clock: Clock

    async def go_on(self, batch: Batch, principal: Principal | None, *, is_stopping: bool) -> float | None:
        """In how many seconds the next step is due; None once it is over: what is left of its lines is for
        whoever runs or ends lines.

        Raises what Redis, the database and the storage raise, and Overloaded.
        """
        if batch.handed_over is None:
            return None
        handed = HandedOver.of(batch.handed_over)
        if not handed.is_on:
            return None
        try:
            if is_stopping and handed.stopped_at is None:
                handed = await self._write(batch, replace(handed, stopped_at=self._now()))
            if handed.phase is Phase.RUNNING:
                return await self._go_on_running(batch, handed)
            if is_stopping or principal is None:
                await self._end(batch, handed)
                return None
            if handed.phase is Phase.RESERVING:
                return await self._reserve(batch, handed, principal)
            return await self._build(batch, handed, principal)
        except SomebodyElse:
            return self.settings.batches.look_seconds

    async def _reserve(self, batch: Batch, handed: HandedOver, principal: Principal) -> float:
        pause = await self.reserver.reserve(batch, principal)
        if pause is not None:
            return pause
        await self._write(batch, replace(handed, phase=Phase.BUILDING))
        return 0.0

    async def _build(self, batch: Batch, handed: HandedOver, principal: Principal) -> float | None:
        built = await self.builder.build(batch, handed, principal)
        running = replace(handed, phase=Phase.RUNNING, parts=tuple(built.parts))
        fault = Fault("no_provider_batch", "This request does not go to the provider of its batch any more.")
        gone = [end.ordinal for end in built.failed]
        await self._give_back(batch, handed, [*gone, *built.left])
        async with writing(self.database) as connection:
            await self._write_in(connection, batch, running)
            await batch_lines.end(connection, built.failed)
            await self._leave(connection, batch, built.left, [fault] * len(built.left))
        logger.info(
            "batch handed over",
            batch_id=batch.id,
            provider=handed.provider,
            parts=len(built.parts),
            requests=sum(part.requests for part in built.parts),
        )
        return 0.0

    async def _go_on_running(self, batch: Batch, handed: HandedOver) -> float | None:
        if all(part.step is PartStep.DONE for part in handed.parts):
            await self._end(batch, handed)
            return None
        for index in range(len(handed.parts)):
            handed = await self._go_on_part(batch, handed, index)
        is_ours_to_do = any(part.step in {PartStep.MAP, PartStep.CLOSE} for part in handed.parts)
        return 0.0 if is_ours_to_do else self.settings.batches.look_seconds

    async def _go_on_part(self, batch: Batch, handed: HandedOver, index: int) -> HandedOver:
        part = handed.parts[index]
        if part.step is PartStep.DONE:
            return handed
        if part.step in {PartStep.MAP, PartStep.CLOSE}:
            return await self._settle(batch, handed, index)
        if part.is_asked:
            onward = await self._after(batch, handed, index)
            if onward is None:
                return handed
            faultpoints.hit("S7")
            return await self._write(batch, handed.with_part(index, onward))
        if handed.stopped_at is not None:
            onward = stopped(part, self.settings.batches, now=self._now(), stopped_at=handed.stopped_at)
            if onward is not part:
                self._note_given_up(batch, handed, part, onward)
                return await self._write(batch, handed.with_part(index, onward))
        if part.due_at > self._now():
            return handed
        asked = replace(part, is_asked=True, asked=part.asked + 1, since=part.since or int(self._now()))
        handed = await self._write(batch, handed.with_part(index, asked))
        faultpoints.hit("S6")
        await self.steps.ask(batch, handed, index, now=self._now(), is_again=False)
        return handed

    async def _after(self, batch: Batch, handed: HandedOver, index: int) -> Part | None:
        """What follows once a step has ended; None until then."""
        part, now, is_stopping = handed.parts[index], self._now(), handed.stopped_at is not None
        said = await self.steps.look(batch, index, part)
        if (
            handed.stopped_at is not None
            and (said is None or isinstance(said, JobState))
            and is_given_up(handed.stopped_at, self.settings.batches, now=now)
        ):
            await self.steps.call_off(batch, index, part)
            onward = part.to(PartStep.CLOSE)
            self._note_given_up(batch, handed, part, onward)
            return onward
        if said is None and is_stopping and part.step is PartStep.SUBMIT:
            return part.to(PartStep.FIND)
        if said is None:
            # Never queued, or lost: the same step again, under its id.
            await self.steps.ask(batch, handed, index, now=now, is_again=True)
            return None
        if isinstance(said, JobState):
            if is_stopping and part.step is PartStep.SUBMIT and said is JobState.QUEUED:
                await self.steps.call_off(batch, index, part)
            return None
        settings = self.settings.batches
        if isinstance(said, bytes):
            try:
                mark = mark_of(batch, index)
                return after_answer(part, said, mark, settings, now=now, is_stopping=is_stopping)
            except (ValueError, KeyError, TypeError):
                said = BrokerError("A worker's answer about a batch was not understood.")
        logger.warning(
            "step with a provider's batch failed",
            batch_id=batch.id,
            provider=handed.provider,
            step=part.step.value,
            tries=part.tries + 1,
            error=said.code,
            status=said.status,
        )
        return after_failure(part, said, batch.execution, settings, now=now, is_stopping=is_stopping)

    async def _settle(self, batch: Batch, handed: HandedOver, index: int) -> HandedOver:
        part, is_stopping = handed.parts[index], handed.stopped_at is not None
        try:
            left = await self.settler.settle(batch, part, handed.provider)
        except NoSuchObject:
            if part.results_key is not None and not await self._is_stored(part.results_key):
                return await self._write(
                    batch, handed.with_part(index, part.to(PartStep.FETCH, results_key=None))
                )
            # Its lines end with the hand-over: nobody can tell any more which they were.
            logger.error("jobs of a hand-over are gone", batch_id=batch.id)
            left = Left(is_ours=True)
        if part.results_key is not None and not part.is_certain and not left.is_ours:
            # It only looked like ours; ours was never created, or is another one.
            onward = _not_ours(part, is_stopping=is_stopping)
            written = await self._write(batch, handed.with_part(index, onward))
            await delete_object(self.storage, part.results_key)
            return written
        done = handed.with_part(index, part.to(PartStep.DONE))
        ordinals = [] if is_stopping else left.ordinals
        await self._give_back(batch, handed, ordinals)
        async with writing(self.database) as connection:
            written = await self._write_in(connection, batch, done)
            await self._leave(connection, batch, ordinals, [_fault_of(part, left, n) for n in ordinals], left)
        for key in part.keys:
            await delete_object(self.storage, key)
        return written

    async def _leave(
        self,
        connection: AsyncConnection,
        batch: Batch,
        ordinals: Sequence[int],
        faults: Sequence[Fault],
        left: Left | None = None,
    ) -> None:
        """Lines that the provider did not answer: jobs, where their batch may be run so; else they ended."""
        told = {} if left is None else left.told
        if batch.execution == Execution.AUTO:
            for first in range(0, len(ordinals), _CHUNK):
                await batch_lines.put_back(connection, batch.id, ordinals[first : first + _CHUNK])
            if ordinals:
                await batches.feed_again(connection, batch.id, behind=ordinals[0] - 1)
            return
        now = self.clock.now()
        ends = [
            LineEnd(batch.id, n, LineState.EXPIRED, None, None, at=now)
            if n in told and told[n].state is LineState.EXPIRED
            else LineEnd(batch.id, n, LineState.FAILED, None, fault.to_wire(), at=now)
            for n, fault in zip(ordinals, faults, strict=True)
        ]
        await batch_lines.end(connection, ends)

    async def _give_back(self, batch: Batch, handed: HandedOver, ordinals: Sequence[int]) -> None:
        if handed.held and ordinals:
            await self.reserver.release(batch, ordinals)

    async def _end(self, batch: Batch, handed: HandedOver) -> None:
        """What nobody answered is not reserved for any more: whoever runs it asks anew. A line that is still
        queued may have been answered and charged at the provider: it is never a job.
        """
        if handed.stopped_at is not None:
            if handed.held:
                await self.reserver.release_all(batch)
            await self._write(batch, replace(handed, phase=Phase.OVER))
            return
        lost: list[int] = []
        async with writing(self.database) as connection:
            # First: once it is over, what is queued are jobs.
            await self._write_in(connection, batch, replace(handed, phase=Phase.OVER))
            while page := await batch_lines.queued(connection, batch.id, after=0, limit=_CHUNK):
                lost += [place.ordinal for place in page]
                now = self.clock.now()
                ends = [(place.ordinal, _lost(place.ordinal).to_wire()) for place in page]
                await batch_lines.end(
                    connection,
                    [LineEnd(batch.id, n, LineState.FAILED, None, wire, at=now) for n, wire in ends],
                )
        await self._give_back(batch, handed, lost)

    async def _is_stored(self, key: str) -> bool:
        try:
            await self.storage.size(key)
        except NoSuchObject:
            return False
        return True

    async def _write(self, batch: Batch, handed: HandedOver) -> HandedOver:
        async with writing(self.database) as connection:
            return await self._write_in(connection, batch, handed)

    async def _write_in(self, connection: AsyncConnection, batch: Batch, handed: HandedOver) -> HandedOver:
        """Raises SomebodyElse, which takes the transaction back."""
        onward = replace(handed, version=handed.version + 1)
        if not await batches.hand_over(connection, batch.id, onward.to_fields(), version=handed.version):
            raise SomebodyElse
        return onward

    def _note_given_up(self, batch: Batch, handed: HandedOver, part: Part, onward: Part) -> None:
        if onward.step is PartStep.CLOSE and part.asked:
            logger.warning(
                "provider's batch not waited for any longer",
                batch_id=batch.id,
                provider=handed.provider,
                step=part.step.value,
            )

    def _now(self) -> float:
        return self.clock.now().timestamp()


def _not_ours(part: Part, *, is_stopping: bool) -> Part:
    others = (*part.others, part.batch or "")
    step = PartStep.FIND if is_stopping else PartStep.SUBMIT
    return part.to(step, others=others, batch=None, is_certain=True, results=(), results_key=None)


def _lost(ordinal: int) -> Fault:
    message = "What was handed over to the provider is not in the storage any more."
    return Fault("provider_batch_failed", message, None, ordinal)


def _fault_of(part: Part, left: Left, ordinal: int) -> Fault:
    told = left.told.get(ordinal)
    if told is not None and told.state is LineState.CANCELLED:
        return Fault("provider_batch_cancelled", "The batch was cancelled at its provider.", None, ordinal)
    if told is not None:
        return Fault(told.code, told.message or "The provider did not answer this request.", None, ordinal)
    message = part.problem or "The provider's batch ended without a word about this request."
    return Fault(part.code or "provider_batch_failed", message, None, ordinal)
