"""What an official client asks again by itself is the job of its first try, while that runs or went unread.

The clients of OpenAI and Anthropic say in `x-stainless-retry-count` which try this is, and give no
Idempotency-Key. The first try leaves a pointer beside its job; a later one, of the same API key, on the
same route and with the same body, joins that job if it still helps: see `enqueue`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from shared.domain.job import JobKind, Surface
from shared.domain.principal import Principal
from shared.queue.producer import Try

COUNT: Final = "x-stainless-retry-count"


def is_counted(headers: Mapping[str, str], *, window_seconds: float) -> bool:
    return COUNT in headers and window_seconds > 0


def is_again(headers: Mapping[str, str]) -> bool:
    """Whether it is no first try."""
    count = headers.get(COUNT, "")
    return count.isascii() and count.isdecimal() and count.strip("0") != ""


def try_of(
    headers: Mapping[str, str],
    principal: Principal,
    surface: Surface,
    kind: JobKind,
    fingerprint: str,
    *,
    window_seconds: float,
) -> Try | None:
    """None where the client does not count."""
    count = headers.get(COUNT, "")
    if not (count.isascii() and count.isdecimal()):
        return None
    scope = (principal.account, principal.api_key, surface.value, kind.value, fingerprint)
    digest = hashlib.sha256("\n".join(scope).encode()).hexdigest()
    return Try(digest, again=is_again(headers), window_seconds=window_seconds)
