"""`headrace up`: the whole broker as child processes, with nothing to install.

    redis-server ─┐
    scripted      ├─> migrations ─> scheduler, worker, api ─> banner ─> wait
    provider     ─┘

A child that dies is started again; Ctrl-C drains api, then worker, then the rest. The data folder
is locked for as long as the supervisor or its Redis lives: two servers on one file would ruin it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import typer
from loguru import logger

from cli import data_folder
from cli.configuration import MASTER_KEY_FILE, PEPPER_FILE
from cli.embedded_redis import NO_REDIS, find_redis_server, server_command
from cli.keys import ensure_key
from shared.crypto import new_master_key, public_half
from shared.db import migrate
from shared.db.engine import url_of
from shared.providers.configured_secrets import configured_secrets
from shared.providers.registry import BUILT_IN, providers_file
from shared.settings import Settings, inherited_environment

_READY_SECONDS: Final = 30.0
_STABLE_SECONDS: Final = 10.0
_PRIVATE_HALVES: Final = ("HEADRACE_MASTER_KEY", "HEADRACE_MASTER_KEY_BEFORE")
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(slots=True)
class Child:
    """One process and how to start it again."""

    name: str
    command: list[str]
    environment: dict[str, str]
    stop_seconds: float
    inherits: tuple[int, ...] = ()
    """Descriptors it keeps open."""
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    owner: asyncio.Task[None] | None = field(default=None, repr=False)


class Supervisor:
    def __init__(self) -> None:
        self._children: list[Child] = []
        self._stopping = False

    async def start(self, child: Child) -> None:
        self._children.append(child)
        await self._spawn(child)
        child.owner = asyncio.create_task(self._keep(child), name=f"keep-{child.name}")

    async def stop(self) -> None:
        """Newest first: api stops taking requests before the worker drains, Redis goes last."""
        self._stopping = True
        for child in reversed(self._children):
            process = child.process
            if process is not None and process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(child.stop_seconds):
                        await process.wait()
                except TimeoutError:
                    logger.warning("child killed", child=child.name, after_seconds=child.stop_seconds)
                    process.kill()
                    await process.wait()
            if child.owner is not None:
                child.owner.cancel()

    async def _spawn(self, child: Child) -> None:
        # A session of its own: Ctrl-C in the terminal is for the supervisor, which drains in order.
        child.process = await asyncio.create_subprocess_exec(
            *child.command,
            env=child.environment,
            start_new_session=True,
            pass_fds=child.inherits,
            preexec_fn=partial(_die_with_parent, os.getpid()),
        )

    async def _keep(self, child: Child) -> None:
        while True:
            process = child.process
            if process is None:
                return
            started = asyncio.get_running_loop().time()
            code = await process.wait()
            if self._stopping:
                return
            if asyncio.get_running_loop().time() - started > _STABLE_SECONDS:
                child.restarts = 0
            child.restarts += 1
            pause = min(10.0, 0.2 * 2 ** min(child.restarts, 6))
            logger.error("child died, restarting", child=child.name, exit_code=code, pause_seconds=pause)
            await asyncio.sleep(pause)
            await self._spawn(child)


async def run(settings: Settings) -> int:
    """Exit code. Returns after SIGINT, SIGTERM or SIGHUP, everything drained."""
    stopped = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signum, stopped.set)
    server = find_redis_server()
    if settings.redis_url is None and server is None:
        typer.echo(NO_REDIS, err=True)
        return os.EX_UNAVAILABLE
    folder = settings.data_dir.absolute()
    data_folder.prepare(folder)
    held = data_folder.lock(folder)
    if held is None:
        typer.echo(
            f"Another `headrace up` runs on {folder}. Choose another folder: HEADRACE_DATA_DIR", err=True
        )
        return os.EX_UNAVAILABLE
    if not _port_is_free(settings.host, settings.port):
        typer.echo(f"Port {settings.port} is in use. Choose another one: PORT=8001", err=True)
        return os.EX_UNAVAILABLE
    environment = inherited_environment()
    database_url = url_of(settings)
    pepper = (
        settings.key_pepper.get_secret_value()
        if settings.key_pepper
        else data_folder.kept_secret(folder / PEPPER_FILE)
    )
    jwt_secret = (
        settings.jwt_secret.get_secret_value()
        if settings.jwt_secret
        else data_folder.kept_secret(folder / "jwt-secret")
    )
    environment |= {
        "DATABASE_URL": database_url,
        "HEADRACE_KEY_PEPPER": pepper,
        "JWT_SECRET": jwt_secret,
        # Not left out: a child would take it from `.env`. Two on one host cannot share a port.
        "HEADRACE_METRICS_PORT": "0",
    }
    private, public = _master_key(settings, folder)
    # Only workers open what the api seals: the private half reaches none of the others.
    for name in _PRIVATE_HALVES:
        environment.pop(name, None)
    environment["HEADRACE_MASTER_PUBLIC_KEY"] = public
    supervisor = Supervisor()
    try:
        if settings.redis_url is not None:
            environment["REDIS_URL"] = settings.redis_url.get_secret_value()
        elif server is not None:
            environment["REDIS_URL"] = await _start_redis(supervisor, folder, server, environment, held)
        data_folder.announce_redis(folder, environment["REDIS_URL"])
        demo = not has_provider(settings)
        if demo:
            environment |= await _start_scripted_provider(supervisor, environment)
        await migrate.upgrade(database_url)
        key = await ensure_key(database_url, pepper, folder / "api-key")
        headrace = [sys.executable, "-m", "cli"]
        drain = settings.worker.drain_seconds
        for name, seconds in (
            ("scheduler", 10.0),
            ("worker", drain + 5),
            ("api", settings.api.drain_seconds + 5),
        ):
            given = {**environment, **private} if name == "worker" else environment
            await supervisor.start(Child(name, [*headrace, name], given, seconds))
        if not await _until_ready(settings, stopped):
            typer.echo("The api did not become ready; its log says why.", err=True)
            return os.EX_UNAVAILABLE
        if not stopped.is_set():
            _print_banner(settings, key, demo=demo)
        await stopped.wait()
        return 0
    finally:
        await supervisor.stop()
        data_folder.withdraw_redis(folder)
        os.close(held)


def _master_key(settings: Settings, folder: Path) -> tuple[dict[str, str], str]:
    """The private halves, as the worker's environment has them, and the public one."""
    if settings.master_key is None:
        private = data_folder.kept_secret(folder / MASTER_KEY_FILE, lambda: new_master_key()[0])
    else:
        private = settings.master_key.get_secret_value()
    halves = {"HEADRACE_MASTER_KEY": private}
    if settings.master_key_before is not None:
        halves["HEADRACE_MASTER_KEY_BEFORE"] = settings.master_key_before.get_secret_value()
    return halves, settings.master_public_key or public_half(private)


