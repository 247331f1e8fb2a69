"""What every plain answer of a provider has to be, whichever kind of job it answers."""

from __future__ import annotations

from typing import Any

import orjson

from shared.errors import ProviderAnswerInvalid
from shared.providers import refusals
from shared.providers.profile import ProviderProfile


def read_object(body: bytes, profile: ProviderProfile) -> dict[str, Any]:
    """The JSON object in `body`. Raises ProviderError for an error that came with status 200."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise invalid(profile, "JSON") from exc
    if type(answer) is not dict:
        raise invalid(profile, "a JSON object")
    if answer.get("error") or answer.get("object") == "error":
        raise refusals.from_event(answer, profile=profile)
    return answer


def invalid(profile: ProviderProfile, expected: str) -> ProviderAnswerInvalid:
    return ProviderAnswerInvalid(f"The answer of {profile.name} is not {expected}.", provider=profile.id)
