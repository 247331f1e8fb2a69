"""The database: there, at this release's revision, near, and with room for connections."""

from __future__ import annotations

import asyncpg  # type: ignore[import-untyped]  # ships no type information
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from cli.doctor.findings import Finding, fail, ok, skip, warn
from cli.doctor.patient import DatabaseAway, Patient, causes, network_trouble
from cli.doctor.redis import judge_skew
from shared.db import migrate
from shared.db.engine import POOL_OVERFLOW, POOL_SIZE, async_url

_OLDEST_POSTGRES = 130_000
_SLOW_MS = 50.0
_LOOKS = 5


async def reach(patient: Patient) -> Finding:
    try:
        async with patient.database():
            return ok(f"{_place(patient)} answers.")
    except DatabaseAway as away:
        why = _why(away.error)
        return fail(
            f"{_place(patient)} cannot be used: {why}.",
            fix="Start the server, or set DATABASE_URL to postgresql://USER:PASSWORD@HOST:5432/NAME.",
        )


async def migrations(patient: Patient) -> Finding:
    head = migrate.head()
    async with patient.database() as connection:
        found = await connection.run_sync(migrate.revision_of)
    if found == head:
        return ok(f"The database is at {head}, as this release needs it.")
    if found is None or found in migrate.revisions():
        return fail(
            f"The database is at {found or 'nothing'}; this release needs {head}.",
            fix="headrace db upgrade (before the processes of this release start)",
        )
    return fail(
        f"The database is at {found}, which is newer than this release ({head}).",
        fix="Install the release that migrated it, or restore the backup made before: "
        "docs/operations/upgrades.md.",
    )


async def version(patient: Patient) -> Finding:
    async with patient.database() as connection:
        if connection.dialect.name == "sqlite":
            found = str((await connection.execute(text("SELECT sqlite_version()"))).scalar_one())
            if patient.in_production and patient.settings.database_url is not None:
                return warn(
                    f"SQLite {found} serves one host only.",
                    fix="Set DATABASE_URL to a PostgreSQL where processes run on several hosts.",
                )
            return ok(f"SQLite {found}.")
        number = int((await connection.execute(text("SHOW server_version_num"))).scalar_one())
    if number < _OLDEST_POSTGRES:
        return warn(
            f"PostgreSQL {number // 10_000} is no longer maintained.", fix="Move to PostgreSQL 13 or newer."
        )
    return ok(f"PostgreSQL {number // 10_000}.{number % 10_000}.")


async def latency(patient: Patient) -> Finding:
    took = []
    async with patient.database() as connection:
        for _ in range(_LOOKS):
            started = patient.clock.monotonic()
            await connection.execute(text("SELECT 1"))
            took.append((patient.clock.monotonic() - started) * 1000)
    # The quickest: the others may have waited for this process.
    if min(took) > _SLOW_MS:
        return warn(
            f"A statement takes {min(took):.0f} ms.", fix="Run the database in the zone of the broker."
        )
    return ok(f"A statement takes {min(took):.1f} ms.")


async def connections(patient: Patient) -> Finding:
    async with patient.database() as connection:
        if connection.dialect.name == "sqlite":
            return skip("SQLite takes as many as there are processes.")
        most = int((await connection.execute(text("SHOW max_connections"))).scalar_one())
        kept = int((await connection.execute(text("SHOW superuser_reserved_connections"))).scalar_one())
        query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        used = int((await connection.execute(text(query))).scalar_one())
    of_each = POOL_SIZE + POOL_OVERFLOW
    free = most - kept - used
    if free < of_each:
        return warn(
            f"{used} of {most} connections are in use: {free} are left, and each process may take {of_each}.",
            fix="ALTER SYSTEM SET max_connections = 300 and a restart of PostgreSQL, or PgBouncer in front.",
        )
    return ok(f"{used} connections of {most}; room for {free // of_each} more processes of {of_each}.")


async def clock(patient: Patient) -> Finding:
    async with patient.database() as connection:
        if connection.dialect.name == "sqlite":
            return ok("The clock is this machine's.")
        before = patient.clock.now()
        query = "SELECT extract(epoch FROM clock_timestamp())"
        there = float((await connection.execute(text(query))).scalar_one())
        after = patient.clock.now()
    return judge_skew(there - (before.timestamp() + after.timestamp()) / 2, "the database")


def _place(patient: Patient) -> str:
    url = async_url(patient.database_url)
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return f"{url.host}:{url.port or 5432}/{url.database}"


def _why(error: BaseException) -> str:
    for one in causes(error):
        if isinstance(one, asyncpg.InvalidPasswordError | asyncpg.InvalidAuthorizationSpecificationError):
            return "it does not take the user or the password of DATABASE_URL"
        if isinstance(one, asyncpg.InvalidCatalogNameError):
            return "it has no database of that name"
        if isinstance(one, asyncpg.CannotConnectNowError):
            return "it is starting or stopping"
        if isinstance(one, asyncpg.TooManyConnectionsError):
            return "it takes no more connections"
    trouble = network_trouble(error)
    return trouble or ("it answers with an error" if isinstance(error, SQLAlchemyError) else "it fails")
