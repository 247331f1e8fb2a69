"""A worker process: what it is made of, and its life from boot to drain."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from loguru import logger
from redis.exceptions import RedisError

from shared import faultpoints, keyspace
from shared.crypto import Opener
from shared.db.engine import create_engine, url_of
from shared.ids import CredentialId, JobId
from shared.observability import metrics
from shared.observability.process_port import serving
from shared.providers.catalogue import Catalogue, use_catalogue
from shared.providers.credentials import Credentials
from shared.providers.registry import Registry
from shared.queue.arq_pool import arq_pool
from shared.queue.consumer import Consumer, Delivery, consumer_name
from shared.queue.delays import Delays
from shared.queue.eviction import EvictionWatch
from shared.queue.links import open_link
from shared.queue.presence import Presence
from shared.queue.redis_link import RedisLink
from shared.queue.subscription import Subscription
from shared.settings import QueueSettings, Settings
from shared.storage.opening import open_storage
from workers.gate import Gate
from workers.in_flight import InFlight, StopReason
from workers.own_credentials import OwnCredentials
from workers.refresh_models import keep_models
from workers.run_job import WorkerContext, run_job
from workers.sharded_worker import ShardedStreamWorker
from workers.state import WorkerState
from workers.stream_worker import StreamWorker
from workers.transport import Transport

_CLOSE_UNUSED_SECONDS: Final = 60.0
_FAREWELL_SECONDS: Final = 2.0
"""How long a worker that stops tries to tell Redis so."""


async def run_worker(settings: Settings, redis_url: str, providers: Sequence[str]) -> None:
    """Until SIGTERM or SIGINT; then drains. A second signal hands everything back at once."""
    faultpoints.arm(settings.faultpoints)
    queue = settings.queue
    link = open_link(redis_url, timeout=queue.worker_timeout_seconds)
    read_link = link.another(timeout=queue.block_seconds + queue.worker_timeout_seconds)
    registry = Registry.from_settings(settings)
    metrics.know_providers(registry.profiles)
    metrics.expect_requeues(providers)
    catalogue = Catalogue.load(settings.catalogue_file, providers=registry.profiles)
    use_catalogue(catalogue)
    consumer = Consumer(link, queue, consumer_name(), providers)
    in_flight = InFlight()
    gate = Gate.of_worker(
        link,
        settings,
        registry,
        consumer=consumer.name,
        providers=providers,
        free=lambda: max(0, settings.worker.slots - len(in_flight)),
    )
    context = WorkerContext(
        settings=settings,
        consumer=consumer,
        registry=registry,
        credentials=Credentials.from_settings(settings),
        catalogue=catalogue,
        transport=Transport(settings.provider),
        in_flight=in_flight,
        gate=gate,
        rng=random.Random(),  # noqa: S311 - jitter
        own_credentials=_own_credentials(settings),
        storage=open_storage(settings),
    )
    subscription = Subscription(
        redis_url,
        [keyspace.worker_channel(consumer.name), keyspace.CONDITIONS_CHANNEL, keyspace.REVOKED_CHANNEL],
        on_message=partial(_heard, context),
    )
    keyless = keyless_of(settings, registry, providers)
    duties: list[asyncio.Task[None]] = []

    async def startup(_: dict[str, Any]) -> None:
        await subscription.start()
        for name, duty in (
            ("renew-leases", _renew_leases(context)),
            ("gate", gate.run_forever()),
            ("store-limits", context.limits.store_forever(link)),
            ("announce", _announce(Presence(link, queue), queue, providers, keyless=keyless)),
            ("promote", _promote_unscheduled(link, settings, providers)),
            ("models", keep_models(context, link, [one for one in providers if one not in keyless])),
            ("close-unused", _close_unused(context.transport)),
        ):
            duties.append(asyncio.create_task(duty, name=name))
        logger.info("worker started", consumer=consumer.name, providers=list(providers))

    async def shutdown(_: dict[str, Any]) -> None:
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await gate.close()
                await consumer.forget()
        except (RedisError, TimeoutError) as exc:
            logger.warning("consumer not removed", error=type(exc).__name__)
        await subscription.close()
        await _close(context)
        await link.close()
        await read_link.close()

    async def job(_: dict[str, Any], delivery: Delivery) -> None:
        await run_job(context, delivery)

    state = WorkerState(link, settings.worker.slots, region=settings.region)
    async with serving(settings.metrics_host, settings.metrics_port, state.answers(settings)):
        await _wait_for_queue(consumer)
        await EvictionWatch(link).complaint()  # for its log line
        kind = StreamWorker if link.is_one_server else ShardedStreamWorker
        worker = kind(
            job,
            consumer=consumer,
            read_link=read_link,
            queue=queue,
            slots=settings.worker.slots,
            batch_slots=max(1, settings.worker.slots * settings.worker.batch_slots_percent // 100),
            redis_pool=arq_pool(redis_url, timeout=queue.worker_timeout_seconds),
            drain_seconds=settings.worker.drain_seconds,
            on_startup=startup,
            on_shutdown=shutdown,
        )
        state.worker = worker
        _second_signal_hands_back(worker, in_flight)
        await _until_stopped(worker, consumer, in_flight)
    logger.info("worker stopped", consumer=consumer.name)


async def _until_stopped(worker: StreamWorker, consumer: Consumer, in_flight: InFlight) -> None:
    try:
        await worker.async_run()
    except asyncio.CancelledError:
        logger.info("worker stopping", consumer=consumer.name, in_flight=len(in_flight))
    finally:
        try:
            await worker.close()
        except RedisError as exc:
            logger.warning("worker closed without Redis", error=type(exc).__name__)


def keyless_of(settings: Settings, registry: Registry, providers: Sequence[str]) -> frozenset[str]:
    """Those that this worker serves with accounts' own keys alone."""
    if settings.master_key is None:
        return frozenset()
    return frozenset(providers) - frozenset(registry.configured())


