"""One call of a receiver, and what it said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.egress.rules import Cause, EgressFailed
from shared.egress.transport import GuardedTransport, post
from shared.providers.retry_after import retry_after_seconds
from shared.webhooks.schedule import LONGEST_WISH

_MAY_WISH: Final = frozenset({429, 503})
_TOLD: Final = {
    Cause.REDIRECT: "redirect",
    Cause.TIME: "timeout",
    Cause.SIZE: "answer_too_large",
    Cause.ENCODING: "answer_encoded",
}
"""What a receiver did that its owner may know. All else is one word: nobody shall map our network by it."""
UNREACHABLE: Final = "unreachable"
ERRORS: Final = (*_TOLD.values(), UNREACHABLE)


@dataclass(frozen=True, slots=True)
class Answer:
    """`status`: None where there was none that counts, and `error` says why."""

    status: int | None
    error: str | None = None
    wished_seconds: float | None = None

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        return self.status == 410


async def send(url: str, transport: GuardedTransport, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Redirects are not followed, and count as no answer."""
    try:
        answer = await post(url, transport, content=body, headers=headers)
    except EgressFailed as failed:
        return Answer(None, _TOLD.get(failed.cause, UNREACHABLE))
    wished = None
    if answer.status_code in _MAY_WISH:
        wished = retry_after_seconds(answer.headers, at_most=LONGEST_WISH.total_seconds())
    return Answer(answer.status_code, wished_seconds=wished)
