"""Limits of a key, a member or an account, as routes take and show them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from shared.domain.allowance import NO_LIMITS, Limits
from shared.money import MICRO_PER_USD
from shared.requests.checking import fault

_SPEND: Final = "monthly_spend_usd"
Count = Annotated[int, Field(ge=1, le=1_000_000_000_000)]
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]
Dollars = Annotated[float, Field(ge=0.000001, le=1_000_000_000, allow_inf_nan=False)]


@with_config(ConfigDict(extra="forbid", strict=True))
class LimitsIn(TypedDict, total=False):
    """What is missing or null is not limited. `window_requests` goes with `window_seconds`."""

    requests_per_minute: Count | None
    tokens_per_minute: Count | None
    concurrent_requests: Count | None
    window_requests: Count | None
    window_seconds: Seconds | None
    daily_requests: Count | None
    monthly_requests: Count | None
    monthly_spend_usd: Dollars | None


class LimitsView(BaseModel):
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None
    window_requests: int | None
    window_seconds: int | None
    daily_requests: int | None
    monthly_requests: int | None
    monthly_spend_usd: float | None

    @classmethod
    def of(cls, limits: Limits) -> Self:
        fields = {name: getattr(limits, name) for name in cls.model_fields if name != _SPEND}
        spend = limits.monthly_spend_micro_usd
        return cls(**fields, monthly_spend_usd=None if spend is None else spend / MICRO_PER_USD)


def limits_from(document: dict[str, Any] | None) -> Limits:
    """Of what LimitsIn let through. Raises InvalidRequest."""
    if document is None:
        return NO_LIMITS
    fields = {name: value for name, value in document.items() if value is not None}
    spend = fields.pop(_SPEND, None)
    if spend is not None:
        fields["monthly_spend_micro_usd"] = max(1, round(spend * MICRO_PER_USD))
    if ("window_requests" in fields) != ("window_seconds" in fields):
        raise fault("limits.window_requests", "goes with window_seconds")
    return Limits(**fields)
