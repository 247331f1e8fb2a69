"""What an answer, or none, means to a delivery and to its endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.repositories import webhook_endpoints, webhooks
from shared.db.repositories.webhook_endpoints import Endpoint
from shared.db.repositories.webhooks import Attempt, Claimed
from shared.webhooks.disabling import Because, disable
from shared.webhooks.schedule import FAILING_FOR, pause_after
from shared.webhooks.sending import Answer


async def record(
    connection: AsyncConnection,
    claimed: Claimed,
    answer: Answer,
    attempt: Attempt,
    *,
    now: datetime,
    schedule: Sequence[timedelta],
    rng: Random,
) -> None:
    """In a transaction of `writing`. Where the claim is over, the attempt is logged and nothing is decided:
    somebody else sends it by now, or its owner had it sent anew.
    """
    delivery = claimed.delivery
    # The endpoint before the delivery, as everybody does: two orders would lock each other out.
    endpoint = None
    if delivery.endpoint_id is not None:
        endpoint = await webhook_endpoints.find(connection, delivery.endpoint_id, for_update=True)
    still_ours = await webhooks.holds(connection, claimed)
    if still_ours is None:
        return
    await webhooks.log_attempt(connection, delivery.id, attempt)
    if not still_ours:
        return
    if answer.is_success:
        await webhooks.mark_delivered(connection, delivery, at=now)
        if endpoint is not None and endpoint.failing_since is not None:
            await webhook_endpoints.save(connection, replace(endpoint, failing_since=None))
        return
    pause = pause_after(delivery.tries + 1, rng=rng, wished_seconds=answer.wished_seconds, schedule=schedule)
    again = None if pause is None or answer.is_gone else now + pause
    await webhooks.mark_failed(connection, delivery, at=now, next_try_at=again)
    if endpoint is not None and endpoint.is_enabled:
        await _judge(connection, endpoint, answer, now=now)


async def _judge(connection: AsyncConnection, endpoint: Endpoint, answer: Answer, *, now: datetime) -> None:
    """Of one that failed."""
    if answer.is_gone:
        await disable(connection, endpoint, Because.GONE, at=now)
    elif endpoint.failing_since is None:
        await webhook_endpoints.save(connection, replace(endpoint, failing_since=now))
    elif now - endpoint.failing_since >= FAILING_FOR:
        await disable(connection, endpoint, Because.FAILING, at=now)
