"""What can be asked of any provider beside running a job: its health, costs, limits and quota.

Functions of a profile and of what workers stored, so all ten have them and none has code of its
own. Running a job is `submit` (api/submit.py) on one side and `call_provider` (workers/) on the
other; tokens are estimated by `prompt_tokens` (tokens.py), errors transformed by `refusals`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import orjson

from shared.domain.job import JobKind
from shared.domain.usage import Usage
from shared.providers.cache_marks import highest_cost
from shared.providers.catalogue import Catalogue
from shared.providers.model_lists import HealthRecord, ProviderStatus
from shared.providers.profile import ProviderProfile
from shared.providers.tokens import prompt_tokens

_NOTHING_GENERATED: Final = frozenset({JobKind.EMBEDDINGS, JobKind.RERANK, JobKind.COUNT_TOKENS})
_LIMITS_OF_ANSWERS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens", "max_length")
_NEARLY_SPENT: Final = 0.1


@dataclass(frozen=True, slots=True)
class Health:
    """`error`: the code of what went wrong when it was last asked."""

    status: ProviderStatus
    latency_ms: int | None = None
    checked_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a request that was not sent.

    low_micro_usd: with an empty answer; high_micro_usd: with the longest, None when nothing bounds it
    known: whether the price is known; both are 0 when it is not
    """

    prompt_tokens: int
    max_completion_tokens: int | None
    low_micro_usd: int
    high_micro_usd: int | None
    known: bool
    note: str | None = None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One allowance of ours at a provider; None where it did not say."""

    name: str
    limit: int | None
    remaining: int | None
    reset_at: datetime | None


class QuotaState(StrEnum):
    AVAILABLE = "available"
    LOW = "low"
    """A tenth or less is left of some allowance."""
    EXHAUSTED = "exhausted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Quota:
    """`resets_at`: when the allowance that decided the state is full again."""

    state: QuotaState
    resets_at: datetime | None = None


def health(profile: ProviderProfile, record: HealthRecord | None, *, served: bool) -> Health:
    """`served`: whether some worker serves it; without one nobody can be answered."""
    if not profile.base_url:
        return Health(ProviderStatus.OFFLINE, error="no_address")
    if not served:
        return Health(ProviderStatus.OFFLINE, error="no_worker")
    if record is None:
        return Health(ProviderStatus.UNKNOWN)
    checked_at = datetime.fromtimestamp(record.checked_at, UTC)
    return Health(record.status, record.latency_ms, checked_at, record.error)


def estimate_cost(
    profile: ProviderProfile, model: str, kind: JobKind, document: Mapping[str, Any], catalogue: Catalogue
) -> Cost:
    """Of `document`, a request in the form of `kind`; the provider is not asked."""
    prompt = prompt_tokens(kind, document, model)
    answer = _longest_answer(profile, model, kind, document, catalogue, prompt)
    known = catalogue.of_provider(profile.id, model)
    prices = catalogue.prices(profile.id, model)
    note = known.note if known is not None else None
    if prices is None or kind is JobKind.COUNT_TOKENS:
        return Cost(prompt, answer, 0, 0, known=kind is JobKind.COUNT_TOKENS, note=note)
    low = prices.cost_micro_usd(Usage(prompt_tokens=prompt))
    high = None if answer is None else highest_cost(prices, prompt, answer, document)
    return Cost(prompt, answer, low, high, known=True, note=note)


def rate_limits(profile: ProviderProfile, stored: bytes | None) -> list[RateLimit]:
    """What the provider's last answer said of our allowances, from `hr:limits:<provider>`:
    `{"requests": {"limit", "remaining", "reset_at"}, "tokens": ...}`.
    """
    told = orjson.loads(stored) if stored else {}
    return [
        RateLimit(name, _count(fields, "limit"), _count(fields, "remaining"), _moment(fields.get("reset_at")))
        for name, fields in (told.items() if isinstance(told, dict) else ())
        if isinstance(fields, dict)
    ]


def quota(profile: ProviderProfile, limits: list[RateLimit], now: datetime) -> Quota:
    """How much may still be asked; an allowance that was reset since it was told counts as full."""
    states = [(_state_of(limit), limit.reset_at) for limit in limits if not _was_reset(limit, now)]
    for state in (QuotaState.EXHAUSTED, QuotaState.LOW, QuotaState.AVAILABLE):
        resets = [at for found, at in states if found is state]
        if resets:
            return Quota(state, max((at for at in resets if at is not None), default=None))
    return Quota(QuotaState.AVAILABLE if limits else QuotaState.UNKNOWN)


def _longest_answer(
    profile: ProviderProfile,
    model: str,
    kind: JobKind,
    document: Mapping[str, Any],
    catalogue: Catalogue,
    prompt: int,
) -> int | None:
    if kind in _NOTHING_GENERATED:
        return 0
    known = catalogue.of_provider(profile.id, model) or catalogue.lists(profile.id, model)
    bounds = [n for name in _LIMITS_OF_ANSWERS if type(n := document.get(name)) is int and n >= 0][:1]
    if known is not None and known.max_output_tokens:
        bounds.append(known.max_output_tokens)
    if known is not None and known.context_tokens:
        bounds.append(max(0, known.context_tokens - prompt))
    copies = document.get("n")
    return min(bounds) * (copies if type(copies) is int and copies > 0 else 1) if bounds else None


def _state_of(limit: RateLimit) -> QuotaState:
    if limit.remaining is None:
        return QuotaState.UNKNOWN
    if limit.remaining <= 0:
        return QuotaState.EXHAUSTED
    if limit.limit and limit.remaining <= limit.limit * _NEARLY_SPENT:
        return QuotaState.LOW
    return QuotaState.AVAILABLE


def _was_reset(limit: RateLimit, now: datetime) -> bool:
    return limit.reset_at is not None and limit.reset_at <= now


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    return int(value) if isinstance(value, int | float) else None


def _moment(value: Any) -> datetime | None:
    """Seconds since the epoch, or RFC 3339."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
