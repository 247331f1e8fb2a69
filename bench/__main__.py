"""`make bench`: what a request costs, on two cores.

    core 0   api, worker
    core 1   redis-server, scripted provider, scheduler, load generator

Every row is measured twice in one run: through Headrace and straight at the provider.
Absolute times belong to the machine; ratios and CPU per request are what to compare.
Rows go to bench/results/latest.json as well.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import psutil

from cli.embedded_redis import find_redis_server, server_command
from cli.keys import ensure_key
from shared.auth.access_tokens import AccessTokens
from shared.auth.api_keys import mint
from shared.auth.passwords import Passwords
from shared.auth.sessions import Client, Sessions
from shared.db import migrate
from shared.db.engine import create_engine
from shared.db.repositories import accounts, api_keys, memberships
from shared.domain.allowance import Limits, Tier
from shared.settings import AccountSettings

RESULTS: Final = Path(__file__).parent / "results" / "latest.json"
_MEASURED: Final = ("api", "worker")
_PACE_MS: Final = 10


@dataclass(frozen=True, slots=True)
class Load:
    """`kind`: chat, stream (the provider sends as fast as it can) or stream_paced (10 ms a chunk);
    chat_limited and chat_session: by a key, and by the session of a user, under every kind of limit.
    """

    kind: str
    concurrency: int


LOADS: Final = (
    *(Load("chat", concurrency) for concurrency in (1, 16, 64, 256)),
    *(Load(kind, concurrency) for kind in ("chat_limited", "chat_session") for concurrency in (1, 16, 64)),
    *(Load("stream", concurrency) for concurrency in (1, 32)),
    Load("stream_paced", 32),
)


@dataclass(frozen=True, slots=True)
class Row:
    """`cpu_s_per_1k`: api and worker together, seconds of CPU per 1,000 requests; `rss_mb` likewise."""

    kind: str
    target: str
    concurrency: int
    rps: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_s_per_1k: float
    cpu_by_process: dict[str, float]
    rss_mb: float
    ttfb_p50_ms: float
    chunks_per_s: float


class Broker:
    """Everything that runs, pinned. `cpus`: the core of api and worker, and the one of the rest."""

    def __init__(self, folder: Path, cpus: tuple[list[int], list[int]]) -> None:
        self._folder = folder
        self._measured_cpus, self._other_cpus = cpus
        self.processes: dict[str, psutil.Popen] = {}
        self.port = _free_port()
        self.provider_port = _free_port()
        self.key = ""
        self.environment: dict[str, str] = {}
        self._keys: dict[str, str] = {}
        """By kind of load, where it is not `key`."""

    def start(
        self,
        *,
        also: Mapping[str, str] | None = None,
        kinds: Sequence[str] = ("worker", "scheduler", "api"),
        provider_ms: float = 0,
    ) -> None:
        """`also`: settings beside those it takes to run; `kinds`: what to run of the broker; `provider_ms`:
        how long the provider takes for a call.
        """
        server = find_redis_server()
        if server is None:
            sys.exit("No redis-server: install one, or use Python 3.11 or 3.12 on Linux x86_64.")
        redis_port = _free_port()
        configuration = self._folder / "redis.conf"
        configuration.touch()
        command = server_command(server, configuration, port=redis_port, folder=self._folder)
        self._spawn("redis", command, {})
        self._spawn(
            "provider",
            [
                *(sys.executable, "-m", "cli.scripted_provider", "--port", str(self.provider_port)),
                *("--delay-ms", str(provider_ms)),
            ],
            {},
        )
        database = f"sqlite:///{self._folder / 'bench.db'}"
        pepper = secrets.token_urlsafe(32)
        asyncio.run(migrate.upgrade(database))
        self.key = asyncio.run(ensure_key(database, pepper, self._folder / "key"))
        jwt_secret = secrets.token_urlsafe(48)
        self._keys = asyncio.run(_limited_callers(database, pepper, jwt_secret))
        self.environment = {
            "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            "DATABASE_URL": database,
            "HEADRACE_KEY_PEPPER": pepper,
            "JWT_SECRET": jwt_secret,
            "PORT": str(self.port),
            "OPENAI_API_KEY": "scripted",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self.provider_port}/v1",
        }
        self.environment |= also or {}
        for name in kinds:
            self.run(name)
        self._wait_ready()

    def run(self, kind: str) -> None:
        self._spawn(kind, [sys.executable, "-m", "cli", kind], self.environment)

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except psutil.TimeoutExpired:
                process.kill()

    def cpu_seconds(self) -> dict[str, float]:
        seconds = {}
        for name, process in self.processes.items():
            times = process.cpu_times()
            seconds[name] = times.user + times.system
        return seconds

    def rss_mb(self) -> float:
        return sum(self.processes[name].memory_info().rss for name in _MEASURED) / 1e6

    def load(self, load: Load, *, direct: bool, seconds: float) -> dict[str, Any]:
        port = self.provider_port if direct else self.port
        command = [
            *(sys.executable, "-m", "bench.load"),
            *("--url", f"http://127.0.0.1:{port}/v1/chat/completions"),
            *("--key", self._keys.get(load.kind, self.key), "--model", "gpt-4o-mini", "--text", "Hello"),
            *("--concurrency", str(load.concurrency), "--seconds", str(seconds), "--json"),
        ]
        if load.kind.startswith("stream"):
            command.append("--stream")
        if load.kind == "stream":
            command += ["--chunks", "50"]
        if load.kind == "stream_paced":
            command += ["--chunks", "50", "--pace-ms", str(_PACE_MS)]
        process = psutil.Popen(command, stdout=subprocess.PIPE)
        _pin(process, self._other_cpus)
        output, _ = process.communicate(timeout=seconds + 60)
        result: dict[str, Any] = orjson.loads(output)
        return result

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        log = (self._folder / f"{name}.log").open("wb")
        process = psutil.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        _pin(process, self._measured_cpus if name in _MEASURED else self._other_cpus)
        self.processes[name] = process

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/health/ready", timeout=1).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        sys.exit(f"The api did not become ready: {(self._folder / 'api.log').read_text()[-2000:]}")


def measure(broker: Broker, load: Load, *, direct: bool, seconds: float) -> Row:
    before = broker.cpu_seconds()
    result = broker.load(load, direct=direct, seconds=seconds)
    after = broker.cpu_seconds()
    requests = max(1, result["requests"])
    spent = {name: round((after[name] - before[name]) * 1000 / requests, 4) for name in before}
    spent["load"] = round(result["cpu_us_per_request"] / 1000, 4)
    return Row(
        kind=load.kind,
        target="direct" if direct else "headrace",
        concurrency=load.concurrency,
        rps=round(result["rps"], 1),
        p50_ms=round(result["p50_ms"], 3),
        p99_ms=round(result["p99_ms"], 3),
        errors=result["errors"],
        cpu_s_per_1k=0.0 if direct else round(sum(spent[name] for name in _MEASURED), 4),
        cpu_by_process=spent,
        rss_mb=0.0 if direct else round(broker.rss_mb(), 1),
        ttfb_p50_ms=round(result["ttfb_p50_ms"], 3),
        chunks_per_s=round(result["chunks_per_s"], 1),
    )


def show(row: Row) -> None:
    cpu = "  ".join(f"{name} {seconds:.3f}" for name, seconds in row.cpu_by_process.items() if seconds)
    print(
        f"{row.kind:<13}{row.target:<9}{row.concurrency:>4}{row.rps:>10.1f}{row.p50_ms:>9.2f}{row.p99_ms:>9.2f}"
        f"{row.ttfb_p50_ms:>9.2f}{row.errors:>7}{row.chunks_per_s:>11.0f}{row.cpu_s_per_1k:>9.3f}"
        f"{row.rss_mb:>8.1f}   {cpu}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each row")
    parser.add_argument("--only", help="rows of this kind")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {len(_cpus())} cores, Python {platform.python_version()}; CPU in s per 1,000"
    )
    print(
        f"{'kind':<13}{'target':<9}{'conc':>4}{'req/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'ttfb ms':>9}"
        f"{'errors':>7}{'chunks/s':>11}{'cpu/1k':>9}{'rss MB':>8}   by process"
    )
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        broker = Broker(folder, cpus())
        stack.callback(broker.stop)
        broker.start()
        broker.load(Load("chat", 64), direct=False, seconds=2)  # warm: connections, caches, scripts
        for load in LOADS:
            if options.only not in {None, load.kind, load.kind.partition("_")[0]}:
                continue
            for direct in (False, True):
                row = measure(broker, load, direct=direct, seconds=options.seconds)
                show(row)
                rows.append(row)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_bytes(orjson.dumps([asdict(row) for row in rows], option=orjson.OPT_INDENT_2))
    print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")
    if any(row.errors for row in rows):
        sys.exit(1)


async def _limited_callers(database: str, pepper: str, jwt_secret: str) -> dict[str, str]:
    """A key and a session, by kind of load, under limits of every kind that are never reached."""
    never = 10**9
    limits = Limits(
        requests_per_minute=never,
        tokens_per_minute=10**12,
        concurrent_requests=never,
        daily_requests=never,
        monthly_requests=never,
        monthly_spend_micro_usd=10**12,
    )
    engine = create_engine(database)
    tokens = AccessTokens(jwt_secret.encode(), life=timedelta(hours=1))
    passwords = Passwords(slots=1, queue=1)
    sessions = Sessions(engine, tokens, passwords, pepper=pepper.encode(), settings=AccountSettings())
    session = await sessions.register("bench@example.com", secrets.token_urlsafe(16), "bench", Client())
    now = datetime.now(UTC)
    token, record = mint(pepper.encode(), account=session.account, name="bench", now=now)
    async with engine.begin() as connection:
        await accounts.set_allowance(connection, session.account, tier=Tier.UNLIMITED, limits=limits)
        await memberships.change(connection, session.account, session.user.id, limits=limits)
        await api_keys.create(connection, replace(record, limits=limits))
    await engine.dispose()
    passwords.close()
    return {"chat_limited": token, "chat_session": session.access_token}


def _pin(process: psutil.Popen, cpus: list[int]) -> None:
    if hasattr(process, "cpu_affinity"):  # not on macOS
        process.cpu_affinity(cpus)


def cpus() -> tuple[list[int], list[int]]:
    """The core of what is measured, and the one of the rest."""
    found = sorted(_cpus())
    if len(found) < 2:
        print("One core only: api and worker share it with the rest, so throughput means little.")
    return found[:1], found[1:2] or found[:1]


def _cpus() -> list[int]:
    return list(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0, 1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
