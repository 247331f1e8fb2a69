"""`GET /api/v1/quota`: what the caller may still use, and when there will be more of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from redis.exceptions import RedisError

from api.deps import authenticate, broker_of
from api.unified_v1.schemas import ErrorAnswer
from shared.clock import SystemClock
from shared.db.engine import DATABASE_ERRORS
from shared.domain.allowance import Scope
from shared.domain.roles import Permission
from shared.errors import Overloaded
from shared.ids import AccountId
from shared.limits.admission import Admission
from shared.limits.reservations import Counted, Unknown
from shared.limits.rules import ONLY_COUNTED, RuleSet
from shared.money import MICRO_PER_USD

router: Final = APIRouter(tags=["Account"])

Measure = Literal[
    "requests", "tokens", "concurrent_requests", "daily_requests", "monthly_requests", "monthly_spend_usd"
]
_MEASURES: Final[dict[str, Measure]] = {
    "r": "requests",
    "t": "tokens",
    "c": "concurrent_requests",
    "d": "daily_requests",
    "m": "monthly_requests",
    "s": "monthly_spend_usd",
}


class LimitStatus(BaseModel):
    """`limit`: null where it is only counted. `used` includes what is `reserved` by jobs that have not
    ended. `window_seconds`: of a sliding window. `resets_at`: when all of it is there again.
    """

    scope: Scope
    id: str
    measure: Measure
    limit: float | None
    used: float
    reserved: float
    remaining: float | None
    window_seconds: int | None
    resets_at: datetime


class QuotaStatus(BaseModel):
    """`allowed`: whether one more request of `estimate_usd` would be let through now."""

    allowed: bool
    reached: LimitStatus | None
    limits: list[LimitStatus]


@router.get(
    "/api/v1/quota",
    summary="What may still be used",
    responses={s: {"model": ErrorAnswer} for s in (401, 422, 503)},
)
async def quota(
    request: Request, estimate_usd: Annotated[float, Query(ge=0, le=1_000_000)] = 0.0
) -> QuotaStatus:
    """Of the key or session that asks, its user and its account. Without limits the list is empty.
    Asking counts as nothing.
    """
    via = broker_of(request)
    principal = await authenticate(request, via, Permission.USAGE_READ)
    rules = via.admission.rules_of(principal, older_route=False)
    counted = await _counted(via.admission, principal.account, rules)
    now = SystemClock().now()
    limits = [_status(one, now) for one in counted]
    costs = {"s": estimate_usd, "t": 1}
    reached = next(
        (
            status
            for one, status in zip(counted, limits, strict=True)
            if status.remaining is not None and status.remaining < costs.get(one.rule.kind, 1)
        ),
        None,
    )
    return QuotaStatus(allowed=reached is None, reached=reached, limits=limits)


async def _counted(admission: Admission, account: AccountId, rules: RuleSet) -> list[Counted]:
    if not rules:
        return []
    try:
        while isinstance(found := await admission.reservations.counted(account, rules), Unknown):
            await admission.counts_known(account, found.subject)
    except (RedisError, *DATABASE_ERRORS) as exc:
        raise Overloaded("Limits cannot be counted at the moment.", retry_after_seconds=1) from exc
    return found


def _status(counted: Counted, now: datetime) -> LimitStatus:
    rule = counted.rule
    unit = MICRO_PER_USD if rule.kind == "s" else 1
    limit = None if rule.limit == ONLY_COUNTED else rule.limit / unit
    return LimitStatus(
        scope=rule.scope,
        id=rule.subject.partition(":")[2],
        measure=_MEASURES[rule.kind],
        limit=limit,
        used=counted.used / unit,
        reserved=counted.reserved / unit,
        remaining=None if limit is None else max(0, rule.limit - counted.used) / unit,
        window_seconds=rule.window_ms // 1000 or None,
        resets_at=now + timedelta(milliseconds=counted.resets_in_ms),
    )
