"""Who calls: taken from the credential, never from the request."""

from __future__ import annotations

from dataclasses import dataclass

from shared.domain.job import FallbackOn, Lane
from shared.ids import AccountId, ApiKeyId


@dataclass(frozen=True, slots=True)
class Preference:
    """What an account wants where a request leaves the model to it.

    model: a name that a request could have written; fallback_models: what to go on to
    """

    model: str
    fallback_models: tuple[str, ...] = ()
    fallback_on: frozenset[FallbackOn] = frozenset()


@dataclass(frozen=True, slots=True)
class Principal:
    """`lane`: the highest its jobs may be in."""

    account: AccountId
    api_key: ApiKeyId
    preference: Preference | None = None
    lane: Lane = Lane.INTERACTIVE
