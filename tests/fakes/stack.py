"""The whole broker as real processes: Redis, scripted provider, apis, workers, a scheduler.

    async with Stack(apis=2, workers=1) as stack:
        async with stack.client() as client:
            await client.post("/v1/chat/completions", json=...)
        stack.kill9(stack.workers[0])

What every process writes is kept in `stack.folder / "logs"`. A failure to start raises with
the end of that output; whatever happens, no process outlives the stack.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Protocol, Self

import httpx
from sqlalchemy import text

from cli.up import scripted_environment
from shared.auth import api_keys
from shared.crypto import new_master_key
from shared.db import migrate
from shared.db.engine import create_engine
from shared.db.repositories import accounts
from shared.db.repositories import api_keys as api_key_rows
from shared.domain.allowance import NO_LIMITS, Limits, Tier
from shared.ids import AccountId
from tests.fakes import fork_server
from tests.fakes.eventually import NeverCame, eventually
from tests.fakes.provider import CallRecord, ScriptedProvider
from tests.fakes.redis_server import RedisServer
from tests.fakes.server_process import free_port

_ROOT: Final = Path(__file__).parents[2]
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 20.0
_ACCOUNT: Final = AccountId("acc_stack")

FAST: Final[Mapping[str, str]] = {
    "HEADRACE_ENVIRONMENT": "test",
    "HEADRACE_QUEUE__HEARTBEAT_SECONDS": "1",
    "HEADRACE_QUEUE__LEASE_IDLE_SECONDS": "4",
    "HEADRACE_QUEUE__SWEEP_SECONDS": "0.3",
    "HEADRACE_QUEUE__BLOCK_SECONDS": "0.3",
    "HEADRACE_QUEUE__RECHECK_SECONDS": "1",
    "HEADRACE_QUEUE__RETRY_BASE_SECONDS": "0.05",
    # What one test makes a provider do is no reason to leave it alone in the next.
    "HEADRACE_WORKER__PAUSE_BASE_SECONDS": "0.01",
    "HEADRACE_WORKER__PAUSE_CAP_SECONDS": "0.05",
    "HEADRACE_BREAKER__FAIL_MAX": "1000000",
    "HEADRACE_BREAKER__WINDOW_CALLS": "1000000",
    "HEADRACE_QUEUE__MAX_WAIT_SECONDS": "2",
    "HEADRACE_API__REQUEST_TIMEOUT_SECONDS": "60",
    "HEADRACE_API__DISCONNECT_GRACE_SECONDS": "1",
    "HEADRACE_API__DRAIN_SECONDS": "5",
    "HEADRACE_WORKER__DRAIN_SECONDS": "10",
    "HEADRACE_JOBS__RECONCILE_SECONDS": "0.5",
    "HEADRACE_JOBS__LOST_AFTER_SECONDS": "1.5",
    "HEADRACE_BATCHES__LOOK_SECONDS": "0.1",
    "HEADRACE_BATCHES__CANCEL_SECONDS": "5",
}
"""Every clock of the broker turned up, in the proportions of the defaults."""


@dataclass(eq=False)
class Process:
    """One process of the stack. `lines()` is all it wrote, as JSON where it is JSON."""

    name: str
    popen: Running
    log: Path
    port: int = 0
    started_at: float = field(default_factory=time.time)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        return self.popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it."""
        return self.popen.poll()

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def events(self, message: str = "") -> list[dict[str, Any]]:
        """Its log lines; with `message`, those of that event only."""
        found: list[dict[str, Any]] = []
        for line in self.output().splitlines():
            if not line.startswith("{"):
                continue
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a process that was killed while it wrote
            if not message or event.get("event") == message:
                found.append(event)
        return found

    async def has_ended(self, *, within: float = _STOP_SECONDS) -> int:
        """Waits for its end; the exit code."""
        await eventually(lambda: not self.is_running, f"end of {self.name}", within=within, every=0.005)
        assert self.exit_code is not None
        return self.exit_code


class AnyRedis(Protocol):
    """One server, or several that are one Redis together."""

    @property
    def url(self) -> str: ...

    def start(self) -> None: ...

    def kill9(self) -> None: ...

    def stop(self, *, forget: bool = False) -> None: ...


