"""The input of a batch becomes rows, in pages: with each page is committed how far it was read.

A process that dies in between leaves whole pages and a place to go on from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.batches import ending
from scheduler.batches.input_file import input_of
from shared import faultpoints
from shared.batches.faults import MAX_TOLD, Fault
from shared.batches.handed_over import Execution, HandedOver, Phase
from shared.batches.lines import BadLine, LineRequest, duplicate, parse_line, refused
from shared.batches.requests import ENDPOINTS, check_request
from shared.clock import Clock
from shared.db.engine import writing
from shared.db.repositories import batch_lines, batches
from shared.db.repositories.batch_lines import NewLine
from shared.db.repositories.batches import Batch
from shared.db.repositories.files import File
from shared.domain.batch import BatchForm, BatchStatus, LineState
from shared.errors import BrokerError
from shared.files import Line, read_lines
from shared.settings import Settings
from shared.storage.objects import NoSuchObject, Storage

_PAGE: Final = 500
_PAGE_LINES: Final = 20_000
"""Empty ones too."""
_AT_ONCE: Final = 25
"""Lines that are judged before others of this process have their turn."""


@dataclass(slots=True)
class _Page:
    """`lines`: where each is, and what was asked or what is wrong."""

    lines: list[tuple[int, Line, str | None, Fault | None]] = field(default_factory=list)
    read: int = 0
    end: int = 0
    models: set[str] = field(default_factory=set)


Survey = Callable[[Batch], Awaitable[HandedOver | Fault | None]]
"""Whether and how a provider's own batch API can run a batch; None where there is nothing to run."""


