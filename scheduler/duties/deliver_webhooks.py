"""Webhooks that are due are sent, several at once, by as many schedulers as there are.

due ── claimed, for as long as sending may take ──> sent ──> S5 ──> logged; delivered, or due again
                                                      |
                                                      +── its sender died: due when the claim is over
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from random import Random
from typing import Final

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler.rounds import Failures, OnRound, unheard
from shared import faultpoints
from shared.clock import Clock, SystemClock
from shared.db.engine import DATABASE_ERRORS, writing
from shared.db.repositories import webhooks
from shared.db.repositories.webhooks import Attempt, Claimed, Delivery, Room
from shared.egress.transport import GuardedTransport
from shared.observability import metrics, tracing
from shared.settings import WebhookSettings
from shared.webhooks import outcome
from shared.webhooks.schedule import SCHEDULE
from shared.webhooks.sending import UNREACHABLE, Answer, send
from shared.webhooks.signing import WebhookSecrets, signed_headers

_LOOK_SECONDS: Final = 0.5
_GATHER_SECONDS: Final = 0.02
_STOP_SECONDS: Final = 5.0
_CLAIM_FACTOR: Final = 1.5
"""A claim lasts so many timeouts: one to send, and a half to say what came of it."""


async def deliver_webhooks(deliverer: WebhookDeliverer, on_round: OnRound = unheard) -> None:
    """For ever. What is being sent when it is cancelled gets a little time to end."""
    failures = Failures("webhooks not looked at")
    async with asyncio.TaskGroup() as sends:
        try:
            while True:
                try:
                    await deliverer.start_due(sends)
                    on_round(True)
                    failures.end()
                except DATABASE_ERRORS as exc:
                    on_round(False)
                    failures.note(exc)
                await deliverer.room_made(within=_LOOK_SECONDS)
        except asyncio.CancelledError:
            await deliverer.sent(within=_STOP_SECONDS)
            raise


class WebhookDeliverer:
    """`transport`: its total time is how long a receiver may take."""

    def __init__(
        self,
        database: AsyncEngine,
        transport: GuardedTransport,
        secrets: WebhookSecrets,
        settings: WebhookSettings,
        *,
        schedule: Sequence[timedelta] = SCHEDULE,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self._database = database
        self._transport = transport
        self._secrets = secrets
        self._settings = settings
        self._schedule = schedule
        self._clock = clock or SystemClock()
        self._rng = rng or Random()  # noqa: S311 - spreads tries, no secret
        self._sending: dict[asyncio.Task[None], Delivery] = {}
        self._made_room = asyncio.Event()

    async def start_due(self, sends: asyncio.TaskGroup) -> int:
        """Begin to send what is due, as far as there is room; how many. Raises what the database does."""
        started = 0
        while claimed := await self._claim():
            for one in claimed:
                task = sends.create_task(self._deliver(one), name=f"webhook-{one.delivery.id}")
                self._sending[task] = one.delivery
                task.add_done_callback(self._forget)
            started += len(claimed)
        return started

    async def room_made(self, *, within: float) -> None:
        """Wait for one that was sent, no longer than `within`."""
        self._made_room.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._made_room.wait()
        # Others end now as well: one look for several, as each costs the database a transaction.
        await asyncio.sleep(_GATHER_SECONDS)

    async def sent(self, *, within: float) -> None:
        """Wait for all that is being sent, no longer than `within`."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=within)

    async def _claim(self) -> list[Claimed]:
        room, now = self._room(), self._clock.now()
        if room.free <= 0:
            return []
        # As a reader first: on SQLite, claiming keeps all other writers out.
        async with self._database.connect() as connection:
            if not await webhooks.is_any_due(connection, room, now=now):
                return []
        until = now + timedelta(seconds=self._transport.rules.total_seconds * _CLAIM_FACTOR)
        async with writing(self._database) as connection:
            return await webhooks.claim(connection, room, now=now, until=until)

    def _room(self) -> Room:
        at_once = self._settings.sends_at_once
        return Room(
            free=at_once - len(self._sending),
            of_account=max(1, at_once // 4),
            of_receiver=max(1, at_once // 8),
            accounts=Counter(str(delivery.account_id) for delivery in self._sending.values()),
            receivers=Counter(delivery.receiver for delivery in self._sending.values()),
        )

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        self._made_room.set()

    async def _deliver(self, claimed: Claimed) -> None:
        delivery = claimed.delivery
        try:
            at, began = self._clock.now(), self._clock.monotonic()
            secrets = self._secrets.signing(claimed, now=at)
            answer = await self._send(delivery, signed_headers(secrets, delivery.id, delivery.payload, at=at))
            metrics.count_webhook(answer.status, delivered=answer.is_success)
            took_ms = round((self._clock.monotonic() - began) * 1000)
            faultpoints.hit("S5")
            async with writing(self._database) as connection:
                await outcome.record(
                    connection,
                    claimed,
                    answer,
                    Attempt(at, answer.status, answer.error, took_ms),
                    now=self._clock.now(),
                    schedule=self._schedule,
                    rng=self._rng,
                )
        except DATABASE_ERRORS as exc:
            # It is sent again, under the same id, once the claim is over.
            logger.warning("webhook not marked", webhook=delivery.id, error=type(exc).__name__)
            return
        if not answer.is_success:
            logger.info(
                "webhook not delivered",
                webhook=delivery.id,
                account=delivery.account_id,
                status=answer.status,
                error=answer.error,
            )

    async def _send(self, delivery: Delivery, headers: dict[str, str]) -> Answer:
        # Its receiver is somebody else's: it is told no trace.
        told = {"headrace.webhook.id": delivery.id, "headrace.account.id": str(delivery.account_id)}
        with tracing.spanned("deliver webhook", kind="client", attributes=told):
            try:
                answer = await send(delivery.url, self._transport, delivery.payload, headers)
            except Exception:
                # Whatever one receiver brings about must not end the delivery of all others.
                logger.exception("webhook failed", webhook=delivery.id)
                answer = Answer(None, UNREACHABLE)
            if answer.status is not None:
                tracing.tell("http.response.status_code", answer.status)
            if not answer.is_success:
                tracing.fail(answer.error or str(answer.status))
            return answer
