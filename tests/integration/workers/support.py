"""A worker's context over a queue and a provider of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from pydantic import SecretStr

from shared import keyspace
from shared.domain.job import Job
from shared.errors import BrokerError
from shared.providers import anthropic, openai
from shared.providers.catalogue import Catalogue
from shared.providers.credentials import DEFAULT, Credential, Credentials
from shared.providers.profile import ProviderProfile
from shared.providers.registry import Registry
from shared.queue.consumer import Consumer, Delivery
from shared.queue.frames import Result
from shared.settings import BreakerSettings, ProviderSettings, QueueSettings, Settings, WorkerSettings
from shared.storage.objects import Storage
from tests.integration.queue.support import PROVIDER, Queue
from workers.gate import Gate
from workers.in_flight import InFlight
from workers.own_credentials import OwnCredentials
from workers.run_job import WorkerContext, run_job
from workers.transport import Transport

SECRET = "sk-canary-of-the-provider"

FAST = ProviderSettings(
    connect_seconds=0.2,
    first_byte_seconds=0.25,
    idle_seconds=0.25,
    total_seconds=0.6,
    max_answer_bytes=32 * 1024,
    max_header_bytes=8 * 1024,
)
"""Clocks and caps that a test can wait for."""
CALM = ProviderSettings()

NEVER_OPEN = BreakerSettings(fail_max=1_000_000, window_calls=1_000_000)
ONE_ATTEMPT = QueueSettings(max_attempts=1, max_wait_seconds=0.001)


@dataclass(frozen=True, slots=True)
class Worker:
    queue: Queue
    context: WorkerContext

    @property
    def consumer(self) -> Consumer:
        return self.context.consumer

    async def deliver(self, job: Job) -> Delivery:
        await self.queue.enqueue(job)
        (delivery,) = await self.queue.read(self.consumer)
        return delivery

    async def run(self, job: Job) -> Result:
        """From the queue to its end."""
        await run_job(self.context, await self.deliver(job))
        result = await self.queue.producer.result(job.id)
        assert isinstance(result, Result), f"the job is {result}"
        return result

    async def run_once(self, job: Job) -> None:
        """One delivery, wherever that leads."""
        await run_job(self.context, await self.deliver(job))

    async def events(self, job: Job) -> list[bytes]:
        batches = await self.queue.producer.events_after(job.id, 0)
        return [event for batch in batches for event in batch.events]

    async def due_in_seconds(self, job: Job) -> float:
        """Until the job's retry."""
        key = keyspace.delayed(0, job.target.provider)
        score = await self.queue.link.execute("ZSCORE", key, f"{job.id}|{job.lane.value}")
        seconds, micros = await self.queue.link.execute("TIME")
        return float(score) / 1000 - int(seconds) - int(micros) / 1e6


def failure(result: Result) -> BrokerError:
    assert isinstance(result.head.error, dict)
    return BrokerError.from_fields(result.head.error)


@asynccontextmanager
async def a_worker(
    queue: Queue,
    base_url: str,
    *,
    provider: ProviderSettings = CALM,
    settings: QueueSettings = ONE_ATTEMPT,
    profiles: Mapping[str, ProviderProfile] | None = None,
    secrets: Mapping[str, str] | None = None,
    own_credentials: OwnCredentials | None = None,
    storage: Storage | None = None,
    **overrides: Any,
) -> AsyncIterator[Worker]:
    """A worker of providers that all live at `base_url`."""
    known = dict(profiles or {p.id: p for p in (openai.PROFILE, anthropic.PROFILE)})
    placed = {name: replace(profile, base_url=base_url) for name, profile in known.items()}
    keys = secrets or {PROVIDER: SECRET}
    overrides.setdefault("worker", WorkerSettings(pause_base_seconds=0.001, pause_cap_seconds=0.001))
    overrides.setdefault("breaker", NEVER_OPEN)
    whole = Settings(provider=provider, queue=settings, **overrides)
    registry = Registry(placed.values())
    in_flight = InFlight()
    context = WorkerContext(
        settings=whole,
        consumer=Consumer(queue.link, settings, "worker", list(placed)),
        registry=registry,
        gate=Gate.of_worker(
            queue.link,
            whole,
            registry,
            consumer="worker",
            providers=list(placed),
            free=lambda: whole.worker.slots - len(in_flight),
            rng=Random(5),
        ),
        credentials=Credentials(
            {
                (name, DEFAULT): Credential(SecretStr(secret), placed[name].origins)
                for name, secret in keys.items()
            }
        ),
        catalogue=Catalogue.load(),
        transport=Transport(provider),
        in_flight=in_flight,
        rng=Random(4),
        own_credentials=own_credentials or OwnCredentials(None, None),
        storage=storage,
    )
    await context.consumer.create_groups()
    try:
        yield Worker(queue, context)
    finally:
        await context.transport.close()


def open_connections(worker: Worker) -> int:
    """Connections to providers that some call has taken and not given back."""
    sessions = worker.context.transport._sessions.values()
    return sum(len(session.connector._acquired) for session in sessions if session.connector is not None)
