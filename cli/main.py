"""`headrace`: the one door to everything that runs."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Coroutine
from typing import Annotated, Any

import typer
import uvloop
from loguru import logger

from cli import batch, config, credentials, db, dlq, jobs, keys, master_key, up, users
from cli.configuration import check_or_exit, check_routing_or_exit, fail, pepper_or_exit, settings_or_exit
from cli.health import health_command
from cli.scripted_provider.__main__ import main as scripted_provider
from cli.seed import seed_command
from cli.usage import usage_command
from shared.observability import tracing
from shared.observability.logging import configure as configure_logging
from shared.providers.registry import Registry
from shared.settings import Settings

app = typer.Typer(
    name="headrace",
    help="A queue-backed inference broker: one API in front of every AI provider.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(keys.app, name="keys", help="API keys: create, list, rotate, revoke.")
app.add_typer(users.app, name="users", help="Users: create, list, disable, enable, operator, password.")
app.add_typer(dlq.app, name="dlq", help="Dead letters: list, show, redrive, purge.")
app.add_typer(
    jobs.app,
    name="jobs",
    help="Jobs of any broker: submit, list, show, result, events, cancel.",
)
app.add_typer(
    batch.app,
    name="batch",
    help="Batches of any broker: submit, list, show, wait, results, errors, cancel.",
)
app.add_typer(master_key.app, name="master-key", help="What seals the accounts' own provider keys: new.")
app.add_typer(credentials.app, name="credentials", help="The accounts' own provider keys: rewrap.")
app.command("seed")(seed_command)
app.command("usage")(usage_command)
app.command("health")(health_command)
app.add_typer(config.app, name="config", help="The settings: check, show.")
app.add_typer(db.app, name="db", help="The database: upgrade, current, wait, backup.")


@app.command("up")
def start_everything() -> None:
    """Run the broker on its embedded default: api, worker, scheduler and what they need."""
    settings = settings_or_exit()
    check_or_exit(settings, checks_keys=True)
    check_routing_or_exit(settings, scripted=not up.has_provider(settings))
    configure_logging(settings.log, region=settings.region)
    raise typer.Exit(_run(up.run(settings)))


@app.command("api")
def run_api_process() -> None:
    """Run one api process."""
    from api.main import run_api  # noqa: PLC0415 - a process loads only what it runs

    settings = settings_or_exit()
    pepper = pepper_or_exit(settings)
    redis_url = _ready(settings, checks_keys=True)
    check_routing_or_exit(settings)
    # Whatever its environment holds: this process seals, and opens nothing.
    settings = settings.model_copy(update={"master_key": None, "master_key_before": None})
    tracing.start(settings, "api")
    _run(run_api(settings, redis_url, pepper))


@app.command("worker")
def run_worker_process(
    provider: Annotated[
        list[str] | None,
        typer.Option(
            help="Serve this provider's lanes; repeat for several. Default: those configured; with a master "
            "key, all that have an address."
        ),
    ] = None,
) -> None:
    """Run one worker process."""
    from workers.main import run_worker  # noqa: PLC0415 - a process loads only what it runs

    settings = settings_or_exit()
    redis_url = _ready(settings)
    registry = Registry.from_settings(settings)
    # Not those without a key: this worker would fail their jobs faster than others can run them.
    providers = provider or registry.configured()
    if not provider and settings.master_key is not None:
        # With what opens the accounts' own keys, those too that only they have a key for.
        providers = [name for name in registry.profiles if registry.has_address(name)]
    if not providers:
        providers = [name for name in registry.profiles if registry.has_address(name)]
        logger.warning("no provider has a key: every job will fail", providers=providers)
    unknown = [name for name in providers if name not in registry.profiles]
    if unknown:
        fail(f"--provider: unknown {', '.join(unknown)}; known are {', '.join(registry.profiles)}")
    tracing.start(settings, "worker")
    _run(run_worker(settings, redis_url, providers))


@app.command("scheduler")
def run_scheduler_process() -> None:
    """Run one scheduler process."""
    from scheduler.main import run_scheduler  # noqa: PLC0415 - a process loads only what it runs

    settings = settings_or_exit()
    pepper = pepper_or_exit(settings)
    redis_url = _ready(settings, checks_keys=True)
    tracing.start(settings, "scheduler")
    _run(run_scheduler(settings, redis_url, pepper))


@app.command("doctor")
def run_doctor(
    only: Annotated[
        list[str] | None, typer.Option(help="A check or a subject, such as redis.memory or redis; repeat it.")
    ] = None,
    seconds: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for each check.")] = 10.0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 2 where there are warnings.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    process: config.Whose = None,
) -> None:
    """Look at everything the broker stands on; tell what is wrong, and how to mend it."""
    from cli.doctor import command  # noqa: PLC0415 - a process loads only what it runs

    raise typer.Exit(
        command.run(only=only or (), seconds=seconds, strict=strict, as_json=as_json, process=process)
    )


@app.command(
    "scripted-provider",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def run_scripted_provider(context: typer.Context) -> None:
    """Run the provider that answers from a script, for demos and tests."""
    sys.argv = ["headrace scripted-provider", *context.args]
    scripted_provider()


def redis_url_or_exit(settings: Settings) -> str:
    if settings.redis_url is None:
        fail("REDIS_URL is not set. `headrace up` runs with a Redis of its own.")
    return settings.redis_url.get_secret_value()


def _ready(settings: Settings, *, checks_keys: bool = False) -> str:
    """Logging on. The Redis URL of a process that cannot start without one."""
    check_or_exit(settings, checks_keys=checks_keys)
    configure_logging(settings.log, region=settings.region)
    return redis_url_or_exit(settings)


def _run(main: Coroutine[Any, Any, Any]) -> Any:
    # What imports made lives as long as the process, and a request leaves no cycles to speak of:
    # looking for them every 700 objects is waste.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    finally:
        tracing.stop()


def main() -> None:
    app()
