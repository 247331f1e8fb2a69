"""What lies about: jobs that wait too long, dead letters, and what was to be written or sent by now."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from sqlalchemy import bindparam, text

from cli.doctor.findings import Finding, NotThere, fail, ok, warn
from cli.doctor.patient import Patient
from shared import keyspace
from shared.db import migrate
from shared.db.tables import UtcDateTime
from shared.domain.job import Lane
from shared.queue import depth
from shared.queue.dead_letters import DeadLetters
from shared.queue.redis_link import RedisLink

_OLD_SECONDS: Final = 60.0
_MANY_ENTRIES: Final = 10_000
_LATE: Final = timedelta(minutes=10)


async def dead_letters(patient: Patient) -> Finding:
    link = await patient.redis()
    counts = await DeadLetters(link, patient.settings.queue, patient.registry.profiles).count()
    found = {name: count for name, count in counts.items() if count}
    if found:
        told = ", ".join(f"{name} {count}" for name, count in found.items())
        return warn(
            f"Jobs were set aside because they stopped every worker that ran them: {told}.",
            fix="headrace dlq list; then headrace dlq redrive ID, or headrace dlq purge ID.",
        )
    return ok("No dead letters.")


async def oldest_job(patient: Patient) -> Finding:
    link = await patient.redis()
    lanes = await depth.measure(link, list(patient.registry.profiles), shards=patient.settings.queue.shards)
    # Lines of batches wait for hours where that is what was asked for.
    old = [one for one in lanes if one.lane is not Lane.BATCH and one.oldest_age_seconds > _OLD_SECONDS]
    if old:
        worst = max(old, key=lambda one: one.oldest_age_seconds)
        return warn(
            f"A job of {worst.provider} waits for {worst.oldest_age_seconds:.0f} s ({worst.queued} queued).",
            fix=f"Add workers: headrace worker --provider {worst.provider}; or look at its limits "
            "and breaker (GET /api/v1/health).",
        )
    return ok(f"{sum(one.queued for one in lanes)} queued, {sum(one.in_flight for one in lanes)} in flight.")


async def usage(patient: Patient) -> list[Finding]:
    link = await patient.redis()
    shards = range(patient.settings.queue.shards)
    waiting = await _lengths(link, [keyspace.usage(shard) for shard in shards])
    rejected = await _lengths(link, [keyspace.usage_rejected(shard) for shard in shards])
    current = await link.execute("EXISTS", keyspace.LEDGER_CURRENT)
    found = []
    if waiting > _MANY_ENTRIES or (waiting and not current):
        found.append(
            fail(
                f"{waiting} ended jobs are not in the ledger yet.",
                fix="Look that a scheduler runs (headrace scheduler) and reaches the database.",
            )
        )
    if rejected:
        found.append(
            warn(
                f"{rejected} ended jobs could not be read by the ledger.",
                fix=f"redis-cli XRANGE '{keyspace.usage_rejected(0)}' - + COUNT 10 says why of each.",
            )
        )
    return found or [ok("The ledger has heard of every job that ended.")]


async def results(patient: Patient) -> Finding:
    link = await patient.redis()
    shards = range(patient.settings.queue.shards)
    waiting = await _lengths(link, [keyspace.ended(shard) for shard in shards])
    if waiting > _MANY_ENTRIES:
        return fail(
            f"{waiting} results are not in the database yet.",
            fix="Look that a scheduler runs (headrace scheduler) and reaches the database.",
        )
    return ok("Results are in the database.")


async def batches(patient: Patient) -> Finding:
    late = await _count(
        patient,
        "SELECT count(*) FROM batch WHERE expires_at < :moment "
        "AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling')",
    )
    if late:
        return fail(
            f"{late} batches are past their time and have not ended.",
            fix="Look that a scheduler runs (headrace scheduler) and what its log says.",
        )
    return ok("No batch is late.")


async def webhooks(patient: Patient) -> Finding:
    late = await _count(patient, "SELECT count(*) FROM webhook_delivery WHERE next_try_at < :moment")
    if late:
        return warn(
            f"{late} webhooks should have been sent ten minutes ago.",
            fix="Look that a scheduler runs; more of them send more (HEADRACE_WEBHOOKS__SENDS_AT_ONCE).",
        )
    return ok("No webhook is late.")


async def jobs(patient: Patient) -> Finding:
    late = await _count(patient, "SELECT count(*) FROM job WHERE state = 'queued' AND deadline_at < :moment")
    if late:
        return fail(
            f"{late} accepted jobs are past their deadline and have not ended.",
            fix="Look that a scheduler runs: it ends them (headrace scheduler).",
        )
    return ok("No accepted job is past its deadline.")


async def _count(patient: Patient, query: str) -> int:
    """Of rows that were due `_LATE` ago."""
    moment = patient.clock.now() - _LATE
    asked = text(query).bindparams(bindparam("moment", moment, UtcDateTime))
    async with patient.database() as connection:
        if await connection.run_sync(migrate.revision_of) != migrate.head():
            raise NotThere("The database has to be at the revision of this release first.")
        return int((await connection.execute(asked)).scalar_one())


async def _lengths(link: RedisLink, keys: list[str]) -> int:
    answers: list[Any] = await link.execute_many([("XLEN", key) for key in keys])
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return sum(map(int, answers))
