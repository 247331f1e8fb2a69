"""Whether the server may throw away what is queued: `maxmemory-policy` has to be noeviction.

Under any other policy a full server deletes streams and jobs to make room, acknowledged
ones too. A server with `maxmemory 0` is never full and so evicts nothing; its policy is
judged all the same, because that limit may be set at any moment.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from loguru import logger
from redis.exceptions import RedisError, ResponseError

from shared.queue.redis_link import RedisLink

SAFE: Final = "noeviction"
LOOK_SECONDS: Final = 2.0


async def policy_of(link: RedisLink) -> str | None:
    """None where the server refuses CONFIG, as managed ones do. Raises RedisError when it is away."""
    try:
        answers = await link.execute_everywhere("CONFIG", "GET", "maxmemory-policy")
    except ResponseError:
        return None
    policies = [
        str(answer[1], "utf-8", "replace")
        for answer in answers
        if isinstance(answer, list) and len(answer) == 2
    ]
    # Of a cluster: the first node whose policy is a wrong one.
    return next((policy for policy in policies if policy != SAFE), SAFE if policies else None)


def complaint(policy: str | None) -> str | None:
    """What to tell an operator; None where nothing is known to be wrong."""
    if policy is None or policy == SAFE:
        return None
    return (
        f"Redis may evict queued jobs: its maxmemory-policy is {policy!r} and has to be {SAFE!r}, "
        "even while maxmemory is 0 and nothing is evicted yet."
    )


class EvictionWatch:
    """Looks at most once every LOOK_SECONDS, and logs an error when the policy turns into a wrong one."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._looked_at: float | None = None
        self._complaint: str | None = None

    async def complaint(self) -> str | None:
        """As of the last look, while the server is away too."""
        now = monotonic()
        if self._looked_at is not None and now - self._looked_at < LOOK_SECONDS:
            return self._complaint
        before, self._looked_at = self._looked_at, now
        try:
            found = complaint(await policy_of(self._link))
        except (RedisError, OSError):
            self._looked_at = before
            return self._complaint
        if found is not None and found != self._complaint:
            logger.error("redis evicts", reason=found)
        self._complaint = found
        return found
