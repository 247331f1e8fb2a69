"""What a provider's batch brought becomes the ends of its lines, as if each had been a job.

    results ── a page: answers decoded, usage told to the ledger, rows ended ──> ... ──> what is left

The ledger hears of a line before its row ends: dying in between, it hears of it once more, which is the same
row there. A line that nobody answered is told to nobody here: it may be a job yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.batches.input_file import lines_at
from scheduler.batches.means import Means
from scheduler.hand_over.build import BETWEEN
from shared import faultpoints
from shared.batches.answers import answer_of
from shared.batches.handed_over import Part
from shared.clock import Clock
from shared.db.engine import writing
from shared.db.repositories import batch_lines
from shared.db.repositories.batch_lines import LineEnd, Place
from shared.db.repositories.batches import Batch
from shared.domain.batch import line_id_of, read_row
from shared.domain.job import DEFAULT_CREDENTIAL, Job, JobKind, JobState
from shared.domain.usage import Outcome, Settlement, Usage
from shared.errors import BrokerError
from shared.files import read_lines
from shared.ids import BatchId
from shared.providers import refusals
from shared.providers.batch_apis import Answered, BatchApi, NotAnswered
from shared.providers.dialect import Answer, Call
from shared.providers.profile import ProviderProfile
from shared.providers.tokens import tokens_of_body, tokens_of_chars
from shared.queue.frames import Result, ResultHead
from shared.queue.usage_stream import UsageStream
from shared.settings import Settings
from shared.storage.objects import Storage

_PAGE: Final = 100
_PAGE_BYTES: Final = 4 * 1024 * 1024
_AROUND_AN_ANSWER: Final = 4_096
_QUEUED_PAGE: Final = 5_000
_ANSWERED_WITHOUT_TOKENS: Final = frozenset({JobKind.EMBEDDINGS, JobKind.RERANK})


@dataclass(slots=True)
class Left:
    """Of a part: `ordinals` of lines that wait though nobody answered them, and what was said of some.

    `is_ours`: whether any result was of a line of it.
    """

    ordinals: list[int] = field(default_factory=list)
    told: dict[int, NotAnswered] = field(default_factory=dict)
    is_ours: bool = False


class Settler:
    def __init__(
        self,
        storage: Storage,
        database: AsyncEngine,
        usage: UsageStream,
        means: Means,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._database = database
        self._usage = usage
        self._means = means
        self._clock = clock
        self._longest = settings.provider.max_answer_bytes + _AROUND_AN_ANSWER
        self._longest_job = 2 * settings.api.max_body_bytes

    async def settle(self, batch: Batch, part: Part, provider: str) -> Left:
        """What there are results of; the rest is told. Raises NoSuchObject, StorageUnavailable, and what
        Redis and the database raise.
        """
        profile = self._means.registry.get(provider)
        places = await self._places(batch.id, part)
        waiting = await self._waiting(batch.id)
        left = Left()
        if part.results_key is not None and profile.batches is not None:
            await self._read(batch, part, profile, profile.batches, places, waiting, left)
        left.ordinals = sorted(place.ordinal for place in places.values() if place.ordinal in waiting)
        return left

    async def _read(
        self,
        batch: Batch,
        part: Part,
        profile: ProviderProfile,
        api: BatchApi,
        places: Mapping[str, Place],
        waiting: set[int],
        left: Left,
    ) -> None:
        page: dict[int, tuple[Place, Answered]] = {}
        size = 0
        reading = read_lines(self._storage, part.results_key or "", max_line_bytes=self._longest)
        async with aclosing(reading) as lines:
            async for line in lines:
                if line.data is not None and not line.data.strip():
                    continue
                try:
                    result = api.read_result(line.data or b"")
                except (ValueError, TypeError):
                    logger.warning("result of a batch not read", batch_id=batch.id, at=line.offset)
                    continue
                place = places.get(result.line)
                if place is None:
                    continue
                left.is_ours = True
                if place.ordinal not in waiting or place.ordinal in page:
                    continue  # ended before, or said twice
                if isinstance(result, NotAnswered):
                    left.told[place.ordinal] = result
                    continue
                page[place.ordinal] = place, result
                size += line.length
                if len(page) == _PAGE or size >= _PAGE_BYTES:
                    await self._end(batch, part, profile, page)
                    waiting.difference_update(page)
                    page, size = {}, 0
        await self._end(batch, part, profile, page)
        waiting.difference_update(page)

    async def _end(
        self,
        batch: Batch,
        part: Part,
        profile: ProviderProfile,
        page: Mapping[int, tuple[Place, Answered]],
    ) -> None:
        if not page:
            return
        settled: list[tuple[Job, Settlement]] = []
        ends: list[LineEnd] = []
        in_order = [page[ordinal][0] for ordinal in sorted(page)]
        reading = lines_at(self._storage, part.jobs_key, in_order, longest=self._longest_job)
        async with aclosing(reading) as lines:
            async for place, text in lines:
                header, _, body = text.partition(BETWEEN)
                job = Job.from_wire(header, body)
                settlement, end = self._settled(batch.id, job, profile, page[place.ordinal][1])
                settled.append((job, settlement))
                ends.append(end)
        await self._usage.tell(settled)
        faultpoints.hit("S8")
        async with writing(self._database) as connection:
            await batch_lines.end(connection, ends)

    def _settled(
        self, batch: BatchId, job: Job, profile: ProviderProfile, result: Answered
    ) -> tuple[Settlement, LineEnd]:
        target = job.target
        usage, body, error = Usage(), b"", None
        try:
            answer = _decoded(job, profile, result)
            usage, body = answer.usage or _estimate(job, answer), answer.body
        except BrokerError as exc:
            exc.details.setdefault("model", target.model)
            error = exc
        settlement = Settlement(
            outcome=Outcome.SUCCEEDED if error is None else Outcome.FAILED,
            provider=target.provider,
            model=target.model,
            usage=usage,
            cost_micro_usd=self._means.catalogue.batch_cost_micro_usd(target.provider, target.model, usage),
            attempts=1,
            deliveries=1,
            error=None if error is None else error.code,
            called=True,
        )
        head = ResultHead(
            outcome=settlement.outcome,
            status=200 if error is None else error.status,
            provider=target.provider,
            model=target.model,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            attempts=1,
            error=None if error is None else error.to_fields(),
        )
        ended_as = JobState.SUCCEEDED if error is None else JobState.FAILED
        state, status, told = answer_of(job, ended_as, Result(head, body))
        _, ordinal = read_row(job.row or "")
        return settlement, LineEnd(
            batch=batch,
            ordinal=ordinal,
            state=state,
            status_code=status,
            result=told,
            at=self._clock.now(),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
        )

    async def _places(self, batch: BatchId, part: Part) -> dict[str, Place]:
        """Where in its file the job of each line is, by what the line is called at the provider."""
        found: dict[str, Place] = {}
        reading = read_lines(self._storage, part.jobs_key, max_line_bytes=self._longest_job)
        async with aclosing(reading) as lines:
            async for line in lines:
                header = (line.data or b"").partition(BETWEEN)[0]
                _, ordinal = read_row(Job.from_wire(header, b"").row or "")
                found[line_id_of(batch, ordinal)] = Place(ordinal, line.offset, line.length)
        return found

    async def _waiting(self, batch: BatchId) -> set[int]:
        found: set[int] = set()
        after = 0
        while True:
            async with self._database.connect() as connection:
                page = await batch_lines.queued(connection, batch, after=after, limit=_QUEUED_PAGE)
            if not page:
                return found
            after = page[-1].ordinal
            found.update(place.ordinal for place in page)


def _decoded(job: Job, profile: ProviderProfile, result: Answered) -> Answer:
    """Raises BrokerError."""
    if result.status != 200:
        whose = refusals.OURS if job.target.credential == DEFAULT_CREDENTIAL else refusals.THE_ACCOUNTS
        raise refusals.from_http(result.status, {}, result.body, profile=profile, whose=whose)
    call = Call(job.body, job.target, profile, False, job.include_usage, job.id)
    return profile.codec(job.kind).decode(result.body, call)


def _estimate(job: Job, answer: Answer) -> Usage:
    completion = 0 if job.kind in _ANSWERED_WITHOUT_TOKENS else tokens_of_chars(answer.text_chars)
    prompt = tokens_of_body(job.kind, job.body, job.target.model)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, estimated=True)
