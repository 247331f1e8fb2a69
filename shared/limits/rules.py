"""What an allowance says, rule by rule, as the scripts count it.

    r<ms>  requests in any window of that length      d  requests of the day
    t<ms>  tokens in any such window                  m  requests of the month
    c      calls at once                              s  micro-dollars of the month

Who has a limit for a day or a month is counted for all three, so that a limit that comes later
finds its count.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from shared.domain.allowance import Allowance, Limits, Scope, Tier
from shared.domain.rate import Rate
from shared.money import MICRO_PER_USD
from shared.settings import Settings

ONLY_COUNTED: Final = -1
_MINUTE_MS: Final = 60_000
_CALENDAR: Final = ("d", "m", "s")


@dataclass(frozen=True, slots=True)
class Rule:
    """`subject`: the allowance as the scripts name it. `limit`: ONLY_COUNTED for none."""

    scope: Scope
    subject: str
    name: str
    limit: int
    window_ms: int = 0

    @property
    def kind(self) -> str:
        return self.name[0]

    @property
    def is_calendar(self) -> bool:
        return self.kind in _CALENDAR

    @property
    def is_budget(self) -> bool:
        """Of money, and not only counted."""
        return self.kind == "s" and self.limit != ONLY_COUNTED


class RuleSet:
    """What a caller is held to. `wire`: as the scripts read it; a rule's number counts from 1 in `rules`.

    holds: whether any rule needs to hear how the job ended; counts_calls: whether any is of calls at once
    budget: the first that limits what may be spent, if any does
    """

    __slots__ = ("budget", "calls", "counts_calls", "holds", "rules", "wire")

    def __init__(self, rules: Iterable[Rule]) -> None:
        by_subject: dict[str, list[Rule]] = {}
        for rule in rules:
            by_subject.setdefault(rule.subject, []).append(rule)
        self.rules = tuple(rule for of_subject in by_subject.values() for rule in of_subject)
        wire: list[str | int] = []
        for subject, of_subject in by_subject.items():
            wire += subject, len(of_subject)
            for rule in of_subject:
                wire += rule.name, rule.limit, rule.window_ms
        self.wire = json.dumps(wire, separators=(",", ":")).encode()
        self.holds = any(rule.kind != "r" for rule in self.rules)
        self.calls = tuple(dict.fromkeys(rule.subject for rule in self.rules if rule.kind == "c"))
        """Subjects whose calls at once are counted."""
        self.counts_calls = bool(self.calls)
        self.budget = next((rule for rule in self.rules if rule.is_budget), None)

    def __bool__(self) -> bool:
        return bool(self.rules)


def subject_of(allowance: Allowance) -> str:
    return f"{allowance.scope}:{allowance.id}"


@dataclass(frozen=True, slots=True)
class Policies:
    """What the tiers say.

    `inference`: of the older routes besides, where the tier has a rate
    """

    rates: Mapping[Tier, Rate]
    standard: Limits
    inference: Rate

    @classmethod
    def of(cls, settings: Settings) -> Policies:
        return cls(
            rates={
                Tier.STANDARD: Rate(settings.rate_limit_max, max(1, int(settings.rate_limit_window))),
                Tier.PAID: Rate.of(settings.limits.paid),
            },
            standard=Limits(
                daily_requests=settings.ai_quota_daily_limit or None,
                monthly_requests=settings.ai_quota_monthly_limit or None,
                monthly_spend_micro_usd=int(settings.ai_quota_monthly_spend_limit * MICRO_PER_USD) or None,
            ),
            inference=Rate.of(settings.limits.inference),
        )

    def rules(self, allowances: Iterable[Allowance], caller: str, *, older_route: bool) -> RuleSet:
        """`caller`: the key or session, which the rate of a tier is per.

        What an account of the standard tier has as its own limits takes the place of the tier's.
        """
        rules: list[Rule] = []
        for allowance in allowances:
            limits = allowance.limits
            if allowance.tier is Tier.STANDARD:
                limits = _completed(limits, self.standard)
            rules += _rules_of(allowance.scope, subject_of(allowance), limits)
            rate = self.rates.get(allowance.tier)
            if rate is not None and limits.window_requests is None:
                # Per key, yet a matter of the account's tier.
                subject = f"{Scope.KEY}:{caller}"
                rules.append(_rate(Scope.KEY, subject, rate))
                if older_route:
                    rules.append(_rate(Scope.KEY, f"{subject}:inference", self.inference))
        return RuleSet(rules)


def _rate(scope: Scope, subject: str, rate: Rate) -> Rule:
    window = rate.window_seconds * 1000
    return Rule(scope, subject, f"r{window}", rate.requests, window)


def _completed(own: Limits, tier: Limits) -> Limits:
    return replace(tier, **own.to_fields())


def _rules_of(scope: Scope, subject: str, limits: Limits) -> list[Rule]:
    rules = []
    if limits.requests_per_minute is not None:
        rules.append(Rule(scope, subject, f"r{_MINUTE_MS}", limits.requests_per_minute, _MINUTE_MS))
    if limits.window_requests is not None and limits.window_seconds is not None:
        rules.append(_rate(scope, subject, Rate(limits.window_requests, limits.window_seconds)))
    if limits.tokens_per_minute is not None:
        rules.append(Rule(scope, subject, f"t{_MINUTE_MS}", limits.tokens_per_minute, _MINUTE_MS))
    if limits.concurrent_requests is not None:
        rules.append(Rule(scope, subject, "c", limits.concurrent_requests))
    calendar = (limits.daily_requests, limits.monthly_requests, limits.monthly_spend_micro_usd)
    if any(limit is not None for limit in calendar):
        rules += [
            Rule(scope, subject, name, ONLY_COUNTED if limit is None else limit)
            for name, limit in zip(_CALENDAR, calendar, strict=True)
        ]
    return rules