class Running(Protocol):
    """A process that we started: subprocess.Popen, or a fork."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class DidNotStart(Exception):
    def __init__(self, process: Process) -> None:
        output = "\n".join(process.output().splitlines()[-40:])
        super().__init__(f"{process.name} (exit code {process.exit_code}) did not become ready:\n{output}")


class SecretsLogged(Exception):
    def __init__(self, leaks: list[str]) -> None:
        super().__init__(", ".join(leaks))


class Stack:
    """`settings`: environment variables of every process, over the fast profile."""

    def __init__(
        self,
        *,
        apis: int = 1,
        workers: int = 1,
        schedulers: int = 1,
        settings: Mapping[str, str] | None = None,
        database_template: Path | None = None,
        database_url: str = "",
        redis: AnyRedis | None = None,
        forks: bool = fork_server.SUPPORTED,
    ) -> None:
        """`database_template`: a migrated SQLite file to copy. `database_url`, `redis`: the caller's own.

        `forks`: processes start with their imports done; otherwise each is an interpreter of its own.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-stack-"))
        self._logs = self.folder / "logs"
        self._logs.mkdir()
        self._redis = redis or RedisServer()
        self.provider = ScriptedProvider(log=self.folder / "calls.jsonl")
        self.apis: list[Process] = []
        self.workers: list[Process] = []
        self.schedulers: list[Process] = []
        self.ended: list[Process] = []
        self.api_key = ""
        self.database_url = database_url or f"sqlite:///{self.folder / 'headrace.db'}"
        self._counts = (apis, workers, schedulers)
        self._settings = {**FAST, **(settings or {})}
        self._template = database_template
        self._pepper = secrets.token_urlsafe(48)
        self.secrets: list[tuple[str, str]] = [("pepper", self._pepper)]
        """Kinds and values of what no log may hold; tests add theirs."""
        self.secrets += [
            (name, value)
            for name, value in self._settings.items()
            if any(word in name for word in ("SECRET", "TOKEN", "MASTER_KEY", "PASSWORD")) and len(value) > 15
        ]
        self.master_key, self._master_public_key = new_master_key()
        self.secrets.append(("master key", self.master_key))
        self._forks = forks
        self._started = 0
        self._all: list[Process] = []
        self._watcher = _Watcher()
        self._end = weakref.finalize(
            self, _end, self._all, self.provider, self._redis, self.folder, self._watcher
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def redis(self) -> RedisServer:
        """Where it is one server."""
        assert isinstance(self._redis, RedisServer)
        return self._redis

    # life

    async def start(self) -> None:
        try:
            self._redis.start()
            self.provider.start()
            self._watcher.guard(self.provider.pid)
            await self._make_database()
            apis, workers, schedulers = self._counts
            for _ in range(schedulers):
                self.spawn_scheduler()
            for _ in range(workers):
                self.spawn_worker()
            for _ in range(apis):
                self.spawn_api()
            await self.wait_ready()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Everything, at once and not politely; the folder goes too."""
        self.end_now()

    def end_now(self) -> None:
        """The same where nothing may be awaited.

        Raises SecretsLogged where any process wrote a secret of the stack: whatever a test did, and
        whatever went wrong in it, no log may hold one.
        """
        logs = {log.name: log.read_bytes() for log in self._logs.glob("*.log")} if self._logs.exists() else {}
        self._end()
        leaks = {
            f"{kind} in {name}"
            for name, log in logs.items()
            for kind, secret in self.secrets
            if secret.encode() in log
        }
        if leaks:
            raise SecretsLogged(sorted(leaks))

    async def wait_ready(self) -> None:
        """Every api answers /health/ready with 200; every worker and scheduler said that it started."""
        for process in (*self.schedulers, *self.workers, *self.apis):
            await self.ready(process)

    async def ready(self, process: Process) -> Process:
        async def look() -> bool:
            if process.port and process.is_running:
                return await _is_ready(process.url)
            # What it said first: it may be armed to die soon after.
            started = any(kind in process.output() for kind in ("worker started", "scheduler started"))
            if not started and not process.is_running:
                raise DidNotStart(process)
            return started

        try:
            await eventually(look, f"{process.name} ready", within=_START_SECONDS)
        except NeverCame as exc:
            raise DidNotStart(process) from exc
        return process

    # processes

    def spawn_api(self, *, port: int = 0, faultpoints: str = "", **settings: str) -> Process:
        """Returns at once; see `start_api`."""
        port = port or free_port()
        process = self._spawn("api", {"PORT": str(port), "FAULTPOINTS": faultpoints, **settings}, port=port)
        self.apis.append(process)
        return process

    def spawn_worker(self, *, faultpoints: str = "", **settings: str) -> Process:
        process = self._spawn(
            "worker", {"FAULTPOINTS": faultpoints, "HEADRACE_MASTER_KEY": self.master_key, **settings}
        )
        self.workers.append(process)
        return process

    def spawn_scheduler(self, *, faultpoints: str = "", **settings: str) -> Process:
        process = self._spawn("scheduler", {"FAULTPOINTS": faultpoints, **settings})
        self.schedulers.append(process)
        return process

    async def start_api(self, *, port: int = 0, faultpoints: str = "", **settings: str) -> Process:
        return await self.ready(self.spawn_api(port=port, faultpoints=faultpoints, **settings))

    async def start_worker(self, *, faultpoints: str = "", **settings: str) -> Process:
        """`faultpoints`: where it kills itself, such as `W3@17`; see shared/faultpoints.py."""
        return await self.ready(self.spawn_worker(faultpoints=faultpoints, **settings))

    async def start_scheduler(self, *, faultpoints: str = "", **settings: str) -> Process:
        return await self.ready(self.spawn_scheduler(faultpoints=faultpoints, **settings))

    async def kill9(self, process: Process) -> None:
        self._signal(process, signal.SIGKILL)
        await process.has_ended()
        self.forget(process)

    async def sigterm(self, process: Process, *, within: float = _STOP_SECONDS) -> int:
        """Asks it to stop and waits until it did; the exit code."""
        self._signal(process, signal.SIGTERM)
        code = await process.has_ended(within=within)
        self.forget(process)
        return code

    def sigstop(self, process: Process) -> None:
        self._signal(process, signal.SIGSTOP)

    def sigcont(self, process: Process) -> None:
        self._signal(process, signal.SIGCONT)

    def forget(self, process: Process) -> None:
        """It ended: its place among `apis`, `workers` or `schedulers` goes, its output stays."""
        for group in (self.apis, self.workers, self.schedulers):
            if process in group:
                group.remove(process)
                self.ended.append(process)

    @property
    def processes(self) -> list[Process]:
        """All of them, the ended ones too."""
        return list(self._all)

    # what they did

    def calls(self) -> list[CallRecord]:
        """Every call the provider got, from its log file: complete whoever was killed meanwhile."""
        return read_calls(self.folder / "calls.jsonl")

    def logs(self) -> dict[str, str]:
        """All that each process wrote, by process name."""
        return {process.name: process.output() for process in self._all}

    def log_events(self, message: str) -> list[dict[str, Any]]:
        return [event for process in self._all for event in process.events(message)]

    async def ledger(self) -> list[dict[str, Any]]:
        """Every usage row."""
        engine = create_engine(self.database_url)
        try:
            async with engine.connect() as connection:
                rows = await connection.execute(text("SELECT * FROM usage"))
                return [dict(row) for row in rows.mappings()]
        finally:
            await engine.dispose()

    # clients

    @property
    def url(self) -> str:
        """Of the first api process."""
        return self.apis[0].url

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"}

    def client(self, api: Process | None = None, *, timeout: float = 60.0) -> httpx.AsyncClient:
        """A client with the API key, of one api process, the first by default."""
        return httpx.AsyncClient(
            base_url=(api or self.apis[0]).url,
            headers=self.headers,
            timeout=timeout,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    async def new_api_key(
        self,
        account: AccountId,
        *,
        tier: Tier = Tier.UNLIMITED,
        account_limits: Limits = NO_LIMITS,
        **fields: Any,
    ) -> str:
        """A key of that account, which is created when there is none. `fields`: of the key's record."""
        engine = create_engine(self.database_url)
        now = datetime.now(UTC)
        token, record = api_keys.mint(self._pepper.encode(), account=account, name="stack", now=now)
        self.secrets.append(("api key", token))
        try:
            async with engine.begin() as connection:
                await accounts.ensure(connection, account, name=account, at=now)
                await accounts.set_allowance(connection, account, tier=tier, limits=account_limits)
                await api_key_rows.create(connection, replace(record, **fields))
        finally:
            await engine.dispose()
        return token

    # within

    async def _make_database(self) -> None:
        if self._template is not None:
            shutil.copy(self._template, self.folder / "headrace.db")
        else:
            await migrate.upgrade(self.database_url)
        self.api_key = await self.new_api_key(_ACCOUNT)

    def environment(self) -> dict[str, str]:
        """What every process of the stack is started with; for commands run against it."""
        return {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.folder),
            "PYTHONPATH": str(_ROOT),
            "PYTHONUNBUFFERED": "1",
            "REDIS_URL": self._redis.url,
            "DATABASE_URL": self.database_url,
            "HEADRACE_DATA_DIR": str(self.folder / "data"),
            "HEADRACE_KEY_PEPPER": self._pepper,
            "HEADRACE_MASTER_PUBLIC_KEY": self._master_public_key,
            **scripted_environment(self.provider.url),
            **self._settings,
        }

    def _spawn(self, kind: str, settings: Mapping[str, str], *, port: int = 0) -> Process:
        self._started += 1
        name = f"{kind}-{self._started}"
        log = self._logs / f"{name}.log"
        with log.open("ab") as output:
            # Empty is as good as unset, which a release that does not know the variable insists on.
            environment = {name: v for name, v in {**self.environment(), **settings}.items() if v}
            popen: Running
            # Of the code on another path nothing is imported yet.
            if self._forks and environment["PYTHONPATH"] == str(_ROOT):
                popen = fork_server.of(kind).fork([kind], environment, self.folder, output)
            else:
                popen = _popen(_command(kind), environment, self.folder, output)
        self._watcher.guard(popen.pid)
        process = Process(name, popen, log, port)
        self._all.append(process)
        return process

    def _signal(self, process: Process, number: signal.Signals) -> None:
        if process.is_running:
            process.popen.send_signal(number)


