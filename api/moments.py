"""Moments that a caller names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator


def in_utc(moment: datetime) -> datetime:
    """One without a zone is of UTC. Raises ValueError for one that has no place in UTC's calendar.

    Such as `0001-01-01T00:00:00+23:59`, which is in the year before the first.
    """
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be within the years 1 to 9999 in UTC") from None


Moment = Annotated[datetime, AfterValidator(in_utc)]
