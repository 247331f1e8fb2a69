"""Whether a provider's own batch API can run a batch: all its lines go to one provider that has one."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.batches.input_file import input_of, lines_at
from scheduler.batches.line_jobs import job_of_line
from scheduler.batches.means import Means
from scheduler.batches.principals import Principals
from scheduler.hand_over.requests import BatchRequest, request_of
from scheduler.hand_over.reserve import without_calls
from shared.batches.faults import Fault
from shared.batches.handed_over import HandedOver, Phase
from shared.clock import Clock
from shared.db.repositories import batch_lines
from shared.db.repositories.batches import Batch
from shared.domain.batch import read_row
from shared.domain.job import Job
from shared.errors import Overloaded
from shared.limits.admission import Admission
from shared.settings import Settings
from shared.storage.objects import NoSuchObject, Storage

MAX_GROUPS: Final = 64
"""Batches of the provider that are written at once."""
_PAGE: Final = 500
_AT_ONCE: Final = 25


@dataclass(slots=True)
class _Seen:
    """`account`: provider and credential of all lines so far."""

    account: tuple[str, str] | None = None
    groups: set[Hashable] = field(default_factory=set)


class Surveyor:
    def __init__(
        self,
        storage: Storage,
        database: AsyncEngine,
        admission: Admission,
        means: Means,
        principals: Principals,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._database = database
        self._admission = admission
        self._means = means
        self._principals = principals
        self._settings = settings
        self._clock = clock

    async def look(self, batch: Batch) -> HandedOver | Fault | None:
        """How to begin, or why not; None where nothing of it will run anyway.

        Raises Overloaded where that is not known yet, StorageUnavailable, and what the database raises.
        """
        if not self._means.is_ready:
            raise Overloaded("It is not known yet which providers there are.")
        principal = await self._principals.of(batch)
        file = await input_of(self._database, batch, self._clock)
        if principal is None or file is None:
            return None
        seen = _Seen()
        rules = without_calls(self._admission.rules_of(principal, older_route=False))
        after = 0
        while True:
            async with self._database.connect() as connection:
                places = await batch_lines.pending(connection, batch.id, after=after, limit=_PAGE)
            if not places:
                break
            after = places[-1].ordinal
            longest = self._settings.api.max_body_bytes
            reading = lines_at(self._storage, file.storage_key, places, longest=longest)
            try:
                async with aclosing(reading) as lines:
                    async for place, text in lines:
                        if place.ordinal % _AT_ONCE == 0:
                            await asyncio.sleep(0)
                        made = job_of_line(
                            batch,
                            principal,
                            self._means,
                            place,
                            text,
                            budget_ms=1,
                            admission=self._admission,
                            rules=rules,
                        )
                        if isinstance(made, float):
                            raise Overloaded("Its provider takes nothing now.", retry_after_seconds=made)
                        # What is wrong with a line by itself is told of that line.
                        if isinstance(made, Fault):
                            continue
                        if (fault := self._note(seen, *made)) is not None:
                            return fault
            except NoSuchObject:
                return None
        if seen.account is None:
            return None
        return HandedOver(Phase.RESERVING, *seen.account, held=rules.holds)

    def _note(self, seen: _Seen, job: Job, document: dict[str, Any]) -> Fault | None:
        target, (_, ordinal) = job.plan[0], read_row(job.row or "")
        profile = self._means.registry.get(target.provider)
        if profile.batches is None:
            message = f"{profile.name} has no batch API that is spoken here."
            return Fault("no_provider_batch", message, "execution", ordinal)
        account = (target.provider, target.credential)
        if seen.account not in {None, account}:
            message = "The requests of this batch go to more than one provider."
            return Fault("mixed_providers", message, "execution", ordinal)
        seen.account = account
        request = request_of(job, document, target, profile)
        if request is None:
            message = f"The batch API of {profile.name} does not serve such a request."
            return Fault("no_provider_batch", message, "execution", ordinal)
        if isinstance(request, BatchRequest):
            seen.groups.add(request.group)
        if len(seen.groups) > MAX_GROUPS:
            message = f"{profile.name} would need more than {MAX_GROUPS} batches, as each has one model."
            return Fault("mixed_models", message, "execution", ordinal)
        return None
