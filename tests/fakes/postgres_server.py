"""A real PostgreSQL that tests may stop, kill, freeze and start again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import asyncpg  # type: ignore[import-untyped]  # ships no type information

from tests.fakes import server_binaries
from tests.fakes.server_process import ServerDidNotStart, ServerProcess, free_port

USER: Final = "headrace"

# A killed process loses nothing the kernel already has, so fsync may be off; synchronous_commit
# stays on, because without it a commit is acknowledged before the kernel has it.
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "timezone": "UTC",
}


class PostgresServer:
    """Keeps its port and its data over kills and restarts; `stop(forget=True)` deletes the data.

    `settings`: over SETTINGS.
    """

    def __init__(self, **settings: str) -> None:
        self._settings = {**SETTINGS, **settings}
        self._run_as = server_binaries.unprivileged_user()
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-postgres-"))
        self._bin = server_binaries.readable_by_all(server_binaries.postgres_bin(), self.folder)
        self._data = self.folder / "data"
        if self._run_as is not None:
            os.chown(self.folder, self._run_as.uid, self._run_as.gid)
        self.port = free_port()
        self._server = self._on(self.port)
        self._databases = 0

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    @property
    def is_running(self) -> bool:
        return self._server.is_running

    def start(self, *, tries: int = 3) -> None:
        if not self._data.exists():
            self._initdb()
        for left in reversed(range(tries)):
            try:
                self._server.start()
            except ServerDidNotStart as failure:
                if left == 0 or "could not bind" not in str(failure):
                    raise
                self.port = free_port()
                self._server = self._on(self.port)
            else:
                return

    def stop(self, *, forget: bool = False) -> None:
        self._server.stop()
        if forget:
            shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self) -> None:
        self._server.restart()

    def kill9(self) -> None:
        self._server.kill9()

    def sigstop(self) -> None:
        self._server.sigstop()

    def sigcont(self) -> None:
        self._server.sigcont()

    def create_database(self, *, template: str = "template1") -> str:
        """A new database; returns its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop_database(self, name: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Outside any transaction, from a thread of its own: a fixture may run below a running loop."""

        async def run() -> None:
            connection = await asyncpg.connect(self.url(database))
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        with ThreadPoolExecutor(max_workers=1) as apart:
            apart.submit(asyncio.run, run()).result()

    def _initdb(self) -> None:
        self._run(
            [
                str(self._bin / "initdb"),
                *("-D", str(self._data), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"),
            ]
        )

    def _run(self, command: Sequence[str]) -> None:
        user, group = (self._run_as.uid, self._run_as.gid) if self._run_as else (None, None)
        done = subprocess.run(
            command,
            cwd=self.folder,
            user=user,
            group=group,
            extra_groups=[] if self._run_as else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ServerDidNotStart(command, [done.stdout, done.stderr])

    def _on(self, port: int) -> ServerProcess:
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        return ServerProcess(
            [str(self._bin / "postgres"), "-D", str(self._data), "-p", str(port), *settings],
            ready="database system is ready to accept connections",
            cwd=self.folder,
            stop_signal=signal.SIGINT,  # "fast": disconnects clients instead of waiting for them
            run_as=self._run_as,
        )
