"""All checks, run at once, each with a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from loguru import logger

from cli.doctor import database, files, processes, providers, redis, settings, state
from cli.doctor.findings import Check, Finding, Found, NotThere, Told, fail, skip
from cli.doctor.patient import Patient
from cli.problems import Problem, ProcessKind, read_settings
from shared.clock import Clock, SystemClock
from shared.providers.registry import Registry
from shared.settings import Settings

SECONDS: Final = 10.0

_ON_PATIENT: Final[dict[str, Callable[[Patient], Awaitable[Found]]]] = {
    "data.folder": files.folder,
    "data.disk": files.disk,
    "files.store": files.store,
    "redis.reach": redis.reach,
    "redis.password": redis.password,
    "redis.version": redis.version,
    "redis.policy": redis.policy,
    "redis.memory": redis.memory,
    "redis.durability": redis.durability,
    "redis.replicas": redis.replicas,
    "redis.scripts": redis.scripts,
    "redis.latency": redis.latency,
    "redis.clock": redis.clock,
    "redis.buffers": redis.buffers,
    "redis.connections": redis.connections,
    "database.reach": database.reach,
    "database.migrations": database.migrations,
    "database.version": database.version,
    "database.latency": database.latency,
    "database.connections": database.connections,
    "database.clock": database.clock,
    "providers": providers.any_configured,
    "processes.api": processes.api,
    "processes.workers": processes.workers,
    "processes.scheduler": processes.scheduler,
    "state.dead_letters": state.dead_letters,
    "state.oldest_job": state.oldest_job,
    "state.usage": state.usage,
    "state.results": state.results,
    "state.jobs": state.jobs,
    "state.batches": state.batches,
    "state.webhooks": state.webhooks,
}
_ON_SETTINGS: Final = ("config.boot", "config.files", "config.secrets", "config.unknown")
SUBJECTS: Final = sorted({name.partition(".")[0] for name in (*_ON_SETTINGS, *_ON_PATIENT)} | {"provider"})


async def examine(
    *,
    only: Sequence[str] = (),
    seconds: float = SECONDS,
    clock: Clock | None = None,
    process: ProcessKind | None = None,
) -> list[Told]:
    """`only`: ids, or what stands before their dots. `seconds`: for each check.

    `process`: whose environment this is, where others have another one; workers alone have providers' keys.
    """
    found = read_settings()
    told = [Told(check, one) for check, findings in _settings_findings(found, process) for one in findings]
    patient = _patient(found, clock or SystemClock())
    if patient is None:
        told += [Told(name, skip("The settings have to be mended first.")) for name in _ON_PATIENT]
        return [one for one in told if _is_wanted(one.check, only)]
    told = [one for one in told if _is_wanted(one.check, only)]
    checks = [check for check in _checks(patient, process) if _is_wanted(check.id, only)]
    try:
        for check, findings in zip(
            checks, await asyncio.gather(*(_run(check, seconds) for check in checks)), strict=True
        ):
            told += [Told(check.id, one) for one in findings]
    finally:
        await patient.close()
    return told


def is_known(only: str) -> bool:
    return only.partition(".")[0] in SUBJECTS


def _settings_findings(
    found: Settings | list[Problem], process: ProcessKind | None
) -> list[tuple[str, list[Finding]]]:
    usable = found if isinstance(found, Settings) else None
    later = [skip("The settings have to be mended first.")]
    return [
        ("config.boot", settings.boot(found, process)),
        ("config.files", later if usable is None else settings.files(usable)),
        ("config.secrets", later if usable is None else settings.secrets(usable, process)),
        ("config.unknown", settings.unknown(usable)),
    ]


def _patient(found: Settings | list[Problem], clock: Clock) -> Patient | None:
    if not isinstance(found, Settings):
        return None
    try:
        return Patient(found, Registry.from_settings(found), clock)
    except ValueError:  # of a file or an address, told by the checks of the settings
        return None


def _checks(patient: Patient, process: ProcessKind | None) -> list[Check]:
    checks = []
    for name, check in _ON_PATIENT.items():
        if name == "providers" and process not in {None, ProcessKind.WORKER}:
            checks.append(Check(name, _keys_of_workers))
            continue
        checks.append(Check(name, partial(check, patient)))
        if name == "providers":
            checks += [
                Check(f"provider.{one}", partial(providers.one, patient, patient.registry.get(one)))
                for one in patient.registry.configured()
            ]
    return checks


async def _keys_of_workers() -> Finding:
    return skip("Workers have the providers' keys: --process worker, where one runs.")


async def _run(check: Check, seconds: float) -> list[Finding]:
    try:
        async with asyncio.timeout(seconds):
            found = await check.run()
    except NotThere as missing:
        return [skip(str(missing))]
    except TimeoutError:
        return [fail(f"No answer within {seconds:g} s.", fix="Look at its log and its load, then again.")]
    except Exception as exc:  # the edge: one check that breaks must not take the others with it
        logger.debug("check failed", check=check.id, error=type(exc).__name__)
        return [
            fail(
                f"It could not be looked at: {type(exc).__name__}.",
                fix="Mend what the other checks found first, then again.",
            )
        ]
    return found if isinstance(found, list) else [found]


def _is_wanted(check: str, only: Sequence[str]) -> bool:
    return not only or any(check == one or check.startswith(f"{one}.") for one in only)
