"""The processes of the broker, as far as Redis knows of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from cli.doctor.findings import Finding, fail, ok, skip, warn
from cli.doctor.patient import Patient
from shared import keyspace
from shared.queue import depth
from shared.queue.conditions import STALE_SECONDS
from shared.queue.redis_link import RedisLink

_NOTHING_RUNS: Final = "No process of a broker runs on this Redis yet."


@dataclass(frozen=True, slots=True)
class Census:
    """`workers`: slots and free ones of each, by provider. `served`: providers that some worker announced."""

    apis: int
    scheduler: bool
    workers: dict[str, list[tuple[int, int]]]
    served: set[str]

    @property
    def is_empty(self) -> bool:
        return not (self.apis or self.scheduler or self.served)


async def workers(patient: Patient) -> list[Finding]:
    link = await patient.redis()
    providers = list(patient.registry.profiles)
    lanes = await depth.measure(link, providers, shards=patient.settings.queue.shards)
    found = await census(link, providers)
    queued = {name: sum(one.queued for one in lanes if one.provider == name) for name in providers}
    findings = [
        fail(
            f"{queued[name]} jobs wait for {name}, and no worker serves it.",
            fix=f"headrace worker --provider {name} (with its key in the environment)",
        )
        for name in providers
        if queued[name] and name not in found.served
    ]
    if findings:
        return findings
    if found.is_empty:
        return [skip(_NOTHING_RUNS)]
    unserved = [name for name in patient.registry.configured() if name not in found.served]
    if unserved:
        return [
            warn(
                f"No worker serves {', '.join(unserved)}: requests there answer 503.",
                fix=f"headrace worker --provider {unserved[0]}, or take its key away.",
            )
        ]
    told = [
        f"{name} {len(slots)} ({sum(free for _, free in slots)} of {sum(size for size, _ in slots)} free)"
        for name, slots in found.workers.items()
        if slots
    ]
    return [ok(f"Workers: {', '.join(told) or 'none says how busy it is'}.")]


async def scheduler(patient: Patient) -> Finding:
    found = await census(await patient.redis(), list(patient.registry.profiles))
    if found.scheduler:
        return ok("A scheduler is alive.")
    if found.is_empty:
        return skip(_NOTHING_RUNS)
    return fail(
        "No scheduler is alive: usage is not written to the ledger, batches stand, no webhook is sent.",
        fix="headrace scheduler",
    )


async def api(patient: Patient) -> Finding:
    found = await census(await patient.redis(), list(patient.registry.profiles))
    if found.apis:
        return ok(f"{found.apis} api processes wait for replies.")
    if found.is_empty:
        return skip(_NOTHING_RUNS)
    return fail("Workers or a scheduler run, and no api process.", fix="headrace api")


async def census(link: RedisLink, providers: list[str]) -> Census:
    """Raises RedisError."""
    answers = await link.execute_many(
        [
            ("TIME",),
            ("EXISTS", keyspace.SCHEDULER_ALIVE),
            *(("EXISTS", keyspace.served(name)) for name in providers),
            *(("EXISTS", keyspace.served(name, own=True)) for name in providers),
            *(("HGETALL", keyspace.load(name)) for name in providers),
        ]
    )
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    (seconds, _), alive, *rest = answers
    count = len(providers)
    served, own, loads = rest[:count], rest[count : 2 * count], rest[2 * count :]
    oldest = (int(seconds) - STALE_SECONDS) * 1000
    channels = await link.execute_everywhere("PUBSUB", "CHANNELS", keyspace.reply_channel("*"))
    return Census(
        apis=len({channel for of_node in channels for channel in of_node}),
        scheduler=bool(alive),
        workers={
            name: [slots for value in flat[1::2] if (slots := _slots(value, oldest)) is not None]
            for name, flat in zip(providers, loads, strict=True)
        },
        served={
            name for name, one, other in zip(providers, served, own, strict=True) if int(one) or int(other)
        },
    )


def _slots(value: bytes, oldest_ms: float) -> tuple[int, int] | None:
    """None of a worker that wrote nothing for too long."""
    moment, _, text = value.partition(b" ")
    if not moment.isdigit() or int(moment) < oldest_ms:
        return None
    load: dict[str, Any] = orjson.loads(text)
    return int(load.get("slots", 0)), int(load.get("free", 0))
