"""Who calls: taken from the credential, never from the request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

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


_FAILURES: Final = frozenset(FallbackOn)


def known_failures(words: Iterable[str]) -> frozenset[FallbackOn]:
    """Of stored words; those that only a later release knows are left out."""
    return frozenset(FallbackOn(word) for word in words if word in _FAILURES)


@dataclass(frozen=True, slots=True)
class Principal:
    """`lane`: the highest its jobs may be in."""

    account: AccountId
    api_key: ApiKeyId
    preference: Preference | None = None
    lane: Lane = Lane.INTERACTIVE