def _heard(context: WorkerContext, channel: bytes, payload: bytes) -> None:
    if channel == keyspace.CONDITIONS_CHANNEL.encode():
        context.gate.on_message(payload)
    elif channel == keyspace.REVOKED_CHANNEL.encode():
        context.own_credentials.forget(CredentialId(payload.decode()))
    else:
        context.in_flight.stop(JobId(payload.decode()), StopReason.CANCELLED)


def _own_credentials(settings: Settings) -> OwnCredentials:
    """Without a master key there is nothing to ask the database for."""
    if settings.master_key is None:
        return OwnCredentials(None, None)
    before = settings.master_key_before
    opener = Opener(
        settings.master_key.get_secret_value(), [] if before is None else [before.get_secret_value()]
    )
    return OwnCredentials(create_engine(url_of(settings)), opener)


async def _close(context: WorkerContext) -> None:
    await asyncio.gather(context.transport.close(), context.own_credentials.aclose())
    if context.storage is not None:
        await context.storage.aclose()


async def _close_unused(transport: Transport) -> None:
    while True:
        await asyncio.sleep(_CLOSE_UNUSED_SECONDS)
        await transport.close_unused()


def _second_signal_hands_back(worker: StreamWorker, in_flight: InFlight) -> None:
    loop = asyncio.get_running_loop()
    asked = False

    def on_signal(signum: signal.Signals) -> None:
        nonlocal asked
        if asked:
            worker.handle_sig(signum)
        else:
            asked = True
            logger.info("worker draining", in_flight=len(in_flight))
            worker.handle_sig_wait_for_completion(signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal, signum)


async def _wait_for_queue(consumer: Consumer) -> None:
    """A worker that boots before Redis waits for it."""
    pause = 0.1
    while True:
        try:
            await consumer.create_groups()
        except (RedisError, OSError) as exc:
            logger.warning("waiting for Redis", error=type(exc).__name__, retry_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)
        else:
            return


async def _renew_leases(context: WorkerContext) -> None:
    interval = context.settings.queue.heartbeat_seconds
    pause = interval
    while True:
        await asyncio.sleep(pause)
        leases = context.in_flight.leases()
        try:
            stops = await context.consumer.heartbeat(leases) if leases else []
        except (RedisError, OSError) as exc:
            logger.warning("leases not renewed", jobs=len(leases), error=type(exc).__name__)
            pause = min(interval, 0.1)
            continue
        pause = interval
        for lease, asked in stops:
            reason = StopReason.CANCELLED if asked else StopReason.LOST
            context.in_flight.stop(lease.job.id, reason, fence=lease.fence)


async def _announce(
    presence: Presence, queue: QueueSettings, providers: Sequence[str], *, keyless: frozenset[str]
) -> None:
    """From its first moment on, so that the api sees a new worker at its next look."""
    while True:
        pause = queue.heartbeat_seconds
        try:
            await presence.announce(providers, keyless=keyless)
        except (RedisError, OSError) as exc:
            logger.debug("providers not announced", error=type(exc).__name__)
            pause = min(pause, 1.0)
        await asyncio.sleep(pause)


async def _promote_unscheduled(link: RedisLink, settings: Settings, providers: Sequence[str]) -> None:
    """Retries come due even where no scheduler promotes them."""
    delays = Delays(link, settings.queue)
    while True:
        await asyncio.sleep(random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        try:
            await delays.promote_unscheduled(providers)
            await delays.refill(providers)
        except (RedisError, OSError) as exc:
            logger.debug("promotion skipped", error=type(exc).__name__)