def _die_with_parent(parent: int) -> None:
    """In the child: SIGTERM when the supervisor dies, however it does."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(0)


async def _start_redis(
    supervisor: Supervisor, folder: Path, server: Path, environment: dict[str, str], held: int
) -> str:
    port = _free_port()
    data = folder / "redis"
    data.mkdir(exist_ok=True)
    password = data_folder.kept_secret(folder / "redis-password")
    configuration = folder / "redis.conf"
    data_folder.write_private(configuration, f"requirepass {password}\n")
    command = server_command(server, configuration, port=port, folder=data)
    # It keeps the lock: after a killed supervisor it may still write while the next one starts.
    await supervisor.start(Child("redis", command, environment, 10.0, inherits=(held,)))
    await _until_listening(port)
    return f"redis://:{password}@127.0.0.1:{port}/0"


async def _start_scripted_provider(supervisor: Supervisor, environment: dict[str, str]) -> dict[str, str]:
    port = _free_port()
    command = [sys.executable, "-m", "cli.scripted_provider", "--port", str(port)]
    await supervisor.start(Child("scripted provider", command, environment, 5.0))
    await _until_listening(port)
    return scripted_environment(f"http://127.0.0.1:{port}")


def scripted_environment(url: str) -> dict[str, str]:
    """What makes every built-in provider the scripted one at `url`, each in its own manner."""
    environment = {}
    for profile in BUILT_IN.values():
        if profile.key_variables:
            environment[profile.key_variables[0]] = "scripted"
        v1 = "" if profile.models_path.startswith("/v1/") else "/v1"
        environment[profile.base_url_variable] = f"{url}/{profile.id}{v1}"
    return environment


def has_provider(settings: Settings) -> bool:
    """A key, a file, or the address of anything: somebody configured something."""
    addresses = [settings.provider_base_url(profile.base_url_variable) for profile in BUILT_IN.values()]
    file = providers_file(settings)
    secrets = configured_secrets(settings, file, BUILT_IN.values())
    return bool(secrets or settings.providers_file or any(addresses))


def _print_banner(settings: Settings, key: str, *, demo: bool) -> None:
    url = f"http://{settings.host}:{settings.port}"
    typer.echo(
        f"\nHeadrace listens on {url}"
        + (f"  (docs: {url}/docs)" if settings.serves_docs else "")
        + f"\nAPI key: {key}\n"
        + ("No provider key is set: a scripted provider answers.\n" if demo else "")
        + f"\ncurl {url}/v1/chat/completions \\\n"
        f"  -H 'Authorization: Bearer {key}' \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        '  -d \'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}\'\n'
        "\nCtrl-C drains and stops.\n"
    )


async def _until_ready(settings: Settings, stopped: asyncio.Event) -> bool:
    url = f"http://{settings.host}:{settings.port}/health/ready"
    async with httpx.AsyncClient(trust_env=False, timeout=2.0) as client:
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while not stopped.is_set():
                    try:
                        if (await client.get(url)).status_code == 200:
                            return True
                    except httpx.HTTPError:
                        pass
                    await asyncio.sleep(0.1)
        except TimeoutError:
            return False
    return True


async def _until_listening(port: int) -> None:
    async with asyncio.timeout(_READY_SECONDS):
        while _port_is_free("127.0.0.1", port):  # noqa: ASYNC110 - another process listens
            await asyncio.sleep(0.02)


def _port_is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return port == 0 or probe.connect_ex((host, port)) != 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
