"""The settings: what boot refuses, and what it would not notice."""

from __future__ import annotations

from typing import Final

from cli.config import typo
from cli.doctor.findings import Finding, fail, ok, warn
from cli.problems import Problem, ProcessKind, all_problems, needs_pepper, unknown_variables
from cli.production import secret_complaints
from shared.settings import Settings

_FILES: Final = ("HEADRACE_PROVIDERS_FILE", "HEADRACE_CATALOGUE_FILE", "HEADRACE_ROUTING_FILE")


def boot(settings: Settings | list[Problem], process: ProcessKind | None = None) -> list[Finding]:
    """All but what other checks tell: files, secrets, and the password of Redis."""
    if isinstance(settings, list):
        return [_refused(problem) for problem in settings]
    elsewhere = set(_weak(settings, process))
    found = [
        _refused(problem)
        for problem in all_problems(settings, process)
        if problem.variable not in _FILES
        and problem.sentence not in elsewhere
        and not _is_of_redis_password(problem, settings)
    ]
    return found or [ok(f"{_whose(process)} starts with these settings.")]


def files(settings: Settings) -> list[Finding]:
    found = [
        fail(line, fix="Correct the file; `headrace config check` tells when nothing is wrong any more.")
        for problem in all_problems(settings)
        if problem.variable in _FILES
        for line in problem.lines()
    ]
    return found or [ok("The files that settings name can be used.")]


def secrets(settings: Settings, process: ProcessKind | None = None) -> list[Finding]:
    tell = fail if settings.environment == "production" else warn
    found = [tell(complaint, fix=_random(complaint.split()[0])) for complaint in _weak(settings, process)]
    return found or [ok("No secret is one that can be guessed.")]


def unknown(settings: Settings | None) -> list[Finding]:
    found = [
        warn(typo(name, known), fix=f"unset {name}" if known is None else f"Rename it: {known}=...")
        for name, known in unknown_variables(settings).items()
    ]
    return found or [ok("Every HEADRACE_ variable is one that is read.")]


def _weak(settings: Settings, process: ProcessKind | None) -> list[str]:
    return list(secret_complaints(settings, checks_keys=needs_pepper(settings, process)))


def _whose(process: ProcessKind | None) -> str:
    return "Every process" if process is None else f"The {process}"


def _is_of_redis_password(problem: Problem, settings: Settings) -> bool:
    return (
        problem.variable == "REDIS_URL" and "password" in problem.sentence and settings.redis_url is not None
    )


def _refused(problem: Problem) -> Finding:
    return fail(
        problem.sentence,
        fix=f"Correct {problem.variable}; .env.example says what it takes. No process starts.",
    )


def _random(variable: str) -> str:
    if "MASTER_KEY" in variable:
        return "headrace master-key new, then as docs/credentials.md says."
    return f"{variable}=$(openssl rand -base64 32), and docs/operations/secrets.md for what a change ends."
