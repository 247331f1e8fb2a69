"""What became of a job with a row goes from Redis into the database, and only then may leave Redis.

    ended stream ── ids ──> what Redis says of them ──> rows, one commit ──> entries deleted

The row is the truth from then on: it never changes, whatever a second run of the job may say. Dying
before the entries are deleted has them read again, and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from loguru import logger
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.rounds import OnRound, unheard
from shared import faultpoints
from shared.batches.answers import answer_of
from shared.clock import Clock, SystemClock
from shared.db.engine import DATABASE_ERRORS, writing
from shared.db.repositories import batch_lines
from shared.db.repositories.batch_lines import LineEnd
from shared.db.repositories.jobs import EndedJob
from shared.domain.batch import read_row
from shared.domain.job import OWN_ROW, JobState
from shared.domain.usage import Outcome
from shared.ids import JobId
from shared.queue.ended import EndedEntry, EndedJobs, InRedis
from shared.queue.frames import Result, ResultHead
from shared.webhooks.ended_jobs import end_jobs

_BLOCK_MS: Final = 500
_CHUNK_BYTES: Final = 16 * 1024 * 1024
_CHUNK: Final = 100


class Keeper:
    """`ended` waits on a link of its own. `on_lines`: hears that lines of batches were kept."""

    def __init__(
        self,
        ended: EndedJobs,
        database: AsyncEngine,
        *,
        clock: Clock | None = None,
        on_lines: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_lines = on_lines
        self._ended = ended
        self._database = database
        self._clock = clock or SystemClock()

    async def keep_next(self, *, block_ms: int = _BLOCK_MS) -> int:
        """How many entries were taken off the streams. Raises what Redis and the database raise."""
        entries = {entry.job_id: entry for entry in await self._ended.next(block_ms=block_ms)}
        if not entries:
            return 0
        found = await self._ended.look(list(entries))
        ended = [job for job in found.values() if job.has_ended]
        await self.keep(ended, entries)
        # Gone from Redis by now, or run anew: who looks for lost jobs will find them.
        known = {job.id for job in ended}
        await asyncio.gather(*(self._ended.kept(i, entry) for i, entry in entries.items() if i not in known))
        return len(entries)

    async def keep(self, ended: Iterable[InRedis], entries: Mapping[JobId, EndedEntry] | None = None) -> None:
        """Jobs that Redis says have ended, whether or not they have an entry."""
        for chunk in _chunks(ended):
            await self._write(chunk)
            faultpoints.hit("S3")
            await asyncio.gather(*(self._ended.kept(job.id, (entries or {}).get(job.id)) for job in chunk))

    async def end_lost(self, ids: Sequence[JobId], state: JobState, *, at: datetime) -> None:
        """Jobs that Redis does not have and that will not be run any more."""
        head = ResultHead(Outcome(state.value), status=504 if state is JobState.EXPIRED else 409)
        await self._end([EndedJob(job_id, state, head.to_wire(), None, None, at) for job_id in ids])

    async def _write(self, chunk: Sequence[InRedis]) -> None:
        own = [job for job in chunk if job.row in {None, OWN_ROW}]
        of_lines = [job for job in chunk if job.row not in {None, OWN_ROW}]
        answers = await asyncio.gather(*(self._ended.answer_of(job) for job in own))
        lines = await asyncio.gather(*(self._line(job) for job in of_lines))
        now = self._clock.now()
        await self._end(
            [
                EndedJob(job.id, job.state, job.head, answer.body, answer.events, job.finished_at or now)
                for job, answer in zip(own, answers, strict=True)
                # What Redis lost this moment is run again.
                if answer is not None
            ],
            [line for line in lines if line is not None],
        )
        if of_lines:
            self._on_lines()

    async def _line(self, job: InRedis) -> LineEnd | None:
        answer, envelope = await asyncio.gather(self._ended.answer_of(job), self._ended.envelope_of(job))
        if answer is None or envelope is None:
            return None
        batch, ordinal = read_row(job.row or "")
        head = ResultHead.from_wire(job.head)
        state, status, result = answer_of(envelope, job.state, Result(head, answer.body))
        return LineEnd(
            batch=batch,
            ordinal=ordinal,
            state=state,
            status_code=status,
            result=result,
            at=job.finished_at or self._clock.now(),
            prompt_tokens=head.prompt_tokens,
            completion_tokens=head.completion_tokens,
        )

    async def _end(self, ended: Sequence[EndedJob], lines: Sequence[LineEnd] = ()) -> None:
        async with writing(self._database) as connection:
            await end_jobs(connection, ended)
            await batch_lines.end(connection, lines)


def _chunks(ended: Iterable[InRedis]) -> Iterator[list[InRedis]]:
    """So that what is held at once stays small, however large the answers are."""
    chunk: list[InRedis] = []
    size = 0
    for job in ended:
        if chunk and (len(chunk) == _CHUNK or size + job.body_bytes > _CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(job)
        size += job.body_bytes
    if chunk:
        yield chunk


async def keep_results(keeper: Keeper, on_round: OnRound = unheard) -> None:
    """For ever. While the database is away Redis keeps what it has."""
    failures = 0
    while True:
        try:
            await keeper.keep_next()
            failures = 0
            on_round(True)
        except (RedisError, *DATABASE_ERRORS) as exc:
            failures += 1
            on_round(False)
            if failures == 1 or failures % 20 == 0:
                logger.warning("results not kept", error=type(exc).__name__, failures=failures)
            await asyncio.sleep(min(5.0, 0.1 * 2 ** min(failures, 6)))