class Starts(Protocol):
    async def start(self) -> None: ...


def start_apart(stack: Starts) -> None:
    """Start from a synchronous fixture, which may be asked for below a running loop."""
    with ThreadPoolExecutor(max_workers=1) as apart:
        apart.submit(asyncio.run, stack.start()).result()


def read_calls(log: Path) -> list[CallRecord]:
    """The provider's call log, one record a call, in the order they were opened."""
    calls: dict[int, dict[str, Any]] = {}
    for line in _whole_lines(log):
        fields = json.loads(line)
        del fields["event"]
        calls[fields["call"]] = {
            "close_at": None,
            "status": None,
            "chunks_sent": 0,
            "outcome": None,
            **fields,
        }
    return [CallRecord(**fields) for fields in calls.values()]


def _whole_lines(log: Path) -> Iterator[str]:
    if log.exists():
        with log.open(encoding="utf-8") as lines:
            yield from (line for line in lines if line.endswith("\n"))


def _popen(
    command: list[str], environment: dict[str, str], folder: Path, output: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        # Its own session: Ctrl-C in the terminal reaches the tests, which then stop it.
        start_new_session=True,
    )


def _command(kind: str) -> list[str]:
    return [sys.executable, "-m", "cli", kind]


async def _is_ready(url: str) -> bool:
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        try:
            return (await client.get(f"{url}/health/ready")).status_code == 200
        except httpx.HTTPError:
            return False


class _Watcher:
    """Outlives us only to end what it guards when we were killed: its input closes with us."""

    def __init__(self) -> None:
        self._popen: subprocess.Popen[bytes] | None = None

    def guard(self, pid: int) -> None:
        if self._popen is None:
            self._popen = subprocess.Popen(
                ["/bin/sh", "-c", 'while read -r pid; do pids="$pids $pid"; done; kill -9 $pids'],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        assert self._popen.stdin is not None
        self._popen.stdin.write(b"%d\n" % pid)
        self._popen.stdin.flush()

    def dismiss(self) -> None:
        if self._popen is not None:
            self._popen.kill()
            self._popen.communicate()
            self._popen = None


def _end(
    processes: list[Process],
    provider: ScriptedProvider,
    redis: AnyRedis,
    folder: Path,
    watcher: _Watcher,
) -> None:
    watcher.dismiss()
    for process in processes:
        if process.popen.poll() is None:
            process.popen.kill()
    for process in processes:
        process.popen.wait(timeout=_STOP_SECONDS)
    with contextlib.suppress(RuntimeError):
        provider.kill()
    redis.kill9()
    redis.stop(forget=True)
    shutil.rmtree(folder, ignore_errors=True)