class Checker:
    def __init__(
        self,
        storage: Storage,
        database: AsyncEngine,
        settings: Settings,
        clock: Clock,
        *,
        survey: Survey | None = None,
    ) -> None:
        """`survey`: for batches whose creator wished that their provider runs them."""
        self._survey = survey
        self._storage = storage
        self._database = database
        self._settings = settings
        self._clock = clock

    async def check(self, batch: Batch) -> None:
        """To the end of its input. Raises StorageUnavailable, and what the database raises."""
        file = await input_of(self._database, batch, self._clock)
        if file is None:
            await self.fail(batch, [_gone()])
            return
        if not file.size_bytes:
            await self.fail(batch, [Fault("empty_file", "The input file is empty.")])
            return
        most = self._settings.storage.max_batch_input_bytes
        if file.size_bytes > most:
            await self.fail(batch, [Fault("file_too_large", f"The input may have {most} bytes at most.")])
            return
        try:
            checked = await self._read(batch, file)
        except NoSuchObject:
            await self.fail(batch, [_gone()])
            return
        if checked is not None:
            await self._judge(checked)

    async def read_rest(self, batch: Batch) -> bool:
        """Of one that was cancelled before all was read: each request is to be told how it ended. Whether
        there was more. Raises as `check` does.
        """
        file = await input_of(self._database, batch, self._clock)
        if file is None:
            return False
        try:
            read = await self._read(batch, file)
        except NoSuchObject:
            return False
        return read is None or read.total > batch.total

    async def fail(self, batch: Batch, faults: list[Fault]) -> None:
        """All of it: nothing of it runs."""
        async with writing(self._database) as connection:
            failed = await ending.end(
                connection,
                batch,
                BatchStatus.FAILED,
                at=self._clock.now(),
                errors=[fault.to_fields() for fault in faults[:MAX_TOLD]],
                failed=batches.TOTAL,
            )
        if failed:
            logger.info("batch failed", batch_id=batch.id, code=faults[0].code)
        done = _PAGE
        while done == _PAGE:
            async with writing(self._database) as connection:
                done = await batch_lines.remove_of(connection, batch.id, limit=_PAGE)

    async def _read(self, batch: Batch, file: File) -> Batch | None:
        """As it stands when all is read; None where it is somebody else's by now, or failed."""
        endpoints = (batch.endpoint,) if batch.endpoint else ENDPOINTS
        page = _Page(read=batch.checked_lines, end=batch.checked_bytes)
        longest = self._settings.api.max_body_bytes
        reading = read_lines(self._storage, file.storage_key, batch.checked_bytes, max_line_bytes=longest)
        # Where it was left off is the end of a line that was read.
        is_rest = batch.checked_bytes > 0
        async with aclosing(reading) as lines:
            async for line in lines:
                if is_rest:
                    is_rest = False
                    continue
                page.read += 1
                page.end = line.offset + line.length
                if line.data is None or line.data.strip():
                    page.lines.append(_judged(page, line, endpoints))
                if page.read % _AT_ONCE == 0:
                    await asyncio.sleep(0)
                if len(page.lines) == _PAGE or page.read - batch.checked_lines == _PAGE_LINES:
                    kept = await self._keep(batch, page)
                    if kept is None:
                        return None
                    batch, page = kept, _Page(read=page.read, end=page.end)
        return await self._keep(batch, page) if page.read > batch.checked_lines else batch

    async def _keep(self, batch: Batch, page: _Page) -> Batch | None:
        most = self._settings.batches.max_lines
        # Of one that is cancelled each request is told how it ended, however many may be in one by now.
        if batch.status is BatchStatus.VALIDATING and batch.total + len(page.lines) > most:
            fault = Fault("too_many_requests", f"A batch may have {most} requests at most.")
            await self.fail(batch, [fault])
            return None
        models = page.models | ({batch.model} if batch.model else set())
        model = models.pop() if len(models) == 1 and (batch.model or not batch.total) else None
        async with writing(self._database) as connection:
            # First: it is what keeps others from adding the same lines.
            is_ours = await batches.checked(
                connection,
                batch,
                lines_read=page.read,
                bytes_read=page.end,
                more=len(page.lines),
                model=model,
            )
            if not is_ours:
                return None
            ids = {custom_id for _, _, custom_id, _ in page.lines if custom_id is not None}
            taken = await batch_lines.taken(connection, batch.id, ids) if ids else set()
            new = _rows(page, taken)
            await batch_lines.add(connection, batch.id, new, at=self._clock.now())
        faultpoints.hit("S4")
        return replace(
            batch,
            checked_lines=page.read,
            checked_bytes=page.end,
            total=batch.total + len(page.lines),
            model=model,
        )

    async def _judge(self, batch: Batch) -> None:
        async with self._database.connect() as connection:
            counts = await batch_lines.counts(connection, batch.id)
            told = await batch_lines.faults(connection, batch.id, limit=MAX_TOLD)
        faults = [Fault.from_wire(wire) for wire in told]
        if not batch.total:
            faults = [Fault("empty_file", "The input file has no requests.")]
        # The other forms tell of each request in the results, also where none of them is good.
        is_in_vain = not counts[LineState.PENDING] and (batch.form is BatchForm.OPENAI or not batch.total)
        if faults and (batch.is_strict or is_in_vain):
            await self.fail(batch, faults)
            return
        handed_over = None
        if batch.execution != Execution.LINES and self._survey is not None:
            found = await self._survey(batch)
            if isinstance(found, Fault) and batch.execution == Execution.PROVIDER:
                await self.fail(batch, [found])
                return
            if isinstance(found, Fault):
                found = HandedOver(Phase.OVER, why_not=found.code)
            handed_over = None if found is None else found.to_fields()
        async with writing(self._database) as connection:
            begun = await batches.change(
                connection,
                batch,
                BatchStatus.IN_PROGRESS,
                at=self._clock.now(),
                failed=counts[LineState.FAILED],
                handed_over=handed_over,
            )
        if begun:
            logger.info("batch begun", batch_id=batch.id, requests=batch.total)


def _judged(
    page: _Page, line: Line, endpoints: tuple[str, ...]
) -> tuple[int, Line, str | None, Fault | None]:
    said: LineRequest | BadLine = parse_line(line.data, ordinal=page.read, endpoints=endpoints)
    bare = replace(line, data=None)
    if isinstance(said, BadLine):
        return page.read, bare, said.custom_id, said.fault
    try:
        check_request(said.url, said.body)
    except BrokerError as exc:
        return page.read, bare, said.custom_id, refused(exc, ordinal=page.read)
    page.models.add(_model_of(said.body))
    return page.read, bare, said.custom_id, None


def _rows(page: _Page, taken: set[str]) -> list[NewLine]:
    rows = []
    for ordinal, line, custom_id, found in page.lines:
        name, fault = custom_id, found
        if name is not None and name in taken:
            # Once over all lines: a second one is told by its message alone.
            fault, name = duplicate(name, ordinal=ordinal), None
        elif name is not None:
            taken.add(name)
        result = None if fault is None else fault.to_wire()
        rows.append(NewLine(ordinal, name, line.offset, line.length, result))
    return rows


def _model_of(body: dict[str, Any]) -> str:
    return str(body["model"])


def _gone() -> Fault:
    return Fault("input_file_not_found", "The input file was deleted, or has expired.", "input_file_id")
