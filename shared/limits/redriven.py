"""A dead job that is run again counts like any other, so that counts and ledger agree on what it cost.

Whatever the limits say, for an operator asked; and only under allowances that are counted at present,
as whoever runs it again may have no database to read the others from. Those begin with the ledger's rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from shared.domain.allowance import Scope
from shared.domain.job import Job
from shared.limits.estimates import estimate_of
from shared.limits.reservations import Mode, Reservations, Unknown
from shared.limits.rules import ONLY_COUNTED, Rule, RuleSet
from shared.providers.catalogue import Catalogue
from shared.settings import Settings

_CALENDAR = ("d", "m", "s")


@dataclass(frozen=True, slots=True)
class RedrivenCounts:
    """See `shared.queue.dead_letters.Counts`."""

    reservations: Reservations
    catalogue: Catalogue
    settings: Settings

    async def note(self, job: Job) -> bool:
        limits = self.settings.limits
        estimate = estimate_of(
            job.plan,
            job.kind,
            orjson.loads(job.body),
            len(job.body),
            catalogue=self.catalogue,
            default_answer=limits.default_completion_tokens,
        )
        names = {Scope.KEY: job.api_key, Scope.USER: job.user, Scope.ACCOUNT: job.account}
        rules = [
            Rule(scope, f"{scope}:{name}", kind, ONLY_COUNTED)
            for scope, name in names.items()
            if name
            for kind in _CALENDAR
        ]
        while rules:
            answer = await self.reservations.reserve(
                job.account,
                job.id,
                RuleSet(rules),
                tokens=0,
                micro_usd=estimate.micro_usd,
                lapse_ms=job.budget_ms + int(limits.hold_seconds * 1000),
                mode=Mode.NOTE,
            )
            if not isinstance(answer, Unknown):
                return True
            rules = [rule for rule in rules if rule.subject != answer.subject]
        return False

    async def take_back(self, job: Job) -> None:
        await self.reservations.release(job.account, job.id)
